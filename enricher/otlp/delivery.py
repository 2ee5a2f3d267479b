"""From the queue to a backend: joins what is ready into larger requests, and retries by the rules of OTLP.

Requests concatenate: several ExportTraceServiceRequests one after the other are a bigger one, so joining
needs no parsing, and saves the backend and us most of the cost per request. What a backend refuses for good is taken
apart again, so that a request it cannot take does not cost others their spans.

How something is sent is a `Sender`'s business; that every span is sent or counted is this one's.
"""

import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from threading import Event, Thread
from typing import Final, Protocol

from enricher._native import Entry, Queue, request_halves
from enricher.config.model import RetryOnFailure
from enricher.otlp.join_size import JoinSize
from enricher.otlp.retry import Backoff, Verdict, classify
from enricher.otlp.transport import Failure, Sender, StatusCode, Taken
from enricher.telemetry.logs import get_logger
from enricher.telemetry.metrics import Metrics

log = get_logger()

# A quarter of what gRPC servers take by default. 256 KiB measured alike, 64 KiB a fifth dearer at 64 spans a
# request; larger joins have nothing left to gain, 1 MiB being 28 such requests.
MAX_BATCH_BYTES: Final = 1 << 20
_SAME_TROUBLE_NS: Final = 30_000_000_000  # between two lines in the log about one status
# How long a thread may take to notice that its sender was closed. One that writes to a stopped terminal does not.
_CLOSE_PATIENCE_S: Final = 2.0
# Refusals that have nothing to do with what was sent.
_OF_ANY_REQUEST: Final = frozenset({StatusCode.UNAUTHENTICATED, StatusCode.PERMISSION_DENIED, StatusCode.UNIMPLEMENTED})


@dataclass(frozen=True, slots=True, kw_only=True)
class DeliverySettings:
    timeout_ns: int  # of one try
    retry: RetryOnFailure = field(default_factory=RetryOnFailure)
    consumers: int = 1  # threads, each with one request under way
    max_batch_bytes: int = MAX_BATCH_BYTES
    # Senders wait for what the backend says: they are told, and nothing is sent again from here.
    on_forward: bool = False


@dataclass(frozen=True, slots=True)
class Part:
    """Some spans of an entry, where they are sent by themselves."""

    body: bytes
    spans: int


Piece = Entry | Part


class Store(Protocol):
    """Where requests are kept until they are delivered: `durable.DurableQueue`. Thread-safe."""

    def sending(self, entries: Sequence[Entry], /) -> Sequence[Entry]:
        """To be called before they are sent. Returns those whose body is lost."""

    def released(self, entries: Sequence[Entry], /) -> None:
        """These are delivered, or dropped and counted."""


