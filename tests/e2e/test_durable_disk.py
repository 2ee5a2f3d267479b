"""A disk that is full, by itself or by others: senders are told, what is stored goes out, and room is used again."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from enricher.otlp.durable import DurableQueue
from tests.unit.durable_entries import MIB, FakeEntry, deliver, entries, opened, recovered, value, values


@pytest.fixture(params=["tmpfs", "ext4"])
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """A file system of 96 MiB of its own."""
    where = tmp_path / "disk"
    where.mkdir()
    if request.param == "tmpfs":
        command = ["mount", "-t", "tmpfs", "-o", "size=96m", "enricher-test", str(where)]
    else:
        image = tmp_path / "image"
        with image.open("wb") as file:
            file.truncate(96 * MIB)
        subprocess.run(["mkfs.ext4", "-q", "-m", "0", str(image)], check=True)
        command = ["mount", "-o", "loop", str(image), str(where)]
    mounted = subprocess.run(command, check=False, capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f"no file system can be mounted here: {mounted.stderr.strip()}")
    yield where
    subprocess.run(["umount", "--lazy", str(where)], check=True)


class Clock:
    now_ns = 0

    def __call__(self) -> int:
        return self.now_ns


def fill(disk: Path) -> Path:
    """Another program takes all that is left."""
    other = disk / "other"
    with other.open("ab", buffering=0) as file:
        for size in (MIB, 4096, 1):
            try:
                while file.write(bytes(size)) == size:
                    pass
            except OSError:
                continue
    return other


def filled_by_itself(disk: Path, clock: Clock) -> tuple[DurableQueue, list[FakeEntry]]:
    queue = opened(disk / "queue", max_bytes=1 << 40, clock_ns=clock)
    stored: list[FakeEntry] = []
    while not queue.admitted(more := entries(1, MIB)):
        stored += more
        assert len(stored) < 96
    return queue, stored


def test_a_queue_that_has_filled_its_disk_empties_and_fills_again(disk: Path) -> None:
    clock = Clock()
    queue, stored = filled_by_itself(disk, clock)
    assert len(stored) > 50
    assert values(queue, "exporter_enqueue_failed_spans") == {"storage_full": 1}
    assert not queue.taking
    for round_ in range(3):
        sent = deliver(queue, stored)
        assert sent == [entry.body for entry in stored]
        queue.turn()
        assert value(queue, "exporter_storage_requests") == 0, f"round {round_}"
        clock.now_ns += 2_000_000_000
        queue.turn()
        stored = []
        while not queue.admitted(more := entries(1, MIB)):
            stored += more
            assert len(stored) < 96
        assert len(stored) > 50
    queue.close()
    again = opened(disk / "queue", max_bytes=1 << 40)
    assert recovered(again) == [(entry.id, entry.body) for entry in stored]
    again.close()


def test_a_full_disk_does_not_stop_what_is_stored_from_going_out(disk: Path) -> None:
    clock = Clock()
    queue = opened(disk / "queue", max_bytes=1 << 40, clock_ns=clock)
    stored = entries(30, MIB)
    assert queue.admitted(stored) == []
    other = fill(disk)
    refused = 0
    while not refused:
        more = entries(1, MIB)
        refused += len(queue.admitted(more))
        stored += [entry for entry in more if entry.id]
    fill(disk)  # what the reserve had, too
    while stored:
        batch, stored = stored[:3], stored[3:]
        assert deliver(queue, batch) == [entry.body for entry in batch]
        queue.turn()
    assert value(queue, "exporter_storage_requests") == 0
    assert value(queue, "exporter_storage_unmarked_spans") == 0
    # What it has itself is used again, though the disk is still full.
    more = entries(5, MIB)
    assert queue.admitted(more) == []
    queue.close()
    again = opened(disk / "queue", max_bytes=1 << 40, clock_ns=clock)
    assert recovered(again) == [(entry.id, entry.body) for entry in more]
    other.unlink()
    clock.now_ns += 2_000_000_000
    assert again.admitted(entries(30, MIB)) == []  # without a restart
    assert again.taking
    again.close()


def test_a_disk_with_no_room_at_the_start_is_waited_for(disk: Path) -> None:
    clock = Clock()
    opened(disk / "queue", max_bytes=1 << 40).close()
    (disk / "queue" / "queue-0.reserve").unlink()
    other = fill(disk)
    queue = opened(disk / "queue", max_bytes=1 << 40, clock_ns=clock)
    refused = entries(2, 4 * MIB)
    assert queue.admitted(refused) == refused
    other.unlink()
    clock.now_ns += 2_000_000_000
    assert queue.admitted(refused) == []
    queue.close()


def test_what_has_left_memory_is_read_back_from_a_full_disk(disk: Path) -> None:
    clock = Clock()
    queue = opened(disk / "queue", max_bytes=1 << 40, clock_ns=clock, memory_bytes=0)
    stored = entries(10, 100_000)
    before = [entry.body for entry in stored]
    queue.admitted(stored)
    queue.decided(stored)
    assert all(entry.body is None for entry in stored)
    other = fill(disk)
    refused = entries(1, 30 * MIB)
    assert queue.admitted(refused) == refused
    fill(disk)
    assert queue.sending(stored) == []
    assert [entry.body for entry in stored] == before
    other.unlink()
    clock.now_ns += 2_000_000_000
    queue.released(stored)
    assert queue.admitted(refused) == []
    assert value(queue, "exporter_storage_requests") == 1
    queue.close()


def test_the_reserve_is_there_from_the_beginning(disk: Path) -> None:
    queue = opened(disk / "queue")
    assert (disk / "queue" / "queue-0.reserve").stat().st_blocks * 512 >= 16 * MIB
    queue.close()
