//! Which goroutine ended which span, and when: the last so many span ends, found by span id.
//!
//! At 34,000 a second and 30 s of retention these are a million, so an entry has 64 bytes, one line of the cache, and
//! its places in the table 8. Entries lie in a ring by arrival. Each hash bucket heads a chain from its newest entry to
//! older ones; an entry that has left the ring needs no unlinking, as a chain ends where it leads to an entry
//! older than the oldest.

use crate::hash::hash_word;
use crate::prefetch::prefetch;
use crate::records::{Event, SPAN_ENDED_BY_CHILD, SPAN_OF_CLIENT};

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SpanEnd {
    pub trace_id: [u8; 16],
    pub span_id: u64,
    /// When it was started; 0: not seen.
    pub start_ns: u64,
    pub end_ns: u64,
    /// That ended it.
    pub goid: u64,
    /// The goroutine that started it (0: not seen), and flags in the bits above.
    started: u64,
    pub tgid: u32,
    /// The number of the next older entry of its bucket.
    older: u32,
}

const BY_CHILD: u64 = 1 << 63;
const OF_CLIENT: u64 = 1 << 62;
/// Two processes say that they have ended it. The ids of a span travel with its calls: who is called could say so.
const DISPUTED: u64 = 1 << 61;
const GOID: u64 = DISPUTED - 1;

impl SpanEnd {
    /// From an EVENT_SPAN_END.
    pub fn of(event: &Event) -> Self {
        let ids = event.span();
        let flag = |flag: u16, bit: u64| if event.flags & flag != 0 { bit } else { 0 };
        let flags = flag(SPAN_ENDED_BY_CHILD, BY_CHILD) | flag(SPAN_OF_CLIENT, OF_CLIENT);
        Self {
            trace_id: ids.trace_id,
            span_id: u64::from_le_bytes(ids.span_id),
            start_ns: if event.root_goid == 0 { 0 } else { event.start_ns },
            end_ns: event.end_ns,
            goid: event.goid,
            started: event.root_goid & GOID | flags,
            tgid: event.tgid,
            older: 0,
        }
    }

    /// The goroutine that started it, as far as is known.
    #[inline]
    pub fn started_goid(&self) -> u64 {
        match self.started & GOID {
            0 => self.goid,
            started => started,
        }
    }

    #[inline]
    pub fn is_start_known(&self) -> bool {
        self.started & GOID != 0
    }

    /// It was ended by another goroutine than the one that started it.
    #[inline]
    pub fn was_handed_over(&self) -> bool {
        self.started_goid() != self.goid
    }

    /// By one that was made for it: all that this one did until then was for the span.
    #[inline]
    pub fn was_ended_by_child(&self) -> bool {
        self.started & BY_CHILD != 0
    }

    /// More than one process has ended it: nobody can tell whose it is.
    #[inline]
    pub fn is_disputed(&self) -> bool {
        self.started & DISPUTED != 0
    }

    #[inline]
    pub fn is_of_client(&self) -> bool {
        self.started & OF_CLIENT != 0
    }

    #[inline]
    fn is_of(&self, span_id: u64, trace_id: &[u8; 16]) -> bool {
        self.span_id == span_id && self.trace_id == *trace_id
    }
}

const SMALLEST: usize = 1024;
const HEADS_PER_ENTRY: usize = 2;
/// SDKs keep a span for 5 s before they export it.
const MAY_BE_COMING_NS: u64 = 6_000_000_000;

pub struct SpanEnds {
    /// Entry n (counted modulo 2^32 from the first that ever was) lies in slot n % len. The length is a power
    /// of two.
    entries: Vec<SpanEnd>,
    /// By hash: the number of the newest entry of the bucket, or of one that has left. Twice as many as
    /// entries: most spans that are new then find no other in their bucket, which would be read in vain.
    heads: Vec<u32>,
    /// The number of the next entry.
    next: u32,
    len: usize,
    most: usize,
    most_in_bursts: usize,
    pub forgotten: u64,
    /// Ends up to this time were forgotten for want of room.
    pub forgotten_until_ns: u64,
}

impl SpanEnds {
    /// Keeps up to `most` (rounded up to a power of two, at most 2^30).
    pub fn new(most: usize) -> Self {
        let most = most.clamp(1, 1 << 30).next_power_of_two();
        let mut ends = Self {
            entries: vec![],
            heads: vec![],
            next: 0,
            len: 0,
            most,
            most_in_bursts: most,
            forgotten: 0,
            forgotten_until_ns: 0,
        };
        ends.resize(SMALLEST.min(most));
        ends
    }

    /// Keeps four times as many where otherwise one would be forgotten whose span may just be coming.
    pub fn with_bursts(mut self) -> Self {
        self.most_in_bursts = 4 * self.most;
        self
    }

