//! Ties the spans of a request to the goroutines they ran on, and these to what they were blocked in.
//!
//! A wait is a span's if it was of the goroutine that the span ran on, of a goroutine made inside the span, of a
//! connection that a call in the span took, or any of these of a span inside this one in the same process. What is not
//! of the span's own goroutine counts only if it was over when the span ended: else nobody had waited for it.

use crate::calls::{answered_ns, EndOfCall};
use crate::index::Index;
use crate::lineage::{Made, SpanKey};
use crate::records::{Event, FD_SOCKET, PROCESS_HAS_EXITS, WAIT_FOR_WRITE};
use crate::span_ends::SpanEnd;
use crate::waits::{is_going_on, reach_ns, OwnWaits};
use crate::wire::SpanRecord;

/// Where the times of a span and those of Start() and End() differ by more, the SDK was given other times. What a
/// goroutine did then, and whether it was this one, nobody can tell, so nothing is known of such a span.
const SAME_TIME_NS: u64 = 250_000_000;

/// What the SDK's clock and the kernel's may be apart by themselves. More, and the span was given a time; it lies
/// outside of neither then.
const GIVEN_NS: u64 = 2_000_000;

/// A thread that lost the CPU inside End() has it back after this time, most often.
const LONGEST_LOSS_OF_CPU_NS: u64 = 100_000_000;

/// A goroutine that was blocked from before a span's start to so long after it cannot have started that span:
/// the span was handed to it.
const STRADDLES_NS: u64 = 10_000_000;

/// A goroutine tells that it is done before it ends, and on a busy machine it is late to end.
const EXIT_GRACE_NS: u64 = 50_000_000;

/// Spans inside of spans are followed so deep; more is a loop that somebody made up.
const DEEPEST: usize = 32;
/// Waits of one span and all inside of it.
const MOST_WAITS: usize = 4096;

/// How much of a span's time counts.
#[derive(Clone, Copy)]
pub struct Window {
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
    /// The part of `blocked_ns` in no child span.
    pub direct_ns: u64,
    /// All of them are of connections that were used for calls.
    pub is_by_connection: bool,
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
    /// When all that may still come for one of the spans is known, and for which it is too early: then nothing else is
    /// set. Or 0.
    pub open_until_ns: u64,
}

/// What becomes of a wait that was considered for a span.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Own,
    Tail,
    OfMade,
    OfCall,
    OfChildSpan,
    TooShort,
    OfNextRequest,
    NotOver,
    MadeGoesOn,
    HandedOver,
    Straddles,
    Multiplexed,
    Lossy,
    Unseen,
}

impl Verdict {
    pub fn is_claimed(self) -> bool {
        matches!(self, Self::Own | Self::Tail | Self::OfMade | Self::OfCall | Self::OfChildSpan)
    }

    pub fn sentence(self) -> &'static str {
        match self {
            Self::Own => "the span's goroutine was blocked inside the span",
            Self::Tail => "the span's goroutine was blocked in a write after the span's end, before its next request",
            Self::OfMade => "a goroutine made inside the span was blocked, and was done before the span ended",
            Self::OfCall => "the connection that a call of the span used was blocked while the call was under way",
            Self::OfChildSpan => "a span inside this one, in the same process, was blocked",
            Self::TooShort => "less than the threshold of it lies inside the span and its tail",
            Self::OfNextRequest => "the goroutine had taken up something else after the span",
            Self::NotOver => "it went on beyond the end of the span, which so did not wait for it",
            Self::MadeGoesOn => "its goroutine, made inside the span, lived on when the span had ended: it works on its own",
            Self::HandedOver => {
                "the span was started on one goroutine and ended on another: when it changed hands is not known"
            }
            Self::Straddles => "the goroutine was blocked since before the span's start, so the span was handed to it",
            Self::Unseen => {
                "the first call seen on a connection that may be older than the watching: whether it waited is not known"
            }
            Self::Lossy => "evidence was lost, and it might have said that this was not waited for",
            Self::Multiplexed => "the connection serves other calls, too, and the span does not end with the answer to its own",
        }
    }
}

/// Is told of every wait that is considered; `()` is not interested.
pub trait Witness {
    fn saw(&mut self, _wait: &Event, _verdict: Verdict) {}
}

