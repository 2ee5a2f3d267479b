"""OTLP/gRPC out, on grpcio: joins what is ready into larger requests, and retries by the rules of OTLP.

Requests concatenate: several ExportTraceServiceRequests one after the other are a bigger one, so joining
needs no parsing, and saves the backend and us most of the cost per request. What a backend refuses for good is taken
apart again, so that a request it cannot take does not cost others their spans.
"""

import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from threading import Event, Thread
from typing import Final

import grpc

from enricher._native import Entry, Queue
from enricher.config.model import OtlpGrpcExporter
from enricher.otlp.join_size import JoinSize
from enricher.otlp.retry import Backoff, Verdict, classify
from enricher.otlp.rpc_status import DETAILS_KEY, retry_delay_ns
from enricher.otlp.transport import EXPORT_METHOD
from enricher.telemetry.logs import get_logger
from enricher.telemetry.metrics import Metrics

log = get_logger()

# A quarter of what gRPC servers take by default. 256 KiB measured alike, 64 KiB a fifth dearer at 64 spans a
# request; larger joins have nothing left to gain, 1 MiB being 28 such requests.
MAX_BATCH_BYTES: Final = 1 << 20
_SAME_TROUBLE_NS: Final = 30_000_000_000  # between two lines in the log about one status
# What a backend answers to say that all went well: nothing, or an empty partial_success (the collector does).
_PLAIN_SUCCESS: Final = frozenset({b"", b"\n\x00"})
# Refusals that have nothing to do with what was sent.
_OF_ANY_REQUEST: Final = frozenset(
    {grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.UNIMPLEMENTED}
)
# How core says that an answer is larger than we take, which is 4 MiB.
_HUGE_ANSWER: Final = "CLIENT: Received message larger than max"


@dataclass(frozen=True, slots=True)
class Failure:
    code: grpc.StatusCode
    message: str
    retry_delay_ns: int | None  # of the RetryInfo, if there was one


