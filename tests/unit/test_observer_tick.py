"""What a tick writes into the log, and in which order: the promises of heartbeats and losses."""

from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, cast

import pytest

from enricher.evidence.records import RECORD_SIZE, Event, EventKind
from enricher.observer.observer import Observer
from enricher.observer.probe_set import Failure, Probe, ProbeProgram
from enricher.processes.sockets import SocketsUnreadable
from enricher.telemetry.logs import get_logger

MS = 1_000_000
SECOND = 1_000_000_000
Written = list[tuple[str, Any]]


@dataclass
class Drained:
    moved: int = 0
    caught_up: bool = True
    for_observer: bytes = b""


@dataclass
class World:
    """Everything around an observer: each part notes what is done to it, and time goes on by itself."""

    now_ns: int = SECOND
    written: Written = field(default_factory=list)
    drained: Drained = field(default_factory=Drained)
    newly_lost: dict[int, int] = field(default_factory=dict)
    watched: dict[int, int] = field(default_factory=dict)
    settled: bool = True
    noted: list[tuple[str, Any]] = field(default_factory=list)
    helper_failures: tuple[Failure, ...] = ()
    has_process_probe: bool = True
    without_span_ends: list[int] = field(default_factory=list)
    found: list[Event] = field(default_factory=list)
    traceparents: list[Event] = field(default_factory=list)
    headers_caught_up: bool = True
    sender_error: Exception | None = None
    announced: list[Event] = field(default_factory=list)

    def clock(self) -> int:
        self.now_ns += 1
        return self.now_ns

    def observer(self, unknown_since_ns: int = 0) -> Observer:
        return Observer(
            probes=cast("Any", self),
            ring=cast("Any", self),
            evidence=cast("Any", self),
            discovery=cast("Any", _Discovery(self)),
            senders=cast("Any", _Senders(self)),
            headers=cast("Any", _Headers(self)),
            log=get_logger(),
            unknown_since_ns=unknown_since_ns,
            clock=self.clock,
        )

    # ProbeSet
    slots = property(lambda self: _Slots(self))  # noqa: PLW0108 - the class comes later

    @property
    def max_entries(self) -> int:
        return (RECORD_SIZE + 8) * 100

    ring = property(lambda self: self)

    def has(self, probe: Probe) -> bool:
        return self.has_process_probe

    def scan(self) -> None:
        self.noted.append(("scan", self.now_ns))

    def rest(self) -> None:
        self.noted.append(("rest", self.now_ns))

    def failures(self) -> tuple[Failure, ...]:
        return self.helper_failures

    # Ring
    def drain(self, log: object) -> Drained:
        self.written.append(("drained", self.now_ns))
        return self.drained

    # LogWriter
    def append(self, records: bytes) -> None:
        assert not len(records) % RECORD_SIZE
        self.written += ((event.kind.name, event) for event in Event.iter_unpack(records))

    def heartbeat(self, watermark_ns: int, going_on_ns: int) -> None:
        self.written.append(("HEARTBEAT", (watermark_ns, going_on_ns)))

    def kinds(self) -> list[str]:
        return [kind for kind, _ in self.written]

    def of(self, kind: str) -> list[Any]:
        return [what for found, what in self.written if found == kind]


class _Discovery:
    def __init__(self, world: World) -> None:
        self.world = world

    watched = property(lambda self: self.world.watched)
    announced = property(lambda self: self.world.announced)
    has_work = True
    is_settled = property(lambda self: self.world.settled)
    without_span_ends = property(lambda self: self.world.without_span_ends)

    def rescan(self) -> None:
        self.world.noted.append(("rescan", self.world.now_ns))

    def process_began(self, tgid: int, at_ns: int) -> None:
        self.world.noted.append(("began", (tgid, at_ns)))

    def process_ended(self, tgid: int) -> None:
        self.world.noted.append(("ended", tgid))
        self.world.watched.pop(tgid, None)

    def step(self, budget_ns: int) -> list[Event]:
        found, self.world.found = self.world.found, []
        return found


class _Slots:
    def __init__(self, world: World) -> None:
        self.world = world

    def newly_lost(self) -> dict[int, int]:
        found, self.world.newly_lost = self.world.newly_lost, {}
        return found


class _Headers:
    def __init__(self, world: World) -> None:
        self.world = world

    def drain(self) -> tuple[list[Event], bool]:
        found, self.world.traceparents = self.world.traceparents, []
        return found, self.world.headers_caught_up

    def forget(self, watched: Any) -> None:
        self.world.noted.append(("forget", tuple(watched)))


class _Senders:
    def __init__(self, world: World) -> None:
        self.world = world

    def poll(self, tgids: list[int], now_ns: int) -> list[Event]:
        self.world.noted.append(("senders", tuple(tgids)))
        if self.world.sender_error:
            raise self.world.sender_error
        return [Event(kind=EventKind.SENDER, tgid=tgids[0])]

    def known(self, now_ns: int) -> list[Event]:
        return []


@pytest.fixture
def world() -> World:
    return World()