impl Witness for () {}

impl Witness for Vec<(Event, Verdict)> {
    fn saw(&mut self, wait: &Event, verdict: Verdict) {
        self.push((*wait, verdict));
    }
}

/// Spans that are looked up together: reads of memory that does not fit into the cache wait for it together.
const LOOKED_UP_TOGETHER: usize = 32;

/// Gives up at the first span of which something may still come after `settled_ns`: the request is to be asked for
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
            match end.filter(|end| span.has_ids && !end.is_disputed() && has_own_times(index, span, end)) {
                Some(end) => found.push((ordinal, span, end)),
                None => matched.unmatched.push(ordinal as u32),
            }
        }
        waits.extend(found.iter().map(|(_, _, end)| own_waits(index, end)));
        for ((ordinal, span, end), waits) in found.drain(..).zip(waits.drain(..)) {
            let times = Times::of(index, span, end, window);
            let open_until_ns = match_span(index, ordinal, end, waits, times, window, &mut matched, &mut ());
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

/// A span in kernel time.
#[derive(Clone, Copy)]
pub struct Times {
    pub start_ns: u64,
    pub end_ns: u64,
    pub tail_end_ns: u64,
}

impl Times {
    /// Start and end are those of the SDK's calls, in which a goroutine waits for nothing; what it waits for after the
    /// end is no more the span's, but for its tail. What the span was given instead only makes it shorter.
    ///
    /// Where the start was not seen, it lies the span's duration before. But the SDK reads its clock for the end after
    /// the probe has, and much later if the thread loses the CPU in between: then the duration is longer than what lies
    /// before the probe, and would reach back to the read that brought the request. So the start is not earlier than
    /// the one the span was given, unless that contradicts the probe.
    fn of(index: &Index, span: &SpanRecord, end: &SpanEnd, window: Window) -> Self {
        let given_start_ns = index.clock.kernel_time_ns(span.start_unix_ns);
        let given_end_ns = index.clock.kernel_time_ns(span.end_unix_ns);
        let early_ns = end.end_ns.saturating_sub(given_end_ns);
        // Both early by as much: the clock was set meanwhile.
        let is_shifted = end.start_ns.saturating_sub(given_start_ns).abs_diff(early_ns) <= GIVEN_NS;
        let is_end_given = end.is_start_known() && early_ns > GIVEN_NS && !is_shifted;
        let end_ns = if is_end_given { given_end_ns } else { end.end_ns };
        let mut start_ns = end.start_ns;
        if !end.is_start_known() {
            let duration_ns = span.end_unix_ns.saturating_sub(span.start_unix_ns);
            start_ns = end_ns.saturating_sub(duration_ns);
            let is_plausible =
                given_start_ns <= end_ns && given_start_ns.saturating_sub(start_ns) <= LONGEST_LOSS_OF_CPU_NS;
            if is_plausible {
                start_ns = start_ns.max(given_start_ns);
            }
        } else if given_start_ns > start_ns.saturating_add(GIVEN_NS) {
            start_ns = given_start_ns; // given, or the thread lost the CPU inside Start()
        }
        let tail_ns = if span.can_have_tail() && !is_end_given { window.tail_ns } else { 0 };
        Self { start_ns: start_ns.min(end_ns), end_ns, tail_end_ns: end_ns.saturating_add(tail_ns) }
    }
}

/// Returns until when something may still come for it, or 0.
#[allow(clippy::too_many_arguments)] // the loop above has them all at hand
fn match_span<'a>(
    index: &'a Index,
    ordinal: usize,
    end: &SpanEnd,
    own: OwnWaits<'a>,
    times: Times,
    window: Window,
    to: &mut Matched,
    witness: &mut impl Witness,
) -> u64 {
    to.matched += 1;
    let Times { start_ns, end_ns, tail_end_ns } = times;
    let own = own.reaching(start_ns);
    let has_tail_open = tail_end_ns > end_ns && !own.clone().any(|wait| closes_tail(wait, end));
    let mut gathered = Gathered::new(index, window.threshold_ns.max(1), times);
    gathered.take_own(end, own, witness);
    gathered.take_inner(end, (start_ns, end_ns), 0, witness);
    let complete = !gathered.is_ambiguous
        && (!has_tail_open || index.going_on_ns >= tail_end_ns)
        && incomplete_because(index, end, times).next().is_none()
        && gathered.waits.iter().all(|wait| reach_ns(wait) <= tail_end_ns);
    let made_until_ns = if gathered.has_made { end_ns.saturating_add(EXIT_GRACE_NS) } else { 0 };
    let open_until_ns = if has_tail_open { made_until_ns.max(tail_end_ns) } else { made_until_ns };
    if !gathered.waits.is_empty() {
        to.evidence.push(gathered.into_evidence(ordinal, end, complete));
    } else if !complete {
        to.incomplete.push(ordinal as u32);
    }
    open_until_ns
}

