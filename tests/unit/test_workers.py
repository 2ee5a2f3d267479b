"""What is said of workers: by each of itself, and by those that live of those that do not."""

import os
from collections.abc import Iterator
from dataclasses import replace

import pytest

from enricher.beat import Beat
from enricher.board import MAX_TEXT_BYTES, Board
from enricher.telemetry.metrics import Distribution, Series
from enricher.workers import (
    ROSTER_SLOT,
    SILENT_AFTER_NS,
    SLOTS,
    Member,
    Report,
    Roster,
    Standing,
    State,
    slot_of,
    standings,
)
from tests.e2e.testbed.processes import wait_until

S = 1_000_000_000
STARTED_NS = 50 * S
SERIES = [
    Series("spans", "counter", "seen", "", {"": 3}),
    Series("hold_seconds", "histogram", "held", "", {"": Distribution((0.1, 1.0), (1, 2, 3), 4.5)}, "s"),
    Series("odd", "gauge", "a\nb", "kind", {"x": 1.5, 'y"': 2}),
]


@pytest.fixture
def board() -> Iterator[Board]:
    made, fd = Board.make(SLOTS)
    yield made
    os.close(fd)


def member(worker: int, pid: int | None, *, ending: bool = False) -> Member:
    return Member(worker, slot_of(worker, int(ending)), pid, STARTED_NS, ending)


def written_ns(board: Board, slot: int) -> int:
    note = board.read(slot)
    assert note is not None
    return note.written_ns


def heard(board: Board, *, after_ns: int = S) -> dict[str, Standing]:
    """How they stand so long after the last note was written."""
    written_ns = max(note.written_ns for slot in range(SLOTS) if slot != ROSTER_SLOT and (note := board.read(slot)))
    return {one.member.name: one for one in standings(board, lambda: written_ns + after_ns)}


def test_slots_of_all_workers_differ_and_leave_the_first_two_free() -> None:
    slots = [slot_of(worker, start) for worker in range(64) for start in (0, 1)]
    assert len(set(slots)) == len(slots)
    assert min(slots) > ROSTER_SLOT
    assert max(slots) < SLOTS


def test_the_roster_is_read_as_it_was_written(board: Board) -> None:
    assert Roster.read(board) == Roster()
    roster = Roster((member(0, 7), member(1, None), member(1, 9, ending=True)), {"pipeline": 2}, {"applied": 1})
    roster.write(board)
    assert Roster.read(board) == roster


@pytest.mark.parametrize("text", [b"", b"[]", b"{", b'{"members": [[1]]}', b'{"members": 3}', b"[" * 100_000])
def test_a_roster_that_cannot_be_read_has_nobody(board: Board, text: bytes) -> None:
    board.write(ROSTER_SLOT, text)
    assert Roster.read(board) == Roster()
    assert standings(board) == []


def test_each_worker_is_told_of_as_it_is(board: Board) -> None:
    broken = ["the policy has died", "the exporter has died"]
    Roster(
        (member(0, 7), member(1, 8), member(2, None), member(3, 10), member(4, 11), member(0, 12, ending=True))
    ).write(board)
    Report(7, State.SERVING).write(board, slot_of(0, 0), SERIES)
    Report(8, State.SERVING, broken).write(board, slot_of(1, 0))
    Report(9, State.SERVING).write(board, slot_of(2, 0))
    Report(99, State.SERVING).write(board, slot_of(3, 0))  # of another process, which was there before
    Report(12, State.ENDING).write(board, slot_of(0, 1))
    at_ns = STARTED_NS + S
    for slot in (slot_of(worker, 0) for worker in range(4)):
        at_ns = max(at_ns, written_ns(board, slot))
    # Those that have not been heard of yet have just been started.
    roster = Roster.read(board)
    members = tuple(replace(one, started_ns=at_ns) for one in roster.members)
    replace(roster, members=members).write(board)
    found = {one.member.name: one for one in standings(board, lambda: at_ns + S)}
    assert found["0"].serves
    assert found["0"].series() == SERIES
    assert (found["1"].serves, found["1"].problem) == (False, "the policy has died; the exporter has died")
    assert (found["2"].serves, found["2"].problem) == (False, "it has died and is to be started again")
    assert (found["3"].serves, found["3"].problem, found["3"].state) == (False, "", State.STARTING)
    assert found["3"].series() == []
    assert (found["4"].serves, found["4"].problem) == (False, "")
    assert (found["0-ending"].serves, found["0-ending"].state) == (False, State.ENDING)


