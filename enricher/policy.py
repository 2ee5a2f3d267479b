"""What happens to a request: taken, held until its evidence is whole, decided, handed on.

Taking is done on the receiver's thread that brought it, and is answered there: the request is checked, room is
reserved for it, and from then on it is ours to deliver or to count. Everything else is done by one thread, so that
evidence, hold and methods need no locks; it works off what has gathered since its last turn.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from enricher._native import EvidenceIndex, MalformedRequest
from enricher._native import Request as ScannedRequest
from enricher.join.hold import Held, Hold, Known
from enricher.join.joiner import Joiner, OpenUntil
from enricher.join.methods.method import Request, Window
from enricher.otlp.queue import BoundedQueue, Reservation
from enricher.otlp.transport import Outcome, RawRequest
from enricher.telemetry.health import EvidenceState, evidence_state
from enricher.telemetry.logs import FirstTimes, get_logger
from enricher.telemetry.metrics import Metrics, Series

# Requests that wait for evidence are looked at this often; the watermark itself moves every 20 ms.
TURN_S = 0.005
# With nothing to do the log must still be read, long before it can overtake us.
IDLE_TURN_S = 0.1
# Beyond the tail, evidence may be this late before a request leaves without it.
PATIENCE_NS = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Taken:
    """A request that was answered and is not yet handed on."""

    request: Request
    reservation: Reservation


class Policy:
    """Between the receiver and the queue of the exporter."""

    def __init__(
        self,
        index: EvidenceIndex,
        joiner: Joiner,
        queue: BoundedQueue,
        metrics: Metrics,
        *,
        tail_ns: int,
        threshold_ns: int,
        clock_ns: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self._index = index
        self._joiner = joiner
        self._queue = queue
        self._metrics = metrics
        self._tail_ns = tail_ns
        self._threshold_ns = threshold_ns
        self._clock_ns = clock_ns
        self._inbox: deque[Taken] = deque()
        self._hold: Hold[Taken] = Hold(tail_ns + PATIENCE_NS)
        self._first_times = FirstTimes()
        self._log = get_logger()
        self._wake = threading.Event()
        self._ending = False
        self._failed_decisions = 0
        self._evidence = EvidenceState.NONE
        self._thread = threading.Thread(target=self._run, name="policy", daemon=True)

    def start(self) -> None:
        """Begins to work off what is taken."""
        self._thread.start()

    def stop(self, timeout_s: float) -> bool:
        """Hands on what is held, once its evidence is there; False if that took too long.

        Nothing may be admitted any more when this is called.
        """
        self._ending = True
        self._wake.set()
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    @property
    def working(self) -> bool:
        """Whether its thread lives."""
        return self._thread.is_alive()

    def heartbeat_seen_ns(self) -> int:
        """When evidence was last heard of, CLOCK_MONOTONIC; 0: never."""
        return self._index.heartbeat_seen_ns

    def admit(self, batch: Sequence[RawRequest]) -> None:
        """Answers each request, and takes those that are well-formed and for which there is room.

        Called by the receiver, from any of its threads.
        """
        for raw in batch:
            self._admit(raw)
        if not self._wake.is_set():
            self._wake.set()

    def series(self) -> Iterator[Series]:
        """For the metrics."""
        tally = self._joiner.tally
        yield Series("join_matched_spans", "counter", "spans whose identity was found", "method", dict(tally.matched))
        for name, meaning, value in (
            (
                "join_unmatched_spans",
                "spans whose identity was not found",
                tally.unmatched,
            ),
            ("join_enriched_spans", "spans that left with a claim", tally.enriched),
            ("join_incomplete_spans", "spans that left with ebpf.complete=false", tally.incomplete),
            ("join_failed_decisions", "requests forwarded untouched after a fault in a rule", self._failed_decisions),
        ):
            yield Series(name, "counter", meaning, "", {"": value})
        yield Series.gauge("join_held_requests", "requests that wait for evidence", len(self._hold) + len(self._inbox))
        for name, value in self._index.statistics().items():
            yield Series.gauge(f"evidence_{name}", "of the evidence index", value)

    def _admit(self, raw: RawRequest) -> None:
        try:
            scanned = ScannedRequest.scan(raw.body)
        except MalformedRequest as error:
            raw.reply(Outcome.MALFORMED, str(error))
            return
        if scanned.span_count == 0:
            raw.reply(Outcome.ACCEPTED)  # nothing in it to deliver
            return
        reservation = self._queue.reserve(raw.body, scanned.span_count)
        if reservation is None:
            self._metrics.receiver_refused_spans.add(scanned.span_count, Outcome.BUSY.value)
            raw.reply(Outcome.BUSY, "the queue is full")
            return
        self._metrics.receiver_accepted_spans.add(scanned.span_count)
        self._inbox.append(Taken(Request(scanned, raw.peer), reservation))
        raw.reply(Outcome.ACCEPTED)

    def _run(self) -> None:
        while True:
            ending = self._ending
            self._turn()
            if self._hold or (ending and self._inbox):
                time.sleep(TURN_S)
            elif ending:
                return
            else:
                self._wake.wait(IDLE_TURN_S)
                self._wake.clear()

    def _turn(self) -> None:
        self._index.poll()
        now_ns = self._clock_ns()
        window = Window(time.time_ns() - now_ns, self._tail_ns, self._threshold_ns)
        known = self._known(now_ns)
        while self._inbox:
            taken = self._inbox.popleft()
            self._joiner.saw(taken.request, window)
            ends_ns = taken.request.scanned.last_end_unix_ns - window.clock_ns
            self._hold.add(Held(taken, now_ns, ends_ns))
        decisions = [self._decide(held, window, known, now_ns) for held in self._hold.due(known, now_ns)]
        if decided := [reservation for reservation in decisions if reservation]:
            self._queue.put(decided)

    def _known(self, now_ns: int) -> Known:
        evidence = evidence_state(self._index.heartbeat_seen_ns, now_ns)
        if evidence is not self._evidence:
            self._log.info("evidence", state=evidence.value, before=self._evidence.value)
            self._evidence = evidence
        live = evidence is EvidenceState.LIVE and self._index.watched > 0
        return Known(self._index.watermark_ns, self._index.going_on_ns, live)

    def _decide(self, held: Held[Taken], window: Window, known: Known, now_ns: int) -> Reservation | None:
        """None: not decided, and held again."""
        request, reservation = held.item.request, held.item.reservation
        patient = known.live and now_ns - held.arrived_ns < self._hold.longest_ns
        try:
            decision = self._joiner.decide(request, window, known.going_on_ns if patient else None)
        except Exception as error:  # noqa: BLE001 - whatever is wrong with a rule, the spans flow on as they came
            self._failed_decisions += 1
            if self._first_times(type(error)):
                self._log.exception("decision failed, request forwarded untouched", error=error)
            return reservation
        if isinstance(decision, OpenUntil):
            held.open_until_ns = decision.time_ns
            self._hold.add(held)
            return None
        reservation.body = decision
        return reservation
