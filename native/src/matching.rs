//! Ties the spans of a request to the goroutines that ended them, and these to what they were blocked in.

use crate::index::Index;
use crate::records::{Event, WAIT_FOR_WRITE};
use crate::span_ends::SpanEnd;
use crate::waits::{is_going_on, reach_ns, OwnWaits};
use crate::wire::SpanRecord;

/// Where the end of a span and the time of its End() differ by more, the SDK was given another time for the
/// end, or the clock was set since. Nobody can tell which, so nothing is known of such a span.
const SAME_END_NS: u64 = 250_000_000;

/// A thread that lost the CPU inside End() has it back after this time, most often.
const LONGEST_LOSS_OF_CPU_NS: u64 = 100_000_000;

/// A goroutine that was blocked from before a span's start to so long after it cannot have started that span:
/// the span was handed to it.
const STRADDLES_NS: u64 = 10_000_000;

/// What turns a span's own times into the kernel's, and how much of them counts.
#[derive(Clone, Copy)]
pub struct Window {
    /// CLOCK_REALTIME - CLOCK_MONOTONIC
    pub clock_ns: i64,
    pub tail_ns: u64,
    pub threshold_ns: u64,
}

/// A span that was blocked, in kernel time. `blocked_*` are of its waits clipped to [start_ns, tail_end_ns]. A
/// wait of which less than the threshold lies in there is none of them.
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
    /// The end of a tail that may still change, and for which it is too early: then nothing else is set. Or 0.
    pub open_until_ns: u64,
}

/// Spans that are looked up together: reads of memory that does not fit into the cache wait for it together.
const LOOKED_UP_TOGETHER: usize = 32;

/// Gives up at the first tail that is not over and reaches beyond `settled_ns`: the request is to be asked for
/// again. So it begins with the last span, most often the one that ended last.
pub fn match_spans(index: &Index, spans: &[SpanRecord], window: Window, settled_ns: u64) -> Matched {
    let mut matched = Matched::default();
    let mut ordinal = spans.len();
    let mut near = 0;
    let mut found = Vec::with_capacity(LOOKED_UP_TOGETHER);
    let mut waits = Vec::with_capacity(LOOKED_UP_TOGETHER);
    for spans in spans.rchunks(LOOKED_UP_TOGETHER) {
        for span in spans.iter().rev() {
            ordinal -= 1;
            let ends = &index.span_ends;
            let end = ends.get_near(&mut near, span.span_id, &span.trace_id);
            match end.filter(|end| span.has_ids && has_own_times(span, end, window)) {
                Some(end) => found.push((ordinal, span, end)),
                None => matched.unmatched.push(ordinal as u32),
            }
        }
        waits.extend(found.iter().map(|(_, _, end)| own_waits(index, end)));
        for ((ordinal, span, end), waits) in found.drain(..).zip(waits.drain(..)) {
            let open_until_ns = match_span(index, ordinal, span, end, waits, window, &mut matched);
            if open_until_ns > settled_ns {
                return Matched { open_until_ns, ..Matched::default() };
            }
        }
    }
    matched.evidence.reverse();
    matched.incomplete.reverse();
    matched.unmatched.reverse();
    matched
}

/// Returns the end of its tail if that is not known to be over, or 0.
fn match_span(
    index: &Index,
    ordinal: usize,
    span: &SpanRecord,
    end: &SpanEnd,
    waits: OwnWaits,
    window: Window,
    to: &mut Matched,
) -> u64 {
    to.matched += 1;
    let (start_ns, end_ns) = kernel_times(span, end, window);
    let tail_end_ns = if span.can_have_tail() { end_ns.saturating_add(window.tail_ns) } else { end_ns };
    let own = waits.reaching(start_ns);
    let is_open = tail_end_ns > end_ns && !own.clone().any(|wait| closes_tail(wait, end));
    let mut complete = index.watermark_ns >= end_ns
        && (!is_open || index.going_on_ns >= tail_end_ns)
        && index.process(end.tgid).is_some_and(|process| process.since_ns <= start_ns)
        && start_ns >= index.forgotten_until_ns()
        && !index.lost(start_ns, tail_end_ns, end.tgid);
    let inside_ns =
        |wait: &Event| reach_ns(wait).min(tail_end_ns).saturating_sub(wait.start_ns.max(start_ns));
    let its_own =
        own.filter(|wait| belongs(wait, end, end_ns) && inside_ns(wait) >= window.threshold_ns.max(1));
    let mut waits: Vec<Event> = its_own.copied().collect(); // takes no memory while it is empty
                                                            // They come by end: a sleep inside the call that ends a longer wait ends before that does.
    waits.sort_by_key(|wait| wait.start_ns);
    if waits.iter().any(|wait| wait.start_ns < start_ns && inside_ns(wait) > STRADDLES_NS) {
        waits.clear();
        complete = false;
    }
    complete &= waits.iter().all(|wait| reach_ns(wait) <= tail_end_ns);
    if !waits.is_empty() {
        let blocked = Blocked::of(&waits, start_ns, end_ns, tail_end_ns);
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
    if is_open {
        tail_end_ns
    } else {
        0
    }
}

/// A goroutine that is not known has none.
#[inline]
fn own_waits<'a>(index: &'a Index, end: &SpanEnd) -> OwnWaits<'a> {
    if end.goid == 0 {
        OwnWaits::default()
    } else {
        index.waits.of((end.tgid, end.goid))
    }
}

/// Start and end of a span in kernel time. The end is that of End(), in which a goroutine waits for nothing:
/// what it waits for later is no more the span's, but for its tail.
///
/// The start lies the span's duration before. But the SDK reads its clock for the end after the probe has, and
/// much later if the thread loses the CPU in between: then the duration is longer than what lies before the
/// probe, and would reach back to the read that brought the request. So the start is not earlier than the one
/// the span was given, unless that contradicts the probe, as the clock has been set since.
fn kernel_times(span: &SpanRecord, end: &SpanEnd, window: Window) -> (u64, u64) {
    let given_start_ns = kernel_time(span.start_unix_ns, window.clock_ns);
    let duration_ns = span.end_unix_ns.saturating_sub(span.start_unix_ns);
    let start_ns = end.end_ns.saturating_sub(duration_ns);
    let is_plausible =
        given_start_ns <= end.end_ns && given_start_ns.saturating_sub(start_ns) <= LONGEST_LOSS_OF_CPU_NS;
    (if is_plausible { start_ns.max(given_start_ns) } else { start_ns }, end.end_ns)
}

fn has_own_times(span: &SpanRecord, end: &SpanEnd, window: Window) -> bool {
    kernel_time(span.end_unix_ns, window.clock_ns).abs_diff(end.end_ns) <= SAME_END_NS
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
    let reaching = index.waits.of((tgid, 0)).reaching(start_ns);
    let mut waits: Vec<Event> = reaching.filter(|wait| wait.start_ns < end_ns).copied().collect();
    waits.sort_by_key(|wait| (wait.start_ns, is_going_on(wait)));
    waits
}
