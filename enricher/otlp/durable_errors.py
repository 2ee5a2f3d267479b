"""What can be wrong with the files of a durable queue."""

import os
from pathlib import Path
from typing import ClassVar

from enricher.errors import EnricherError


class StorageError(EnricherError):
    """Of one file. `path`: which. `reason`: what is wrong with it."""

    code: ClassVar[str] = "storage"

    def __init__(self, path: Path, reason: str, *, fix: str) -> None:
        super().__init__(f"{path}: {reason}", fix=fix)
        self.path = path
        self.reason = reason


class StorageUnusable(StorageError):
    """It cannot be opened, or is none of ours."""

    code = "storage_unusable"


class StorageLocked(StorageError):
    """Another process has it."""

    code = "storage_locked"

    def __init__(self, path: Path) -> None:
        fix = f"Stop the program that has it open (fuser {path} names it), or set storage.directory to another one."
        super().__init__(path, "is in use by another process", fix=fix)


class StorageFull(StorageError):
    """No room, on the disk or within the file's bound. What was asked for was not done, and may be asked for again."""

    code = "storage_full"

    def __init__(self, path: Path, reason: str) -> None:
        fix = "Make room on its disk or raise storage.max_size_mib, and look why the backend takes no spans."
        super().__init__(path, reason, fix=fix)


class StorageFailed(StorageError):
    """The disk does not do as told. What was asked for was not done, and may be asked for again."""

    code = "storage_failed"

    def __init__(self, path: Path, reason: str) -> None:
        fix = "Look for errors of this disk in the kernel's log (dmesg), and whether it is mounted to be written."
        super().__init__(path, reason, fix=fix)


class StorageDamaged(StorageError):
    """What stands in it is not what was written."""

    code = "storage_damaged"

    def __init__(self, path: Path, reason: str) -> None:
        fix = "Check the disk (dmesg, smartctl, fsck). The damaged file is kept beside the new one and may be deleted."
        super().__init__(path, reason, fix=fix)


class RequestDamaged(EnricherError):
    """One row is not what was written; the others may well be."""

    code = "request_damaged"

    def __init__(self, number: int) -> None:
        super().__init__(f"request {number} is not what was written")
        self.number = number


def cannot_open(path: Path, why: str) -> StorageUnusable:
    fix = f"Set storage.directory to a directory that user {os.getuid()} may write to, or give {path.parent} to it."
    return StorageUnusable(path, f"cannot be opened: {why}", fix=fix)
