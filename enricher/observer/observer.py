"""The observer's tick: from the ring of the probes into the evidence log, with what the log promises.

A heartbeat promises that every event up to its watermark is in the log. It holds because a probe reserves room in the
ring before it reads the clock for the event: whoever has drained the ring up to its head at time T has every event
that ended up to T. What did not fit into the ring, or into a map, is told by counters, and stands in the log as a loss
before the heartbeat that covers its time.
"""

import errno
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict

from enricher._native import LogWriter, Ring
from enricher.evidence.records import RECORD_SIZE, Event, EventKind
from enricher.observer.discovery import Discovery
from enricher.observer.headers import HeaderBlocks
from enricher.observer.probe_set import Probe, ProbeSet
from enricher.observer.senders import Senders
from enricher.processes.sockets import SocketsUnreadable
from enricher.telemetry.logs import FirstTimes, Logger

TICK_NS = 40_000_000  # at 20 ms the observer cost 1.1 % of a core beside an idle service, with this half of it
_ROUND_NS = 200_000_000  # what need not be done at every tick; the scan takes 0.7 ms
_SENDERS_EVERY_NS = 1_000_000_000
_ANNOUNCE_EVERY_NS = 1_000_000_000  # the log holds the records of four seconds at the least
_FAILURES_EVERY_NS = 10_000_000_000
_RESCAN_EVERY_NS = 30_000_000_000  # what a watched process forks may run no new image, and no probe tells of it
_RESCAN_WITHOUT_PROBE_EVERY_NS = 1_000_000_000
_REST_AFTER_NS = 10_000_000_000
_SETTLE_WITHIN_NS = 1_000_000_000
_DISCOVERY_BUDGET_NS = 5_000_000
_RING_RECORD_BYTES = RECORD_SIZE + 8  # with the header that the kernel puts before each
_EVERYBODY = 0  # as the tgid of a loss


class _Every:
    """Says when something periodic is due."""

    __slots__ = ("_due_ns", "_period_ns")

    def __init__(self, period_ns: int) -> None:
        self._period_ns = period_ns
        self._due_ns = 0

    def __call__(self, now_ns: int) -> bool:
        if now_ns < self._due_ns:
            return False
        self._due_ns = now_ns + self._period_ns
        return True


