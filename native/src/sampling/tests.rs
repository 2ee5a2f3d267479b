use std::mem::MaybeUninit;

use super::*;
use crate::splice::Plan;
use crate::wire::scan;
use crate::wire::tests::{delimited, request};

const HALF: u64 = 1 << 55;

fn rule(threshold: u64) -> Rule {
    Rule { threshold, slow_ns: NONE_IS_SLOW, keep_errors: true }
}

fn sampled(body: &[u8], rule: &Rule, kept: &[usize], patches: &[Patch]) -> (Vec<u8>, Tally) {
    let scan = scan(body).unwrap();
    let decided = decide(body, &scan, rule, kept).unwrap();
    let plan = Plan::of_edits(body, &scan, decided.edits(&scan, patches), decided.count(patches)).unwrap();
    let mut out = vec![MaybeUninit::new(0xaa); plan.size()];
    plan.write(&mut out);
    // SAFETY: all of it was initialised above.
    (out.iter().map(|byte| unsafe { byte.assume_init() }).collect(), decided.tally)
}

fn span(trace_id: &[u8], fields: &[u8]) -> Vec<u8> {
    delimited(0x12, &[&delimited(0x0a, trace_id), fields].concat())
}

fn of_spans(spans: &[Vec<u8>]) -> Vec<u8> {
    delimited(0x0a, &delimited(0x12, &spans.concat()))
}

#[test]
fn the_threshold_itself_is_kept_and_one_less_is_not() {
    let ids: Vec<Vec<u8>> =
        [HALF - 1, HALF].map(|random| (0xee_u128 << 64 | random as u128).to_be_bytes().into()).into();
    let body = of_spans(&[span(&ids[0], &[]), span(&ids[1], &[])]);
    let (left, tally) = sampled(&body, &rule(HALF), &[], &[]);
    assert_eq!(tally, Tally { sampled_out: 1, kept_ratio: 1, ..Tally::default() });
    assert_eq!(left, of_spans(&[span(&ids[1], &delimited(0x1a, b"ot=th:8"))]));
}

#[test]
fn a_tracestate_gives_way_where_it_stands_however_its_tag_is_written() {
    let id = [0xff; 16];
    for tag in [&[0x1a][..], &[0x9a, 0], &[0x9a, 0x80, 0x80, 0x80, 0]] {
        let field = |text: &[u8]| [tag, &[text.len() as u8], text].concat();
        let after = delimited(0x2a, b"name");
        let body = of_spans(&[span(&id, &[&field(b"a=0"), &field(b"a=1")[..], &after].concat())]);
        let (left, _) = sampled(&body, &rule(HALF), &[], &[]);
        let put = delimited(0x1a, b"ot=th:8,a=1");
        assert_eq!(left, of_spans(&[span(&id, &[field(b"a=0"), put, after].concat())]));
    }
}

#[test]
fn messages_that_become_empty_go_and_those_that_were_empty_stay() {
    let (gone, kept) = (span(&[1; 16], &[]), span(&[0xff; 16], b""));
    let empty = delimited(0x12, b"");
    let scope = |spans: &[u8]| delimited(0x12, spans);
    let wide = |content: &[u8]| [&[0x8a, 0x80, 0, content.len() as u8 | 0x80, 0][..], content].concat();
    let body = [
        delimited(0x0a, &scope(&gone)),
        delimited(0x0a, &[scope(&gone), empty.clone()].concat()),
        wide(&[scope(&gone), scope(&[gone.clone(), gone.clone()].concat())].concat()),
        delimited(0x0a, &[scope(&gone), scope(&kept)].concat()),
        delimited(0x0a, &[]),
    ]
    .concat();
    let (left, tally) = sampled(&body, &rule(NEVER), &[6], &[]);
    assert_eq!(tally.sampled_out, 6);
    assert_eq!(
        left,
        [delimited(0x0a, &empty), delimited(0x0a, &scope(&kept)), delimited(0x0a, &[])].concat()
    );
}

#[test]
fn patches_of_dropped_spans_fall_away_and_the_others_are_written() {
    let run = [0x4a, 0];
    let body = of_spans(&[span(&[1; 16], &[]), span(&[0xff; 16], &[]), span(&[2; 16], &[])]);
    let patches: Vec<Patch> = (0..3).map(|ordinal| Patch { ordinal, run: &run }).collect();
    let (left, tally) = sampled(&body, &rule(HALF), &[2], &patches);
    assert_eq!(tally, Tally { sampled_out: 1, kept_evidence: 1, kept_ratio: 1, ..Tally::default() });
    let sampled = [delimited(0x1a, b"ot=th:8"), run.to_vec()].concat();
    assert_eq!(left, of_spans(&[span(&[0xff; 16], &sampled), span(&[2; 16], &run)]));
}

#[test]
fn ordinals_must_ascend_and_exist() {
    let body = request(&[2]);
    let scan = scan(&body).unwrap();
    for kept in [&[1, 0][..], &[0, 0], &[2]] {
        assert_eq!(decide(&body, &scan, &rule(HALF), kept).err(), Some(Refused::Ordinals));
    }
}
