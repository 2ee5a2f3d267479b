"""Logs of all processes: lines for people on a terminal, else one JSON object a line, on stderr.

On the standard library's logging, so that what other packages log (grpc, asyncio) comes out the same way.
structlog would cost 13 MiB resident in each of three processes, of 90 MiB for all of them.

    log = get_logger()
    log.warning("probe refused", object="spans", error=error)
"""

import json
import logging
import sys
from datetime import UTC, datetime
from typing import Final, Literal, Self, TextIO

from enricher.errors import EnricherError

ProcessName = Literal["supervisor", "observer", "pipeline"]
LogLevel = Literal["debug", "info", "warn", "error"]

_LEVELS: Final = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warn": logging.WARNING,
    "error": logging.ERROR,
}
_LEVEL_NAMES: Final = {number: name for name, number in _LEVELS.items()} | {logging.CRITICAL: "error"}
_COLOURS: Final = {"debug": "\x1b[2m", "info": "\x1b[36m", "warn": "\x1b[33m", "error": "\x1b[31m"}
_RESET: Final = "\x1b[0m"
_ROOT: Final = "enricher"


class Logger:
    """Says what happened in a few fixed words, and the particulars as fields.

    A field `error` that holds an exception is told by its message, class, and `code` and `fix` where it has
    them. Values are what JSON can hold; anything else goes through str.
    """

    __slots__ = ("_fields", "_logger")

    def __init__(self, logger: logging.Logger, fields: dict[str, object]) -> None:
        self._logger = logger
        self._fields = fields

    def bind(self, **fields: object) -> Self:
        """A logger that adds `fields` to every line."""
        return type(self)(self._logger, self._fields | fields)

    def debug(self, event: str, **fields: object) -> None:
        self._log(logging.DEBUG, event, fields)

    def info(self, event: str, **fields: object) -> None:
        self._log(logging.INFO, event, fields)

    def warning(self, event: str, **fields: object) -> None:
        self._log(logging.WARNING, event, fields)

    def error(self, event: str, **fields: object) -> None:
        self._log(logging.ERROR, event, fields)

    def exception(self, event: str, **fields: object) -> None:
        """As `error`, with the traceback of the exception being handled: for what nobody foresaw."""
        self._log(logging.ERROR, event, fields, exc_info=True)

    def _log(self, level: int, event: str, fields: dict[str, object], exc_info: bool = False) -> None:
        if self._logger.isEnabledFor(level):
            # The event is handed over as an argument: a % in it is no format.
            self._logger.log(level, "%s", event, extra={"fields": self._fields | fields}, exc_info=exc_info)


class FirstTimes:
    """Tells the first time of something from the later ones, so that it is logged once.

    Remembers the last `capacity` keys: what comes back after so many others is told again.
    """

    __slots__ = ("_capacity", "_keys")

    def __init__(self, capacity: int = 1024) -> None:
        self._capacity = capacity
        self._keys: dict[object, None] = {}

    def __call__(self, key: object) -> bool:
        """True the first time it is asked about `key`, which must be hashable."""
        if key in self._keys:
            return False
        if len(self._keys) >= self._capacity:
            del self._keys[next(iter(self._keys))]
        self._keys[key] = None
        return True


def get_logger(**fields: object) -> Logger:
    """A logger that adds `fields` to every line. Can be made before `configure` is called."""
    return Logger(logging.getLogger(_ROOT), fields)


def configure(process: ProcessName, level: LogLevel = "info", stream: TextIO | None = None) -> None:
    """Send the logs of this process to `stream` (stderr), for people if that is a terminal.

    Other packages are heard from `warn` on, whatever `level` is: their info and debug lines are not for the
    operator of this one. A second call replaces the first one's settings.
    """
    stream = stream or sys.stderr
    handler = logging.StreamHandler(stream)
    handler.setFormatter(_Console(process) if stream.isatty() else _JsonLines(process))
    # A closed stderr must not turn every line into a traceback on that same stderr.
    logging.raiseExceptions = False
    logging.getLogger().handlers[:] = [handler]
    set_level(level)
    logging.captureWarnings(True)


def set_level(level: LogLevel) -> None:
    """Of this process, from now on."""
    logging.getLogger().setLevel(max(_LEVELS[level], logging.WARNING))
    logging.getLogger(_ROOT).setLevel(_LEVELS[level])


class _Formatter(logging.Formatter):
    def __init__(self, process: ProcessName) -> None:
        super().__init__()
        self.process = process

    def fields_of(self, record: logging.LogRecord) -> dict[str, object]:
        fields = dict(getattr(record, "fields", {}))
        if record.name != _ROOT:
            fields["logger"] = record.name
        error = fields.get("error")
        if isinstance(error, BaseException):
            fields["error"] = _told(error)
            fields["error_type"] = type(error).__name__
            if isinstance(error, EnricherError):
                fields["code"] = error.code
                if error.fix:
                    fields["fix"] = error.fix
        if record.exc_info and record.exc_info[0] is not None:
            fields["traceback"] = self.formatException(record.exc_info)
        return fields


def _told(error: BaseException) -> str:
    # str() of an EnricherError ends with its fix, which has its own field.
    message = Exception.__str__(error) if isinstance(error, EnricherError) else str(error)
    return message or type(error).__name__


class _JsonLines(_Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="microseconds"),
            "level": _LEVEL_NAMES.get(record.levelno, "info"),
            "process": self.process,
            "event": record.getMessage(),
        }
        # Twice `line`: it comes first, and no field replaces what is in it.
        return json.dumps(line | self.fields_of(record) | line, default=str)


class _Console(_Formatter):
    def format(self, record: logging.LogRecord) -> str:
        level = _LEVEL_NAMES.get(record.levelno, "info")
        time = datetime.fromtimestamp(record.created, UTC).astimezone().strftime("%H:%M:%S.%f")[:-3]
        fields = self.fields_of(record)
        traceback = fields.pop("traceback", None)
        told = "".join(f"  \x1b[2m{key}={_RESET}{_printable(value)}" for key, value in fields.items())
        event = _printable(record.getMessage())
        line = f"{time} {_COLOURS[level]}{level:<5}{_RESET} {self.process:<10} {event}{told}"
        return f"{line}\n{traceback}" if traceback else line


def _printable(value: object) -> str:
    """What other programs chose (paths, names) must not steer the terminal."""
    text = str(value)
    return text if text.isprintable() else json.dumps(text)
