"""A worker's part of the board: how it is and what it has counted, every second; and the level of its logs, from there.

On a thread of its own, as it goes on while the worker starts and ends, which take their time. That a worker is heard of
does not mean that it does its work: what of it no longer does is in the report.
"""

import os
import threading
from collections.abc import Callable, Iterable

from enricher.board import Board, NoteTooLarge
from enricher.live import FollowedLevel
from enricher.telemetry.logs import FirstTimes, get_logger
from enricher.telemetry.metrics import Series
from enricher.workers import BEAT_S, Report, State


class Beat:
    def __init__(
        self,
        board: Board,
        slot: int,
        problems: Callable[[], Iterable[str]],
        series: Callable[[], Iterable[Series]],
        at_every_beat: Callable[[], None] = lambda: None,
    ) -> None:
        """`problems`: sentences, none where all is well."""
        self._board = board
        self._slot = slot
        self._problems = problems
        self._series = series
        self._at_every_beat = at_every_beat
        self._state = State.STARTING
        self._ended = False
        self._wake = threading.Event()
        self._writing = threading.Lock()
        self._first_times = FirstTimes()
        self._log = get_logger()
        self._level = FollowedLevel(board)
        self._thread = threading.Thread(target=self._run, name="beat", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def tell(self, state: State) -> None:
        """Of a change, now."""
        self._state = state
        self._beat()

    def stop(self) -> None:
        self._ended = True
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join()

    def report(self) -> Report:
        """As it would be told now. A part that has not begun yet, or has ended as it should, is none that has died."""
        problems = tuple(self._problems()) if self._state is State.SERVING else ()
        return Report(os.getpid(), self._state, problems)

    def _run(self) -> None:
        while not self._ended:
            self._beat()
            self._wake.wait(BEAT_S)

    def _beat(self) -> None:
        try:
            with self._writing:
                self._write(self.report())
            self._level.look()
            self._at_every_beat()
        except Exception as error:  # noqa: BLE001 - as for its numbers
            if self._first_times(type(error)):
                self._log.exception("the worker cannot tell how it is", error=error)

    def _write(self, report: Report) -> None:
        """What cannot be told of numbers must not make a worker that works count as dead."""
        try:
            report.write(self._board, self._slot, self._series())
        except NoteTooLarge as error:
            if self._first_times(NoteTooLarge):
                self._log.error("only this worker itself shows its metrics", error=error)
        except Exception as error:  # noqa: BLE001 - whatever it is
            if self._first_times(type(error)):
                self._log.exception("the metrics of this worker cannot be told", error=error)
        else:
            return
        report.write(self._board, self._slot)
