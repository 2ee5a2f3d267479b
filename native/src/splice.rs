//! A scanned request written anew with some of its spans changed or left out: fields are added at a span's end
//! or put in another's place. The lengths of the messages around a changed span are written anew; every other
//! byte is copied.

use std::iter::Peekable;
use std::mem::MaybeUninit;

use crate::protobuf::{varint_bytes, varint_size};
use crate::wire::{Extent, Scan};

/// Bytes to add at the end of a span: whole fields of the message Span.
pub struct Patch<'a> {
    pub ordinal: usize,
    pub run: &'a [u8],
}

/// What becomes of one span.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Edit<'a> {
    Drop,
    /// What stands from `from` to `to` (positions in the body, within the span) gives way to `put`, and `run` is
    /// added at the end. All are whole fields of the message Span.
    Change {
        from: u32,
        to: u32,
        put: &'a [u8],
        run: &'a [u8],
    },
}

#[derive(Debug, PartialEq, Eq)]
pub enum Refused {
    /// Ordinals are not ascending, or there is no such span.
    Ordinals,
    /// The result would be longer than protobuf allows.
    TooLong,
}

/// What stands from `from` to `to` is written as something else.
struct Rewrite<'a> {
    from: u32,
    to: u32,
    with: With<'a>,
}

enum With<'a> {
    Length(u64),
    Bytes(&'a [u8]),
}

/// What is to be written: all that is not as it was, in the order of the body.
pub struct Plan<'a> {
    body: &'a [u8],
    rewrites: Vec<Rewrite<'a>>,
    size: usize,
}

impl<'a> Plan<'a> {
    /// `scan`: of this body. `patches`: with ascending ordinals.
    pub fn new(body: &'a [u8], scan: &Scan, patches: &[Patch<'a>]) -> Result<Self, Refused> {
        let edits = patches.iter().map(|Patch { ordinal, run }| {
            let end = scan.spans.get(*ordinal).map_or(0, |span| span.extent.end);
            (*ordinal, Edit::Change { from: end, to: end, put: &[], run })
        });
        Self::of_edits(body, scan, edits, patches.len())
    }

    /// `edits`: each with the ordinal of its span, ascending; about `count` of them. A ScopeSpans all of whose
    /// spans are dropped is dropped with them, and so is a ResourceSpans all of whose ScopeSpans are. Those that
    /// were empty before stay.
    pub fn of_edits(
        body: &'a [u8],
        scan: &Scan,
        edits: impl Iterator<Item = (usize, Edit<'a>)>,
        count: usize,
    ) -> Result<Self, Refused> {
        let mut planner = Planner {
            body,
            scan,
            edits: edits.peekable(),
            next: 0,
            rewrites: Vec::with_capacity(2 * count + 8),
        };
        let mut growth = 0;
        while let Some(scope) = planner.next_scope()? {
            growth += planner.resource(scan.scopes[scope as usize].1)?;
        }
        let size = body.len() as i64 + growth;
        if size > i64::from(i32::MAX) {
            return Err(Refused::TooLong);
        }
        Ok(Self { body, rewrites: planner.rewrites, size: size as usize })
    }

    /// Whether all is as it was.
    pub fn is_empty(&self) -> bool {
        self.rewrites.is_empty()
    }

    /// How many bytes will be written.
    pub fn size(&self) -> usize {
        self.size
    }

    /// Writes every byte of `out`, which must have `size()` of them.
    pub fn write(&self, out: &mut [MaybeUninit<u8>]) {
        let mut out = Output { rest: out };
        let mut copied = 0;
        for rewrite in &self.rewrites {
            out.put(&self.body[copied..rewrite.from as usize]);
            match rewrite.with {
                With::Length(length) => out.put(&varint_bytes(length)[..varint_size(length)]),
                With::Bytes(bytes) => out.put(bytes),
            }
            copied = rewrite.to as usize;
        }
        out.put(&self.body[copied..]);
        assert!(out.rest.is_empty(), "a plan writes as much as it says");
    }
}

/// Each function takes what concerns one message, and returns by how much the message, with its tag and length,
/// grows. It can shrink, too: a length inside may not have been written in the fewest bytes.
struct Planner<'a, 's, I: Iterator<Item = (usize, Edit<'a>)>> {
    body: &'a [u8],
    scan: &'s Scan,
    edits: Peekable<I>,
    /// The least ordinal that may come.
    next: usize,
    rewrites: Vec<Rewrite<'a>>,
}