class Delivery:
    """An `Exporter` over a `Sender`."""

    def __init__(
        self,
        settings: DeliverySettings,
        sender: Sender,
        queue: Queue,
        metrics: Metrics,
        store: Store | None = None,
        *,
        clock_ns: Callable[[], int] = time.monotonic_ns,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._settings = settings
        self._sender = sender
        self._queue = queue
        self._metrics = metrics
        self._store = store
        self._left: set[int] = set()  # in the store, for the next process
        self._join_size = JoinSize(settings.max_batch_bytes)
        self._clock_ns = clock_ns
        self._jitter = jitter
        self._backoff = Backoff(settings.retry)
        self._over = Event()
        self._troubles: dict[StatusCode, int] = {}  # when each was last told
        self._away = False
        self._threads = [
            Thread(target=self._consume, name=f"exporter-{number}", daemon=True) for number in range(settings.consumers)
        ]

    @property
    def alive(self) -> bool:
        return all(thread.is_alive() for thread in self._threads)

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self, grace_s: float) -> None:
        self._queue.close()
        self._join(grace_s)
        self._over.set()
        self._sender.close()
        self._join(_CLOSE_PATIENCE_S)
        while left := self._queue.take(self._join_size.bytes):
            self._drop_for_shutdown(left)
            self._queue.release(left)

    def _join(self, patience_s: float) -> None:
        deadline_ns = self._clock_ns() + int(patience_s * 1e9)
        for thread in self._threads:
            thread.join(max(0.0, (deadline_ns - self._clock_ns()) / 1e9))

    def _consume(self) -> None:
        while not self._over.is_set() and (batch := self._queue.take(self._join_size.bytes)):
            if self._store is None:
                self._deliver(batch)
            else:
                self._deliver_stored(batch, self._store)
            self._queue.release(batch)

    def _deliver_stored(self, batch: Sequence[Entry], store: Store) -> None:
        lost = store.sending(batch)
        if lost:
            self._drop(lost, "damaged", Failure(StatusCode.DATA_LOSS, "the stored request is damaged"))
        if sound := [entry for entry in batch if entry not in lost] if lost else batch:
            self._deliver(sound)
        store.released([entry for entry in batch if entry.id not in self._left])

    def _deliver(self, batch: Sequence[Piece]) -> bool:
        """Send, and account for every span of `batch`. True if the backend took it."""
        try:
            return self._send_until_settled(batch)
        except Exception:  # a thread that dies here would leave its share of the queue undelivered
            log.exception("a request could not be sent", requests=len(batch))
            self._drop(batch, "fault", Failure(StatusCode.INTERNAL, "a fault of the enricher"))
            return False

    def _send_until_settled(self, batch: Sequence[Piece]) -> bool:
        began_ns = self._clock_ns()
        failures = 0
        while True:
            answer = self._sender.send(batch, self._settings.timeout_ns)
            if isinstance(answer, Taken):
                self._taken(batch, answer)
                return True
            failures += 1
            verdict = classify(answer.code, answer.retry_delay_ns)
            if self._over.is_set():
                self._drop_for_shutdown(batch)
                return False
            if (
                verdict is not Verdict.RETRY
                and answer.code not in _OF_ANY_REQUEST
                and (halves := _halves(batch)) is not None
            ):
                return self._send_in_halves(halves, answer, verdict)
            delay_ns = None
            if verdict is Verdict.RETRY and not self._settings.on_forward:
                elapsed_ns = self._clock_ns() - began_ns
                delay_ns = self._backoff.delay_ns(failures, elapsed_ns, answer.retry_delay_ns, self._jitter())
            self._tell(answer, delay_ns, len(batch))
            if delay_ns is None:
                self._drop(batch, answer.code.name.lower(), answer)
                return False
            self._over.wait(delay_ns / 1e9)
            self._metrics.exporter_retries.add(1, answer.code.name.lower())

    def _send_in_halves(
        self, halves: tuple[Sequence[Piece], Sequence[Piece]], failure: Failure, verdict: Verdict
    ) -> bool:
        """Until only what the backend cannot take is refused: for n requests and one such, 2 log₂ n more are sent."""
        size = sum(_size(piece) for half in halves for piece in half)
        if self._is_news(failure.code):
            log.info(
                "the backend refused a joined request; sending its parts",
                status=failure.code.name,
                message=failure.message,
                bytes=size,
            )
        taken = [self._deliver(half) for half in halves]
        if all(taken) and verdict is Verdict.TOO_LARGE:  # else it is no question of size
            self._join_size.too_large(size)
        return all(taken)

    def _taken(self, batch: Sequence[Piece], answer: Taken) -> None:
        spans = sum(piece.spans for piece in batch)
        rejected = max(0, min(answer.rejected_spans, spans))
        if (rejected or answer.message) and self._is_news(StatusCode.OK):
            log.warning("the backend did not take every span", rejected=rejected, of=spans, message=answer.message)
        # Rejected spans are lost: by the specification a partial success must not be sent again.
        self._metrics.exporter_send_failed_spans.add(rejected, "rejected")
        self._metrics.exporter_sent_spans.add(spans - rejected)
        self._join_size.taken()
        if self._away:
            self._away = False
            log.info("the backend takes spans again", endpoint=self._sender.destination)

    def _drop_for_shutdown(self, batch: Sequence[Piece]) -> None:
        if self._store is not None:
            # Of an entry whose other part is settled, a part is not kept.
            self._left.update(piece.id for piece in batch if isinstance(piece, Entry))
            batch = [piece for piece in batch if not isinstance(piece, Entry)]
        self._drop(batch, "shutdown", Failure(StatusCode.UNAVAILABLE, "shutting down"))

    def _drop(self, batch: Sequence[Piece], reason: str, failure: Failure) -> None:
        self._metrics.exporter_send_failed_spans.add(sum(piece.spans for piece in batch), reason)
        for piece in batch:
            if isinstance(piece, Entry):  # where a part of one was refused, the rest of it was taken
                piece.answer(failure.code, failure.message, failure.retry_delay_ns)

    def _tell(self, failure: Failure, delay_ns: int | None, requests: int) -> None:
        self._away = self._away or delay_ns is not None
        if self._is_news(failure.code):
            log.warning(
                "the backend did not take a request; its spans are dropped"
                if delay_ns is None
                else "the backend did not take a request; trying again",
                endpoint=self._sender.destination,
                status=failure.code.name,
                message=failure.message,
                requests=requests,
                next_try_s=None if delay_ns is None else round(delay_ns / 1e9, 3),
            )

    def _is_news(self, code: StatusCode) -> bool:
        now_ns = self._clock_ns()
        last_ns = self._troubles.get(code)
        if last_ns is not None and now_ns - last_ns < _SAME_TROUBLE_NS:
            return False
        self._troubles[code] = now_ns
        return True


def _halves(batch: Sequence[Piece]) -> tuple[Sequence[Piece], Sequence[Piece]] | None:
    """None where there is only one thing to send. An entry may hold several requests that came at about one time."""
    if len(batch) > 1:
        middle = len(batch) // 2
        return batch[:middle], batch[middle:]
    piece = batch[0]
    if isinstance(piece, Entry) and (piece.requests == 1 or piece.waiting):
        return None
    parts = request_halves(piece.body)
    return None if parts is None else ([Part(*parts[0])], [Part(*parts[1])])


def _size(piece: Piece) -> int:
    return piece.size if isinstance(piece, Entry) else len(piece.body)
