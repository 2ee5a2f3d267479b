//! A hasher for keys that are small numbers or random bytes already: one multiplication a word. The standard
//! one, made to withstand chosen keys, takes ten times as long; keys here are chosen by the kernel and the
//! SDK.

use std::hash::{BuildHasherDefault, Hasher};

/// 2^64 divided by the golden ratio, odd: spreads neighbouring numbers over the whole range.
const MULTIPLIER: u64 = 0x9e37_79b9_7f4a_7c15;

#[derive(Default)]
pub struct WordHasher(u64);

pub type Hashed = BuildHasherDefault<WordHasher>;

impl Hasher for WordHasher {
    #[inline]
    fn write_u64(&mut self, word: u64) {
        let product = u128::from(self.0 ^ word) * u128::from(MULTIPLIER);
        self.0 = product as u64 ^ (product >> 64) as u64;
    }

    #[inline]
    fn write_u32(&mut self, word: u32) {
        self.write_u64(u64::from(word) + 1);
    }

    #[inline]
    fn write_u16(&mut self, word: u16) {
        self.write_u64(u64::from(word) + 1);
    }

    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.write_u64(u64::from_le_bytes(word));
        }
    }

    #[inline]
    fn finish(&self) -> u64 {
        self.0
    }
}

/// As the maps do it, for one number.
#[inline]
pub fn hash_word(word: u64) -> u64 {
    let mut hasher = WordHasher::default();
    hasher.write_u64(word);
    hasher.finish()
}
