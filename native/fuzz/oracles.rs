//! What must hold for any bytes. Each function is a fuzz target, and is also called by the tests with the corpus.

use std::mem::MaybeUninit;

use _native::attributes::{push_attribute, Value};
use _native::compression::{self, Decoder, Encoding, Unusable};
use _native::json::{from_protobuf, to_protobuf};
use _native::protobuf::validate;
use _native::sampling::{self, Rule, NEVER};
use _native::schema::REQUEST;
use _native::splice::{Edit, Plan};
use _native::wire::{self, Extent, Scan};
use bytes::Bytes;
use serde_core::de::IgnoredAny;

/// The short ways of the scan and the schema's own way agree, and spans lie one behind the other inside their scopes.
pub fn scan(body: &[u8]) {
    let scanned = wire::scan(body);
    assert_eq!(scanned.is_ok(), validate(body, &REQUEST, 0).is_ok());
    let Ok(scan) = scanned else { return };
    let mut end = 0;
    for (ordinal, span) in scan.spans.iter().enumerate() {
        let (scope, resource) = scan.scopes[span.scope as usize];
        let resource = scan.resources[resource as usize];
        assert!(end <= span.extent.length_at && span.extent.start <= span.extent.end);
        assert!(scope.start < span.extent.length_at && span.extent.end <= scope.end);
        assert!(resource.start < scope.length_at && scope.end <= resource.end);
        end = span.extent.end;
        let fields = scan.fields(body, ordinal);
        assert_eq!((fields.start_unix_ns, fields.end_unix_ns), (span.start_unix_ns, span.end_unix_ns));
        assert_eq!(span.has_ids, fields.trace_id.len() == 16 && fields.span_id.len() == 8);
    }
    assert_eq!(written(&Plan::new(body, &scan, &[]).expect("nothing changes")), body);
    let mut joined = wire::scan(body).expect("as before");
    joined.append(&scan, body.len() as u32);
    assert_eq!(wire::scan(&[body, body].concat()), Ok(joined));
}

/// Chosen spans get attributes at their ends, others are dropped; nothing else changes. The first eight bytes choose, the
/// next is how much.
pub fn splice(data: &[u8]) {
    let Some((choice, [size, body @ ..])) = data.split_first_chunk() else { return };
    let Ok(before) = wire::scan(body) else { return };
    let mut run = vec![];
    push_attribute("ebpf.observed", &Value::Bool(true), &mut run);
    push_attribute("ebpf.syscall.peer", &Value::Text(&"x".repeat(usize::from(*size) * 80)), &mut run);
    let choice = u64::from_le_bytes(*choice);
    let chosen = |bits: u64| move |ordinal: &usize| bits >> (ordinal % 64) & 1 == 1;
    let (is_longer, is_dropped) =
        (chosen(choice), chosen(if size % 2 == 1 { choice.rotate_left(32) } else { 0 }));
    let edits = (0..before.spans.len()).filter_map(|ordinal| {
        let end = before.spans[ordinal].extent.end;
        let longer = Edit::Change { from: end, to: end, put: &[], run: &run };
        let edit =
            if is_dropped(&ordinal) { Some(Edit::Drop) } else { is_longer(&ordinal).then_some(longer) };
        edit.map(|edit| (ordinal, edit))
    });
    let result = written(&Plan::of_edits(body, &before, edits, 0).expect("ordinals ascend"));
    let after = wire::scan(&result).expect("what was valid stays valid");
    assert_eq!(validate(&result, &REQUEST, 0), Ok(()));
    let kept: Vec<usize> = (0..before.spans.len()).filter(|ordinal| !is_dropped(ordinal)).collect();
    assert_eq!(after.spans.len(), kept.len());
    for (is, was) in kept.into_iter().enumerate() {
        assert_eq!(before.fields(body, was), after.fields(&result, is));
        let added =
            within(&result, after.spans[is].extent).strip_prefix(within(body, before.spans[was].extent));
        assert_eq!(added, Some(if is_longer(&was) { &run[..] } else { &[] }));
    }
}

fn within(body: &[u8], extent: Extent) -> &[u8] {
    &body[extent.start as usize..extent.end as usize]
}

/// Spans that are sampled leave as many as is said, all valid, and sampling them again by the same rule changes nothing.
/// The first eight bytes choose spans with evidence, the next eight are the threshold.
pub fn sample(data: &[u8]) {
    let Some((choice, rest)) = data.split_first_chunk() else { return };
    let Some((threshold, body)) = rest.split_first_chunk() else { return };
    let Ok(before) = wire::scan(body) else { return };
    let (choice, threshold) = (u64::from_le_bytes(*choice), u64::from_le_bytes(*threshold) % (NEVER + 1));
    let rule = Rule { threshold, slow_ns: choice >> 32, keep_errors: choice & 1 == 1 };
    let is_chosen = |ordinal: usize| choice >> (ordinal % 64) & 1 == 1;
    let evidence: Vec<usize> = (0..before.spans.len()).filter(|ordinal| is_chosen(*ordinal)).collect();
    let (result, dropped) = sampled(body, &before, &rule, &evidence);
    let after = wire::scan(&result).expect("what was valid stays valid");
    assert_eq!(validate(&result, &REQUEST, 0), Ok(()));
    assert_eq!(before.spans.len() - after.spans.len(), dropped.len());
    let left = (0..before.spans.len()).filter(|ordinal| dropped.binary_search(ordinal).is_err());
    let mut evidence_left = vec![];
    for (is, was) in left.enumerate() {
        let (old, new) = (before.fields(body, was), after.fields(&result, is));
        assert_eq!(
            (old.trace_id, old.span_id, old.status_code),
            (new.trace_id, new.span_id, new.status_code)
        );
        if is_chosen(was) {
            assert_eq!(old.trace_state, new.trace_state);
            evidence_left.push(is);
        }
    }
    let (again, dropped) = sampled(&result, &after, &rule, &evidence_left);
    assert!(again == result && dropped.is_empty());
}

