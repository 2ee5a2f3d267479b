//! Ties the spans of a request to the goroutines that ended them, and these to what they were blocked in.

use crate::index::Index;
use crate::records::{Event, WAIT_FOR_WRITE};
use crate::span_ends::SpanEnd;
use crate::waits::{is_going_on, reach_ns};
use crate::wire::SpanRecord;

/// Where the end of a span and the time of its End() differ by more, the SDK was given another time for the
/// end.
const SAME_END_NS: u64 = 250_000_000;

/// What turns a span's own times into the kernel's, and how much of them counts.
#[derive(Clone, Copy)]
pub struct Window {
    /// CLOCK_REALTIME - CLOCK_MONOTONIC
    pub clock_ns: i64,
    pub tail_ns: u64,
    pub threshold_ns: u64,
}

/// A span that was blocked, in kernel time. `blocked_*` are of its waits clipped to [start_ns, tail_end_ns].
pub struct SpanEvidence {
    pub ordinal: usize,
    pub tgid: u32,
    pub goid: u64,
    pub start_ns: u64,
    pub end_ns: u64,
    /// `end_ns` if the span has no tail.
    pub tail_end_ns: u64,
    pub complete: bool,
    /// By start and by end; not empty.
    pub waits: Vec<Event>,
    /// Which of them is longest.
    pub longest: usize,
    /// Of their union.
    pub blocked_ns: u64,
    pub blocked_after_end_ns: u64,
    /// WAIT_KERNEL, WAIT_PARKED or both.
    pub kinds: u8,
}

#[derive(Default)]
pub struct Matched {
    pub evidence: Vec<SpanEvidence>,
    /// Spans that were not blocked as far as is known, while evidence for them was lost or may still come.
    pub incomplete: Vec<u32>,
    pub unmatched: Vec<u32>,
    pub matched: usize,
    /// The end of the last tail that is not known to be over; 0 if all are.
    pub open_until_ns: u64,
}

pub fn match_spans(index: &Index, spans: &[SpanRecord], window: Window) -> Matched {
    let mut matched = Matched::default();
    for (ordinal, span) in spans.iter().enumerate() {
        let end = if span.has_ids { index.span_ends.get(span.span_id, &span.trace_id) } else { None };
        match end {
            Some(end) => match_span(index, ordinal, span, end, window, &mut matched),
            None => matched.unmatched.push(ordinal as u32),
        }
    }
    matched
}

fn match_span(
    index: &Index,
    ordinal: usize,
    span: &SpanRecord,
    end: &SpanEnd,
    window: Window,
    to: &mut Matched,
) {
    to.matched += 1;
    let (start_ns, end_ns) = kernel_times(span, end, window);
    let tail_end_ns = if span.can_have_tail() { end_ns.saturating_add(window.tail_ns) } else { end_ns };
    let own = own_waits(index, end, start_ns);
    let is_open = tail_end_ns > end_ns && !own.clone().any(|wait| closes_tail(wait, end));
    if is_open {
        to.open_until_ns = to.open_until_ns.max(tail_end_ns);
    }
    let mut complete = index.watermark_ns >= end_ns
        && (!is_open || index.going_on_ns >= tail_end_ns)
        && index.process(end.tgid).is_some_and(|process| process.since_ns <= start_ns)
        && !index.lost(start_ns, tail_end_ns, end.tgid);
    let mut waits: Vec<Event> = Vec::new(); // takes no memory while it is empty
                                            // A goroutine does one thing at a time, so its waits begin in the
                                            // order in which they end.
    let until_end = own.take_while(|wait| wait.start_ns < tail_end_ns);
    waits.extend(until_end.filter(|wait| belongs(wait, end, end_ns)));
    let blocked = Blocked::of(&waits, start_ns, end_ns, tail_end_ns);
    complete &= waits.iter().all(|wait| reach_ns(wait) <= tail_end_ns);
    if !waits.is_empty() && blocked.blocked_ns >= window.threshold_ns {
        let kinds = waits.iter().fold(0, |kinds, wait| kinds | wait.wait_kind);
        to.evidence.push(SpanEvidence {
            ordinal,
            tgid: end.tgid,
            goid: end.goid,
            start_ns,
            end_ns,
            tail_end_ns,
            complete,
            waits,
            longest: blocked.longest,
            blocked_ns: blocked.blocked_ns,
            blocked_after_end_ns: blocked.blocked_after_end_ns,
            kinds,
        });
    } else if !complete {
        to.incomplete.push(ordinal as u32);
    }
}

