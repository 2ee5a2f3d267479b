"""Requests kept in one SQLite file, each with a checksum.

In WAL mode, so that to append is to write once and in one place. Locked by this process as long as it is open: nobody
else may write, and SQLite needs no shared memory for its index of the WAL. Not thread-safe.
"""

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from enricher.otlp.durable_errors import StorageDamaged, StorageFailed, StorageFull, StorageUnusable, cannot_open
from enricher.otlp.durable_rows import Kept, Rows
from enricher.otlp.durable_wal import BROKEN, last_commit, wal_of

Fsync = Literal["always", "never"]

# Of 4, 16, 32 and 64 KiB this took the least CPU time at 280 KB a row, and 1.5 times that of 4 KiB at 4.5 KB.
PAGE_BYTES: Final = 16 << 10
# As the WAL gets this long it is moved into the file; the disk space it has had it keeps.
WAL_BYTES: Final = 8 << 20
_CACHE_KIB: Final = 4096
_LOCK_WAIT_S: Final = 2.0  # a process that was killed may need a moment to be gone
# What a row takes beside its body at most: the rest of its last page, its share of the tree.
ROW_BYTES: Final = 2 * PAGE_BYTES

_APPLICATION_ID: Final = 0x656E7271
_VERSION: Final = 1
# Damaged bits make wild numbers; versions of ours are these.
_VERSIONS: Final = range(1, 100)
_SCHEMA: Final = (
    (
        "CREATE TABLE requests (id INTEGER PRIMARY KEY, spans INTEGER NOT NULL, decided INTEGER NOT NULL, "
        "checksum INTEGER NOT NULL, body BLOB NOT NULL) STRICT"
    ),
    # A table of its own, as a mark then rewrites a page of marks and not one of bodies.
    "CREATE TABLE sending (id INTEGER PRIMARY KEY) STRICT",
    "CREATE TABLE totals (possibly_duplicated_spans INTEGER NOT NULL) STRICT",
)


@dataclass(frozen=True, slots=True)
class Size:
    requests: int
    last_id: int  # 0: none