def test_whom_it_watches_is_told_again_every_second_for_readers_that_come_later(world: World) -> None:
    observer = world.observer()
    world.announced = [Event(kind=EventKind.PROCESS, tgid=7)]
    for _ in range(120):
        world.now_ns += 20 * MS
        observer.tick()
    assert world.kinds().count("PROCESS") == 3


def test_the_watermark_is_a_time_before_the_ring_was_drained(world: World) -> None:
    world.observer().tick()
    ((watermark_ns, going_on_ns),) = world.of("HEARTBEAT")
    ((_, drained_ns),) = world.written[:1]
    assert going_on_ns <= watermark_ns <= drained_ns


def test_waits_that_go_on_are_known_up_to_the_time_of_the_last_scan(world: World) -> None:
    observer = world.observer()
    for _ in range(12):
        observer.tick()
        world.now_ns += 20 * MS
    scans = [at_ns for what, at_ns in world.noted if what == "scan"]
    assert len(scans) == 2
    assert scans[1] - scans[0] >= 200 * MS
    going_on = [going_on_ns for _, going_on_ns in world.of("HEARTBEAT")]
    assert going_on == [scans[0]] * 10 + [scans[1]] * 2


def test_a_record_still_being_written_holds_the_watermark_back(world: World) -> None:
    observer = world.observer()
    world.drained = Drained(moved=3, caught_up=False)
    observer.tick()
    assert world.kinds() == ["drained"]
    world.drained = Drained()
    observer.tick()
    assert world.kinds() == ["drained", "drained", "HEARTBEAT"]


def test_what_headers_say_stands_before_the_heartbeat_that_covers_it(world: World) -> None:
    world.traceparents = [Event(kind=EventKind.TRACEPARENT)]
    world.observer().tick()
    assert world.kinds() == ["drained", "TRACEPARENT", "HEARTBEAT"]


def test_a_header_block_still_being_written_holds_the_watermark_back(world: World) -> None:
    world.headers_caught_up = False
    world.observer().tick()
    assert world.kinds() == ["drained"]


def test_a_loss_stands_before_the_heartbeat_that_covers_it(world: World) -> None:
    world.watched = {7: 7}
    observer = world.observer()
    observer.tick()
    (before_ns, _), *_ = world.of("HEARTBEAT")
    world.written.clear()
    world.now_ns += 20 * MS
    world.newly_lost = {0: 5}
    observer.tick()
    assert world.kinds() == ["drained", "LOSS", "HEARTBEAT"]
    (loss,) = world.of("LOSS")
    (watermark_ns, _) = world.of("HEARTBEAT")[0]
    assert before_ns <= loss.start_ns <= before_ns + MS
    assert watermark_ns <= loss.end_ns
    assert loss.tgid == 0
    assert world.noted[-1][0] == "rescan"
    world.written.clear()
    observer.tick()
    assert world.kinds() == ["drained", "HEARTBEAT"]


def test_a_loss_of_one_process_is_told_as_its_own_and_has_nobody_looked_for(world: World) -> None:
    world.watched = {7: 7, 8: 8}
    observer = world.observer()
    observer.tick()
    world.written.clear()
    world.noted.clear()
    world.newly_lost = {7: 5, 8: 1}
    observer.tick()
    assert world.kinds() == ["drained", "LOSS", "LOSS", "HEARTBEAT"]
    first, second = world.of("LOSS")
    assert (first.tgid, second.tgid) == (7, 8)
    assert (first.start_ns, first.end_ns) == (second.start_ns, second.end_ns)
    assert "rescan" not in [what for what, _ in world.noted]


def test_losses_of_ticks_that_follow_each_other_leave_no_time_between_them(world: World) -> None:
    observer = world.observer()
    for _ in range(5):
        world.now_ns += 20 * MS
        world.newly_lost = {7: 1}
        observer.tick()
    losses = world.of("LOSS")
    assert len(losses) == 5
    assert all(later.start_ns <= earlier.end_ns for earlier, later in pairwise(losses))


def test_whose_events_are_lost_is_told_once_by_process(world: World, caplog: pytest.LogCaptureFixture) -> None:
    observer = world.observer()
    for newly_lost in ({0: 2}, {7: 3}, {0: 1, 7: 1}):
        world.newly_lost = newly_lost
        observer.tick()
    fields = [record.__dict__["fields"] for record in caplog.records]
    assert fields == [{"count": 2}, {"count": 3, "pid": 7}]


def test_a_loss_up_to_the_end_of_the_last_watched_process_is_told(world: World) -> None:
    world.watched = {7: 7}
    observer = world.observer()
    observer.tick()
    world.written.clear()
    world.newly_lost = {7: 1}
    world.drained = Drained(for_observer=Event(kind=EventKind.PROCESS_EXIT, tgid=7).pack())
    observer.tick()
    assert not world.watched
    assert world.kinds() == ["drained", "LOSS", "HEARTBEAT"]


