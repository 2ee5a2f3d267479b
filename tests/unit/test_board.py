"""The board: whoever writes, dies while writing or writes garbage, a reader gets a whole note or none."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from zlib import crc32

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from enricher.board import _CHECKSUM, _HEAD, MAX_TEXT_BYTES, SLOT_BYTES, Board, NoteTooLarge, SlotBusy
from enricher.config.model import Sampling
from enricher.live import FollowedLevel, Live, LiveSettings
from tests.e2e.testbed.processes import wait_until

SLOTS = 4


@pytest.fixture
def board() -> Iterator[Board]:
    made, fd = Board.make(SLOTS)
    yield made
    os.close(fd)


def text_of(board: Board, slot: int = 1) -> bytes | None:
    note = board.read(slot)
    return note.text if note else None


def pages_of(board: Board) -> dict[int, int]:
    """The bytes at the beginning of both pages of slot 1, by their place."""
    halves = (SLOT_BYTES, SLOT_BYTES + SLOT_BYTES // 2)
    return {at: board._memory[at] for half in halves for at in range(half, half + 256)}


def test_the_latest_note_is_read_with_its_tag_and_the_slots_beside_it_are_others(board: Board) -> None:
    assert board.read(1) is None
    assert board.number(1) == 0
    for number in range(1, 8):
        before_ns = time.monotonic_ns()
        assert board.write(1, b"x" * number * 1000, tag=number) == number
        note = board.read(1)
        assert note is not None
        assert (note.number, note.tag, note.text) == (number, number, b"x" * number * 1000)
        assert before_ns <= note.written_ns <= time.monotonic_ns()
        assert board.number(1) == number
    assert [board.read(slot) for slot in (0, 2, 3)] == [None] * 3


def test_a_note_may_fill_its_page_and_no_more(board: Board) -> None:
    board.write(2, b"before")
    board.write(1, b"y" * MAX_TEXT_BYTES)
    board.write(1, b"z" * MAX_TEXT_BYTES)
    with pytest.raises(NoteTooLarge):
        board.write(1, bytes(MAX_TEXT_BYTES + 1))
    found = board.read(1), board.read(2)
    assert [note and note.text for note in found] == [b"z" * MAX_TEXT_BYTES, b"before"]


def test_a_cleared_slot_has_no_note_and_takes_new_ones(board: Board) -> None:
    board.write(1, b"one")
    board.write(1, b"two")
    board.clear(1)
    assert board.read(1) is None
    assert board.write(1, b"three") == 1


@settings(deadline=None)
@given(st.data())
def test_whatever_of_the_newest_note_is_torn_the_one_before_is_read(data: st.DataObject) -> None:
    board, fd = Board.make(2)
    texts = data.draw(st.lists(st.binary(max_size=200), min_size=2, max_size=5))
    for text in texts[:-1]:
        board.write(1, text)
    missing = data.draw(st.sets(st.integers(0, 255), min_size=1))
    before = pages_of(board)
    board.write(1, texts[-1])
    written = [at for at, byte in pages_of(board).items() if byte != before[at]]
    # Of what the write changed, some bytes have not come.
    for at in {written[choice % len(written)] for choice in missing}:
        board._memory[at] = before[at]
    note = board.read(1)
    assert note is not None
    assert note.text == texts[-2]
    assert board.write(1, b"afterwards") == len(texts)
    assert text_of(board) == b"afterwards"
    os.close(fd)


@settings(deadline=None)
@given(st.binary(max_size=64), st.integers(0, 1), st.integers(0, 80))
def test_garbage_is_no_note_and_the_next_writer_puts_it_right(garbage: bytes, half: int, offset: int) -> None:
    board, fd = Board.make(2)
    at = SLOT_BYTES + half * SLOT_BYTES // 2 + offset
    board._memory[at : at + len(garbage)] = garbage
    found = board.read(1)
    assert found is None or found.text == b""
    board.write(1, b"right")
    assert text_of(board) == b"right"
    os.close(fd)


def test_a_number_at_its_end_begins_anew(board: Board) -> None:
    board.write(1, b"one")
    head = _HEAD.pack((1 << 64) - 1, 1, 0, 0)
    at = SLOT_BYTES + SLOT_BYTES // 2
    board._memory[at : at + _HEAD.size + 4] = head + _CHECKSUM.pack(crc32(b"", crc32(head)))
    assert board.write(1, b"two") == 1
    assert text_of(board) == b"two"


def test_nobody_can_make_it_shorter_or_write_what_is_given_to_be_read() -> None:
    made, fd = Board.make(SLOTS)
    made.write(1, b"text")
    for size in (0, SLOT_BYTES * SLOTS * 2):
        with pytest.raises(PermissionError):
            os.ftruncate(fd, size)
    readable = os.open(f"/proc/self/fd/{fd}", os.O_RDONLY)
    reader = Board(readable, writable=False)
    assert text_of(reader) == b"text"
    with pytest.raises(TypeError):
        reader.write(1, b"other")
    for opened in (fd, readable):
        os.close(opened)


@contextmanager
def process(script: str, board: Board) -> Iterator["subprocess.Popen[bytes]"]:
    """Runs `script` with a board of that memory, until the end of the `with`."""
    begin = f"import sys\nfrom enricher.board import Board\nboard = Board({board._fd})\n"
    child = subprocess.Popen([sys.executable, "-c", begin + script], pass_fds=[board._fd], stdout=subprocess.PIPE)
    try:
        yield child
    finally:
        with suppress(ProcessLookupError):
            child.kill()
        child.wait()
        assert child.stdout is not None
        child.stdout.close()


# Each note is one digit, again and again, of a length that depends on it.
WRITE_FOR_EVER = """
number = 0
while True:
    number += 1
    board.write(1, str(number % 10).encode() * (number % 10 * 12_000 + 1))