/// Why not all evidence of a span may be there, whatever was found.
pub fn incomplete_because<'a>(
    index: &'a Index,
    end: &SpanEnd,
    times: Times,
) -> impl Iterator<Item = &'static str> + 'a {
    let watched = index.process(end.tgid).is_some_and(|process| process.since_ns <= times.start_ns);
    [
        (index.watermark_ns < times.end_ns, "not everything up to its end is known"),
        (!watched, "its process was not watched yet when it began"),
        (
            times.start_ns < index.forgotten_until_ns(),
            "it began so long ago that evidence of then was forgotten",
        ),
        (index.lost(times.start_ns, times.tail_end_ns, end.tgid), "evidence was lost while it ran"),
    ]
    .into_iter()
    .filter_map(|(holds, sentence)| holds.then_some(sentence))
}

/// The waits of a span as they are found.
struct Gathered<'a> {
    index: &'a Index,
    threshold_ns: u64,
    times: Times,
    waits: Vec<Event>,
    /// What `waits` were before they were clipped.
    whole: Vec<Event>,
    /// The parts of waits that lie in child spans.
    in_children: Vec<(u64, u64)>,
    by_connection: usize,
    has_made: bool,
    lossy: Option<bool>,
    /// There are waits of which nobody can say whether they are the span's.
    is_ambiguous: bool,
}

impl<'a> Gathered<'a> {
    fn new(index: &'a Index, threshold_ns: u64, times: Times) -> Self {
        Self {
            index,
            threshold_ns,
            times,
            waits: vec![], // takes no memory while it is empty
            whole: vec![],
            in_children: vec![],
            by_connection: 0,
            has_made: false,
            lossy: None,
            is_ambiguous: false,
        }
    }

    fn inside_ns(&self, wait: &Event) -> u64 {
        reach_ns(wait).min(self.times.tail_end_ns).saturating_sub(wait.start_ns.max(self.times.start_ns))
    }

    /// `own`: of the goroutine that ended the span.
    fn take_own(&mut self, end: &SpanEnd, own: impl Iterator<Item = &'a Event>, witness: &mut impl Witness) {
        let Times { start_ns, end_ns, .. } = self.times;
        if end.was_handed_over() {
            let before = self.index.waits.of((end.tgid, end.started_goid())).reaching(start_ns);
            self.take_ambiguous(before, witness);
        }
        if end.was_handed_over() && !end.was_ended_by_child() {
            self.take_ambiguous(own, witness);
            return;
        }
        let mut straddles = false;
        for wait in own {
            if !belongs(wait, end, end_ns) {
                if wait.start_ns < self.times.tail_end_ns {
                    witness.saw(wait, Verdict::OfNextRequest);
                }
            } else if self.inside_ns(wait) < self.threshold_ns {
                witness.saw(wait, Verdict::TooShort);
            } else if !end.is_start_known() && wait.start_ns < start_ns && self.inside_ns(wait) > STRADDLES_NS
            {
                witness.saw(wait, Verdict::Straddles);
                straddles = true;
            } else {
                witness.saw(wait, if wait.start_ns < end_ns { Verdict::Own } else { Verdict::Tail });
                self.waits.push(*wait);
                self.whole.push(*wait);
            }
        }
        if straddles {
            self.waits.clear();
            self.whole.clear();
            self.is_ambiguous = true;
        }
    }

    fn take_ambiguous(&mut self, waits: impl Iterator<Item = &'a Event>, witness: &mut impl Witness) {
        for wait in waits {
            if wait.start_ns < self.times.end_ns && self.inside_ns(wait) >= self.threshold_ns {
                witness.saw(wait, Verdict::HandedOver);
                self.is_ambiguous = true;
            }
        }
    }

