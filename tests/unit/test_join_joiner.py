"""From requests and evidence to what leaves, and why it does."""

import json
from collections.abc import Iterator
from dataclasses import asdict, replace

import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from enricher.evidence.records import EventFlag, Peer, WaitKind
from enricher.join.assembly import assembled
from enricher.join.joiner import AS_IT_CAME, Joined, Joiner, OpenUntil
from enricher.join.methods.method import Request
from tests.unit.evidence_log import FULL, GOID, MS, TGID, Log, call, loss, process, sender, span, span_end, wait
from tests.unit.span_requests import WINDOW, Sent, claims, request

GO_ONLY = EventFlag.PROCESS_HAS_GOROUTINES
CALLS = FULL | EventFlag.PROCESS_HAS_SPAN_STARTS | EventFlag.PROCESS_HAS_LINEAGE | EventFlag.PROCESS_HAS_CALLS
A, B, C = (name * 8 for name in (b"a", b"b", b"c"))
OTHER = 43
ELSEWHERE = {"service.name": "of the other"}


@pytest.fixture
def log() -> Iterator[Log]:
    with Log() as made:
        yield made


def joiner(log: Log, *, stamp_all: bool = False) -> Joiner:
    return assembled(log.index, enriching=True, stamp_all=stamp_all)


def left(made: Joiner, sent: Request) -> list[dict[str, object]]:
    made.saw(sent)
    decided = made.decide(sent, WINDOW)
    assert isinstance(decided, Joined)
    assert decided.body is None or decided.body != sent.scanned.body
    return claims(sent.scanned.body if decided.body is None else decided.body)


def test_a_request_of_which_nothing_is_known_leaves_as_it_came(log: Log) -> None:
    log.write(process(flags=FULL), watermark_ms=500)
    sent = request(Sent(A, 100, 150))
    assert joiner(log).decide(sent, WINDOW) is AS_IT_CAME


def test_a_better_method_wins_and_a_worse_one_has_the_rest(log: Log) -> None:
    log.write(process(flags=FULL), process(tgid=OTHER, flags=GO_ONLY), sender("127.0.0.1", 5555, tgid=OTHER))
    log.write(span_end(250, span_id=A), wait(210, 240))
    labelled = replace(wait(110, 130, tgid=OTHER), detail=Peer(label=B).pack())
    log.write(labelled, wait(112, 120, tgid=OTHER, goid=9, wait_kind=WaitKind.KERNEL), watermark_ms=500)
    made = joiner(log)
    attributes = left(
        made,
        request(Sent(A, 200, 250), Sent(B, 100, 150, resource=ELSEWHERE), Sent(C, 111, 121, B, resource=ELSEWHERE)),
    )
    assert [(found["match.method"], found["syscall.blocked.duration"]) for found in attributes] == [
        ("span_end", 0.03),
        ("goroutine_labels", 0.02),
        ("process", 0.008),
    ]
    assert made.tally.matched == {"span_end": 1, "goroutine_labels": 1, "process": 1}
    assert (made.tally.unmatched, made.tally.enriched) == (0, 3)


def test_what_was_blocked_only_on_a_connection_is_matched_by_connection(log: Log) -> None:
    client = Sent(A, 100, 150, kind=Span.SPAN_KIND_CLIENT)
    log.write(process(flags=CALLS), call(101, fd=9), wait(60, 140, goid=80, fd=9))
    log.write(span(100, 150, span_id=A), watermark_ms=500)
    made = joiner(log)
    (attributes,) = left(made, request(client))
    assert attributes["match.method"] == "connection"
    assert +made.tally.matched == {"connection": 1}


def test_a_span_that_also_waited_itself_is_matched_by_span_end(log: Log) -> None:
    log.write(process(flags=CALLS), wait(101, 111, fd=8), call(112, fd=9), wait(60, 140, goid=80, fd=9))
    log.write(span(100, 150, span_id=A), watermark_ms=500)
    (attributes,) = left(joiner(log), request(Sent(A, 100, 150, kind=Span.SPAN_KIND_CLIENT)))
    assert attributes["match.method"] == "span_end"


def test_a_method_that_must_wait_makes_the_request_wait_and_nothing_is_counted_twice(log: Log) -> None:
    log.write(process(flags=FULL), process(tgid=OTHER, flags=GO_ONLY), span_end(150, span_id=A), wait(110, 140))
    labelled = replace(wait(110, 130, tgid=OTHER), detail=Peer(label=B).pack())
    log.write(labelled, watermark_ms=500, going_on_ms=120)
    made = joiner(log)
    sent = request(Sent(A, 100, 150), Sent(B, 100, 150))
    assert made.decide(sent, replace(WINDOW, settled_ns=120 * MS)) == OpenUntil(151 * MS)
    assert not made.tally.matched
    assert len(left(made, sent)) == 2
    assert made.tally.matched == {"span_end": 1, "goroutine_labels": 1}