class Observer:
    """Everything that is done every 40 ms, and what of it only every so often."""

    def __init__(
        self,
        *,
        probes: ProbeSet,
        ring: Ring,
        evidence: LogWriter,
        discovery: Discovery,
        senders: Senders | None,
        headers: HeaderBlocks | None,
        log: Logger,
        unknown_since_ns: int = 0,
        clock: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        """`unknown_since_ns`: the last heartbeat of an observer before this one, 0 if there was none. Its promises are
        taken back from there to the time when this one knows whom to watch."""
        self._probes = probes
        self._ring = ring
        self._ring_bytes = probes.ring.max_entries
        self._evidence = evidence
        self._discovery = discovery
        self._senders = senders
        self._headers = headers
        self._log = log
        self._clock = clock
        self._unknown_since_ns = unknown_since_ns
        self._settle_until_ns = clock() + _SETTLE_WITHIN_NS
        self._going_on_ns = 0
        self._lost = 0
        self._losses_read_ns = clock()
        self._watching_ns = clock()
        self._first_time = FirstTimes()
        self._round_due = _Every(_ROUND_NS)
        self._senders_due = _Every(_SENDERS_EVERY_NS)
        self._announcement_due = _Every(_ANNOUNCE_EVERY_NS)
        self._failures_due = _Every(_FAILURES_EVERY_NS)
        has_probe = probes.has(Probe.PROCESSES)
        self._rescan_due = _Every(_RESCAN_EVERY_NS if has_probe else _RESCAN_WITHOUT_PROBE_EVERY_NS)

    def tick(self) -> bool:
        """Whether there is so much that the next is due at once."""
        now_ns = self._clock()
        if is_round := self._round_due(now_ns):
            self._probes.scan()
            self._going_on_ns = now_ns
        watermark_ns = self._clock()
        drained = self._ring.drain(self._evidence)
        if drained.for_observer:
            self._note_processes(drained.for_observer)
        self._note_losses()
        headers_caught_up = self._read_headers()
        # A record still being written, somewhere before the head: what comes after it cannot be promised yet.
        if drained.caught_up and headers_caught_up and (not self._unknown_since_ns or self._has_settled(watermark_ns)):
            self._evidence.heartbeat(watermark_ns, self._going_on_ns)
        if self._discovery.has_work:
            self._append(self._discovery.step(_DISCOVERY_BUDGET_NS))
        if is_round:
            self._go_round(now_ns)
        return 2 * drained.moved * _RING_RECORD_BYTES > self._ring_bytes

    def tell_statistics(self) -> None:
        """Into the log, for the end."""
        self._log.info(
            "observed", processes=len(self._discovery.watched), lost=self._lost, **asdict(self._discovery.statistics)
        )

    def _note_processes(self, records: bytes) -> None:
        for event in Event.iter_unpack(records):
            if event.kind is EventKind.PROCESS_EXEC:
                self._discovery.process_began(event.tgid, event.end_ns)
            elif event.kind is EventKind.PROCESS_EXIT:
                self._discovery.process_ended(event.tgid)

    def _read_headers(self) -> bool:
        """Writes what the header blocks say, too, before the heartbeat that covers it. Whether that was all."""
        if self._headers is None:
            return True
        events, caught_up = self._headers.drain()
        if events:
            self._append(events)
        return caught_up

    def _note_losses(self) -> None:
        since_ns, self._losses_read_ns = self._losses_read_ns, self._clock()
        lost = self._probes.slots.newly_lost()
        if not lost:
            return
        self._lost += sum(lost.values())
        now_ns = self._clock()
        self._append(Event(kind=EventKind.LOSS, tgid=tgid, start_ns=since_ns, end_ns=now_ns, fd=-1) for tgid in lost)
        for tgid, count in lost.items():
            if self._first_time(("lost", tgid)):
                whose = {"pid": tgid} if tgid else {}
                self._log.warning("events were lost: their spans say that they are incomplete", count=count, **whose)
        if _EVERYBODY in lost:
            self._discovery.rescan()  # among the lost may be that a process began

    def _has_settled(self, now_ns: int) -> bool:
        """Whether it is known whom to watch. Says so in the log."""
        if not self._discovery.is_settled and now_ns < self._settle_until_ns:
            return False
        self._append([Event(kind=EventKind.LOSS, start_ns=self._unknown_since_ns, end_ns=now_ns, fd=-1)])
        self._unknown_since_ns = 0
        return True

    def _go_round(self, now_ns: int) -> None:
        if self._rescan_due(now_ns):
            self._discovery.rescan()
        if self._headers is not None:
            self._headers.forget(self._discovery.watched)
        if self._discovery.watched:
            self._watching_ns = now_ns
        elif now_ns - self._watching_ns > _REST_AFTER_NS:
            self._probes.rest()
        if self._announcement_due(now_ns):
            self._append(self._discovery.announced)
            if self._senders is not None:
                self._append(self._senders.known(now_ns))
        if self._senders is not None and self._senders_due(now_ns):
            self._find_senders(self._senders, now_ns)
        if self._failures_due(now_ns):
            self._tell_failures()

    def _find_senders(self, senders: Senders, now_ns: int) -> None:
        tgids = self._discovery.without_span_ends
        if not tgids:
            return
        try:
            self._append(senders.poll(tgids, now_ns))
        except SocketsUnreadable as error:
            if self._first_time("senders"):
                self._log.warning("the senders of spans are not known", error=error)

    def _tell_failures(self) -> None:
        for failure in self._probes.failures():
            if self._first_time((failure.program, failure.line, failure.error)):
                self._log.warning(
                    "a probe could not do all its work",
                    program=failure.program.name.lower(),
                    line=failure.line,
                    error=errno.errorcode.get(failure.error, str(failure.error)),
                    count=failure.count,
                )

    def _append(self, events: Iterable[Event]) -> None:
        self._evidence.append(b"".join(event.pack() for event in events))
