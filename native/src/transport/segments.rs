//! The body of a request in the pieces it came in. Joined requests are one after the other as they are, so nothing
//! is copied for it: HTTP/2 cuts them into frames of its own, each of which is written with one system call.

use std::collections::VecDeque;
use std::io::IoSlice;

use bytes::{Buf, Bytes};

/// None of the pieces is empty.
#[derive(Default)]
pub struct Segments {
    pieces: VecDeque<Bytes>,
    left: usize,
}

impl Segments {
    pub fn push(&mut self, piece: Bytes) {
        if !piece.is_empty() {
            self.left += piece.len();
            self.pieces.push_back(piece);
        }
    }
}

impl FromIterator<Bytes> for Segments {
    fn from_iter<T: IntoIterator<Item = Bytes>>(pieces: T) -> Self {
        let mut segments = Self::default();
        pieces.into_iter().for_each(|piece| segments.push(piece));
        segments
    }
}

impl Buf for Segments {
    fn remaining(&self) -> usize {
        self.left
    }

    fn chunk(&self) -> &[u8] {
        self.pieces.front().map_or(&[], |piece| piece)
    }

    fn chunks_vectored<'a>(&'a self, into: &mut [IoSlice<'a>]) -> usize {
        let count = into.len().min(self.pieces.len());
        for (slot, piece) in into.iter_mut().zip(&self.pieces) {
            *slot = IoSlice::new(piece);
        }
        count
    }

    fn advance(&mut self, mut count: usize) {
        assert!(count <= self.left, "cannot advance beyond the end");
        self.left -= count;
        while let Some(piece) = self.pieces.front_mut() {
            if count < piece.len() {
                piece.advance(count);
                return;
            }
            count -= piece.len();
            self.pieces.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn segments() -> Segments {
        ["ab", "", "cde", "f"].map(|piece| Bytes::from_static(piece.as_bytes())).into_iter().collect()
    }

    #[test]
    fn it_reads_as_what_its_pieces_are_together() {
        let mut all = segments();
        assert_eq!(all.remaining(), 6);
        assert_eq!(all.copy_to_bytes(6), "abcdef");
        assert_eq!((all.remaining(), all.chunk()), (0, &b""[..]));
    }

    #[test]
    fn what_is_advanced_over_is_in_no_slice() {
        for count in 0..=6 {
            let mut all = segments();
            all.advance(count);
            let mut slices = [IoSlice::new(&[]); 8];
            let filled = all.chunks_vectored(&mut slices);
            let read: Vec<u8> = slices[..filled].iter().flat_map(|slice| slice.to_vec()).collect();
            assert_eq!(read, b"abcdef"[count..]);
        }
    }

    #[test]
    fn fewer_slices_than_pieces_hold_the_first() {
        let all = segments();
        let mut slices = [IoSlice::new(&[]); 2];
        assert_eq!(all.chunks_vectored(&mut slices), 2);
        assert_eq!((&*slices[0], &*slices[1]), (&b"ab"[..], &b"cde"[..]));
    }
}
