"""What a transport gives and takes: requests into the queue, and what becomes ready out of it.

A receiver offers each request to the queue (`enricher._native.Queue`), which checks it, counts it, and says what the
sender is to be told. An exporter takes what the policy has decided. What travels between them are bytes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum, IntEnum
from typing import ClassVar, Final, Protocol

from enricher.errors import EnricherError

TRACE_SERVICE: Final = "opentelemetry.proto.collector.trace.v1.TraceService"
EXPORT_METHOD: Final = f"/{TRACE_SERVICE}/Export"


class Outcome(Enum):
    """What became of a request, for the counters. In brackets: what the sender gets, by the OTLP specification."""

    ACCEPTED = "accepted"  # the bounded queue answers for it now [OK]
    MALFORMED = "malformed"  # [INVALID_ARGUMENT]
    TOO_LARGE = "too_large"  # [RESOURCE_EXHAUSTED, without RetryInfo: never to be sent again]
    BUSY = "busy"  # the queue is full, or memory short [UNAVAILABLE with RetryInfo]
    SHUTTING_DOWN = "shutting_down"  # [UNAVAILABLE]
    FAILED = "failed"  # a fault of this program [INTERNAL]
    UNAUTHENTICATED = "unauthenticated"  # [UNAUTHENTICATED]
    ABANDONED = "abandoned"  # its sender has gone before it was whole


class Receiver(Protocol):
    @property
    def port(self) -> int:
        """The bound port, 0 before `start`."""

    def start(self) -> None:
        """Raises CannotListenError."""

    def stop(self, grace_s: float) -> None:
        """Take no new request, give those under way `grace_s`, then cancel them. Blocks until all is over."""


class Exporter(Protocol):
    """Takes from a queue what is ready, and releases it once it is delivered or dropped, and counted."""

    @property
    def alive(self) -> bool:
        """False when a thread that should work has died."""

    def start(self) -> None: ...

    def stop(self, grace_s: float) -> None:
        """Deliver what is still in the queue, for at most `grace_s`; drop and count the rest."""


class StatusCode(IntEnum):
    """gRPC's, which HTTP's are brought to. By its own name: gRPC is not imported for it."""

    OK = 0
    CANCELLED = 1
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    ABORTED = 10
    OUT_OF_RANGE = 11
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    DATA_LOSS = 15
    UNAUTHENTICATED = 16


@dataclass(frozen=True, slots=True)
class Taken:
    """A backend has taken a request, but for so many spans, which must not be sent again."""

    rejected_spans: int = 0  # by its own count, which may be any number
    message: str = ""


@dataclass(frozen=True, slots=True)
class Failure:
    """A backend has not taken a request, or nobody knows whether it has."""

    code: StatusCode
    message: str
    retry_delay_ns: int | None = None  # of the RetryInfo or the Retry-After, if there was one


class Sendable(Protocol):
    """A request to be sent, or several joined: an Entry of the queue, or what has a body."""

    @property
    def body(self) -> bytes: ...


class Sender(Protocol):
    """One way to a backend, or to what stands for one. Thread-safe."""

    @property
    def destination(self) -> str:
        """Where it sends to, for the logs."""

    def send(self, bodies: Sequence[Sendable], timeout_ns: int) -> Taken | Failure:
        """All of `bodies` as one request. Blocks, for about `timeout_ns` at most."""

    def close(self) -> None:
        """Cuts off what is under way; what is sent from then on fails with CANCELLED."""


class ServingStatus(Protocol):
    """What the health service of a transport asks."""

    def serving(self, service: str) -> bool | None:
        """None: there is no such service."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What one receiver takes, so that no sender can make it grow without end."""

    max_message_bytes: int = 4 << 20  # also after decompression
    # An SDK has one under way, a collector ten.
    max_concurrent_streams: int = 64  # on one connection
    # Calls that wait for a thread: so many senders may export at the same moment, the others are asked to come again.
    max_backlog: int = 256
    lookahead_bytes: int = 512 << 10  # of the message of each such call; those that are served get all they need
    # How long a call's message may take from its headers on. Such calls hold a thread each.
    message_timeout_ns: int = 10_000_000_000
    # Of messages that are still coming, over all connections.
    max_bytes_under_way: int = 64 << 20
    max_metadata_bytes: int = 16 << 10
    # A dead peer is noticed after keepalive_time + keepalive_timeout.
    keepalive_time_ns: int = 60_000_000_000
    keepalive_timeout_ns: int = 20_000_000_000
    # SDKs and collectors set up for pings every 10 s are common; less would be answered by closing.
    least_ping_interval_ns: int = 10_000_000_000
    max_connection_age_ns: int = 3_600_000_000_000
    max_connection_age_grace_ns: int = 60_000_000_000
    max_connection_idle_ns: int = 900_000_000_000
    # Measured with 16 requests under way on one core: 2 threads cost 1.4 times, 16 1.1 times what 4 cost.
    handler_threads: int = 4
    # With those for calls whose message is still coming, which hold up to `max_message_bytes` each.
    max_handler_threads: int = 32


class CannotListenError(EnricherError):
    """The endpoint of a receiver cannot be had."""

    code: ClassVar[str] = "cannot_listen"

    def __init__(self, endpoint: str, reason: str, *, fix: str) -> None:
        super().__init__(f"cannot listen on {endpoint}: {reason}", fix=fix)
        self.endpoint = endpoint
        self.reason = reason


class CannotSendError(EnricherError):
    """An exporter cannot be made as it is configured."""

    code: ClassVar[str] = "cannot_send"

    def __init__(self, destination: str, reason: str, *, fix: str) -> None:
        super().__init__(f"cannot send to {destination}: {reason}", fix=fix)
        self.destination = destination
        self.reason = reason