/// And the ordinals of those that were dropped.
fn sampled(body: &[u8], scan: &Scan, rule: &Rule, evidence: &[usize]) -> (Vec<u8>, Vec<usize>) {
    let decided = sampling::decide(body, scan, rule, evidence).expect("ordinals ascend");
    let edits: Vec<(usize, Edit)> = decided.edits(scan, &[]).collect();
    let dropped: Vec<usize> =
        edits.iter().filter(|(_, edit)| *edit == Edit::Drop).map(|(ordinal, _)| *ordinal).collect();
    assert_eq!(dropped.len(), decided.tally.sampled_out);
    let plan = Plan::of_edits(body, scan, edits.into_iter(), 0).expect("it is far from 2 GiB");
    (written(&plan), dropped)
}

/// What is taken as JSON is JSON, and a valid request within the limit; what is refused says so in few words.
pub fn json_to_protobuf(json: &[u8]) {
    let body = match to_protobuf(json, usize::MAX) {
        Ok(body) => body,
        Err(error) => {
            assert!(!error.too_large && error.at <= json.len());
            assert!(error.path.len() <= 200 && error.problem.len() <= 100);
            return;
        }
    };
    assert!(serde_json::from_slice::<IgnoredAny>(json).is_ok());
    assert!(body.len() <= json.len());
    let spans = wire::scan(&body).expect("what is written is valid").spans.len();
    if let Some(limit) = body.len().checked_sub(1) {
        assert!(to_protobuf(json, limit).is_err_and(|error| error.too_large));
    }
    assert_eq!(to_protobuf(json, body.len()).as_ref(), Ok(&body));
    let line = from_protobuf(&body).expect("what is written is valid");
    let again = to_protobuf(&line, usize::MAX).expect("what is written can be read");
    assert_eq!(wire::scan(&again).map(|scan| scan.spans.len()), Ok(spans));
    assert_eq!(from_protobuf(&again), Ok(line));
}

/// A valid request, and no other, can be written as one line of JSON, and is read from there with the same spans.
pub fn json_round_trip(body: &[u8]) {
    let (scanned, line) = (wire::scan(body), from_protobuf(body));
    assert_eq!(scanned.is_ok(), line.is_ok());
    let (Ok(before), Ok(line)) = (scanned, line) else { return };
    assert!(!line.contains(&b'\n') && line.len() <= 14 * body.len() + 2);
    let result = to_protobuf(&line, usize::MAX).expect("what is written can be read");
    let after = wire::scan(&result).expect("what is written is valid");
    assert_eq!(after.spans.len(), before.spans.len());
    for ordinal in 0..before.spans.len() {
        assert_eq!(before.fields(body, ordinal), after.fields(&result, ordinal));
    }
    assert_eq!(from_protobuf(&result), Ok(line));
}

/// Nothing is made beyond the limit, and the size of the steps makes no difference. The first two bytes are which encoding
/// and how large the steps are.
pub fn decompress(data: &[u8]) {
    const LIMIT: usize = 1 << 16;
    let [encoding, step, encoded @ ..] = data else { return };
    let all = [Encoding::Identity, Encoding::Gzip, Encoding::Deflate, Encoding::Zstd];
    let encoding = all[usize::from(*encoding) % all.len()];
    let at_once = compression::decompress(encoding, encoded, LIMIT);
    assert_eq!(in_steps(encoding, encoded, LIMIT, usize::from(*step) + 1), at_once);
    let Ok(decoded) = at_once else { return };
    assert!(decoded.len() <= LIMIT);
    if let Some(less) = decoded.len().checked_sub(1) {
        assert_eq!(compression::decompress(encoding, encoded, less), Err(Unusable::TooLarge));
    }
    let again = compression::compress(
        encoding,
        &[decoded.slice(..decoded.len() / 2), decoded.slice(decoded.len() / 2..)],
    );
    assert_eq!(compression::decompress(encoding, &again, LIMIT), Ok(decoded));
}

fn in_steps(encoding: Encoding, encoded: &[u8], limit: usize, step: usize) -> Result<Bytes, Unusable> {
    let mut decoder = Decoder::new(encoding, Bytes::copy_from_slice(encoded), limit)?;
    while !decoder.step(step)? {
        assert!(decoder.memory() <= 3 * limit + 65);
    }
    Ok(decoder.into_decoded())
}

fn written(plan: &Plan) -> Vec<u8> {
    let mut out = vec![MaybeUninit::new(0xaa); plan.size()];
    plan.write(&mut out);
    // SAFETY: all of it was initialised above.
    out.iter().map(|byte| unsafe { byte.assume_init() }).collect()
}
