"""Whatever is wrong with a file of the durable queue: no wrong bytes, no end of the process, nothing lost unseen."""

import os
import random
import shutil
from pathlib import Path

import pytest

from enricher.otlp.durable_errors import StorageUnusable
from enricher.otlp.durable_wal import BROKEN, last_commit
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

FILE = "queue-0.sqlite3"
WAL = "queue-0.sqlite3-wal"
FLIPS = int(os.environ.get("DURABLE_FLIPS", "40"))


def asides(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.glob("*.damaged-*"))


def flip(path: Path, bit: int) -> None:
    with path.open("r+b") as file:
        file.seek(bit // 8)
        (byte,) = file.read(1)
        file.seek(bit // 8)
        file.write(bytes([byte ^ 1 << bit % 8]))


@pytest.fixture(scope="module")
def checkpointed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[int, bytes | None]]:
    """A directory whose file holds all; some rows have been removed, some are marked; and the rows."""
    directory = tmp_path_factory.mktemp("checkpointed")
    queue = opened(directory)
    stored = [entry for size in (0, 50, 3000, 20_000, 100_000) for entry in entries(20, size)]
    random.Random(1).shuffle(stored)
    queue.admitted(stored)
    queue.sending(stored[30:40])
    deliver(queue, stored[50:60])
    queue.close()
    assert not (directory / WAL).exists()
    return directory, {entry.id: entry.body for entry in (*stored[:50], *stored[60:])}


@pytest.fixture(scope="module")
def in_wal(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[int, bytes | None]]:
    """A directory as a killed process leaves it: all is in the WAL, in many transactions."""
    directory = tmp_path_factory.mktemp("wal")
    queue = opened(directory / "a")
    stored = [entry for size in (50, 3000, 20_000) for entry in entries(20, size)]
    random.Random(2).shuffle(stored)
    for entry in stored:
        queue.admitted([entry])
    queue.decided(stored)
    queue.sending(stored[:5])
    return left_by_a_killed_process(directory), {entry.id: entry.body for entry in stored}


def assert_right_and_nothing_lost_unseen(directory: Path, rows: dict[int, bytes | None], what: str) -> int:
    """Returns how many are still there."""
    queue = opened(directory)
    found = recovered(queue)
    for number, body in found:
        assert rows.get(number) == body, f"{what}: request {number} is not what was stored"
    assert len(found) == len({number for number, _ in found}), what
    if len(found) < len(rows):
        assert value(queue, "exporter_storage_damaged"), f"{what}: {len(rows) - len(found)} lost, and nothing said"
    more = entries(3, 5000)
    assert queue.admitted(more) == [], f"{what}: takes nothing any more"
    assert queue.sending(more) == []
    queue.close()
    again = opened(directory)
    assert [body for _, body in recovered(again)][-3:] == [entry.body for entry in more], what
    again.close()
    return len(found)


@pytest.mark.parametrize("seed", range(FLIPS))
def test_a_flipped_bit_in_the_file(
    checkpointed: tuple[Path, dict[int, bytes | None]], tmp_path: Path, seed: int
) -> None:
    directory, rows = checkpointed
    shutil.copytree(directory, tmp_path / "d")
    path = tmp_path / "d" / FILE
    # The first page and the roots of the trees are small beside the bodies: they have their turn in every third.
    end = path.stat().st_size if seed % 3 else 5 * 16384
    bit = random.Random(seed).randrange(end * 8)
    flip(path, bit)
    assert_right_and_nothing_lost_unseen(tmp_path / "d", rows, f"bit {bit}")


@pytest.mark.parametrize("seed", range(FLIPS))
def test_a_flipped_bit_in_the_wal(in_wal: tuple[Path, dict[int, bytes | None]], tmp_path: Path, seed: int) -> None:
    directory, rows = in_wal
    shutil.copytree(directory, tmp_path / "d")
    path = tmp_path / "d" / WAL
    chance = random.Random(seed)
    bit = chance.randrange(path.stat().st_size * 8)
    if not seed % 3:  # the headers of WAL and frames
        frames = (path.stat().st_size - 32) // (24 + 16384)
        bit = chance.choice([chance.randrange(32 * 8), (32 + chance.randrange(frames) * (24 + 16384)) * 8 + bit % 192])
    flip(path, bit)
    assert_right_and_nothing_lost_unseen(tmp_path / "d", rows, f"bit {bit}")


@pytest.mark.parametrize("seed", range(FLIPS // 5))
def test_bytes_written_over(checkpointed: tuple[Path, dict[int, bytes | None]], tmp_path: Path, seed: int) -> None:
    directory, rows = checkpointed
    shutil.copytree(directory, tmp_path / "d")
    path = tmp_path / "d" / FILE
    chance = random.Random(seed)
    with path.open("r+b") as file:
        for _ in range(chance.randrange(1, 20)):
            file.seek(chance.randrange(path.stat().st_size))
            file.write(chance.choice([bytes, random.Random(seed).randbytes])(chance.randrange(1, 20_000)))
    assert_right_and_nothing_lost_unseen(tmp_path / "d", rows, "written over")


@pytest.mark.parametrize("seed", range(FLIPS // 5))
def test_a_file_cut_short(checkpointed: tuple[Path, dict[int, bytes | None]], tmp_path: Path, seed: int) -> None:
    directory, rows = checkpointed
    shutil.copytree(directory, tmp_path / "d")
    path = tmp_path / "d" / FILE
    size = path.stat().st_size
    left = random.Random(seed).randrange(1, size)
    os.truncate(path, left)
    found = assert_right_and_nothing_lost_unseen(tmp_path / "d", rows, "cut short")
    # What does not lie behind the cut is there, but for what the first pages lead to.
    assert found >= len(rows) * (left / size - 0.25)


@pytest.mark.parametrize("seed", range(FLIPS // 5))
def test_a_wal_cut_short_ends_what_is_there_earlier(
    in_wal: tuple[Path, dict[int, bytes | None]], tmp_path: Path, seed: int
) -> None:
    """As one does that was never longer: nothing can tell the two apart."""
    directory, rows = in_wal
    shutil.copytree(directory, tmp_path / "d")
    path = tmp_path / "d" / WAL
    os.truncate(path, random.Random(seed).randrange(1, path.stat().st_size))
    queue = opened(tmp_path / "d")
    found = recovered(queue)
    assert found == [(number, rows[number]) for number, _ in found]
    queue.close()


def test_an_emptied_file_with_a_wal_is_set_aside_with_it(
    in_wal: tuple[Path, dict[int, bytes | None]], tmp_path: Path
) -> None:
    directory, _ = in_wal
    shutil.copytree(directory, tmp_path / "d")
    wal = (tmp_path / "d" / WAL).read_bytes()
    os.truncate(tmp_path / "d" / FILE, 0)
    queue = opened(tmp_path / "d")
    assert values(queue, "exporter_storage_damaged")["file"] == 1
    (aside,) = (tmp_path / "d").glob("*.damaged-*-wal")
    assert aside.read_bytes() == wal


def test_what_is_no_database_is_set_aside(tmp_path: Path) -> None:
    (tmp_path / FILE).write_bytes(b"not a database, but longer than a header of one " * 100)
    queue = opened(tmp_path)
    assert values(queue, "exporter_storage_damaged") == {"file": 1, "request": 0}
    assert len(asides(tmp_path)) == 1
    assert queue.admitted(entries(1)) == []


def test_of_files_set_aside_the_last_are_kept(tmp_path: Path) -> None:
    for _ in range(6):
        (tmp_path / FILE).write_bytes(b"no database " * 1000)
        opened(tmp_path).close()
    assert len(asides(tmp_path)) == 3


def test_a_damaged_request_is_left_out_and_the_others_go_on(tmp_path: Path) -> None:
    queue = opened(tmp_path)
    stored = entries(5, 100_000)
    queue.admitted(stored)
    queue.close()
    path = tmp_path / FILE
    body = stored[2].body
    assert body is not None
    flip(path, (path.read_bytes().index(body[30_000:30_100]) + 50) * 8)
    again = opened(tmp_path)
    assert [number for number, _ in recovered(again)] == [1, 2, 4, 5]
    assert values(again, "exporter_storage_damaged") == {"file": 0, "request": 1}
    again.turn()
    assert value(again, "exporter_storage_requests") == 4
    assert not asides(tmp_path)


def test_a_damage_while_the_file_is_in_use_costs_only_what_cannot_be_read(tmp_path: Path) -> None:
    queue = opened(tmp_path, memory_bytes=0)
    stored = entries(200, 100_000)
    before = {entry.id: entry.body for entry in stored if not queue.admitted([entry])}
    before = {entry.id: entry.body for entry in stored}
    queue.decided(stored)
    assert all(entry.body is None for entry in stored)
    descriptor = os.open(tmp_path / FILE, os.O_WRONLY)  # not closed: that would end the lock
    for offset in range(4 * MIB, 8 * MIB, 300_000):
        os.pwrite(descriptor, bytes(20_000), offset)
    lost = {entry.id for entry in stored for bad in queue.sending([entry]) if bad.id == entry.id}
    assert 0 < len(lost) < 60
    assert {entry.id: entry.body for entry in stored if entry.id not in lost} == {
        number: body for number, body in before.items() if number not in lost
    }
    assert value(queue, "exporter_storage_damaged") > 0
    queue.released(stored)
    assert queue.admitted(entries(10, 100_000)) == []
    assert value(queue, "exporter_storage_requests") == 10
    os.close(descriptor)


def test_a_file_of_a_later_version_is_left_alone(tmp_path: Path) -> None:
    opened(tmp_path).close()
    path = tmp_path / FILE
    with path.open("r+b") as file:
        file.seek(60)  # user_version
        file.write((2).to_bytes(4, "big"))
    before = path.read_bytes()
    with pytest.raises(StorageUnusable, match="format 2"):
        opened(tmp_path)
    assert path.read_bytes() == before


def test_the_last_commit_of_a_wal_is_found(in_wal: tuple[Path, dict[int, bytes | None]], tmp_path: Path) -> None:
    directory, _ = in_wal
    frames = (directory / WAL).stat().st_size // (24 + 16384)
    assert 0 < last_commit(directory / WAL) <= frames
    assert last_commit(tmp_path / "none") == 0
    (tmp_path / "zeros").write_bytes(bytes(100_000))
    assert last_commit(tmp_path / "zeros") == BROKEN


def test_what_a_damaged_file_has_counted_is_counted_on(tmp_path: Path) -> None:
    queue = opened(tmp_path / "a")
    stored = entries(10, 20_000, spans=3)
    queue.admitted(stored)
    queue.sending(stored[:2])
    queue.close()
    queue = opened(tmp_path / "a")
    assert value(queue, "exporter_possibly_duplicated_spans") == 6
    queue.close()
    with (tmp_path / "a" / FILE).open("r+b") as file:
        file.seek(28)  # the size of the database in pages
        file.write((1 << 20).to_bytes(4, "big"))
    again = opened(tmp_path / "a")
    assert values(again, "exporter_storage_damaged")["file"] == 1
    assert recovered(again) == [(entry.id, entry.body) for entry in stored]
    # Any of them may have been sent since.
    assert value(again, "exporter_possibly_duplicated_spans") == 6 + 30
    deliver(again, [FakeEntry(entry.body, id=entry.id) for entry in stored])
