"""What the cause writes on a span, for each shape of evidence."""

from dataclasses import dataclass, field

import pytest

from enricher.causes import registry
from enricher.causes.blocked_syscall import CAUSE
from enricher.evidence.records import WaitKind
from enricher.join.claims import claims_of

MS = 1_000_000


@dataclass
class FakeWait:
    syscall: int = 1
    peer_text: str = ""
    start_ns: int = 0
    end_ns: int = 0
    error: int = 0
    fd: int = 3
    wait_kind: int = WaitKind.PARKED
    flags: int = 0
    going_on: bool = False

    def peer(self) -> str:
        return self.peer_text


@dataclass
class FakeEvidence:
    longest: FakeWait
    blocked_ns: int = 120 * MS
    blocked_after_end_ns: int = 0
    direct_ns: int = 120 * MS
    blocked_count: int = 1
    kinds: int = WaitKind.PARKED
    complete: bool = True
    ordinal: int = 0
    start_ns: int = 0
    end_ns: int = 0
    tail_end_ns: int = 0
    waits: list[FakeWait] = field(default_factory=list)


def test_a_blocked_write_is_told_with_its_name_duration_count_kind_and_peer() -> None:
    evidence = FakeEvidence(FakeWait(peer_text="10.0.0.1:443"))
    assert claims_of(evidence, [CAUSE], "span_end") == {
        "ebpf.system_call_blocked": True,
        "ebpf.syscall.name": "write",
        "ebpf.syscall.blocked.duration": 0.12,
        "ebpf.syscall.blocked.count": 1,
        "ebpf.syscall.blocked.kind": "parked",
        "ebpf.syscall.peer": "10.0.0.1:443",
        "ebpf.match.method": "span_end",
    }


def test_the_part_after_the_end_is_told_where_there_is_one() -> None:
    evidence = FakeEvidence(FakeWait(), blocked_after_end_ns=80 * MS)
    claims = claims_of(evidence, [CAUSE], "span_end")
    assert claims["ebpf.syscall.blocked.after_end"] == 0.08
    assert "ebpf.syscall.peer" not in claims


def test_lost_evidence_is_told() -> None:
    claims = claims_of(FakeEvidence(FakeWait(), complete=False), [CAUSE], "span_end")
    assert claims["ebpf.complete"] is False


@pytest.mark.parametrize(
    ("kinds", "word"),
    [(WaitKind.KERNEL, "kernel"), (WaitKind.PARKED, "parked"), (WaitKind.KERNEL | WaitKind.PARKED, "mixed")],
)
def test_the_kind_tells_who_slept(kinds: WaitKind, word: str) -> None:
    claims = claims_of(FakeEvidence(FakeWait(), kinds=kinds), [CAUSE], "span_end")
    assert claims["ebpf.syscall.blocked.kind"] == word


def test_a_call_without_a_known_name_is_told_by_its_number() -> None:
    claims = claims_of(FakeEvidence(FakeWait(syscall=9999)), [CAUSE], "span_end")
    assert claims["ebpf.syscall.name"] == "syscall_9999"


def test_the_part_outside_of_child_spans_is_told_where_that_is_not_all() -> None:
    claims = CAUSE.claims(FakeEvidence(FakeWait(), direct_ns=30 * MS))
    assert claims["ebpf.syscall.blocked.direct"] == 0.03
    assert "ebpf.syscall.blocked.direct" not in CAUSE.claims(FakeEvidence(FakeWait()))


def test_a_cause_sets_only_what_it_declares_and_is_found_by_being_there() -> None:
    assert CAUSE in registry()
    evidence = FakeEvidence(FakeWait(peer_text="pipe"), blocked_after_end_ns=1, direct_ns=1, complete=False)
    assert set(CAUSE.claims(evidence)) == {attribute.name for attribute in CAUSE.attributes}