    pub fn count(&self) -> usize {
        self.len
    }

    /// Brings what `insert` of these spans will read into the cache. The table is larger than that, and the
    /// reads for one span follow from each other; those for many spans wait for memory together, in a third of
    /// the time.
    #[inline]
    pub fn fetch(&self, span_ids: impl Iterator<Item = u64> + Clone) {
        for span_id in span_ids.clone() {
            prefetch(&self.heads[self.bucket(span_id)]);
        }
        for span_id in span_ids {
            let newest = self.heads[self.bucket(span_id)];
            if self.age(newest) <= self.len {
                prefetch(self.entry(newest));
            }
        }
    }

    /// 1 for the newest. More than `len`: it has left.
    #[inline]
    fn age(&self, number: u32) -> usize {
        self.next.wrapping_sub(number) as usize
    }

    #[inline]
    fn entry(&self, number: u32) -> &SpanEnd {
        &self.entries[number as usize & (self.entries.len() - 1)]
    }

    /// The oldest is forgotten if there is no more room. False: this span's end is known already.
    pub fn insert(&mut self, end: SpanEnd) -> bool {
        if let Some(known) = self.find(end.span_id, &end.trace_id) {
            let slot = known as usize & (self.entries.len() - 1);
            if self.entries[slot].tgid != end.tgid {
                self.entries[slot].started |= DISPUTED;
            }
            return false;
        }
        if self.len == self.entries.len() {
            let oldest_ns = self.entry(self.next.wrapping_sub(self.len as u32)).end_ns;
            let is_needed = end.end_ns < oldest_ns.saturating_add(MAY_BE_COMING_NS);
            if self.len < self.most || (is_needed && self.len < self.most_in_bursts) {
                self.resize(2 * self.len);
            } else {
                self.len -= 1;
                self.forgotten += 1;
                self.forgotten_until_ns = self.forgotten_until_ns.max(oldest_ns);
            }
        }
        self.push(end);
        true
    }

    #[inline]
    pub fn get(&self, span_id: u64, trace_id: &[u8; 16]) -> Option<&SpanEnd> {
        self.find(span_id, trace_id).map(|number| self.entry(number))
    }

    /// As `get`. `near` is the number of an entry, kept by the caller from span to span: an SDK exports spans in
    /// the order in which they ended, so the next one asked for is most often next to the last one found, and
    /// there without the table, which does not fit into the cache.
    #[inline]
    pub fn get_near(&self, near: &mut u32, span_id: u64, trace_id: &[u8; 16]) -> Option<&SpanEnd> {
        let before = near.wrapping_sub(1);
        let is_before =
            (1..=self.len).contains(&self.age(before)) && self.entry(before).is_of(span_id, trace_id);
        *near = if is_before { before } else { self.find(span_id, trace_id)? };
        Some(self.entry(*near))
    }

    #[inline]
    fn find(&self, span_id: u64, trace_id: &[u8; 16]) -> Option<u32> {
        let mut number = self.heads[self.bucket(span_id)];
        let mut newer_age = 0;
        loop {
            // Ages along a chain rise; a number that was left over from 2^32 entries ago may look young again,
            // and is then seen by that or simply leads to other entries.
            let age = self.age(number);
            if age <= newer_age || age > self.len {
                return None;
            }
            let entry = self.entry(number);
            if entry.is_of(span_id, trace_id) {
                return Some(number);
            }
            (number, newer_age) = (entry.older, age);
        }
    }

    /// Forgets the oldest ones that ended before this time.
    pub fn expire(&mut self, before_ns: u64) {
        while self.len > 0 {
            let oldest = self.next.wrapping_sub(self.len as u32) as usize & (self.entries.len() - 1);
            if self.entries[oldest].end_ns >= before_ns {
                break;
            }
            self.len -= 1;
        }
        // Memory follows the load down again, but not to and fro.
        if self.entries.len() > SMALLEST && self.len < self.entries.len() / 8 {
            self.resize(self.entries.len() / 2);
        }
    }

    #[inline]
    fn bucket(&self, span_id: u64) -> usize {
        hash_word(span_id) as usize & (self.heads.len() - 1)
    }

    fn push(&mut self, mut end: SpanEnd) {
        let bucket = self.bucket(end.span_id);
        end.older = self.heads[bucket];
        self.heads[bucket] = self.next;
        let slot = self.next as usize & (self.entries.len() - 1);
        self.entries[slot] = end;
        self.next = self.next.wrapping_add(1);
        self.len += 1;
    }

