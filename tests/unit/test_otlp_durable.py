"""What was stored before its sender was answered is there again, as it was, whatever ended the process."""

import os
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from enricher.otlp import durable
from enricher.otlp.durable_errors import StorageLocked, StorageUnusable
from tests.unit.durable_entries import (
    MIB,
    FakeEntry,
    deliver,
    entries,
    left_by_a_killed_process,
    opened,
    recovered,
    value,
    values,
)


def bodies(stored: list[FakeEntry]) -> list[tuple[int, bytes | None]]:
    return [(entry.id, entry.body) for entry in stored]


def test_what_was_stored_is_there_again_oldest_first_and_byte_for_byte(tmp_path: Path) -> None:
    queue = opened(tmp_path / "a")
    stored = entries(3, 10) + entries(2, 100_000) + entries(1, 0)
    assert queue.admitted(stored) == []
    assert len({entry.id for entry in stored}) == 6
    again = opened(left_by_a_killed_process(tmp_path))
    assert recovered(again) == bodies(stored)
    assert value(again, "exporter_storage_recovered_spans") == 6


def test_what_was_delivered_is_not_there_again(tmp_path: Path) -> None:
    queue = opened(tmp_path / "a")
    stored = entries(10)
    queue.admitted(stored)
    deliver(queue, stored[:4])
    queue.turn()
    again = opened(left_by_a_killed_process(tmp_path))
    assert recovered(again) == bodies(stored[4:])
    assert value(again, "exporter_possibly_duplicated_spans") == 0


def test_a_removal_goes_with_the_next_request_that_is_stored(tmp_path: Path) -> None:
    queue = opened(tmp_path / "a")
    first, second = entries(1), entries(1)
    queue.admitted(first)
    deliver(queue, first)
    queue.admitted(second)
    assert recovered(opened(left_by_a_killed_process(tmp_path))) == bodies(second)


def test_what_was_being_sent_counts_as_possibly_duplicated_once(tmp_path: Path) -> None:
    queue = opened(tmp_path / "a")
    stored = entries(10, spans=7)
    queue.admitted(stored)
    queue.decided(stored)
    queue.sending(stored[:3])
    after = left_by_a_killed_process(tmp_path)
    again = opened(after)
    assert value(again, "exporter_possibly_duplicated_spans") == 21
    assert recovered(again) == bodies(stored)
    again.close()
    third = opened(after)
    assert value(third, "exporter_possibly_duplicated_spans") == 21  # nothing was tried since
    third.sending(stored[:1])
    third.close()
    assert value(opened(after), "exporter_possibly_duplicated_spans") == 28


def test_numbers_are_never_given_twice_to_what_is_there(tmp_path: Path) -> None:
    queue = opened(tmp_path)
    stored = entries(3)
    queue.admitted(stored)
    deliver(queue, stored[:1])
    queue.close()
    again, more = opened(tmp_path), entries(3)
    again.admitted(more)
    assert not {entry.id for entry in more} & {entry.id for entry in stored[1:]}


def test_what_has_a_number_is_not_stored_a_second_time(tmp_path: Path) -> None:
    queue = opened(tmp_path)
    stored = entries(2)
    queue.admitted(stored[:1])
    queue.admitted(stored)
    assert value(queue, "exporter_storage_requests") == 2


def test_more_than_memory_is_to_hold_waits_in_the_file_and_comes_back_as_decided(tmp_path: Path) -> None:
    queue = opened(tmp_path, memory_bytes=MIB)
    stored = entries(40, 100_000)
    queue.admitted(stored)
    as_decided = []
    for entry in stored:
        assert entry.body is not None
        entry.replace_body(entry.body + b"claims")
        as_decided.append(entry.body)
        queue.decided([entry])
    in_memory = [entry for entry in stored if entry.body is not None]
    assert sum(len(entry.body or b"") for entry in in_memory) <= MIB
    assert value(queue, "exporter_storage_dropped_requests") == 40 - len(in_memory) > 0
    assert queue.sending(stored) == []
    assert [entry.body for entry in stored] == as_decided
    assert value(queue, "exporter_storage_dropped_requests") == 0