def test_a_loss_while_nobody_is_watched_is_told_once_too(world: World) -> None:
    observer = world.observer()
    observer.tick()
    world.newly_lost = {7: 1}
    for _ in range(5):
        world.now_ns += 20 * MS
        observer.tick()
    assert world.kinds().count("LOSS") == 1


def test_what_was_promised_before_a_restart_is_taken_back_once_it_is_known_whom_to_watch(world: World) -> None:
    world.settled = False
    observer = world.observer(unknown_since_ns=123)
    observer.tick()
    observer.tick()
    assert world.kinds() == ["drained", "drained"]
    world.settled = True
    observer.tick()
    assert world.kinds() == ["drained", "drained", "drained", "LOSS", "HEARTBEAT"]
    (loss,) = world.of("LOSS")
    (watermark_ns, _) = world.of("HEARTBEAT")[0]
    assert (loss.start_ns, loss.end_ns) == (123, watermark_ns)
    observer.tick()
    assert world.kinds().count("LOSS") == 1


def test_after_a_restart_spans_do_not_wait_for_a_slow_discovery(world: World) -> None:
    world.settled = False
    observer = world.observer(unknown_since_ns=123)
    world.now_ns += SECOND
    observer.tick()
    assert world.kinds() == ["drained", "LOSS", "HEARTBEAT"]


def test_a_first_start_promises_at_once(world: World) -> None:
    world.settled = False
    world.observer().tick()
    assert world.kinds() == ["drained", "HEARTBEAT"]


def test_processes_that_begin_and_end_go_to_discovery_in_order(world: World) -> None:
    events = [
        Event(kind=EventKind.PROCESS_EXEC, tgid=7, start_ns=41, end_ns=41),
        Event(kind=EventKind.PROCESS_EXIT, tgid=7, start_ns=42, end_ns=42),
        Event(kind=EventKind.PROCESS_EXEC, tgid=7, start_ns=43, end_ns=43),
    ]
    world.drained = Drained(moved=1, for_observer=b"".join(event.pack() for event in events))
    world.observer().tick()
    noted = [what for what in world.noted if what[0] in ("began", "ended")]
    assert noted == [("began", (7, 41)), ("ended", 7), ("began", (7, 43))]


def test_what_discovery_finds_goes_into_the_log(world: World) -> None:
    world.found = [Event(kind=EventKind.PROCESS, tgid=7, start_ns=5)]
    world.observer().tick()
    assert world.kinds() == ["drained", "HEARTBEAT", "PROCESS"]


@pytest.mark.parametrize(("moved", "again"), [(0, False), (50, False), (51, True)])
def test_a_ring_that_was_more_than_half_full_is_drained_again_at_once(world: World, moved: int, again: bool) -> None:
    world.drained = Drained(moved=moved)
    assert world.observer().tick() is again


@pytest.mark.parametrize(("has_probe", "rescans"), [(True, 2), (False, 40)])
def test_all_processes_are_looked_at_now_and_then_and_often_where_no_probe_tells(
    world: World, has_probe: bool, rescans: int
) -> None:
    world.has_process_probe = has_probe
    observer = world.observer()
    for _ in range(40):
        observer.tick()
        world.now_ns += SECOND
    assert [what for what, _ in world.noted].count("rescan") == rescans


def test_the_probes_rest_when_nobody_is_watched_for_a_while(world: World) -> None:
    observer = world.observer()
    world.watched = {1: 1}
    world.now_ns += 11 * SECOND
    observer.tick()
    world.watched = {}
    observer.tick()
    assert "rest" not in [what for what, _ in world.noted]
    world.now_ns += 11 * SECOND
    observer.tick()
    assert "rest" in [what for what, _ in world.noted]


def test_senders_are_looked_for_once_a_second_and_only_where_needed(world: World) -> None:
    observer = world.observer()
    observer.tick()
    world.without_span_ends = [9]
    for _ in range(20):
        world.now_ns += 100 * MS
        observer.tick()
    assert world.noted.count(("senders", (9,))) == 2
    assert len(world.of("SENDER")) == 2


def test_senders_that_cannot_be_found_are_told_once(world: World, caplog: pytest.LogCaptureFixture) -> None:
    observer = world.observer()
    world.without_span_ends = [9]
    world.sender_error = SocketsUnreadable("no netlink")
    for _ in range(3):
        observer.tick()
        world.now_ns += SECOND
    assert [record.getMessage() for record in caplog.records] == ["the senders of spans are not known"]


def test_a_probe_that_fails_somewhere_is_told_once_by_place(world: World, caplog: pytest.LogCaptureFixture) -> None:
    observer = world.observer()
    world.helper_failures = (Failure(ProbeProgram.SYS_EXIT, 42, 14, 3), Failure(ProbeProgram.SCAN, 7, 9999, 1))
    for _ in range(3):
        observer.tick()
        world.now_ns += 10 * SECOND
    fields = [record.__dict__["fields"] for record in caplog.records]
    assert [(told["program"], told["line"], told["error"]) for told in fields] == [
        ("sys_exit", 42, "EFAULT"),
        ("scan", 7, "9999"),
    ]