    /// What was blocked inside a span, the one to be matched or one inside of it, on other goroutines than its own.
    fn take_inner(&mut self, end: &SpanEnd, part: (u64, u64), depth: usize, witness: &mut impl Witness) {
        let index = self.index;
        self.take_made(end, part, depth, witness);
        for call in index.calls.of_span(end.span_id) {
            if call.end_of_call == EndOfCall::Unseen {
                if end.end_ns.saturating_sub(end.start_ns) >= self.threshold_ns {
                    witness.saw(&call.wait, Verdict::Unseen);
                    self.is_ambiguous = true;
                }
            } else if self.is_lossy(end.tgid) {
                self.leave(&call.wait, depth, witness);
            } else if call.end_of_call == EndOfCall::Unknown
                || (call.end_of_call == EndOfCall::Late && self.is_idle(end, &call.wait))
            {
                witness.saw(&call.wait, Verdict::Multiplexed);
                // Of what is no client's span nobody expects more than its child spans tell.
                self.is_ambiguous |= end.is_of_client();
            } else {
                // So busy a machine may have let the answer lie while the connection waited for others.
                self.is_ambiguous |= call.end_of_call == EndOfCall::Late;
                self.take_foreign(&call.wait, part, depth, Verdict::OfCall, witness);
            }
        }
        if depth < DEEPEST && index.lineage.has_children(end.span_id) {
            for child in index.lineage.children_of(end.span_id) {
                self.take_child(child, end, part, depth + 1, witness);
            }
        }
    }

    /// A goroutine that hands a span over may go on to other things, and make others for those. Of a span ended by a
    /// child of it, that child's own line is known: their roots lie at the same moment.
    fn take_made(&mut self, end: &SpanEnd, part: (u64, u64), depth: usize, witness: &mut impl Witness) {
        let (tgid, started_on) = (end.tgid, (end.tgid, end.started_goid()));
        if !self.index.lineage.has_made(started_on) {
            return;
        }
        let mut all: Vec<Made> = self.index.lineage.made_by(started_on, part.0, part.1).collect();
        all.sort_unstable_by_key(|made| (made.goid, made.at_ns));
        all.dedup();
        let line =
            all.iter().find(|made| made.goid == end.goid && end.was_ended_by_child()).map(|made| made.at_ns);
        for made in all {
            let waits = self.index.waits.of((tgid, made.goid)).reaching(made.at_ns);
            if !end.was_handed_over() || line == Some(made.at_ns) {
                self.take_made_one((tgid, made.goid), waits, part, depth, witness);
            } else if depth == 0 {
                self.take_ambiguous(waits, witness);
            }
        }
    }

    fn take_made_one(
        &mut self,
        goroutine: (u32, u64),
        waits: impl Iterator<Item = &'a Event> + Clone,
        part: (u64, u64),
        depth: usize,
        witness: &mut impl Witness,
    ) {
        // What a connection waits for is of the calls on it, whoever had it made.
        let waits = waits.filter(|wait| !self.index.calls.tell_of(wait));
        let lives_on = self.lives_on(goroutine, waits.clone());
        for wait in waits.filter(|wait| wait.start_ns < part.1) {
            self.has_made = true;
            if self.is_lossy(goroutine.0) {
                self.leave(wait, depth, witness);
            } else if lives_on {
                witness.saw(wait, Verdict::MadeGoesOn);
            } else {
                self.take_foreign(wait, part, depth, Verdict::OfMade, witness);
            }
        }
    }

    /// Whether a goroutine that was made inside the span did not end with it: then it is nobody's but its own.
    fn lives_on(&self, goroutine: (u32, u64), mut waits: impl Iterator<Item = &'a Event>) -> bool {
        let end_ns = self.times.end_ns;
        if waits.any(|wait| reach_ns(wait) > end_ns) {
            return true;
        }
        let exits =
            self.index.process(goroutine.0).is_some_and(|process| process.flags & PROCESS_HAS_EXITS != 0);
        let exit_ns = self.index.lineage.exit_ns(goroutine);
        exits && exit_ns.is_none_or(|exit_ns| exit_ns > end_ns.saturating_add(EXIT_GRACE_NS))
    }

