"""What happens to what was accepted: held until its evidence is whole, decided, handed on.

The queue has checked and answered each request where it came in; from then on it is ours to deliver or to count. All
that follows is done by one thread, so that evidence, hold and methods need no locks. It works off what has gathered
since its last turn, joined to larger requests.
"""

import itertools
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final, TypeVar

from enricher._native import Entry, EvidenceIndex, MalformedLog, Queue
from enricher.join.hold import Held, Hold, Known
from enricher.join.joiner import Joined, Joiner, OpenUntil
from enricher.join.methods.method import Request, Window
from enricher.otlp.memory import MemoryLimit
from enricher.otlp.queue import JOIN_BYTES
from enricher.otlp.transport import StatusCode
from enricher.recording.entries import Decision, Verdict
from enricher.recording.journal import Journal
from enricher.telemetry.health import EvidenceState, evidence_state
from enricher.telemetry.logs import FirstTimes, get_logger
from enricher.telemetry.metrics import Histogram, Series

if TYPE_CHECKING:
    from enricher.otlp.durable import DurableQueue

# Requests that wait for evidence are looked at this often; the watermark itself moves every 40 ms. Twice as often
# took a tenth more CPU time for each span under load.
TURN_S = 0.01
# Under load a turn waits until so much has passed since the last: what comes meanwhile is taken, and sent, as one.
LEAST_TURN_NS: Final = 200_000
# With nothing to do the log must still be read, long before it can overtake us.
IDLE_TURN_S = 0.1
# Evidence may be this late before a request leaves without it.
PATIENCE_NS = 1_000_000_000
# What is read of both clocks is as near to one moment as this, or the nearest of so many tries.
CLOCKS_WITHIN_NS: Final = 3_000
CLOCK_TRIES: Final = 5
# Spans come first: this is for how long a turn answers questions about spans that have left.
QUESTIONS_NS: Final = 5_000_000
# Most requests leave at once, those with a server span after their tail of 300 ms, none later than tail and patience.
HOLD_BOUNDS_S: Final = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 1.5, 2.5)

# What a sender is asked to wait where its request could not be stored; as where the queue is full.
_COME_AGAIN_NS: Final = 1_000_000_000

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Taken:
    """A request that was accepted and is not yet handed on."""

    number: int
    request: Request
    entry: Entry


