//! Counts the bytes that are not ASCII: the one pass over the text on the hot path.

/// The high bits of eight bytes.
pub const HIGH_BITS: u64 = 0x8080_8080_8080_8080;
const ONES: u64 = 0x0101_0101_0101_0101;

/// How many of the bytes are 0x80 or more. The compiler makes vector code of the loop, on any architecture.
#[inline(always)]
pub fn count_high(bytes: &[u8]) -> usize {
    let Some(last) = bytes.last_chunk() else {
        return bytes.iter().filter(|byte| **byte >= 0x80).count();
    };
    // The bytes after the last whole word are the last ones of a word that overlaps it.
    let (words, rest) = bytes.as_chunks::<8>();
    let overlap = 64 - 8 * rest.len() as u32;
    let mut count =
        (u64::from_le_bytes(*last) & HIGH_BITS).checked_shr(overlap).unwrap_or(0).count_ones() as usize;
    for block in words.chunks(255) {
        // Eight counters of one byte each, which 255 words cannot overflow.
        let counters: u64 = block.iter().map(|word| u64::from_le_bytes(*word) >> 7 & ONES).sum();
        let pairs = (counters & 0x00ff_00ff_00ff_00ff) + (counters >> 8 & 0x00ff_00ff_00ff_00ff);
        count += (pairs.wrapping_mul(0x0001_0001_0001_0001) >> 48) as usize;
    }
    count
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_counts_at_every_length() {
        let mut bytes = [0x7f; 5000];
        for size in [0, 1, 7, 8, 9, 63, 2040, 2048, 2049, 5000] {
            assert_eq!(count_high(&bytes[..size]), 0, "{size}");
        }
        bytes[0] = 0x80;
        bytes[4999] = 0xff;
        assert_eq!(count_high(&bytes), 2);
        bytes.fill(0xff);
        for size in [0, 1, 7, 8, 9, 63, 2040, 2048, 2049, 5000] {
            assert_eq!(count_high(&bytes[..size]), size);
        }
    }
}