def test_what_left_memory_as_decided_is_not_decided_again_after_a_restart(tmp_path: Path) -> None:
    queue = opened(tmp_path / "a", memory_bytes=0)
    changed, unchanged = entries(2)
    queue.admitted([changed, unchanged])
    changed.replace_body(b"with claims")
    before = unchanged.body
    queue.decided([changed, unchanged])
    again = opened(left_by_a_killed_process(tmp_path))
    found: dict[int, tuple[bytes, bool]] = {}

    def offer(body: bytes, number: int) -> bool:
        found[number] = (body, again.decided_before(FakeEntry(id=number)))
        return True

    again.recover(offer)
    assert found[changed.id] == (b"with claims", True)
    # Of one that no rule has changed the file was not written again, and to decide it again changes nothing.
    assert found[unchanged.id] == (before, False)


def test_a_request_lost_from_the_file_is_stored_again_before_it_leaves_memory(tmp_path: Path) -> None:
    queue = opened(tmp_path, memory_bytes=0)
    stored = entries(1)
    queue.admitted(stored)
    queue.released([FakeEntry(id=stored[0].id)])
    queue.turn()
    before = stored[0].body
    queue.decided(stored)
    assert stored[0].body is None
    assert queue.sending(stored) == []
    assert stored[0].body == before


def test_recovery_brings_no_more_into_memory_than_is_decided_meanwhile(tmp_path: Path) -> None:
    queue = opened(tmp_path)
    stored = entries(60, MIB)
    queue.admitted(stored)
    queue.close()
    again = opened(tmp_path)
    offered: list[FakeEntry] = []

    def offer(body: bytes, number: int) -> bool:
        offered.append(FakeEntry(body, id=number))
        return True

    again.recover(offer)
    again.recover(offer)
    assert len(offered) == 16
    again.decided(offered[:10])
    again.recover(offer)
    assert len(offered) == 26
    again.released(offered[10:])
    again.recover(offer)
    assert len(offered) == 42
    assert again.recovering


def test_what_finds_no_room_in_memory_yet_is_offered_again(tmp_path: Path) -> None:
    queue = opened(tmp_path)
    stored = entries(3)
    queue.admitted(stored)
    queue.close()
    again = opened(tmp_path)
    again.recover(lambda _, number: number < stored[1].id)
    assert again.recovering
    assert [number for number, _ in recovered(again)] == [stored[1].id, stored[2].id]
    assert not again.recovering
    assert value(again, "exporter_storage_recovered_spans") == 3


def test_requests_that_come_during_recovery_are_not_recovered(tmp_path: Path) -> None:
    queue = opened(tmp_path)
    old, new = entries(2), entries(2)
    queue.admitted(old)
    queue.close()
    again = opened(tmp_path)
    again.admitted(new)
    assert recovered(again) == bodies(old)


def test_the_file_holds_what_it_may_and_room_made_is_used_again(tmp_path: Path) -> None:
    queue = opened(tmp_path, max_bytes=8 * MIB)
    stored = [entry for entry in entries(12, MIB) if not queue.admitted([entry])]
    assert 6 <= len(stored) < 8
    assert not queue.taking
    assert value(queue, "exporter_enqueue_failed_spans") == 12 - len(stored)
    deliver(queue, stored)
    queue.turn()
    for _ in range(10):
        more = entries(6, MIB)
        assert queue.admitted(more) == []
        deliver(queue, more)
    assert queue.taking
    assert sum(path.stat().st_size for path in tmp_path.glob("queue-0.sqlite3")) <= 8 * MIB


def test_of_a_batch_those_are_refused_that_find_no_room(tmp_path: Path) -> None:
    queue = opened(tmp_path, max_bytes=8 * MIB)
    stored = entries(12, MIB)
    refused = queue.admitted(stored)
    assert refused
    assert all(entry.id == 0 for entry in refused)
    assert [entry for entry in stored if entry.id] + list(refused) == stored
    assert values(queue, "exporter_enqueue_failed_spans") == {"storage_full": len(refused)}


def test_an_emptied_file_gives_its_space_back(tmp_path: Path) -> None:
    queue = opened(tmp_path)
    stored = entries(100, MIB)
    queue.admitted(stored)
    deliver(queue, stored)
    queue.turn()
    assert (tmp_path / "queue-0.sqlite3").stat().st_size < MIB