def known_resource(log: Log, made: Joiner) -> None:
    """The resource of all requests here is that of TGID from now on."""
    log.write(process(flags=FULL), span_end(60, span_id=C), watermark_ms=70)
    left(made, request(Sent(C, 50, 60)))


def test_a_span_whose_end_was_lost_says_that_it_is_incomplete(log: Log) -> None:
    made = joiner(log)
    known_resource(log, made)
    log.write(loss(140, 160), watermark_ms=500)
    assert left(made, request(Sent(A, 100, 150), Sent(B, 170, 180))) == [{"complete": False}, {}]
    assert (made.tally.unmatched, made.tally.missed, made.tally.incomplete) == (2, 1, 1)


def test_one_of_a_resource_that_is_not_known_leaves_untouched(log: Log) -> None:
    log.write(process(flags=FULL), loss(140, 160), watermark_ms=500)
    assert left(joiner(log), request(Sent(A, 100, 150))) == [{}]


def test_stamps_tell_the_missed_from_the_unwatched(log: Log) -> None:
    made = joiner(log, stamp_all=True)
    known_resource(log, made)
    log.write(loss(140, 160), watermark_ms=500)
    attributes = left(made, request(Sent(A, 100, 150), Sent(B, 170, 180)))
    assert attributes == [{"complete": False, "observed": True}, {"observed": False}]


def test_stamps_never_call_a_guess_complete(log: Log) -> None:
    log.write(process(flags=EventFlag(0)), sender("127.0.0.1", 5555), watermark_ms=500)
    (attributes,) = left(joiner(log, stamp_all=True), request(Sent(A, 100, 150)))
    assert attributes == {"match.method": "process", "complete": False, "observed": True}


def test_an_explanation_is_json_and_says_what_leaves(log: Log) -> None:
    log.write(process(flags=FULL), span_end(150, span_id=A), wait(110, 140), loss(149, 160), watermark_ms=500)
    made = joiner(log)
    sent = request(Sent(A, 100, 150, B))
    explanation = made.explain(sent, 0, WINDOW)
    assert not made.tally.matched
    assert json.loads(json.dumps(asdict(explanation)))["claims"] == explanation.claims
    assert {f"ebpf.{key}": value for key, value in left(made, sent)[0].items()} == explanation.claims
    assert (explanation.method, explanation.process) == ("span_end", TGID)
    assert (explanation.span_id, explanation.parent_span_id) == (A.hex(), B.hex())
    (trial,) = explanation.trials
    assert trial.identity["goid"] == GOID
    assert [(wait.claimed, wait.goid) for wait in trial.considered] == [(True, GOID)]
    assert any("lost" in sentence for sentence in explanation.left_off)


def test_an_explanation_of_an_unmatched_span_has_every_method_that_failed(log: Log) -> None:
    log.write(process(tgid=OTHER, flags=GO_ONLY), watermark_ms=500)
    explanation = joiner(log).explain(request(Sent(A, 100, 150)), 0, WINDOW)
    assert (explanation.method, explanation.process, explanation.claims) == ("", None, {})
    methods = [trial.method for trial in explanation.trials]
    assert methods == ["span_end", "goroutine_labels", "traceparent", "socket", "thread", "process"]
    assert not any(trial.matched for trial in explanation.trials)
    assert all(trial.why for trial in explanation.trials)


def test_an_explanation_of_a_missed_span_says_so(log: Log) -> None:
    made = joiner(log)
    known_resource(log, made)
    log.write(loss(140, 160), watermark_ms=500)
    explanation = made.explain(request(Sent(A, 100, 150)), 0, WINDOW)
    assert (explanation.method, explanation.process) == ("", TGID)
    assert explanation.claims == {"ebpf.complete": False}
    assert "lost" in explanation.left_off[0]


def test_only_spans_that_are_there_can_be_explained(log: Log) -> None:
    with pytest.raises(IndexError):
        joiner(log).explain(request(Sent(A, 100, 150)), 1, WINDOW)


def test_without_the_processor_everything_passes(log: Log) -> None:
    log.write(process(flags=FULL), span_end(150, span_id=A), wait(110, 140), watermark_ms=500)
    sent = request(Sent(A, 100, 150))
    passing = assembled(log.index, enriching=False, stamp_all=True)
    passing.saw(sent)
    assert passing.decide(sent, WINDOW) is AS_IT_CAME
    assert passing.explain(sent, 0, WINDOW).trials == ()