class Policy:
    """Between what the queue has taken in and what is ready to be sent."""

    def __init__(
        self,
        index: EvidenceIndex,
        joiner: Joiner,
        queue: Queue,
        journal: Journal,
        *,
        memory: MemoryLimit | None = None,
        store: "DurableQueue | None" = None,
        tail_ns: int,
        threshold_ns: int,
        max_body_bytes: int,
        join_bytes: int = JOIN_BYTES,
        clock_ns: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self._index = index
        self._joiner = joiner
        self._queue = queue
        self._memory = memory
        self._store = store
        self._tail_ns = tail_ns
        self._threshold_ns = threshold_ns
        self._max_body_bytes = max_body_bytes
        self._join_bytes = join_bytes
        self._clock_ns = clock_ns
        self._journal = journal
        self._numbers = itertools.count(1)
        self._questions: deque[tuple[Future[Any], Callable[[Joiner], Any]]] = deque()
        self._hold: Hold[Taken] = Hold(tail_ns, PATIENCE_NS)
        self._first_times = FirstTimes()
        self._log = get_logger()
        self._held_s = Histogram("join_hold_seconds", "time that a request was held until decided", HOLD_BOUNDS_S, "s")
        self._log_lag = 0  # records
        self._end_at_ns = 0
        self._turned_ns = 0
        self._failed_decisions = 0
        self._too_large = 0
        self._heartbeat_seen_ns = 0
        self._evidence = EvidenceState.NONE
        self._thread = threading.Thread(target=self._run, name="policy", daemon=True)

    def start(self) -> None:
        """Begins to work off what is taken."""
        self._thread.start()

    def stop(self, patience_s: float) -> None:
        """Hands on all that was taken: with its evidence where that comes in time, without it where not.

        Nothing more is accepted when this is called.
        """
        self._end_at_ns = self._clock_ns() + int(patience_s * 1e9)
        self._queue.end_intake()
        self._thread.join()

    @property
    def working(self) -> bool:
        """Whether its thread lives."""
        return self._thread.is_alive()

    def heartbeat_seen_ns(self) -> int:
        """When evidence was last heard of, CLOCK_MONOTONIC; 0: never."""
        return self._heartbeat_seen_ns

    def ask(self, question: Callable[[Joiner], T]) -> Future[T]:
        """Has `question` answered on the policy's thread, which alone may touch the join. It must be short."""
        answer: Future[T] = Future()
        self._questions.append((answer, question))
        self._queue.wake()
        return answer

    def series(self) -> Iterator[Series]:
        """For the metrics."""
        tally = self._joiner.tally
        yield Series("join_matched_spans", "counter", "spans whose identity was found", "method", dict(tally.matched))
        unmatched = {"evidence_missed": tally.missed, "no_evidence": tally.unmatched - tally.missed}
        yield Series("join_unmatched_spans", "counter", "spans whose identity was not found", "reason", unmatched)
        for name, meaning, value in (
            ("join_enriched_spans", "spans that left with a claim", tally.enriched),
            ("join_incomplete_spans", "spans that left with ebpf.complete=false", tally.incomplete),
            (
                "join_too_large",
                "requests forwarded untouched as claims would have made them too large",
                self._too_large,
            ),
            ("join_failed_decisions", "requests forwarded untouched after a fault in a rule", self._failed_decisions),
        ):
            yield Series(name, "counter", meaning, "", {"": value})
        yield self._held_s.series()
        yield Series.gauge("join_held_requests", "requests that wait for evidence", len(self._hold))
        if self._joiner.sampler:
            yield from self._joiner.sampler.series()
        # How far behind the kernel all this is, by the rings and by the log.
        lag_ns = max(0, self._clock_ns() - self._index.watermark_ns) if self._index.watermark_ns else 0
        meaning = "time since the last moment of which all evidence is known; 0 where there is none yet"
        yield Series.gauge("evidence_lag_seconds", meaning, lag_ns / 1e9, "s")
        meaning = "records that the last look into the evidence log found new, of those that have room in it"
        yield Series.gauge("evidence_log_lag_records", meaning, self._log_lag)
        for name, value in self._index.statistics().items():
            yield Series.gauge(f"evidence_{name}", "of the evidence index", value)

    def _run(self) -> None:
        while True:
            ending = self._end_at_ns != 0
            if self._hold:
                time.sleep(TURN_S)
            elif (left_ns := self._turned_ns + LEAST_TURN_NS - self._clock_ns()) > 0:
                time.sleep(left_ns / 1e9)
            self._turn(0 if self._hold or ending else IDLE_TURN_S)
            if ending and not self._hold:
                return  # what was accepted before `stop` was there before this turn

    def _turn(self, patience_s: float) -> None:
        """Waits for so long at most for something new."""
        entries = self._queue.take_new(patience_s, self._join_bytes if self._journal.joins else 0)
        if entries:
            self._turned_ns = self._clock_ns()
        self._poll()
        if sampler := self._joiner.sampler:
            sampler.refresh()
            self._journal.sampling(sampler.settings)
        now_ns = self._clock_ns()
        known = self._known(now_ns)
        settled_ns = max(known.going_on_ns, now_ns - PATIENCE_NS)
        window = Window(self._tail_ns, self._threshold_ns, settled_ns)
        last_window = replace(window, settled_ns=None)
        decided: list[Entry] = []
        emptied: list[Entry] = []  # of these no span is left
        for entry in self._stored(entries) if self._store else entries:
            if self._store and self._store.decided_before(entry):
                decided.append(entry)
            else:
                self._take(entry, now_ns)
        for held in self._hold.due(known, now_ns):
            patient = known.live and now_ns - held.arrived_ns < self._hold.longest_ns
            if self._decide(held, window if patient else last_window, now_ns):
                (decided if held.item.entry.spans else emptied).append(held.item.entry)
                self._held_s.add((now_ns - held.arrived_ns) / 1e9)
        if decided:
            if self._store:
                self._store.decided(decided)
            self._queue.put(decided)
        if emptied:
            if self._store:
                self._store.released(emptied)
            self._queue.release(emptied)
        if self._store:
            self._store.turn()
            if not self._end_at_ns:
                self._store.recover(self._queue.restore)
        if self._questions:
            self._answer()
        if self._memory:
            self._memory.look()

    def _stored(self, entries: list[Entry]) -> list[Entry]:
        """Those that are safe now; all are answered."""
        assert self._store
        refused = self._store.admitted(entries)
        for entry in refused:
            entry.answer(StatusCode.UNAVAILABLE, "the request cannot be stored now", _COME_AGAIN_NS)
        self._queue.release(list(refused))
        stored = [entry for entry in entries if entry.id]
        for entry in stored:
            entry.answer()
        return stored

    def _take(self, entry: Entry, now_ns: int) -> None:
        assert entry.request is not None
        request = Request(entry.request, entry.peers)
        taken = Taken(next(self._numbers), request, entry)
        try:
            self._journal.came(taken.number, request, now_ns)
            self._joiner.saw(request)
        except BaseException as error:  # noqa: BLE001 - as for a decision
            self._tell_fault(error)
        ends_ns = self._index.kernel_time_ns(request.scanned.last_end_unix_ns)
        self._hold.add(Held(taken, now_ns, ends_ns))

    def _answer(self) -> None:
        until_ns = self._clock_ns() + QUESTIONS_NS
        while self._questions and self._clock_ns() < until_ns:
            answer, question = self._questions.popleft()
            if not answer.set_running_or_notify_cancel():
                continue  # nobody waits for it any more
            try:
                answer.set_result(question(self._joiner))
            except BaseException as error:  # noqa: BLE001 - it is the asker's
                answer.set_exception(error)

    def _poll(self) -> None:
        monotonic_ns, realtime_ns = self._clocks()
        self._index.sample_clock(monotonic_ns, realtime_ns)
        try:
            self._log_lag = self._index.poll()
        except MalformedLog as error:  # then there are no more heartbeats: spans pass untouched
            if self._first_times(type(error)):
                self._log.error("the evidence log cannot be read", error=error)
        self._journal.polled(monotonic_ns, realtime_ns)

    def _clocks(self) -> tuple[int, int]:
        """What both clocks say at one moment, as near as may be: what lies between two readings shifts spans against
        their evidence, and a goroutine takes up its next request some 50 us after a span's end."""
        tightest_ns, found = None, (0, 0)
        for _ in range(CLOCK_TRIES):
            before_ns, realtime_ns, after_ns = self._clock_ns(), time.time_ns(), self._clock_ns()
            if tightest_ns is None or after_ns - before_ns < tightest_ns:
                tightest_ns, found = after_ns - before_ns, ((before_ns + after_ns) // 2, realtime_ns)
            if tightest_ns < CLOCKS_WITHIN_NS:
                break
        return found

    def _known(self, now_ns: int) -> Known:
        self._heartbeat_seen_ns = self._index.heartbeat_seen_ns
        evidence = evidence_state(self._heartbeat_seen_ns, now_ns)
        if evidence is not self._evidence:
            self._log.info("evidence", state=evidence.value, before=self._evidence.value)
            self._evidence = evidence
        in_time = not self._end_at_ns or now_ns < self._end_at_ns
        live = evidence is EvidenceState.LIVE and self._index.watched > 0 and in_time
        return Known(self._index.watermark_ns, self._index.going_on_ns, live)

    def _decide(self, held: Held[Taken], window: Window, now_ns: int) -> bool:
        """False: not decided, and held again."""
        request, body = held.item.request, None
        verdict, open_until_ns = Verdict.UNTOUCHED, 0
        try:
            decision = self._joiner.decide(request, window)
        except BaseException as error:  # noqa: BLE001 - whatever a rule does, a panic in native code too, spans flow on
            self._tell_fault(error)
            verdict = Verdict.FAULT
        else:
            if isinstance(decision, OpenUntil):
                held.open_until_ns = open_until_ns = decision.time_ns
                self._hold.add(held)
                verdict = Verdict.OPEN
            # A backend's limit is most often that of our own receiver. A span without its claims is better than none.
            elif decision.body is not None and len(decision.body) > self._max_body_bytes:
                self._too_large += 1
                verdict = Verdict.TOO_LARGE
            else:
                body = self._apply(decision, held.item.entry)
                verdict = Verdict.UNTOUCHED if body is None else Verdict.CHANGED
        made = Decision(held.item.number, now_ns, window.settled_ns, verdict, open_until_ns, body or b"")
        self._journal.decided(request, made)
        return verdict is not Verdict.OPEN

    def _apply(self, joined: Joined, entry: Entry) -> bytes | None:
        if joined.body is not None:
            entry.replace_body(joined.body)
        if joined.sampled and self._joiner.sampler:
            entry.sampled_out(joined.sampled.sampled_out)
            self._joiner.sampler.count(joined.sampled)
        return joined.body

    def _tell_fault(self, error: BaseException) -> None:
        self._failed_decisions += 1
        if self._first_times(type(error)):
            self._log.exception("a rule failed, its request is forwarded untouched", error=error)
