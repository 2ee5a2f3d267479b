"""The settings that change while everything runs, in a slot of the board.

Any worker may set them, when its control service is asked to, and so does the supervisor at a reload; all workers see
it at once. The level of the logs stands in the note's tag: the observer, which is privileged, reads no more than that.
"""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any, Final

from enricher.board import Board
from enricher.config.model import Sampling
from enricher.telemetry.logs import LogLevel, set_level
from enricher.workers import LIVE_SLOT

_LEVELS: Final[tuple[LogLevel, ...]] = ("debug", "info", "warn", "error")


@dataclass(frozen=True, slots=True, kw_only=True)
class Live:
    """`generation` grows by one with each change."""

    generation: int = 0
    log_level: LogLevel = "info"
    sampling: Sampling | None = None  # None: the pipeline has no such processor


class LiveSettings:
    """Thread-safe."""

    def __init__(self, board: Board) -> None:
        self._board = board
        self._seen = (0, Live())

    @property
    def number(self) -> int:
        """Differs after a change. Cheap enough to be asked once a batch."""
        return self._board.number(LIVE_SLOT)

    def get(self) -> Live:
        """As of now; what was known before where there is nothing that can be read."""
        number, live = self._seen
        if self.number == number:
            return live
        note = self._board.read(LIVE_SLOT)
        if note is None:
            return live
        live = _parsed(note.text, note.number, note.tag) or live
        self._seen = (note.number, live)  # and not `latest`, which may just be being written
        return live

    def set(self, change: Callable[[Live], Live]) -> Live:
        """Puts what `change` makes of them in force, and returns it. Raises SlotBusy."""
        with self._board.writing(LIVE_SLOT):
            changed = change(self.get())
            told = {"sampling": asdict(changed.sampling) if changed.sampling else None}
            number = self._board.write(LIVE_SLOT, json.dumps(told).encode(), _LEVELS.index(changed.log_level))
            made = replace(changed, generation=number)
            self._seen = (number, made)
            return made


class FollowedLevel:
    """Has the logs of this process follow the level on the board. Reads no text that others have written."""

    def __init__(self, board: Board) -> None:
        self._board = board
        self._seen = 0

    def look(self) -> None:
        """Cheap where nothing has changed."""
        if self._board.number(LIVE_SLOT) == self._seen:
            return
        if note := self._board.read(LIVE_SLOT):
            self._seen = note.number
            if note.tag < len(_LEVELS):
                set_level(_LEVELS[note.tag])


def _parsed(text: bytes, number: int, tag: int) -> Live | None:
    try:
        told: dict[str, Any] = json.loads(text)
        sampling = Sampling(**told["sampling"]) if told["sampling"] else None
        if sampling and not (0 <= sampling.ratio <= 1 and sampling.slow_ns >= 0):
            return None
        return Live(generation=number, log_level=_LEVELS[tag], sampling=sampling)
    except (ValueError, TypeError, KeyError, IndexError, RecursionError):
        return None
