"""The scorer: what it must find wrong, it finds."""

from dataclasses import replace

import pytest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from tests.e2e.testbed.scoring import Score, shortcomings, table, total
from tests.e2e.testbed.spans import KeptSpan, differences
from tests.e2e.testbed.truth import Claims, Range, Truth, Wait, judge, judge_all

MS = 1_000_000

PARKED = Wait(("write",), "parked", 0, 0, 40 * MS, 40 * MS)
TAIL = Wait(("write",), "parked", 50 * MS, 50 * MS, 80 * MS, 80 * MS, after_end=True)
BLOCKED = Truth("ab", "server", "http", "flush", "load:1:flush/0", (PARKED, TAIL))
INNOCENT = replace(BLOCKED, cause="nothing", waits=())
RIGHT: Claims = {
    "ebpf.system_call_blocked": True,
    "ebpf.syscall.name": "write",
    "ebpf.syscall.blocked.duration": 0.0701,
    "ebpf.syscall.blocked.after_end": 0.0302,
    "ebpf.syscall.blocked.kind": "parked",
    "ebpf.match.method": "span_end",
}


def kept(*attributes: str, span_id: int = 1) -> KeptSpan:
    span = Span(trace_id=bytes(16), span_id=bytes([span_id] * 8), name="GET")
    pairs = (attribute.split("=") for attribute in attributes)
    span.attributes.extend(KeyValue(key=key, value=AnyValue(string_value=value)) for key, value in pairs)
    return KeptSpan(span, b"resource", b"scope")


def test_right_claims_have_nothing_wrong() -> None:
    assert judge(BLOCKED, RIGHT) == []
    assert judge(INNOCENT, {}) == []


def test_a_blocked_span_without_claims_is_missed() -> None:
    assert [finding.what for finding in judge(BLOCKED, {})] == ["missed"]


def test_a_marked_innocent_is_found() -> None:
    assert [finding.what for finding in judge(INNOCENT, RIGHT)] == ["wrongly marked"]


@pytest.mark.parametrize(
    ("key", "value", "what"),
    [
        ("ebpf.syscall.blocked.duration", 0.0738, "duration"),
        ("ebpf.syscall.blocked.duration", 0.0664, "duration"),
        ("ebpf.syscall.blocked.duration", 7, "duration"),
        ("ebpf.syscall.blocked.after_end", 0.0, "after end"),
        ("ebpf.syscall.blocked.direct", 0.03, "direct"),
        ("ebpf.syscall.name", "read", "call"),
        ("ebpf.syscall.blocked.kind", "mixed", "kind"),
        ("ebpf.match.method", "process", "method"),
        ("ebpf.match.method", "connection", "method"),
        ("ebpf.complete", False, "completeness"),
    ],
)
def test_a_single_wrong_claim_is_found(key: str, value: bool | float | str, what: str) -> None:
    assert [finding.what for finding in judge(BLOCKED, RIGHT | {key: value})] == [what]


def test_a_tail_counts_for_as_long_as_it_is_followed() -> None:
    longer = replace(BLOCKED, waits=(Wait(("write",), "parked", 0, 0, 450 * MS, 450 * MS, after_end=True),))
    assert longer.cut_off
    assert longer.blocked_for == longer.after_end_for == Range(300 * MS, 300 * MS)


@pytest.mark.parametrize(
    ("claimed_s", "agrees"), [(0.056, False), (0.058, True), (0.07, True), (0.084, True), (0.085, False), (0, False)]
)
def test_a_wait_whose_end_was_seen_late_is_known_between_two_bounds(claimed_s: float, agrees: bool) -> None:
    late = replace(BLOCKED, waits=(Wait(("write",), "parked", 0, 0, 60 * MS, 80 * MS),))
    assert late.blocked_for.agrees(claimed_s) is agrees


def test_time_in_which_two_waits_overlap_counts_once() -> None:
    other = replace(PARKED, start_ns=20 * MS, begun_ns=20 * MS, released_ns=60 * MS, end_ns=60 * MS)
    assert replace(BLOCKED, waits=(PARKED, other)).blocked_for == Range(60 * MS, 60 * MS)


def test_a_wait_shorter_than_the_threshold_is_none() -> None:
    short = replace(PARKED, released_ns=MS - 1, end_ns=MS - 1)
    assert replace(BLOCKED, waits=(short,)).blocked is False
    assert replace(BLOCKED, waits=(replace(short, end_ns=2 * MS),)).blocked is None
    assert replace(BLOCKED, waits=(short, PARKED)).blocked_for == Range(40 * MS, 40 * MS)