    /// A span inside `outer`, of the same process: all of its own evidence but for its tail.
    fn take_child(
        &mut self,
        key: &SpanKey,
        outer: &SpanEnd,
        part: (u64, u64),
        depth: usize,
        witness: &mut impl Witness,
    ) {
        let Some(child) = self.index.span_ends.get(key.span_id, &key.trace_id) else { return };
        let is_inside =
            child.trace_id == outer.trace_id && child.tgid == outer.tgid && child.is_start_known();
        if !is_inside || child.is_disputed() {
            return;
        }
        let part = (part.0.max(child.start_ns), part.1.min(child.end_ns));
        if part.0 >= part.1 || self.waits.len() >= MOST_WAITS {
            return;
        }
        if !child.was_handed_over() || child.was_ended_by_child() {
            let own = self.index.waits.of((child.tgid, child.goid)).reaching(part.0);
            for wait in own.filter(|wait| wait.start_ns < part.1) {
                self.take_foreign(wait, part, depth, Verdict::OfChildSpan, witness);
            }
        }
        self.take_inner(child, part, depth, witness);
    }

    /// Whether the reader of a call's connection was parked long before the client's span ended, and still was then: the
    /// answer had come, and the span went on to something else.
    fn is_idle(&self, end: &SpanEnd, of_call: &Event) -> bool {
        let mut waits = self.index.waits.of((end.tgid, of_call.goid)).reaching(end.end_ns);
        waits.any(|wait| wait.fd == of_call.fd && wait.start_ns <= answered_ns(end))
    }

    /// What lost evidence might have said is not the span's.
    fn leave(&mut self, wait: &Event, depth: usize, witness: &mut impl Witness) {
        witness.saw(wait, Verdict::Lossy);
        self.is_ambiguous |= depth == 0;
    }

    /// Whether evidence was lost of a time in which it might have said that a wait is not the span's after all: that a
    /// goroutine lives on, or that a connection was given back.
    fn is_lossy(&mut self, tgid: u32) -> bool {
        let Times { start_ns, end_ns, .. } = self.times;
        let index = self.index;
        *self.lossy.get_or_insert_with(|| index.lost(start_ns, end_ns.saturating_add(EXIT_GRACE_NS), tgid))
    }

    fn take_foreign(
        &mut self,
        wait: &Event,
        part: (u64, u64),
        depth: usize,
        verdict: Verdict,
        witness: &mut impl Witness,
    ) {
        let (from_ns, to_ns) = (wait.start_ns.max(part.0), reach_ns(wait).min(part.1));
        let known = self.whole.iter().position(|other| is_same(other, wait));
        if known.is_none() && reach_ns(wait) > self.times.end_ns {
            return witness.saw(wait, Verdict::NotOver);
        }
        if to_ns.saturating_sub(from_ns) < self.threshold_ns {
            return witness.saw(wait, Verdict::TooShort);
        }
        if depth > 0 {
            self.in_children.push((from_ns, to_ns));
        }
        if let Some(known) = known {
            // Seen from another span inside: perhaps more of it counts than was known.
            let other = &mut self.waits[known];
            other.start_ns = other.start_ns.min(from_ns);
            other.end_ns = other.end_ns.max(to_ns);
        } else if self.waits.len() < MOST_WAITS {
            witness.saw(wait, verdict);
            self.by_connection += usize::from(verdict == Verdict::OfCall);
            self.waits.push(Event { start_ns: from_ns, end_ns: to_ns, ..*wait });
            self.whole.push(*wait);
        }
    }

    fn into_evidence(mut self, ordinal: usize, end: &SpanEnd, complete: bool) -> SpanEvidence {
        let Times { start_ns, end_ns, tail_end_ns } = self.times;
        // They come by end: a sleep inside the call that ends a longer wait ends before that does.
        self.waits.sort_by_key(|wait| wait.start_ns);
        let blocked = Blocked::of(&self.waits, start_ns, end_ns, tail_end_ns);
        SpanEvidence {
            ordinal,
            tgid: end.tgid,
            goid: end.goid,
            start_ns,
            end_ns,
            tail_end_ns,
            complete,
            longest: blocked.longest,
            blocked_ns: blocked.blocked_ns,
            blocked_after_end_ns: blocked.blocked_after_end_ns,
            direct_ns: blocked.blocked_ns.saturating_sub(union_ns(&mut self.in_children)),
            is_by_connection: self.by_connection == self.waits.len(),
            kinds: self.waits.iter().fold(0, |kinds, wait| kinds | wait.wait_kind),
            waits: self.waits,
        }
    }
}