def test_silence_is_no_health(board: Board) -> None:
    Roster((member(0, 7),)).write(board)
    Report(7, State.SERVING).write(board, slot_of(0, 0))
    assert heard(board, after_ns=SILENT_AFTER_NS)["0"].serves
    silent = heard(board, after_ns=SILENT_AFTER_NS + S)["0"]
    assert not silent.serves
    assert silent.problem == "process 7 has not been heard of for 4 s"


def test_a_process_that_never_comes_to_serve_is_not_well(board: Board) -> None:
    Report(8, State.STARTING).write(board, slot_of(1, 0))
    heard_ns = written_ns(board, slot_of(1, 0))
    Roster((replace(member(0, 7), started_ns=heard_ns), replace(member(1, 8), started_ns=heard_ns))).write(board)
    assert [one.problem for one in standings(board, lambda: heard_ns + 2 * S)] == ["", ""]
    assert standings(board, lambda: heard_ns + 14 * S)[0].problem == "process 7 has not been heard of for 4 s"
    Roster((replace(member(1, 8), started_ns=heard_ns - 11 * S),)).write(board)
    (late,) = standings(board, lambda: heard_ns)
    assert late.problem == "process 8 does not come to serve spans"


def test_series_that_cannot_be_read_are_none(board: Board) -> None:
    Roster((member(0, 7),)).write(board)
    for series in ('[["x"]]', "[[1, 2, 3, 4, 5, 6]]", '{"a": 1}', '[["n", "counter", "", "", {"": "x"}, ""]]', "["):
        board.write(slot_of(0, 0), f'{{"pid": 7, "problems": []}}\n{series}'.encode(), State.SERVING)
        assert heard(board)["0"].serves
        assert heard(board)["0"].series() == []


class Told:
    """What a worker tells when it is asked."""

    def __init__(self) -> None:
        self.problems: list[str] = []
        self.series = SERIES


def test_a_beat_tells_at_once_and_again_and_again(board: Board) -> None:
    told, slot = Told(), slot_of(0, 0)
    beats: list[int] = []
    beat = Beat(board, slot, lambda: told.problems, lambda: told.series, lambda: beats.append(1))
    Roster((Member(0, slot, os.getpid(), STARTED_NS),)).write(board)
    told.problems = ["the policy has died"]
    beat.start()
    try:
        wait_until(lambda: heard(board)["0"].state is State.STARTING, "it starts")
        assert heard(board)["0"].problem in ("", f"process {os.getpid()} does not come to serve spans"), "not yet begun"
        told.problems = []
        beat.tell(State.SERVING)
        assert heard(board)["0"].serves
        assert heard(board)["0"].series() == SERIES
        told.problems = ["the policy has died"]
        assert not beat.report().serves
        wait_until(lambda: heard(board)["0"].problem == "the policy has died", "it is told at the next beat")
        beat.tell(State.ENDING)
        assert heard(board)["0"].problem == "", "what has ended as it should has not died"
    finally:
        beat.stop()
    assert len(beats) >= 4


def test_series_that_have_no_room_do_not_silence_a_worker(board: Board, caplog: pytest.LogCaptureFixture) -> None:
    told = Told()
    told.series = [Series("large", "gauge", "x" * MAX_TEXT_BYTES, "", {"": 1})]
    beat = Beat(board, slot_of(0, 0), list, lambda: told.series)
    Roster((Member(0, slot_of(0, 0), os.getpid(), STARTED_NS),)).write(board)
    for _ in range(3):
        beat.tell(State.SERVING)
    assert heard(board)["0"].serves
    assert caplog.text.count("only this worker itself shows its metrics") == 1


def test_a_source_that_fails_does_not_silence_a_worker(board: Board, caplog: pytest.LogCaptureFixture) -> None:
    def fail() -> list[Series]:
        raise ZeroDivisionError

    beat = Beat(board, slot_of(0, 0), list, fail)
    Roster((Member(0, slot_of(0, 0), os.getpid(), STARTED_NS),)).write(board)
    for _ in range(3):
        beat.tell(State.SERVING)
    assert heard(board)["0"].serves
    assert caplog.text.count("ZeroDivisionError") >= 1
