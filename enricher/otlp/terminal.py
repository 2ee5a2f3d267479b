"""Shows enriched spans on the terminal, when no backend is named: to try things out, and to look at one service.

At more traces a second than anybody can read it shows some, those with evidence first, and counts the others.
"""

import io
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from threading import Thread
from typing import Final, TextIO

from enricher._native import Entry, Queue
from enricher.config.model import TerminalExporter as TerminalSettings
from enricher.otlp.sending.assembly import Line
from enricher.otlp.span_json import tree_of
from enricher.otlp.terminal_text import coloured, lines_of, plain
from enricher.otlp.terminal_traces import Trace, TraceGatherer
from enricher.otlp.transport import Exporter
from enricher.telemetry.logs import FirstTimes, get_logger
from enricher.telemetry.metrics import Metrics

log = get_logger()

# SDKs export every 5 s by default, but all spans of one service's trace together.
QUIET_NS: Final = 1_000_000_000
_TURN_S: Final = 0.25
_TRACES_A_TURN: Final = 5
_MAX_TAKEN_BYTES: Final = 1 << 20


def build(settings: TerminalSettings, line: Line) -> Exporter:  # noqa: ARG001 - it has no keys
    return TerminalExporter(line.queue, line.metrics)


class TerminalExporter:
    """An `Exporter` that writes to `stream` (standard output), in colours if that is a terminal."""

    def __init__(
        self,
        queue: Queue,
        metrics: Metrics,
        *,
        stream: TextIO | None = None,
        clock_ns: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self._queue = queue
        self._metrics = metrics
        # A process that was started with standard output closed has none.
        self._broken = stream is None and sys.stdout is None  # nobody reads the stream
        self._stream = stream or sys.stdout or io.StringIO()
        if isinstance(self._stream, io.TextIOWrapper):
            self._stream.reconfigure(errors="replace")  # names of spans are in any script, a terminal may know one
        self._paint = coloured if self._stream.isatty() else plain
        self._clock_ns = clock_ns
        self._gatherer = TraceGatherer(QUIET_NS, lambda trace: self._choose([trace]))
        self._chosen: list[Trace] = []  # to be shown with the next turn
        self._left_out = self._left_out_enriched = 0  # traces that will not be
        self._next_turn_ns = 0
        self._first_time = FirstTimes()
        self._thread = Thread(target=self._run, name="terminal", daemon=True)

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    def start(self) -> None:
        self._thread.start()

    def stop(self, grace_s: float) -> None:
        self._queue.close()
        # A terminal that was stopped (Ctrl-S) may hold the thread for good; it does not hold the process.
        self._thread.join(grace_s)
        while left := self._queue.take(_MAX_TAKEN_BYTES):
            spans = sum(entry.spans for entry in left)
            self._metrics.exporter_send_failed_spans.add(spans, "shutdown")
            self._queue.release(left)

    def _run(self) -> None:
        while not self._queue.finished:
            nothing_due = not self._chosen and not len(self._gatherer)
            batch = self._queue.take(_MAX_TAKEN_BYTES, None if nothing_due else _TURN_S)
            for entry in batch:
                self._gather(entry)
            self._queue.release(batch)
            self._show_some()
        self._choose(self._gatherer.rest())
        self._show()

    def _gather(self, entry: Entry) -> None:
        if self._broken:
            self._metrics.exporter_send_failed_spans.add(entry.spans, "output_gone")
            return
        try:
            self._gatherer.add(tree_of(entry.body), self._clock_ns())
        except Exception:  # what cannot be shown must not end the thread that shows the rest
            log.exception("a request could not be shown")
            self._metrics.exporter_send_failed_spans.add(entry.spans, "fault")
        else:
            self._metrics.exporter_sent_spans.add(entry.spans)

    def _show_some(self) -> None:
        """What is due, once a turn."""
        now_ns = self._clock_ns()
        if now_ns < self._next_turn_ns:
            return
        self._next_turn_ns = now_ns + int(_TURN_S * 1e9)
        self._choose(self._gatherer.quiet(now_ns))
        self._show()

    def _choose(self, traces: list[Trace]) -> None:
        """Those with evidence first, then as they came."""
        ordered = sorted([*self._chosen, *traces], key=lambda trace: trace.enriched == 0)
        self._chosen, left_out = ordered[:_TRACES_A_TURN], ordered[_TRACES_A_TURN:]
        self._left_out += len(left_out)
        self._left_out_enriched += sum(trace.enriched > 0 for trace in left_out)

    def _show(self) -> None:
        lines = [line for trace in self._chosen for line in self._painted(trace)]
        if self._left_out:
            others, enriched = self._left_out, self._left_out_enriched
            lines += [f"… and {others} more traces not shown, {enriched} of them with evidence", ""]
        self._chosen = []
        self._left_out = self._left_out_enriched = 0
        self._write(lines)

    def _painted(self, trace: Trace) -> Iterator[str]:
        try:
            yield from [self._paint(line) for line in lines_of(trace)]
        except Exception as error:
            if self._first_time(type(error)):
                log.exception("a trace could not be shown")

    def _write(self, lines: Iterable[str]) -> None:
        if self._broken:
            return
        try:
            for line in lines:
                self._stream.write(line + "\n")
            self._stream.flush()
        except (OSError, ValueError) as error:  # ValueError: the stream was closed
            self._broken = True
            log.warning("spans are not shown any more, as the output is gone", error=error)