/// By its end, as of a wait of a call only what lies after the call is handed on.
fn is_same(one: &Event, other: &Event) -> bool {
    (one.goid, one.tid, one.fd, one.end_ns, one.kind)
        == (other.goid, other.tid, other.fd, other.end_ns, other.kind)
}

fn union_ns(parts: &mut [(u64, u64)]) -> u64 {
    parts.sort_unstable();
    let (mut total_ns, mut covered_to_ns) = (0, 0);
    for (from_ns, to_ns) in parts {
        total_ns += to_ns.saturating_sub(covered_to_ns.max(*from_ns));
        covered_to_ns = covered_to_ns.max(*to_ns);
    }
    total_ns
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

#[inline]
fn has_own_times(index: &Index, span: &SpanRecord, end: &SpanEnd) -> bool {
    let clock = &index.clock;
    let same = |unix_ns: u64, kernel_ns: u64| clock.unix_time_ns(kernel_ns).abs_diff(unix_ns) <= SAME_TIME_NS;
    same(span.end_unix_ns, end.end_ns) && (!end.is_start_known() || same(span.start_unix_ns, end.start_ns))
}

/// Shows that the tail is over: after the span the goroutine has read its next request, or ended another
/// span. What it did before that is in the log, which has the events of one goroutine in order.
fn closes_tail(wait: &Event, end: &SpanEnd) -> bool {
    let has_read = !is_going_on(wait) && wait.flags & WAIT_FOR_WRITE == 0 && wait.error == 0;
    wait.start_ns > end.end_ns && (wait.tail_of_ns != end.end_ns || has_read)
}

/// Whether a wait that reaches into the span or its tail is of the span: it began before the span's end, or
/// is a write to a socket that the kernel's side saw as the tail of this very span.
fn belongs(wait: &Event, end: &SpanEnd, end_ns: u64) -> bool {
    let is_write = wait.flags & WAIT_FOR_WRITE != 0 && wait.fd_type == FD_SOCKET;
    wait.start_ns < end_ns || (is_write && wait.tail_of_ns == end.end_ns)
}

/// A span on its own, with all that was thought of it.
pub struct Explained {
    pub why: &'static str,
    pub end: Option<SpanEnd>,
    pub times: Option<Times>,
    pub complete: bool,
    pub incomplete_because: Vec<&'static str>,
    pub considered: Vec<(Event, Verdict)>,
}

pub fn explain(index: &Index, span: &SpanRecord, window: Window) -> Explained {
    let none = |why| Explained {
        why,
        end: None,
        times: None,
        complete: false,
        incomplete_because: vec![],
        considered: vec![],
    };
    if !span.has_ids {
        return none("its ids are not those of a span");
    }
    let Some(end) = index.span_ends.get(span.span_id, &span.trace_id) else {
        return none(
            "no probe saw it end: its process is not watched or its SDK not known, or it ended too long ago",
        );
    };
    if end.is_disputed() {
        return none("two processes say that they ended it");
    }
    if !has_own_times(index, span, end) {
        return none("its times are not those at which it was started and ended, they were given");
    }
    let (mut matched, mut considered) = (Matched::default(), vec![]);
    let times = Times::of(index, span, end, window);
    match_span(index, 0, end, own_waits(index, end), times, window, &mut matched, &mut considered);
    let mut because: Vec<&'static str> = incomplete_because(index, end, times).collect();
    let complete = matched.incomplete.is_empty() && matched.evidence.iter().all(|found| found.complete);
    if !complete && because.is_empty() {
        because.push("a wait goes on beyond it, or nobody can tell whether it is the span's");
    }
    Explained {
        why: "a probe in the SDK saw it end",
        end: Some(*end),
        times: Some(times),
        complete,
        incomplete_because: because,
        considered,
    }
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