    fn resize(&mut self, capacity: usize) {
        let (oldest, old_len) = (self.next.wrapping_sub(self.len as u32), self.len);
        let old = std::mem::replace(&mut self.entries, vec![SpanEnd::default(); capacity]);
        // No entry has this number, nor will have it before 2^32 more.
        self.heads = vec![0; HEADS_PER_ENTRY * capacity];
        self.next = 1;
        self.len = 0;
        for at in 0..old_len as u32 {
            self.push(old[oldest.wrapping_add(at) as usize & (old.len() - 1)]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn end(n: u64) -> SpanEnd {
        SpanEnd {
            trace_id: [n as u8; 16],
            span_id: n,
            end_ns: 1000 + n,
            goid: 7,
            tgid: 42,
            ..SpanEnd::default()
        }
    }

    fn has(ends: &SpanEnds, n: u64) -> bool {
        ends.get(n, &[n as u8; 16]).is_some_and(|found| found.end_ns == 1000 + n)
    }

    #[test]
    fn in_a_burst_more_are_kept_and_the_oldest_go_once_they_are_not_needed() {
        let mut ends = SpanEnds::new(8).with_bursts();
        (1..=40).for_each(|n| assert!(ends.insert(end(n))));
        assert_eq!((ends.count(), ends.forgotten), (32, 8));
        let mut ends = SpanEnds::new(8).with_bursts();
        (1..=40).for_each(|n| assert!(ends.insert(SpanEnd { end_ns: n * MAY_BE_COMING_NS, ..end(n) })));
        assert_eq!((ends.count(), ends.forgotten), (8, 32));
    }

    #[test]
    fn an_entry_takes_64_bytes() {
        assert_eq!(size_of::<SpanEnd>(), 64);
    }

    #[test]
    fn the_first_end_of_a_span_counts() {
        let mut ends = SpanEnds::new(8);
        assert!(ends.insert(end(5)));
        assert!(!ends.insert(SpanEnd { end_ns: 9, ..end(5) }));
        assert!(has(&ends, 5));
    }

    #[test]
    fn a_span_that_two_processes_have_ended_is_disputed() {
        let mut ends = SpanEnds::new(8);
        assert!(ends.insert(end(5)));
        assert!(!ends.insert(end(5)));
        assert!(!ends.get(5, &[5; 16]).unwrap().is_disputed());
        assert!(!ends.insert(SpanEnd { tgid: 43, ..end(5) }));
        let known = ends.get(5, &[5; 16]).unwrap();
        assert!(known.is_disputed() && known.end_ns == 1005);
    }

    #[test]
    fn one_span_id_in_two_traces_is_two_spans() {
        let mut ends = SpanEnds::new(8);
        assert!(ends.insert(end(5)));
        assert!(ends.insert(SpanEnd { trace_id: [0xee; 16], end_ns: 9, ..end(5) }));
        assert!(has(&ends, 5));
        assert_eq!(ends.get(5, &[0xee; 16]).unwrap().end_ns, 9);
        assert_eq!(ends.get(5, &[0; 16]), None);
    }

    #[test]
    fn the_oldest_are_forgotten_and_counted() {
        let mut ends = SpanEnds::new(4096);
        for n in 0..10_000 {
            assert!(ends.insert(end(n)));
        }
        assert_eq!((ends.count(), ends.forgotten), (4096, 10_000 - 4096));
        for n in 0..10_000 {
            assert_eq!(has(&ends, n), n >= 10_000 - 4096, "{n}");
        }
    }

    #[test]
    fn retention_forgets_from_the_oldest_on_and_gives_memory_back() {
        let mut ends = SpanEnds::new(1 << 20);
        for n in 0..100_000 {
            ends.insert(end(n));
        }
        ends.expire(1000 + 99_000);
        assert_eq!(ends.count(), 1000);
        assert!(!has(&ends, 98_999));
        assert!((99_000..100_000).all(|n| has(&ends, n)));
        for _ in 0..10 {
            ends.expire(0);
        }
        assert!(ends.entries.len() <= 8 * 1024);
        assert!((99_000..100_000).all(|n| has(&ends, n)));
    }

    #[test]
    fn what_ended_before_the_last_one_found_is_found_beside_it_and_all_else_by_its_id() {
        let mut ends = SpanEnds::new(64);
        for n in 0..100 {
            ends.insert(end(n));
        }
        let mut near = 0;
        let order = (36..100).rev().chain(36..100).chain([50, 35, 49, 0, 200, 36, 99]);
        for n in order {
            let found = ends.get_near(&mut near, n, &[n as u8; 16]);
            assert_eq!(found, ends.get(n, &[n as u8; 16]), "{n}");
            assert_eq!(found.is_some(), (36..100).contains(&n), "{n}");
        }
    }

    #[test]
    fn numbers_may_wrap() {
        let mut ends = SpanEnds::new(16);
        ends.next = u32::MAX - 20;
        for n in 0..100 {
            assert!(ends.insert(end(n)));
            assert!((n.saturating_sub(15)..=n).all(|n| has(&ends, n)), "{n}");
        }
    }
}
