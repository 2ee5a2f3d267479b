//! Adds attributes to spans of a scanned request by writing their encoded bytes at the spans' ends. The
//! lengths of the messages around a changed span are written anew; every other byte is copied.

use std::mem::MaybeUninit;

use crate::protobuf::{varint_bytes, varint_size};
use crate::wire::{Extent, Scan};

/// Bytes to add at the end of a span: whole fields of the message Span.
pub struct Patch<'a> {
    pub ordinal: usize,
    pub run: &'a [u8],
}

#[derive(Debug, PartialEq, Eq)]
pub enum Refused {
    /// Ordinals are not ascending, or there is no such span.
    Ordinals,
    /// The result would be longer than protobuf allows.
    TooLong,
}

/// A message whose length changes.
struct Change<'a> {
    extent: Extent,
    /// What comes to its content. Can be negative, where a length inside was not written in the fewest bytes.
    added: i64,
    /// What is written at its end; empty but for spans.
    run: &'a [u8],
}

impl Change<'_> {
    fn new_size(&self) -> u64 {
        (i64::from(self.extent.end - self.extent.start) + self.added) as u64
    }

    /// How much longer it becomes together with its length.
    fn growth(&self) -> i64 {
        let length_width = self.extent.start - self.extent.length_at;
        self.added + varint_size(self.new_size()) as i64 - i64::from(length_width)
    }
}

/// What is to be written: all messages whose length changes, in the order in which they begin in the body.
pub struct Plan<'a> {
    body: &'a [u8],
    changes: Vec<Change<'a>>,
    size: usize,
}

impl<'a> Plan<'a> {
    /// `scan`: of this body. `patches`: with ascending ordinals.
    pub fn new(body: &'a [u8], scan: &Scan, patches: &[Patch<'a>]) -> Result<Self, Refused> {
        let ascending = patches.windows(2).all(|pair| pair[0].ordinal < pair[1].ordinal);
        if !ascending || patches.last().is_some_and(|last| last.ordinal >= scan.spans.len()) {
            return Err(Refused::Ordinals);
        }
        let mut changes: Vec<Change> = Vec::with_capacity(patches.len() + 8);
        let mut growth = 0;
        let mut rest = patches.iter().peekable();
        while let Some(patch) = rest.peek() {
            let resource = scan.scopes[scan.spans[patch.ordinal].scope as usize].1;
            let resource_at = changes.len();
            changes.push(Change { extent: scan.resources[resource as usize], added: 0, run: &[] });
            while let Some(patch) = rest.peek() {
                let scope = scan.spans[patch.ordinal].scope;
                let (extent, of) = scan.scopes[scope as usize];
                if of != resource {
                    break;
                }
                let scope_at = changes.len();
                changes.push(Change { extent, added: 0, run: &[] });
                while let Some(patch) = rest.next_if(|patch| scan.spans[patch.ordinal].scope == scope) {
                    let extent = scan.spans[patch.ordinal].extent;
                    let change = Change { extent, added: patch.run.len() as i64, run: patch.run };
                    changes[scope_at].added += change.growth();
                    changes.push(change);
                }
                changes[resource_at].added += changes[scope_at].growth();
            }
            growth += changes[resource_at].growth();
        }
        let size = body.len() as i64 + growth;
        if size > i64::from(i32::MAX) {
            return Err(Refused::TooLong);
        }
        Ok(Self { body, changes, size: size as usize })
    }

    /// How many bytes will be written.
    pub fn size(&self) -> usize {
        self.size
    }

    /// Writes every byte of `out`, which must have `size()` of them.
    pub fn write(&self, out: &mut [MaybeUninit<u8>]) {
        let mut out = Output { rest: out };
        let mut copied = 0;
        for change in &self.changes {
            let extent = change.extent;
            out.put(&self.body[copied..extent.length_at as usize]);
            let length = change.new_size();
            out.put(&varint_bytes(length)[..varint_size(length)]);
            copied = extent.start as usize;
            if !change.run.is_empty() {
                out.put(&self.body[copied..extent.end as usize]);
                out.put(change.run);
                copied = extent.end as usize;
            }
        }
        out.put(&self.body[copied..]);
        assert!(out.rest.is_empty(), "a plan writes as much as it says");
    }
}

struct Output<'a> {
    rest: &'a mut [MaybeUninit<u8>],
}

impl Output<'_> {
    #[inline]
    fn put(&mut self, bytes: &[u8]) {
        let (now, rest) = std::mem::take(&mut self.rest).split_at_mut(bytes.len());
        now.write_copy_of_slice(bytes);
        self.rest = rest;
    }
}

#[cfg(test)]
mod tests;