def test_what_spans_inside_have_waited_for_is_not_direct() -> None:
    outer = replace(BLOCKED, waits=(PARKED, replace(TAIL, after_end=False, in_child=True)))
    assert outer.direct_for == Range(40 * MS, 40 * MS)
    says = RIGHT | {"ebpf.syscall.blocked.after_end": 0.0}
    assert [finding.what for finding in judge(outer, says)] == ["direct"]
    assert judge(outer, says | {"ebpf.syscall.blocked.direct": 0.0401}) == []
    assert judge(replace(outer, handed_over=True), says) == []


def test_what_a_connection_waited_for_is_matched_by_connection() -> None:
    client = replace(BLOCKED, waits=(replace(PARKED, through=("connection",)),))
    assert client.methods == {"connection"}
    assert replace(client, waits=(*client.waits, TAIL)).methods == {"span_end"}
    assert replace(client, waits=(replace(PARKED, through=("goroutine", "connection")),)).methods == {
        "span_end",
        "connection",
    }


def scored(*pairs: tuple[Truth, Claims]) -> Score:
    score = Score()
    for truth, claims in pairs:
        score.add(truth, claims)
    return score


def test_precision_and_recall_are_of_what_is_known() -> None:
    unsure = replace(BLOCKED, waits=(replace(PARKED, released_ns=0),))
    score = scored((BLOCKED, RIGHT), (BLOCKED, {}), (INNOCENT, {}), (INNOCENT, RIGHT), (unsure, {}), (unsure, RIGHT))
    assert (score.spans, score.blocked, score.innocent) == (6, 2, 2)
    assert score.precision == score.recall == 0.5


def test_a_miss_that_is_owned_up_to_is_not_in_silence() -> None:
    score = scored((BLOCKED, {"ebpf.complete": False}), (BLOCKED, {}))
    assert (score.missed, score.missed_in_silence, score.incomplete_for_loss) == (2, 1, 1)


def test_errors_of_durations_are_shares_of_the_nearer_bound_and_small_ones_none_at_the_end() -> None:
    score = scored(*[(BLOCKED, RIGHT | {"ebpf.syscall.blocked.duration": 0.0704})] * 3)
    assert score.duration_error(0.5) == pytest.approx(0.4 / 70)
    assert score.duration_error(0.99) == 0
    score.merge(scored((BLOCKED, RIGHT | {"ebpf.syscall.blocked.duration": 0.077})))
    assert score.duration_error(0.99) == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("pairs", "problem"),
    [
        ([(BLOCKED, RIGHT)] * 97 + [(BLOCKED, {})] * 3, "recall 97.000% is below"),
        ([(BLOCKED, RIGHT)] * 97 + [(BLOCKED, {})] * 3, "http flush: recall 97.00%, 3 of 100 missed"),
        ([(BLOCKED, RIGHT)] * 100 + [(INNOCENT, RIGHT)], "precision 99.010% is below"),
        ([(BLOCKED, RIGHT)] * 100 + [(INNOCENT, RIGHT)] * 2, "http flush: 2 of 102 wrongly marked"),
        ([(BLOCKED, RIGHT | {"ebpf.syscall.blocked.duration": 0.072})], "median error of durations 2.86%"),
        ([(BLOCKED, RIGHT | {"ebpf.syscall.blocked.duration": 0.08})], "p99 of the errors of durations 14.29%"),
    ],
)
def test_a_figure_that_is_not_reached_is_named(pairs: list[tuple[Truth, Claims]], problem: str) -> None:
    assert problem in "\n".join(shortcomings({"http flush": scored(*pairs)}))


def test_figures_that_are_reached_are_no_problem() -> None:
    rows = {"http flush": scored(*[(BLOCKED, RIGHT)] * 200, (BLOCKED, {})), "http nothing": scored((INNOCENT, {}))}
    assert shortcomings(rows) == []
    assert total(rows).spans == 202
    assert "99.50%" in table(rows)


def test_the_table_has_a_line_for_each_cause() -> None:
    judgement = judge_all([BLOCKED, INNOCENT], [])
    assert "http flush" in judgement.table
    assert "http nothing" in judgement.table
    assert "missed: http flush" in judgement.report(judgement.of("missed"))


def test_claims_are_no_difference_between_two_copies() -> None:
    assert differences([kept("a=1")], [kept("a=1", "ebpf.x=2")]) == []


@pytest.mark.parametrize(
    ("subject", "problem"),
    [
        ([], "lost"),
        ([kept("a=1"), kept("a=1")], "arrived 2 times"),
        ([kept("a=2")], "span was changed"),
        ([kept()], "span was changed"),
        ([replace(kept("a=1"), resource=b"")], "resource was changed"),
        ([replace(kept("a=1"), scope=b"")], "scope was changed"),
        ([kept("a=1"), kept(span_id=2)], "never sent"),
    ],
)
def test_any_other_difference_is_found(subject: list[KeptSpan], problem: str) -> None:
    problems = differences([kept("a=1")], subject)
    assert len(problems) == 1
    assert problem in problems[0]
