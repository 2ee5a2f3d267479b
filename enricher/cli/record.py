"""`enricher record`: `enricher run`, and everything that decides about a span in a file."""

import fcntl
import os
import re
import sys
from pathlib import Path
from typing import ClassVar, Final

import click

from enricher.cli.config_option import config_option
from enricher.config.durations import parse
from enricher.config.load import load
from enricher.errors import EnricherError

UNITS: Final = {"KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}
LEAST_BYTES: Final = 64 << 10


class CannotRecord(EnricherError):
    """The file cannot be made."""

    code: ClassVar[str] = "cannot_record"


def _size(_context: click.Context, _parameter: click.Parameter, text: str) -> int:
    parts = re.fullmatch(r"(\d{1,6})(KiB|MiB|GiB)", text, re.ASCII)
    if parts is None:
        raise click.BadParameter(f"{text!r} is not a size such as 64KiB, 256MiB or 1GiB")
    size = int(parts[1]) * UNITS[parts[2]]
    if size < LEAST_BYTES:
        raise click.BadParameter(f"{text!r} is too little to record anything; 64KiB is the least")
    return size


def _time_ns(_context: click.Context, _parameter: click.Parameter, text: str | None) -> int | None:
    if text is None:
        return None
    try:
        time_ns = parse(text)
    except ValueError as error:
        raise click.BadParameter(str(error)) from error
    if time_ns == 0:
        raise click.BadParameter("nothing can be recorded in no time")
    return time_ns


@click.command("record")
@click.argument("file", type=click.Path(path_type=Path))
@config_option
@click.option(
    "--max-size",
    "max_bytes",
    callback=_size,
    default="256MiB",
    show_default=True,
    metavar="SIZE",
    help="Record no more.",
)
@click.option("--for", "for_ns", callback=_time_ns, metavar="TIME", help="Record no longer, such as 30s.")
def command(file: Path, config: Path | None, max_bytes: int, for_ns: int | None) -> None:
    """Run, and record what decides about spans into FILE.

    As `enricher run`; when the recording is full, has lasted long enough or cannot be written, spans flow on without
    it. `enricher replay` and `enricher explain --recording` read it.

    FILE holds the spans as they were sent, attributes and all: it is made for its owner's eyes only, and must not
    exist.
    """
    settings = load(config, os.environ)
    from enricher.recording.limit import Limit
    from enricher.supervisor import supervise

    sys.exit(supervise(settings, Limit(created(file), max_bytes, for_ns)))


def created(file: Path) -> int:
    """A descriptor of the new file, which only its owner can open. Raises CannotRecord."""
    try:
        # With O_EXCL no link is followed: in a folder where others may write, nothing of root's is overwritten.
        opened = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except FileExistsError as error:
        raise CannotRecord(f"{file}: exists already", fix="remove it or choose another name") from error
    except OSError as error:
        raise CannotRecord(f"{file}: cannot be made: {error.strerror}") from error
    # Not as one of the three standard ones, if one of these was closed.
    fd = fcntl.fcntl(opened, fcntl.F_DUPFD_CLOEXEC, 3)
    os.close(opened)
    return fd
