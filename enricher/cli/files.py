"""Whether the pipeline's user could use the files that the configuration names."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final, Literal

from enricher.config.model import Settings
from enricher.config.tree import values_of
from enricher.config.values import File
from enricher.observer.host import Answer, Check
from enricher.privileges import as_dropped, dropped_user

_COST: Final = "`enricher run` does not start"


def checks(settings: Settings) -> Iterator[Check]:
    """One need for each file of a component that takes part."""
    exporters = settings.service.pipelines.traces.exporters
    for path, value_type, value in values_of(settings):
        if not isinstance(value_type, File) or (path[0] == "exporters" and path[1] not in exporters):
            continue
        assert isinstance(value, str)
        wrong, fix = _wrong(Path(value), value_type.use)
        key = ".".join(map(str, path))
        detail = f"{key}: {value} {wrong or 'can be used by the pipeline'}"
        yield Check(str(path[-1]), Answer.NO if wrong else Answer.YES, detail, _COST, fix)


def _wrong(path: Path, use: Literal["read", "write", "keep"]) -> tuple[str, str]:
    """What is wrong with it, and the fix; empty where nothing is."""
    user = dropped_user()
    try:
        if use == "keep":
            return _unfit_to_keep(path, user)
        with as_dropped():
            return _unreadable(path, user) if use == "read" else _unwritable(path, user)
    except OSError as error:
        return f"cannot be looked at by user {user}: {error.strerror}", f"let user {user} into its directories"


def _unreadable(path: Path, user: str) -> tuple[str, str]:
    if not path.exists():
        return "does not exist", "write the path of a file that is there"
    if not path.is_file():
        return "is not a file", "write the path of a file"
    if not os.access(path, os.R_OK, effective_ids=True):
        return f"cannot be read by user {user}", f"chgrp or chown it to {user}, with a mode that lets it read"
    return "", ""


def _unwritable(path: Path, user: str) -> tuple[str, str]:
    # The directory as well: files are renamed when they are full.
    if not os.access(path.parent, os.W_OK | os.X_OK, effective_ids=True):
        return f"cannot be made by user {user}", f"make its directory, and chown it to {user}"
    if path.exists() and not (path.is_file() and os.access(path, os.W_OK, effective_ids=True)):
        return f"cannot be written to by user {user}", f"chown it to {user}"
    return "", ""


def _unfit_to_keep(path: Path, user: str) -> tuple[str, str]:
    """As the user that this process is: where that is root, `enricher run` gives the directory to the pipeline."""
    if not path.is_dir():
        return "is not a directory", f"make it: mkdir -p {path}"
    if not os.access(path, os.W_OK | os.X_OK, effective_ids=True):
        return f"cannot be written to by user {user}", f"chown it to {user}"
    return "", ""
