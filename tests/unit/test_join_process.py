"""The process method claims a wait only where it can be one span's alone."""

from dataclasses import dataclass, field

from enricher.evidence.records import EventFlag, WaitKind
from enricher.join.methods.method import Match, Request, Window
from enricher.join.methods.process import Process

MS = 1_000_000
TGID = 42
PEER = "ipv4:127.0.0.1:5555"
WINDOW = Window(clock_ns=0, tail_ns=300 * MS, threshold_ns=MS)


@dataclass(frozen=True)
class FakeSpan:
    span_id: bytes
    start_unix_ns: int
    end_unix_ns: int
    parent_span_id: bytes = b""
    trace_id: bytes = b"t" * 16


@dataclass(frozen=True)
class FakeRequest:
    found: tuple[FakeSpan, ...]
    body: bytes = b""
    last_end_unix_ns: int = 0

    @property
    def span_count(self) -> int:
        return len(self.found)

    def spans(self) -> tuple[FakeSpan, ...]:
        return self.found

    def splice(self, patches: list[tuple[int, bytes]]) -> bytes:
        raise AssertionError(patches)


@dataclass(frozen=True)
class FakeWait:
    start_ns: int
    end_ns: int
    going_on: bool = False
    syscall: int = 73
    error: int = 0
    fd: int = 3
    wait_kind: int = WaitKind.KERNEL
    flags: int = 0

    def peer(self) -> str:
        return "file"


@dataclass
class FakeIndex:
    waits: list[FakeWait] = field(default_factory=list)
    flags: int = 0
    watched_without_span_ends: int = 1

    def match(self, request: FakeRequest, clock_ns: int, tail_ns: int, threshold_ns: int) -> None:
        raise AssertionError

    def sender(self, peer: str) -> int | None:
        return TGID if peer == PEER else None

    def process(self, tgid: int) -> tuple[int, int] | None:
        return (0, self.flags) if tgid == TGID else None

    def kernel_waits(self, tgid: int, start_ns: int, end_ns: int) -> list[FakeWait]:
        return [wait for wait in self.waits if wait.start_ns < end_ns and start_ns < wait.end_ns]


def matched(index: FakeIndex, *spans: FakeSpan, peer: str = PEER) -> Match:
    method = Process(index)  # type: ignore[arg-type]
    request = Request(FakeRequest(spans), lambda: peer)
    method.saw(request, WINDOW)
    return method.match(request, range(len(spans)), WINDOW)


def test_a_wait_inside_the_only_span_of_the_process_is_its_own() -> None:
    match = matched(FakeIndex([FakeWait(10 * MS, 40 * MS)]), FakeSpan(b"a", 0, 50 * MS))
    assert [(evidence.ordinal, evidence.blocked_ns) for evidence in match.evidence] == [(0, 30 * MS)]
    assert match.matched == 1


def test_the_wait_is_clipped_to_the_span() -> None:
    match = matched(FakeIndex([FakeWait(10 * MS, 400 * MS)]), FakeSpan(b"a", 0, 50 * MS))
    assert match.evidence[0].blocked_ns == 40 * MS


def test_ancestors_include_what_happened_in_their_descendant() -> None:
    match = matched(
        FakeIndex([FakeWait(10 * MS, 40 * MS)]),
        FakeSpan(b"child", 5 * MS, 45 * MS, parent_span_id=b"parent"),
        FakeSpan(b"parent", 0, 50 * MS),
    )
    assert [evidence.ordinal for evidence in match.evidence] == [0, 1]


def test_two_spans_at_once_leave_the_wait_to_neither() -> None:
    match = matched(FakeIndex([FakeWait(10 * MS, 40 * MS)]), FakeSpan(b"a", 0, 50 * MS), FakeSpan(b"b", 0, 50 * MS))
    assert match.evidence == []
    assert match.matched == 2


def test_a_span_of_an_earlier_request_counts_as_a_neighbour() -> None:
    method = Process(FakeIndex([FakeWait(10 * MS, 40 * MS)]))  # type: ignore[arg-type]
    first, second = (Request(FakeRequest((FakeSpan(name, 0, 50 * MS),)), lambda: PEER) for name in (b"a", b"b"))
    method.saw(first, WINDOW)
    method.saw(second, WINDOW)
    assert method.match(first, [0], WINDOW).evidence == []


def test_a_process_whose_span_ends_are_seen_is_left_to_the_better_method() -> None:
    index = FakeIndex([FakeWait(10 * MS, 40 * MS)], flags=EventFlag.PROCESS_HAS_SPAN_ENDS)
    match = matched(index, FakeSpan(b"a", 0, 50 * MS))
    assert match.matched == 0
    assert list(match.unmatched) == [0]


def test_a_sender_that_is_not_known_is_matched_by_nothing() -> None:
    match = matched(FakeIndex([FakeWait(10 * MS, 40 * MS)]), FakeSpan(b"a", 0, 50 * MS), peer="ipv4:10.0.0.9:1")
    assert match.matched == 0


def test_what_is_shorter_than_the_threshold_is_not_claimed() -> None:
    match = matched(FakeIndex([FakeWait(10 * MS, 10 * MS + 500_000)]), FakeSpan(b"a", 0, 50 * MS))
    assert match.evidence == []


def test_a_claim_is_never_complete_as_other_spans_may_come_yet() -> None:
    match = matched(FakeIndex([FakeWait(10 * MS, 40 * MS)]), FakeSpan(b"a", 0, 50 * MS))
    assert match.evidence[0].complete is False


def test_spans_that_name_each_other_as_parents_end_in_no_loop() -> None:
    match = matched(
        FakeIndex([FakeWait(10 * MS, 40 * MS)]),
        FakeSpan(b"a", 0, 50 * MS, parent_span_id=b"b"),
        FakeSpan(b"b", 0, 50 * MS, parent_span_id=b"a"),
    )
    assert match.evidence == []