/// The goroutine's waits from the span's start on. A goroutine that is not known has none.
fn own_waits<'a>(index: &'a Index, end: &SpanEnd, start_ns: u64) -> impl Iterator<Item = &'a Event> + Clone {
    let after_ns = if end.goid == 0 { u64::MAX } else { start_ns };
    index.waits.reaching((end.tgid, end.goid), after_ns)
}

/// Start and end of a span in kernel time. The duration is the SDK's own, measured by a clock that does not
/// step.
fn kernel_times(span: &SpanRecord, end: &SpanEnd, window: Window) -> (u64, u64) {
    let given_end_ns = kernel_time(span.end_unix_ns, window.clock_ns);
    if given_end_ns.abs_diff(end.end_ns) > SAME_END_NS {
        return (kernel_time(span.start_unix_ns, window.clock_ns), given_end_ns);
    }
    let duration_ns = span.end_unix_ns.saturating_sub(span.start_unix_ns);
    (end.end_ns.saturating_sub(duration_ns), end.end_ns)
}

fn kernel_time(unix_ns: u64, clock_ns: i64) -> u64 {
    if clock_ns >= 0 {
        unix_ns.saturating_sub(clock_ns.unsigned_abs())
    } else {
        unix_ns.saturating_add(clock_ns.unsigned_abs())
    }
}

/// Shows that the tail is over: after the span the goroutine has read its next request, or ended another
/// span. What it did before that is in the log, which has the events of one goroutine in order.
fn closes_tail(wait: &Event, end: &SpanEnd) -> bool {
    let has_read = !is_going_on(wait) && wait.flags & WAIT_FOR_WRITE == 0 && wait.error == 0;
    wait.start_ns > end.end_ns && (wait.tail_of_ns != end.end_ns || has_read)
}

/// Whether a wait that reaches into the span or its tail is of the span: it began before the span's end, or
/// is a write that the kernel's side saw as the tail of this very span.
fn belongs(wait: &Event, end: &SpanEnd, end_ns: u64) -> bool {
    wait.start_ns < end_ns || (wait.flags & WAIT_FOR_WRITE != 0 && wait.tail_of_ns == end.end_ns)
}

#[derive(Default)]
struct Blocked {
    blocked_ns: u64,
    blocked_after_end_ns: u64,
    longest: usize,
}

impl Blocked {
    /// `waits`: by start.
    fn of(waits: &[Event], start_ns: u64, end_ns: u64, tail_end_ns: u64) -> Self {
        let mut blocked = Self::default();
        let mut covered_to_ns = start_ns;
        let mut longest_ns = 0;
        for (at, wait) in waits.iter().enumerate() {
            let from_ns = wait.start_ns.max(start_ns);
            let to_ns = reach_ns(wait).min(tail_end_ns);
            if to_ns.saturating_sub(from_ns) > longest_ns {
                longest_ns = to_ns - from_ns;
                blocked.longest = at;
            }
            let new_from_ns = from_ns.max(covered_to_ns);
            blocked.blocked_ns += to_ns.saturating_sub(new_from_ns);
            blocked.blocked_after_end_ns += to_ns.saturating_sub(new_from_ns.max(end_ns));
            covered_to_ns = covered_to_ns.max(to_ns);
        }
        blocked
    }
}

/// The waits of a process's threads between two times, where span ends are not seen: see `Index::owner`.
pub fn process_waits(index: &Index, tgid: u32, start_ns: u64, end_ns: u64) -> Vec<Event> {
    let reaching = index.waits.reaching((tgid, 0), start_ns);
    let mut waits: Vec<Event> = reaching.filter(|wait| wait.start_ns < end_ns).copied().collect();
    waits.sort_by_key(|wait| (wait.start_ns, is_going_on(wait)));
    waits
}