"""


def assert_whole(text: bytes) -> None:
    digit = int(text[:1])
    assert text == str(digit).encode() * (digit * 12_000 + 1)


def test_a_reader_beside_a_writer_gets_whole_notes_only(board: Board) -> None:
    with process(WRITE_FOR_EVER, board):
        wait_until(lambda: board.read(1), "a first note")
        numbers: list[int] = []

        def seen_many() -> bool:
            for _ in range(100):
                if note := board.read(1):
                    assert_whole(note.text)
                    numbers.append(note.number)
            return len(set(numbers)) > 300

        wait_until(seen_many, "many notes", 60.0)
    assert numbers == sorted(numbers)


def test_a_writer_killed_at_any_moment_leaves_a_whole_note(board: Board) -> None:
    for _ in range(15):
        before = board.number(1)
        with process(WRITE_FOR_EVER, board) as writer:
            wait_until(lambda least=before + 3: board.number(1) > least, "it writes")
            writer.kill()
            writer.wait()
        note = board.read(1)
        assert note is not None
        assert_whole(note.text)
        number = board.write(1, b"3" * 36_001)
        assert number > before
        assert (board.number(1), text_of(board)) == (number, b"3" * 36_001)


HOLD_THE_SLOT = """
with board.writing(0):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_slot_held_by_a_process_that_hangs_is_busy_and_free_once_that_is_dead(board: Board) -> None:
    with process("import signal\n" + HOLD_THE_SLOT.replace("sys.stdin.read()", "signal.pause()"), board) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        holder.send_signal(signal.SIGSTOP)
        with pytest.raises(SlotBusy), board.writing(0):
            pass
        with board.writing(1):
            pass  # another slot is another's
        holder.kill()
        holder.wait()
        with board.writing(0):
            pass


ADD_HUNDRED = """
from dataclasses import replace
from enricher.live import LiveSettings
from enricher.config.model import Sampling

live = LiveSettings(board)
def add(before):
    return replace(before, sampling=Sampling(slow_ns=(before.sampling.slow_ns if before.sampling else 0) + 1))
for _ in range(100):
    live.set(add)
print("done", flush=True)
"""


def test_live_settings_that_several_processes_change_lose_no_change(board: Board) -> None:
    live = LiveSettings(board)
    assert live.get() == Live()
    live.set(lambda _: Live(log_level="warn", sampling=Sampling(slow_ns=0)))
    with process(ADD_HUNDRED, board) as one, process(ADD_HUNDRED, board) as two:
        for child in (one, two):
            assert child.stdout is not None
            assert child.stdout.readline() == b"done\n"
    found = live.get()
    assert found.sampling is not None
    assert (found.sampling.slow_ns, found.generation, found.log_level) == (200, 201, "warn")


def test_threads_of_one_process_lose_no_change_either(board: Board) -> None:
    live = LiveSettings(board)

    def add() -> None:
        for _ in range(50):
            live.set(lambda now: Live(sampling=Sampling(slow_ns=(now.sampling.slow_ns if now.sampling else 0) + 1)))

    in_parallel(add, 4)
    assert live.get().sampling == Sampling(slow_ns=200)


def in_parallel(act: Callable[[], None], threads: int) -> None:
    started = [threading.Thread(target=act) for _ in range(threads)]
    for thread in started:
        thread.start()
    for thread in started:
        thread.join()


@pytest.mark.parametrize(
    "text",
    [b"", b"\xff", b"{}", b"[" * 100_000, b'{"sampling": 3}', b'{"sampling": {"ratio": 7, "slow_ns": 1}}'],
)
def test_live_settings_that_cannot_be_read_leave_those_before(board: Board, text: bytes) -> None:
    live = LiveSettings(board)
    kept = live.set(lambda _: Live(sampling=Sampling(ratio=0.25)))
    board.write(0, text, tag=1)
    assert live.get() == kept
    changed = live.set(lambda now: now)
    assert (changed.sampling, changed.generation) == (kept.sampling, 3)


def test_a_process_that_only_reads_follows_the_level(board: Board, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    monkeypatch.setattr("enricher.live.set_level", told.append)
    followed = FollowedLevel(board)
    followed.look()
    live = LiveSettings(board)
    for level in ("error", "debug"):
        live.set(lambda _, level=level: Live(log_level=level))  # type: ignore[misc, arg-type]
        followed.look()
        followed.look()
    board.write(0, b"", tag=77)
    followed.look()
    assert told == ["error", "debug"]
