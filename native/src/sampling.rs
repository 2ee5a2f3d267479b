//! Which spans of a request are kept. Some always are: those with evidence, errors, slow ones. Of the rest a
//! ratio is, by the randomness that all spans of a trace share, so that whoever keeps a larger ratio keeps these,
//! too; and each of them says in its tracestate how many it stands for. Source: OpenTelemetry specification,
//! "TraceState: Probability Sampling", equalizing downstream sampler; W3C Trace Context Level 2.

use crate::attributes::push_delimited;
use crate::splice::{tag_at, Edit, Patch, Refused};
use crate::trace_state::{Threshold, TraceState};
use crate::wire::{Scan, SpanRecord};

/// Randomness and thresholds have 56 bits: the threshold that no randomness reaches.
pub const NEVER: u64 = 1 << 56;
/// Of `Rule::slow_ns`: no span is kept for its duration.
pub const NONE_IS_SLOW: u64 = 0;

const TRACE_STATE: u8 = 3 << 3 | 2;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rule {
    /// Spans of the rest whose randomness is less than this are dropped; 0: none are. At most `NEVER`.
    pub threshold: u64,
    /// A span of this duration or a longer one is kept.
    pub slow_ns: u64,
    pub keep_errors: bool,
}

/// What became of the spans of a request. Each is counted once: kept for the first reason that holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    pub sampled_out: usize,
    pub kept_evidence: usize,
    pub kept_error: usize,
    pub kept_slow: usize,
    pub kept_ratio: usize,
    /// It has no trace id, or there is no telling in its tracestate how many it stands for. So it stands for itself.
    pub kept_undecidable: usize,
}

/// The spans that do not leave as they came, by ordinal.
pub struct Decided {
    pub tally: Tally,
    choices: Vec<(usize, Choice)>,
    /// The tracestate fields that are written. The first is that of spans that had none.
    fields: Vec<u8>,
}

#[derive(Clone, Copy)]
enum Choice {
    Drop,
    /// Between these positions of the body gets to stand what stands between those of `fields`.
    Put {
        from: u32,
        to: u32,
        first: u32,
        last: u32,
    },
}

enum Fate {
    Sampled(Choice),
    Kept,
    Undecidable,
}

/// `kept`: ordinals of spans with evidence, ascending.
pub fn decide(body: &[u8], scan: &Scan, rule: &Rule, kept: &[usize]) -> Result<Decided, Refused> {
    let ascending = kept.windows(2).all(|pair| pair[0] < pair[1]);
    if !ascending || kept.last().is_some_and(|last| *last >= scan.spans.len()) {
        return Err(Refused::Ordinals);
    }
    let mut decider = Decider::new(body, scan, rule);
    let mut tally = Tally::default();
    let mut choices = Vec::with_capacity(scan.spans.len());
    let mut kept = kept.iter().peekable();
    for (ordinal, span) in scan.spans.iter().enumerate() {
        let duration_ns = span.end_unix_ns.saturating_sub(span.start_unix_ns);
        let count = if kept.next_if(|kept| **kept == ordinal).is_some() {
            &mut tally.kept_evidence
        } else if rule.keep_errors && span.is_error {
            &mut tally.kept_error
        } else if rule.slow_ns != NONE_IS_SLOW && duration_ns >= rule.slow_ns {
            &mut tally.kept_slow
        } else {
            match decider.fate(ordinal, span) {
                Fate::Sampled(choice) => {
                    choices.push((ordinal, choice));
                    if matches!(choice, Choice::Drop) {
                        &mut tally.sampled_out
                    } else {
                        &mut tally.kept_ratio
                    }
                }
                Fate::Kept => &mut tally.kept_ratio,
                Fate::Undecidable => &mut tally.kept_undecidable,
            }
        };
        *count += 1;
    }
    Ok(Decided { tally, choices, fields: decider.fields })
}