def test_the_file_is_for_its_owner_alone(tmp_path: Path) -> None:
    queue = opened(tmp_path / "made")
    queue.admitted(entries(1))
    assert stat.S_IMODE((tmp_path / "made").stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "made").iterdir()} == {0o600}


OPEN_IT = """
import sys
sys.path[:0] = {path!r}
from pathlib import Path
from enricher.otlp.durable import DurableQueue
from enricher.otlp.durable_errors import StorageError
try:
    DurableQueue(Path({directory!r}), fsync="never", max_bytes=1 << 26)
except StorageError as error:
    print(error.code, "|", error)
else:
    print("opened")
"""


def opened_elsewhere(directory: Path) -> str:
    program = OPEN_IT.format(path=sys.path, directory=str(directory))
    return subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout


def test_a_file_in_use_is_no_one_elses_while_it_is(tmp_path: Path) -> None:
    queue = opened(tmp_path)
    answer = opened_elsewhere(tmp_path)
    assert answer.startswith(StorageLocked.code)
    assert "fuser" in answer
    queue.admitted(entries(1))
    assert opened_elsewhere(tmp_path).startswith(StorageLocked.code)
    queue.close()
    assert opened_elsewhere(tmp_path) == "opened\n"


def test_a_directory_that_cannot_be_written_to_is_an_error_with_its_fix(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageUnusable, match=r"storage\.directory") as caught:
        opened(tmp_path / "file" / "below")
    assert caught.value.fix


def test_fewer_workers_take_over_what_the_others_left(tmp_path: Path) -> None:
    left = {}
    for worker in range(4):
        queue, left[worker] = opened(tmp_path, worker=worker, workers=4), entries(20, 100_000, spans=2)
        queue.admitted(left[worker])
        queue.sending(left[worker][:1])
        queue.close()
    queues = [opened(tmp_path, worker=worker, workers=2) for worker in range(2)]
    for worker, queue in enumerate(queues):
        expected = [entry.body for entry in (*left[worker], *left[worker + 2])]
        assert [body for _, body in recovered(queue)] == expected
        assert value(queue, "exporter_possibly_duplicated_spans") == 4
    assert sorted(path.name for path in tmp_path.glob("*.sqlite3")) == ["queue-0.sqlite3", "queue-1.sqlite3"]


def test_what_finds_no_room_with_the_heir_waits_where_it_is(tmp_path: Path) -> None:
    queue, left = opened(tmp_path, worker=1, workers=2), entries(40, MIB)
    queue.admitted(left)
    queue.close()
    got: list[bytes] = []
    for _ in range(10):
        heir = opened(tmp_path, max_bytes=24 * MIB)
        found = recovered(heir)
        got += [body for _, body in found]
        deliver(heir, [FakeEntry(body, id=number) for number, body in found])
        heir.close()
    assert got == [entry.body for entry in left]
    assert not list(tmp_path.glob("queue-1.*"))


def test_threads_that_store_and_deliver_at_once_lose_and_double_nothing(tmp_path: Path) -> None:
    queue = opened(tmp_path, memory_bytes=64 << 10)
    waiting: list[FakeEntry] = []
    has_more, over = threading.Condition(), False
    delivered: list[bytes | None] = []

    def take() -> list[FakeEntry]:
        with has_more:
            has_more.wait_for(lambda: waiting or over, 10)
            taken = waiting[:3]
            del waiting[:3]
            return taken

    def send() -> None:
        while taken := take():
            assert queue.sending(taken) == []
            delivered.extend(entry.body for entry in taken)
            queue.released(taken)

    senders = [threading.Thread(target=send) for _ in range(4)]
    for sender in senders:
        sender.start()
    made = []
    for _ in range(100):
        block = entries(5, 10_000)
        made += [entry.body for entry in block]
        assert queue.admitted(block) == []
        queue.decided(block)
        with has_more:
            waiting.extend(block)
            has_more.notify_all()
        queue.turn()
    with has_more:
        over = True
        has_more.notify_all()
    for sender in senders:
        sender.join(30)
    queue.turn()
    assert sorted(delivered, key=bytes) == sorted(made, key=bytes)
    assert value(queue, "exporter_storage_requests") == 0


def test_storage_is_not_imported_where_it_is_not_asked_for() -> None:
    program = "import sys, enricher.pipeline; sys.exit('sqlite3' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
    assert os.fspath(durable.__file__).endswith("durable.py")
