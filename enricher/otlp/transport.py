"""What a transport gives and takes: raw requests in batches, each with exactly one reply.

A batch and not a request, as crossing into Python is what a native transport would pay for; a reply object and
not a return value, as an answer may have to wait for what another thread finds out.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import ClassVar, Final, Protocol

from enricher.errors import EnricherError

TRACE_SERVICE: Final = "opentelemetry.proto.collector.trace.v1.TraceService"
EXPORT_METHOD: Final = f"/{TRACE_SERVICE}/Export"

# What a sender is asked to wait when the queue is full. Long against the time the queue needs to make room,
# short against what SDKs keep retrying for (about a minute).
RETRY_DELAY_NS: Final = 1_000_000_000


class Outcome(Enum):
    """What became of a request. In brackets: what the sender gets, by the OTLP specification."""

    ACCEPTED = "accepted"  # the bounded queue answers for it now [OK]
    MALFORMED = "malformed"  # [INVALID_ARGUMENT]
    TOO_LARGE = "too_large"  # [RESOURCE_EXHAUSTED, without RetryInfo: never to be sent again]
    BUSY = "busy"  # the queue is full [UNAVAILABLE with RetryInfo]
    SHUTTING_DOWN = "shutting_down"  # [UNAVAILABLE]
    FAILED = "failed"  # a fault of this program [INTERNAL]


class RawRequest(Protocol):
    """One ExportTraceServiceRequest, as it came."""

    @property
    def body(self) -> bytes: ...

    def peer(self) -> str:
        """The sender: "ipv4:127.0.0.1:5555", "ipv6:[::1]:5555" or "unix:...". Asked for only where needed,
        as it costs a call into the transport; can be asked after the reply, too.
        """

    def reply(self, outcome: Outcome, message: str = "") -> None:
        """Answer the sender, from any thread. `message` is for a person to read; "" takes a default.

        A second call raises AlreadyAnsweredError. A sender that has gone meanwhile is no error.
        """


Admit = Callable[[Sequence[RawRequest]], None]
"""Called from a thread of the receiver. Replies to every request, mostly before it returns."""


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


class AlreadyAnsweredError(EnricherError):
    """A second reply to one request: a fault of this program."""

    code: ClassVar[str] = "already_answered"

    def __init__(self, first: Outcome, second: Outcome) -> None:
        super().__init__(f"a request that was answered {first.value} was to be answered {second.value}")
        self.first = first
        self.second = second


class CannotListenError(EnricherError):
    """The endpoint of a receiver cannot be had."""

    code: ClassVar[str] = "cannot_listen"

    def __init__(self, endpoint: str, reason: str, *, fix: str) -> None:
        super().__init__(f"cannot listen on {endpoint}: {reason}", fix=fix)
        self.endpoint = endpoint
        self.reason = reason