impl Decided {
    /// All that is to be written: patches of spans that are dropped fall away. `patches`: with ascending ordinals.
    pub fn edits<'a>(
        &'a self,
        scan: &'a Scan,
        patches: &'a [Patch<'a>],
    ) -> impl Iterator<Item = (usize, Edit<'a>)> + 'a {
        let mut choices = self.choices.iter().peekable();
        let mut patches = patches.iter().peekable();
        std::iter::from_fn(move || {
            let patched = patches.peek().map(|patch| patch.ordinal);
            let chosen = choices.peek().map(|(ordinal, _)| *ordinal);
            let ordinal = patched.into_iter().chain(chosen).min()?;
            let run = patches.next_if(|patch| patch.ordinal == ordinal).map_or(&[][..], |patch| patch.run);
            let edit = match choices.next_if(|(chosen, _)| *chosen == ordinal) {
                Some((_, Choice::Drop)) => Edit::Drop,
                Some((_, Choice::Put { from, to, first, last })) => {
                    let put = &self.fields[*first as usize..*last as usize];
                    Edit::Change { from: *from, to: *to, put, run }
                }
                None => {
                    let end = scan.spans.get(ordinal).map_or(0, |span| span.extent.end);
                    Edit::Change { from: end, to: end, put: &[], run }
                }
            };
            Some((ordinal, edit))
        })
    }

    /// About as many as `edits` yields.
    pub fn count(&self, patches: &[Patch]) -> usize {
        self.choices.len().max(patches.len())
    }
}

struct Decider<'a> {
    body: &'a [u8],
    scan: &'a Scan,
    threshold: u64,
    written: Threshold,
    fields: Vec<u8>,
    /// Up to where in `fields` the field of spans that had no tracestate stands.
    plain_end: u32,
}

impl<'a> Decider<'a> {
    fn new(body: &'a [u8], scan: &'a Scan, rule: &Rule) -> Self {
        let written = Threshold::new(rule.threshold.min(NEVER - 1));
        let mut fields = Vec::new();
        push_field(&TraceState::default(), &written, &mut fields);
        let plain_end = fields.len() as u32;
        Self { body, scan, threshold: rule.threshold, written, fields, plain_end }
    }

    #[inline]
    fn fate(&mut self, ordinal: usize, span: &SpanRecord) -> Fate {
        if self.threshold == 0 {
            return Fate::Kept;
        }
        if self.threshold >= NEVER {
            return Fate::Sampled(Choice::Drop);
        }
        if span.has_trace_state || !span.has_ids {
            return self.unusual_fate(ordinal, span);
        }
        let Some(randomness) = randomness_of(&span.trace_id) else { return Fate::Undecidable };
        let end = span.extent.end;
        Fate::Sampled(if randomness < self.threshold {
            Choice::Drop
        } else {
            Choice::Put { from: end, to: end, first: 0, last: self.plain_end }
        })
    }

    fn unusual_fate(&mut self, ordinal: usize, span: &SpanRecord) -> Fate {
        let field = self.scan.trace_state(self.body, ordinal).filter(|field| field.start < field.end);
        let text = field.map_or(&[][..], |field| &self.body[field.start as usize..field.end as usize]);
        let Some(state) = TraceState::read(text) else { return Fate::Undecidable };
        let trace_id = || match span.has_ids {
            true => Some(span.trace_id),
            false => self.scan.fields(self.body, ordinal).trace_id.try_into().ok(),
        };
        let random = state.randomness.or_else(|| randomness_of(&trace_id()?));
        let Some(randomness) = random else { return Fate::Undecidable };
        // One that would have dropped this very span was not applied to it: nothing is known of it then.
        let before = state.threshold.filter(|threshold| randomness >= *threshold);
        if before.is_some_and(|before| before >= self.threshold) {
            return Fate::Kept; // it was chosen more strictly before, and says so
        }
        if !state.has_room_for(&self.written) {
            return Fate::Undecidable;
        }
        if randomness < self.threshold {
            return Fate::Sampled(Choice::Drop);
        }
        let end = span.extent.end;
        let first = self.fields.len() as u32;
        push_field(&state, &self.written, &mut self.fields);
        let last = self.fields.len() as u32;
        // In place: appended, the old one would be read no more, but would still be sent.
        let (from, to) = field.map_or((end, end), |field| (tag_at(self.body, field), field.end));
        Fate::Sampled(Choice::Put { from, to, first, last })
    }
}

fn push_field(state: &TraceState, threshold: &Threshold, fields: &mut Vec<u8>) {
    let mut text = Vec::with_capacity(32);
    state.write(threshold, &mut text);
    push_delimited(TRACE_STATE, &text, fields);
}

/// The rightmost 7 bytes, as W3C Trace Context Level 2 has it. None of an invalid id: all spans without one
/// would be one trace.
#[inline]
fn randomness_of(trace_id: &[u8; 16]) -> Option<u64> {
    if *trace_id == [0; 16] {
        return None;
    }
    let [.., a, b, c, d, e, f, g] = *trace_id;
    Some(u64::from_be_bytes([0, a, b, c, d, e, f, g]))
}

#[cfg(test)]
mod tests;