class GrpcioExporter:
    """Sends to `settings.endpoint` on `num_consumers` threads, each with one request under way."""

    def __init__(
        self,
        settings: OtlpGrpcExporter,
        queue: Queue,
        metrics: Metrics,
        *,
        max_batch_bytes: int = MAX_BATCH_BYTES,
        clock_ns: Callable[[], int] = time.monotonic_ns,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        assert settings.plaintext, "there is no TLS on this transport"
        self._settings = settings
        self._queue = queue
        self._metrics = metrics
        self._join_size = JoinSize(max_batch_bytes)
        self._clock_ns = clock_ns
        self._jitter = jitter
        self._backoff = Backoff(settings.retry_on_failure)
        self._metadata = tuple(settings.headers.items())
        self._channel = grpc.insecure_channel(
            f"dns:///{settings.targets[0].address}", options=_options(settings), compression=_compression(settings)
        )
        self._export = self._channel.unary_unary(EXPORT_METHOD, None, None)
        self._over = Event()
        self._troubles: dict[grpc.StatusCode, int] = {}  # when each was last told
        self._away = False
        self._threads = [
            Thread(target=self._consume, name=f"exporter-{number}", daemon=True)
            for number in range(settings.sending_queue.num_consumers)
        ]

    @property
    def alive(self) -> bool:
        return all(thread.is_alive() for thread in self._threads)

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self, grace_s: float) -> None:
        self._queue.close()
        deadline_ns = self._clock_ns() + int(grace_s * 1e9)
        for thread in self._threads:
            thread.join(max(0.0, (deadline_ns - self._clock_ns()) / 1e9))
        self._over.set()
        self._channel.close()  # cancels what is under way
        for thread in self._threads:
            thread.join()
        while left := self._queue.take(self._join_size.bytes):
            self._drop(left, "shutdown")
            self._queue.release(left)

    def _consume(self) -> None:
        while not self._over.is_set() and (batch := self._queue.take(self._join_size.bytes)):
            self._deliver(batch)
            self._queue.release(batch)

    def _deliver(self, batch: Sequence[Entry]) -> bool:
        """Send, and account for every span of `batch`. True if the backend took it."""
        try:
            return self._send_until_settled(batch)
        except Exception:  # a thread that dies here would leave its share of the queue undelivered
            log.exception("a request could not be sent", requests=len(batch))
            self._drop(batch, "fault")
            return False

    def _send_until_settled(self, batch: Sequence[Entry]) -> bool:
        body = b"".join([entry.body for entry in batch])
        began_ns = self._clock_ns()
        failures = 0
        while True:
            answer = self._send(body)
            if isinstance(answer, bytes):
                self._taken(batch, answer)
                return True
            failures += 1
            verdict = classify(answer.code, answer.retry_delay_ns)
            if self._over.is_set():
                self._drop(batch, "shutdown")
                return False
            if verdict is not Verdict.RETRY and len(batch) > 1 and answer.code not in _OF_ANY_REQUEST:
                return self._send_in_halves(batch, len(body), answer, verdict)
            delay_ns = None
            if verdict is Verdict.RETRY:
                elapsed_ns = self._clock_ns() - began_ns
                delay_ns = self._backoff.delay_ns(failures, elapsed_ns, answer.retry_delay_ns, self._jitter())
            self._tell(answer, delay_ns, len(batch))
            if delay_ns is None:
                self._drop(batch, answer.code.name.lower())
                return False
            self._over.wait(delay_ns / 1e9)
            self._metrics.exporter_retries.add(1, answer.code.name.lower())

    def _send(self, body: bytes) -> bytes | Failure:
        """The answer of the backend to `body`."""
        try:
            # Not wait_for_ready: a backend that is away would show as a deadline exceeded, without the reason.
            answer: bytes = self._export(body, timeout=self._settings.timeout_ns / 1e9, metadata=self._metadata)
        except grpc.RpcError as error:
            call: grpc.Call = error  # type: ignore[assignment]  # grpcio raises the call itself
            if _HUGE_ANSWER in (call.details() or ""):
                return b""  # it has answered, and to send again would double the spans
            return Failure(call.code(), call.details() or "", _retry_delay_ns(call))
        except ValueError:
            if not self._over.is_set():
                raise
            # The channel was closed under us.
            return Failure(grpc.StatusCode.CANCELLED, "shutting down", None)
        return answer

    def _send_in_halves(self, batch: Sequence[Entry], size: int, failure: Failure, verdict: Verdict) -> bool:
        """Until only what the backend cannot take is refused: for n requests and one such, 2 log₂ n more are sent."""
        if self._is_news(failure.code):
            log.info(
                "the backend refused a joined request; sending its parts",
                status=failure.code.name,
                message=failure.message,
                bytes=size,
                requests=len(batch),
            )
        middle = len(batch) // 2
        taken = [self._deliver(half) for half in (batch[:middle], batch[middle:])]
        if all(taken) and verdict is Verdict.TOO_LARGE:  # else it is no question of size
            self._join_size.too_large(size)
        return all(taken)

    def _taken(self, batch: Sequence[Entry], answer: bytes) -> None:
        spans = sum(entry.spans for entry in batch)
        rejected = 0
        if answer not in _PLAIN_SUCCESS:
            rejected, message = _partial_success(answer)
            rejected = max(0, min(rejected, spans))
            if (rejected or message) and self._is_news(grpc.StatusCode.OK):
                log.warning("the backend did not take every span", rejected=rejected, of=spans, message=message)
        # Rejected spans are lost: by the specification a partial success must not be sent again.
        self._metrics.exporter_send_failed_spans.add(rejected, "rejected")
        self._metrics.exporter_sent_spans.add(spans - rejected)
        self._join_size.taken()
        if self._away:
            self._away = False
            log.info("the backend takes spans again", endpoint=self._settings.endpoint)

    def _drop(self, batch: Sequence[Entry], reason: str) -> None:
        self._metrics.exporter_send_failed_spans.add(sum(entry.spans for entry in batch), reason)

    def _tell(self, failure: Failure, delay_ns: int | None, requests: int) -> None:
        self._away = self._away or delay_ns is not None
        if self._is_news(failure.code):
            log.warning(
                "the backend did not take a request; its spans are dropped"
                if delay_ns is None
                else "the backend did not take a request; trying again",
                endpoint=self._settings.endpoint,
                status=failure.code.name,
                message=failure.message,
                requests=requests,
                next_try_s=None if delay_ns is None else round(delay_ns / 1e9, 3),
            )

    def _is_news(self, code: grpc.StatusCode) -> bool:
        now_ns = self._clock_ns()
        last_ns = self._troubles.get(code)
        if last_ns is not None and now_ns - last_ns < _SAME_TROUBLE_NS:
            return False
        self._troubles[code] = now_ns
        return True


def _retry_delay_ns(call: grpc.Call) -> int | None:
    for key, value in call.trailing_metadata() or ():
        if key == DETAILS_KEY and isinstance(value, bytes):
            return retry_delay_ns(value)
    return None


def _partial_success(answer: bytes) -> tuple[int, str]:
    """Rejected spans, and what the backend says about it."""
    from google.protobuf.message import DecodeError
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse

    try:
        partial = ExportTraceServiceResponse.FromString(answer).partial_success
    except DecodeError:
        return 0, "its answer cannot be read"  # but its status was OK
    return partial.rejected_spans, partial.error_message


def _compression(settings: OtlpGrpcExporter) -> grpc.Compression:
    return grpc.Compression.Gzip if settings.compression == "gzip" else grpc.Compression.NoCompression


def _options(settings: OtlpGrpcExporter) -> Sequence[tuple[str, int | str]]:
    return (
        # Without the version: importlib.metadata, which knows it, costs 3 MiB.
        ("grpc.primary_user_agent", "enricher"),
        # A proxy of the environment is meant for the web, and would be asked even for the loopback.
        ("grpc.enable_http_proxy", 0),
        # Core's own retries would hide from the back-off, and from the counters, what happens.
        ("grpc.enable_retries", 0),
        # Core tries to reconnect on its own, for up to 2 minutes apart: too long for a backend that is back.
        ("grpc.initial_reconnect_backoff_ms", 500),
        ("grpc.max_reconnect_backoff_ms", 5_000),
        # Also how long one attempt to connect may take.
        ("grpc.min_reconnect_backoff_ms", max(1_000, settings.timeout_ns // 1_000_000)),
        # A connection whose other end has vanished is given up, instead of failing every request for minutes.
        ("grpc.keepalive_time_ms", 60_000),
        ("grpc.keepalive_timeout_ms", 20_000),
    )