class RequestFile(Rows):
    """An open file. Every method may raise StorageFull, StorageFailed and StorageDamaged."""

    def __init__(self, path: Path, fsync: Fsync) -> None:
        """Opens or makes it, 0600, and checks all of it: about a second a GiB.

        Raises StorageLocked and StorageUnusable, too.
        """
        self._fsync = fsync
        self._synced: bool | None = None
        # Commits in the WAL were lost to a damage: what is there is older than it should be, marks included.
        self.wal_damaged = False
        try:
            expected = last_commit(wal_of(path))
            _create(path)
            size = path.stat().st_size
        except OSError as error:
            raise cannot_open(path, error.strerror or str(error)) from error
        if expected and not size:
            raise StorageDamaged(path, "is empty, but its WAL is not")  # SQLite would delete the WAL
        super().__init__(path, lock_wait_s=_LOCK_WAIT_S)
        try:
            self._prepare(expected)
        except BaseException:
            self.close()
            raise

    def append(self, rows: Sequence[Kept], sending: Iterable[int], remove: Iterable[int]) -> int:
        """Returns when they are safe, as far as `fsync` says: all or none. The rest as `note`."""
        with self._transaction(synced=True):
            removed = self._note(sending, remove)
            self._connection.executemany(
                "INSERT INTO requests VALUES (?, ?, ?, ?, ?)",
                [(row.id, row.spans, row.decided, row.checksum, row.body) for row in rows],
            )
        return removed

    def note(self, sending: Iterable[int], remove: Iterable[int]) -> int:
        """An attempt to send these begins; these are sent or dropped. Numbers that are not there are passed over.

        Survives the end of this process, and a power loss once something is appended. Returns how many were removed.
        """
        with self._transaction(synced=False):
            return self._note(sending, remove)

    def replace(self, rows: Sequence[Kept]) -> None:
        """These are decided; a row whose body has not changed is left as it is. Survives as `note`."""
        with self._transaction(synced=False):
            for row in rows:
                before = Kept(row.id, row.spans, decided=False, body=row.body).checksum
                # A row that was lost to a damage is there again.
                self._connection.execute(
                    "INSERT INTO requests VALUES (?, ?, ?, ?, ?) ON CONFLICT (id) DO UPDATE "
                    "SET spans = excluded.spans, decided = excluded.decided, "
                    "checksum = excluded.checksum, body = excluded.body WHERE checksum NOT IN (excluded.checksum, ?)",
                    (row.id, row.spans, row.decided, row.checksum, row.body, before),
                )

    def count_possibly_duplicated(self, *, all_of_them: bool) -> None:
        """Turns the marks into a number, which the file keeps: what was being sent may have been taken.

        `all_of_them`: marks have been lost, every row may have been sent.
        """
        # A body holds two bytes a span at least: a count that is damaged stays within bounds.
        with self._transaction(synced=False):
            self._connection.execute(
                "UPDATE totals SET possibly_duplicated_spans = possibly_duplicated_spans + ("
                "SELECT coalesce(sum(min(spans, length(body))), 0) FROM requests "
                "WHERE ? OR id IN (SELECT id FROM sending))",
                (all_of_them,),
            )
            self._connection.execute("DELETE FROM sending")

    def add_possibly_duplicated(self, spans: int) -> None:
        """As another file, whose rows came here, has counted them."""
        with self._transaction(synced=False):
            self._connection.execute(
                "UPDATE totals SET possibly_duplicated_spans = possibly_duplicated_spans + ?", (spans,)
            )

    def forget_possibly_duplicated(self) -> None:
        """Another file counts them now."""
        with self._transaction(synced=False):
            self._connection.execute("UPDATE totals SET possibly_duplicated_spans = 0")

    def size(self) -> Size:
        """Goes through all rows, but not their bodies."""
        ((requests, last),) = self._rows("SELECT count(*), max(id) FROM requests")
        return Size(requests, last or 0)

    def free_bytes(self) -> int:
        """Of what the file has on the disk: removed, and not yet taken again."""
        return self._number("PRAGMA freelist_count") * PAGE_BYTES

    def used_bytes(self) -> int:
        """Without what is free."""
        return self._number("PRAGMA page_count") * PAGE_BYTES - self.free_bytes()

    def checkpoint(self) -> None:
        """Moves what stands in the WAL into the file, so that the WAL begins at its start again."""
        self._rows("PRAGMA wal_checkpoint(PASSIVE)")

    def shrink(self) -> None:
        """Gives free pages back to the disk. Writes all rows anew: for a file without any."""
        self._rows("VACUUM")
        self.checkpoint()

    def _prepare(self, expected: int) -> None:
        """`expected`: what `last_commit` has found before SQLite opened the file."""
        self._value(f"PRAGMA page_size = {PAGE_BYTES}")  # of a new file
        self._value("PRAGMA secure_delete = OFF")  # Debian's default: what is deleted is written over with zeros
        if self._value("PRAGMA journal_mode = WAL") != b"wal":
            fix = "Set storage.directory to a directory of a local disk."
            raise StorageUnusable(self.path, "cannot be put into WAL mode", fix=fix)
        self._value(f"PRAGMA wal_autocheckpoint = {WAL_BYTES // PAGE_BYTES}")
        self._value(f"PRAGMA journal_size_limit = {WAL_BYTES}")
        self._value(f"PRAGMA cache_size = -{_CACHE_KIB}")
        self._set_synced(synced=False)
        self._check_schema()
        if expected:
            self.wal_damaged = expected == BROKEN or expected > self._recovered_frames(expected)
        if (found := self._value("PRAGMA quick_check(1)")) != b"ok":
            raise StorageDamaged(self.path, str(found))

    def _check_schema(self) -> None:
        found = {sql for (sql,) in self._rows("SELECT sql FROM sqlite_schema")}
        application, version = self._number("PRAGMA application_id"), self._number("PRAGMA user_version")
        if not found and (application, version) == (0, 0):
            self._make_schema()
        elif application == _APPLICATION_ID and version != _VERSION and version in _VERSIONS:
            fix = "Run the version that wrote it until its queue is empty, or set storage.directory to another one."
            raise StorageUnusable(self.path, f"is of format {version}, and this version reads {_VERSION}", fix=fix)
        elif (application, version) != (_APPLICATION_ID, _VERSION) or found != {sql.encode() for sql in _SCHEMA}:
            raise StorageDamaged(self.path, "its tables are not those that were made")
        elif self._number("SELECT count(*) FROM totals") != 1:
            raise StorageDamaged(self.path, "its totals are gone")
        elif self._number("SELECT count(*) FROM sending WHERE id NOT IN (SELECT id FROM requests)"):
            raise StorageDamaged(self.path, "marks without their request")

    def _make_schema(self) -> None:
        with self._transaction(synced=True):
            for statement in (*_SCHEMA, "INSERT INTO totals VALUES (0)"):
                self._connection.execute(statement)
            self._connection.execute(f"PRAGMA application_id = {_APPLICATION_ID}")
            self._connection.execute(f"PRAGMA user_version = {_VERSION}")

    def _recovered_frames(self, expected: int) -> int:
        """How many frames of the WAL SQLite reads."""
        try:
            ((_, frames, _),) = self._rows("PRAGMA wal_checkpoint(PASSIVE)")
        except (StorageFull, StorageFailed):
            return expected  # not to be known now, and what SQLite has found in the WAL is there all the same
        return int(frames)

    def _note(self, sending: Iterable[int], remove: Iterable[int]) -> int:
        removed = [(number,) for number in remove]
        run = self._connection.executemany
        run("INSERT OR IGNORE INTO sending SELECT id FROM requests WHERE id = ?", [(number,) for number in sending])
        run("DELETE FROM sending WHERE id = ?", removed)
        return run("DELETE FROM requests WHERE id = ?", removed).rowcount if removed else 0

    @contextmanager
    def _transaction(self, *, synced: bool) -> Iterator[None]:
        self._set_synced(synced=synced)
        with self._told():
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._connection.execute("COMMIT")
            finally:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")

    def _set_synced(self, *, synced: bool) -> None:
        """Whether a commit waits for the disk. A checkpoint does in both cases, unless nothing is to wait for it."""
        if synced is not self._synced:
            level = "OFF" if self._fsync == "never" else "FULL" if synced else "NORMAL"
            self._value(f"PRAGMA synchronous = {level}")
            self._synced = synced


def _create(path: Path) -> None:
    """Spans may hold what is not for everybody; SQLite gives the WAL the rights of the file."""
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    except FileExistsError:
        return
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
