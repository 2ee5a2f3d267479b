"""The scorer: what it must find wrong, it finds."""

from dataclasses import replace

import pytest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from tests.e2e.testbed.spans import KeptSpan, differences
from tests.e2e.testbed.truth import Claims, Range, Truth, Wait, judge, judge_all

MS = 1_000_000

PARKED = Wait(("write",), "parked", 0, 40 * MS, 40 * MS, after_end=False)
TAIL = Wait(("write",), "parked", 50 * MS, 80 * MS, 80 * MS, after_end=True)
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
        ("ebpf.syscall.name", "read", "call"),
        ("ebpf.syscall.blocked.kind", "mixed", "kind"),
        ("ebpf.match.method", "process", "method"),
        ("ebpf.complete", False, "completeness"),
    ],
)
def test_a_single_wrong_claim_is_found(key: str, value: bool | float | str, what: str) -> None:
    assert [finding.what for finding in judge(BLOCKED, RIGHT | {key: value})] == [what]


def test_a_tail_counts_for_as_long_as_it_is_followed() -> None:
    longer = replace(BLOCKED, waits=(Wait(("write",), "parked", 0, 450 * MS, 450 * MS, after_end=True),))
    assert longer.cut_off
    assert longer.blocked_for == longer.after_end_for == Range(300 * MS, 300 * MS)


@pytest.mark.parametrize(
    ("claimed_s", "agrees"), [(0.056, False), (0.058, True), (0.07, True), (0.084, True), (0.085, False), (0, False)]
)
def test_a_wait_whose_end_was_seen_late_is_known_between_two_bounds(claimed_s: float, agrees: bool) -> None:
    late = replace(BLOCKED, waits=(Wait(("write",), "parked", 0, 60 * MS, 80 * MS, after_end=False),))
    assert late.blocked_for.agrees(claimed_s) is agrees


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