impl<'a, I: Iterator<Item = (usize, Edit<'a>)>> Planner<'a, '_, I> {
    /// The ScopeSpans of the next edit.
    #[inline]
    fn next_scope(&mut self) -> Result<Option<u32>, Refused> {
        let Some((ordinal, _)) = self.edits.peek() else { return Ok(None) };
        self.scan.spans.get(*ordinal).map(|span| Some(span.scope)).ok_or(Refused::Ordinals)
    }

    fn resource(&mut self, resource: u32) -> Result<i64, Refused> {
        let at = self.begin();
        let (mut added, mut dropped) = (0, 0);
        while let Some(scope) = self.next_scope()? {
            if self.scan.scopes[scope as usize].1 != resource {
                break;
            }
            let (growth, is_dropped) = self.scope(scope)?;
            added += growth;
            dropped += usize::from(is_dropped);
        }
        let extent = self.scan.resources[resource as usize];
        let scopes = &self.scan.scopes;
        let is_dropped = dropped > 0 && dropped == count_of(scopes, resource, |(_, of)| *of);
        Ok(if is_dropped { self.drop_message(at, extent) } else { self.grow(at, extent, added) })
    }

    /// And whether all of it is dropped.
    fn scope(&mut self, scope: u32) -> Result<(i64, bool), Refused> {
        let at = self.begin();
        let (mut added, mut dropped) = (0, 0);
        while self.next_scope()? == Some(scope) {
            let Some((ordinal, edit)) = self.edits.next() else { break };
            if ordinal < self.next {
                return Err(Refused::Ordinals);
            }
            self.next = ordinal + 1;
            dropped += usize::from(edit == Edit::Drop);
            added += self.span(self.scan.spans[ordinal].extent, edit);
        }
        let extent = self.scan.scopes[scope as usize].0;
        let is_dropped = dropped > 0 && dropped == count_of(&self.scan.spans, scope, |span| span.scope);
        let growth = if is_dropped { self.drop_message(at, extent) } else { self.grow(at, extent, added) };
        Ok((growth, is_dropped))
    }

    #[inline]
    fn span(&mut self, extent: Extent, edit: Edit<'a>) -> i64 {
        let Edit::Change { from, to, put, run } = edit else {
            return self.drop_message(self.rewrites.len(), extent);
        };
        let added = put.len() as i64 + run.len() as i64 - i64::from(to - from);
        let (length, growth) = grown(extent, added);
        self.rewrites.push(length);
        if !put.is_empty() || from != to {
            self.rewrites.push(Rewrite { from, to, with: With::Bytes(put) });
        }
        if !run.is_empty() {
            self.rewrites.push(Rewrite { from: extent.end, to: extent.end, with: With::Bytes(run) });
        }
        growth
    }

    /// Leaves room for the length of a message, which is known once all inside of it is.
    fn begin(&mut self) -> usize {
        self.rewrites.push(Rewrite { from: 0, to: 0, with: With::Length(0) });
        self.rewrites.len() - 1
    }

    /// `at`: what `begin` has returned for it. `added`: what comes to its content.
    fn grow(&mut self, at: usize, extent: Extent, added: i64) -> i64 {
        let (length, growth) = grown(extent, added);
        self.rewrites[at] = length;
        growth
    }

    fn drop_message(&mut self, at: usize, extent: Extent) -> i64 {
        let from = tag_at(self.body, extent);
        self.rewrites.truncate(at);
        self.rewrites.push(Rewrite { from, to: extent.end, with: With::Bytes(&[]) });
        -i64::from(extent.end - from)
    }
}

/// The new length of a message to whose content so much comes, and by how much that and its length grow.
#[inline]
fn grown<'a>(extent: Extent, added: i64) -> (Rewrite<'a>, i64) {
    let size = (i64::from(extent.end - extent.start) + added) as u64;
    let (from, to) = (extent.length_at, extent.start);
    let growth = added + varint_size(size) as i64 - i64::from(to - from);
    (Rewrite { from, to, with: With::Length(size) }, growth)
}

/// How many of these are in `message`; they stand together, ordered by what they are in.
fn count_of<T>(parts: &[T], message: u32, of: impl Fn(&T) -> u32) -> usize {
    parts.partition_point(|part| of(part) <= message) - parts.partition_point(|part| of(part) < message)
}

/// Where the tag stands before this message. It is most often one byte; one that was written wider than it need
/// be ends with a zero, and has nothing but bytes without content before that up to its first, which has some.
pub fn tag_at(body: &[u8], message: Extent) -> u32 {
    let mut at = message.length_at as usize - 1;
    if body[at] == 0 {
        at -= 1;
        while body[at] == 0x80 {
            at -= 1;
        }
    }
    at as u32
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
