# ruff: noqa: PYI021 - compiled modules have no other place that an editor or a reader would look at
"""What runs per byte, per span or per event: native/, compiled.

Times are integers in ns: `_unix_ns` CLOCK_REALTIME, otherwise CLOCK_MONOTONIC. Lists and bytes are copies.
None of it may be called by two threads at once, but for `Request`, which never changes.
"""

from collections.abc import Callable, Sequence
from typing import Literal, Protocol, TypedDict, final

class MalformedRequest(ValueError):
    """The bytes are not a valid ExportTraceServiceRequest: protobuf's own parser refuses them, too."""

class RequestTooLarge(ValueError):
    """The request would be longer than allowed."""

class MalformedLog(ValueError):
    """The memory is not an evidence log of this version, or its header contradicts itself."""

@final
class Span:
    """What identity needs of a span, as it came: ids may be empty or of any length."""

    @property
    def trace_id(self) -> bytes: ...
    @property
    def span_id(self) -> bytes: ...
    @property
    def parent_span_id(self) -> bytes: ...
    @property
    def kind(self) -> int:
        """A SpanKind of OTLP, or any other number."""

    @property
    def start_unix_ns(self) -> int: ...
    @property
    def end_unix_ns(self) -> int: ...

@final
class Request:
    """A scanned ExportTraceServiceRequest; immutable."""

    @staticmethod
    def scan(body: bytes) -> Request:
        """Reads a request once. Accepts exactly what protobuf's parser accepts, otherwise raises
        MalformedRequest. A large body is scanned without the GIL."""

    @property
    def body(self) -> bytes:
        """The very object that was scanned. Of what came by a transport or was joined, a copy is made when this is
        first asked for."""

    @property
    def size(self) -> int:
        """Of the body, in bytes."""

    @property
    def span_count(self) -> int: ...
    @property
    def last_end_unix_ns(self) -> int:
        """The latest end of a span, 0 if there is no span."""

    @property
    def last_tail_end_unix_ns(self) -> int:
        """The latest end of a span that can have a tail: of kind SERVER. 0 if none."""

    def spans(self) -> list[Span]:
        """In the order in which they stand in the request; a span's place in it is its ordinal."""

    def span_attributes(self, ordinal: int, keys: tuple[str, ...]) -> dict[str, str | int | float | bool]:
        """Of those asked for the ones that are there and scalar; of a repeated key the first. Raises IndexError."""

    def resource_of(self, ordinal: int) -> int:
        """The number of the span's resource in this request. Raises IndexError."""

    def by_origin(self, peers: Sequence[tuple[int, str]]) -> list[list[tuple[int, int]]]:
        """Where the spans of each origin stand, as pairs of the first ordinal and the one behind the last: those whose
        encoded resources are equal and which came from one sender. `peers`: as of an entry; a resource has one."""

    def resource(self, number: int) -> bytes:
        """Its encoded Resource: equal bytes are the same resource. Raises IndexError."""

    def resource_attributes(self, number: int, keys: tuple[str, ...]) -> dict[str, str | int | float | bool]:
        """As `span_attributes`."""

    def splice(self, patches: list[tuple[int, bytes]], fills: Sequence[tuple[list[int] | None, bytes]] = ()) -> bytes:
        """The request with these bytes (from `encode_attributes`) added to spans, all else byte for byte as
        it came.

        `patches` are pairs of ordinal and bytes, ordinals ascending. Each other span gets the bytes of the first of
        `fills` that names it, or that names all (None). Returns `body` itself where nothing is added. Raises
        ValueError where ordinals do not ascend or there is no such span, and for more than 2 GiB; IndexError for an
        ordinal of `fills`, or of `patches` beside them.
        """

    def sample(
        self,
        rule: tuple[int, int, bool],
        kept: list[int],
        patches: list[tuple[int, bytes]],
        fills: list[tuple[list[int] | None, bytes]] = ...,
    ) -> Sampled:
        """Drops spans, and does what `splice` does to the others.

        `rule`: threshold, the ns from which a span is slow (0: none is), whether errors are kept. Kept in any case are
        these, and the ordinals of `kept` (ascending). Of the rest those whose randomness reaches the threshold (0 to
        2**56: all to none) stay, and say so in their tracestate. Messages around spans go where all in them were
        dropped. Raises ValueError as `splice` does.
        """

@final
class Sampled:
    """What `Request.sample` left. Each span is counted once: for the first of these reasons that holds."""

    @property
    def body(self) -> bytes | None:
        """None where all left as it came, empty where no span is left."""

    @property
    def sampled_out(self) -> int: ...
    @property
    def kept_evidence(self) -> int: ...
    @property
    def kept_error(self) -> int: ...
    @property
    def kept_slow(self) -> int: ...
    @property
    def kept_ratio(self) -> int: ...
    @property
    def kept_undecidable(self) -> int:
        """Without a trace id, or with a tracestate that no threshold can be written into."""

@final
class Entry:
    """One accepted request, or several joined, on its way through the queue. Thread-safe."""

    @property
    def request(self) -> Request | None:
        """As it came: of entries from `take_new`."""

    @property
    def peers(self) -> list[tuple[int, str]]:
        """Which spans came from whom: the ordinal of the first, and the sender in gRPC's notation."""

    @property
    def spans(self) -> int:
        """That leave in it."""

    @property
    def requests(self) -> int:
        """How many are joined in it."""

    @property
    def size(self) -> int:
        """Of the body as it leaves, in bytes; 0: it is not in memory."""

    @property
    def body(self) -> bytes:
        """A copy of the body as it leaves. Raises LookupError if it is not in memory."""

    def replace_body(self, body: bytes | None) -> None:
        """None drops it from memory, until it is given back."""

    def sampled_out(self, spans: int) -> None:
        """So many of its spans do not leave: it is for who counts this to count them."""

    id: int
    """Its number in a durable store; 0: it is in none."""

    @property
    def waiting(self) -> int:
        """Senders that wait for their answer."""

    def answer(self, code: int = 0, message: str = "", retry_after_ns: int | None = None) -> None:
        """Answers those that wait, with a status of gRPC."""

@final
class Queue:
    """The bounded queue that every accepted span is in until it is sent or dropped. Thread-safe.

    offer → take_new → put → take → release.
    """

    def __init__(self, max_requests: int, max_bytes: int, max_body_bytes: int, *, answers_late: bool = False) -> None:
        """Bounded by requests and by their bytes, wherever they are; an empty one takes a request of any size up to
        `max_body_bytes`. With `answers_late`, senders wait for `Entry.answer` or the release."""

    def offer(self, body: bytes, peer: str) -> tuple[int, str, int | None]:
        """Takes an ExportTraceServiceRequest, or says why not: the gRPC code for the sender, 0 if it was accepted, what
        it means, and the delay of its RetryInfo in ns. Blocks only where answers are late."""

    def refused(self, outcome: str) -> None:
        """Counts a request that never got as far as `offer`, by an `Outcome`. Raises ValueError."""

    def take_new(self, timeout_s: float, join_bytes: int) -> list[Entry]:
        """All that has come, the oldest first, joined to entries of up to so many bytes. Waits for so long at most, and
        until `wake`."""

    def wake(self) -> None: ...
    def put(self, entries: list[Entry]) -> None:
        """These are decided, and can be sent."""

    def restore(self, body: bytes, id: int) -> bool:  # noqa: A002 - as of an entry
        """Takes in what a durable store has kept, to be decided anew; False: there is no room now. Raises
        MalformedRequest."""

    def take(self, max_bytes: int, timeout_s: float | None = None) -> list[Entry]:
        """The oldest that are ready, together at most so many bytes, but always one. Blocks while there is none; []
        after the timeout, and once the queue is finished."""

    def release(self, entries: list[Entry]) -> None:
        """These are sent or dropped: their places are free. Who still waits for an answer is told that all is well."""

    def refuse_new(self, refusing: bool) -> None:
        """Refuses what is offered for now, as memory is short."""

    def end_intake(self) -> None:
        """Takes nothing new from now on, for good."""

    def close(self) -> None:
        """Nothing more will be put: `take` gives what is left, then nothing."""

    @property
    def finished(self) -> bool:
        """Closed, and nothing left to take."""

    @property
    def capacity(self) -> int:
        """In requests."""

    def statistics(self) -> QueueStatistics: ...

class QueueStatistics(TypedDict):
    requests: int  # accepted and not yet sent or dropped, wherever they are
    bytes: int
    spans: int
    ready: int  # entries that wait to be sent
    accepted_spans: int  # since the start, as are the others
    requests_by_outcome: dict[str, int]
    refused_spans_by_outcome: dict[str, int]

@final
class ServerTls:
    """The files of a listener's TLS, in PEM."""

    def __init__(
        self,
        cert_file: str,
        key_file: str,
        *,
        client_ca_file: str | None = None,
        reload_interval_ns: int = ...,
    ) -> None:
        """With `client_ca_file`, clients must show a certificate of one of these authorities. Files are looked at every
        `reload_interval_ns`; new ones are in force from the next connection on, unfit ones change nothing."""

@final
class Server:
    """Takes OTLP over gRPC and HTTP into a queue, and serves health, pages and control calls. Thread-safe.

    Has two threads of its own: one for all connections, which never takes the GIL, and one for what Python answers, one
    call after the other.
    """

    def __init__(
        self,
        queue: Queue | None,
        told: Callable[[Literal["cannot_accept", "reloaded", "cannot_reload"], str], object],
        *,
        max_streams: int | None = None,
        max_header_bytes: int | None = None,
        max_bytes_under_way: int | None = None,
        message_timeout_ns: int | None = None,
        handshake_timeout_ns: int | None = None,
        keepalive_time_ns: int | None = None,
        keepalive_timeout_ns: int | None = None,
        max_connection_age_ns: int | None = None,
        connection_grace_ns: int | None = None,
        max_connection_idle_ns: int | None = None,
        max_watchers: int | None = None,
        health_holds_ns: int | None = None,
        callback_timeout_ns: int | None = None,
    ) -> None:
        """Without a queue no spans are taken. `told` hears of what a person should know. None: what
        native/src/transport/limits.rs says."""

    def listen(
        self,
        fd: int,
        kind: Literal["grpc", "http", "pages", "control"],
        *,
        max_message_bytes: int = 4194304,
        max_connections: int = 4096,
        tls: ServerTls | None = None,
        bearer_tokens: Sequence[bytes] = (),
        bearer_token_file: str | None = None,
        reload_interval_ns: int = ...,
        traces_path: str = "/v1/traces",
        cors_origins: Sequence[str] = (),
        cors_headers: Sequence[str] = (),
        answer: Callable[[str, str], tuple[int, str, bytes]]
        | Callable[[str, bytes], tuple[int, str, bytes]]
        | None = None,
    ) -> None:
        """Serves a socket that listens already, TCP or Unix; the descriptor may be closed afterwards. Before `start`.

        `answer`, of kind pages: method, path and query → status, content type, content. Of kind control: path of the
        call and its message → gRPC code, what is wrong, and the answer's message. What takes longer than the callback
        timeout is answered without it; where too many wait, at once.

        A request must come with one of the tokens, if there are any; a file has one a line. `cors_origins` may have one
        `*` each. Raises ValueError where certificates, key or tokens are unfit, OSError where the descriptor is,
        RuntimeError after `start`.
        """

    def start(self) -> None:
        """Connections are taken when it returns. Raises OSError."""

    def stop(self, grace_s: float) -> None:
        """Takes nothing new, lets calls under way end for so long, then cuts them. Blocks until all is over."""

    def health(self, service: str, serving: bool) -> None:
        """Says so to health checks. To be said again: after `health_holds_ns` a service that serves does so no more.
        Raises ValueError where there are too many services."""

    def statistics(self) -> dict[str, int]:
        """Counts since the start; `connections` and `bytes_under_way` are as of now."""

def encode_attributes(attributes: dict[str, bool | int | float | str]) -> bytes:
    """Encodes span attributes for `Request.splice`, in the order of the dict.

    Raises TypeError for a value of another type, OverflowError for an int of more than 64 bits,
    UnicodeEncodeError for a str that has no UTF-8.
    """

def json_to_protobuf(json: bytes, limit: int) -> bytes:
    """An ExportTraceServiceRequest in OTLP/JSON as protobuf, of at most `limit` bytes. Works without the GIL.

    Raises MalformedRequest or RequestTooLarge, which say where (path and byte) and what, but nothing of the content.
    """

def json_from_protobuf(body: bytes) -> bytes:
    """An ExportTraceServiceRequest as OTLP/JSON, one line without its end, as the collector writes it: what holds its
    default is left out, and unknown fields, which have no name. Works without the GIL.

    Raises MalformedRequest where `Request.scan` does.
    """

@final
class LogWriter:
    """The writing end of the evidence log. There may be one at a time."""

    def __init__(self, fd: int, capacity: int | None = None) -> None:
        """Makes the log in an empty file (usually a memfd) with room for `capacity` records, or goes on with
        the one that is there. The descriptor may be closed afterwards.

        Raises MalformedLog if there is something else, another capacity than the one asked for, or nothing
        and no capacity was given; OSError if the file cannot be sized or mapped.
        """

    @property
    def position(self) -> int:
        """Records written since the log was made."""

    @property
    def capacity(self) -> int: ...
    @property
    def epoch(self) -> int:
        """How often the log has been opened for writing, this time included."""

    @property
    def last_heartbeat_ns(self) -> int:
        """The watermark of the last heartbeat in the log, by whichever writer; 0 if there is none."""

    def append(self, records: bytes) -> None:
        """Appends packed `Event`s. Raises ValueError where the length is not a multiple of RECORD_SIZE."""

    def heartbeat(self, watermark_ns: int, going_on_ns: int) -> None:
        """Promises that every event up to `watermark_ns` is in the log, and every wait that was going on at
        `going_on_ns`."""

@final
class Drained:
    """What one `Ring.drain` did."""

    @property
    def moved(self) -> int:
        """Records that went into the log."""

    @property
    def foreign(self) -> int:
        """Records of another size or an unknown kind; left out."""

    @property
    def caught_up(self) -> bool:
        """Everything that was in the ring when the call began has been taken. False: a record was being
        written."""

    @property
    def for_observer(self) -> bytes:
        """Packed `Event`s of the kinds PROCESS_EXEC and PROCESS_EXIT; the latter are in the log, too."""

@final
class Ring:
    """A BPF ring buffer, drained into the evidence log."""

    def __init__(self, map_fd: int, size: int) -> None:
        """Maps a BPF_MAP_TYPE_RINGBUF whose max_entries is `size`; the descriptor may be closed afterwards.
        Raises OSError if it cannot be mapped."""

    def drain(self, log: LogWriter) -> Drained:
        """Takes every record up to the first that is still being written."""

@final
class Wait:
    """One blocked system call. Fields as of `struct event` in probes/events.h."""

    @property
    def start_ns(self) -> int: ...
    @property
    def end_ns(self) -> int: ...
    @property
    def goid(self) -> int: ...
    @property
    def parent_goid(self) -> int: ...
    @property
    def tgid(self) -> int: ...
    @property
    def tid(self) -> int: ...
    @property
    def syscall(self) -> int: ...
    @property
    def error(self) -> int: ...
    @property
    def fd(self) -> int: ...
    @property
    def fd_type(self) -> int: ...
    @property
    def wait_kind(self) -> int: ...
    @property
    def flags(self) -> int: ...
    @property
    def going_on(self) -> bool:
        """It was not over when the evidence was read: `end_ns` is only when it was last seen."""

    @property
    def peer_family(self) -> int: ...
    @property
    def peer_port(self) -> int: ...
    @property
    def peer_address(self) -> bytes:
        """4 or 16 bytes; empty for what is not an internet socket."""

    @property
    def label(self) -> bytes:
        """The span id that labels of its goroutine named, empty: none."""

    def peer(self) -> str:
        """`10.0.0.1:80` or `[::1]:80`; for what has no such peer `unix`, `socket`, `pipe`, `file`,
        `directory`, `block device` or `character device`; empty if not even that is known."""

@final
class SpanEvidence:
    """A span that was blocked, in kernel time. `blocked_*` are of its waits clipped to [start_ns,
    tail_end_ns]."""

    @property
    def ordinal(self) -> int: ...
    @property
    def tgid(self) -> int: ...
    @property
    def goid(self) -> int: ...
    @property
    def start_ns(self) -> int: ...
    @property
    def end_ns(self) -> int: ...
    @property
    def tail_end_ns(self) -> int:
        """`end_ns` if the span cannot have a tail."""

    @property
    def complete(self) -> bool:
        """All evidence for this span is here, none was lost, and each of its waits ended within span and
        tail."""

    @property
    def waits(self) -> list[Wait]:
        """By start; at least one."""

    @property
    def longest(self) -> Wait:
        """The one with the longest part inside the span and its tail."""

    @property
    def blocked_ns(self) -> int:
        """Of the union of the waits."""

    @property
    def blocked_after_end_ns(self) -> int:
        """The part of `blocked_ns` after the span's own end."""

    @property
    def blocked_count(self) -> int: ...
    @property
    def kinds(self) -> int:
        """`WaitKind` values of the waits, or-ed."""

    @property
    def via(self) -> str:
        """`connection` if all its waits were those of connections it used as a client, otherwise `goroutine`."""

    @property
    def direct_ns(self) -> int:
        """The part of `blocked_ns` that is in no child span of the same process."""

@final
class Explained:
    """Why a span was tied to a goroutine, or not, and what was thought of each wait. Times are kernel times."""

    @property
    def matched(self) -> bool: ...
    @property
    def why(self) -> str:
        """One sentence."""

    @property
    def tgid(self) -> int: ...
    @property
    def goid(self) -> int:
        """That ended it. 0 and 0 in all that follows: not matched."""

    @property
    def started_goid(self) -> int:
        """That started it, 0: not seen."""

    @property
    def start_ns(self) -> int: ...
    @property
    def end_ns(self) -> int: ...
    @property
    def tail_end_ns(self) -> int: ...
    @property
    def complete(self) -> bool: ...
    @property
    def incomplete_because(self) -> list[str]:
        """Sentences."""

    @property
    def considered(self) -> list[tuple[Wait, bool, str]]:
        """Waits, whether each is the span's, and why."""

@final
class Traceparent:
    """A request whose header was seen, see EVENT_TRACEPARENT."""

    @property
    def tgid(self) -> int: ...
    @property
    def goid(self) -> int:
        """0: not known."""

    @property
    def fd(self) -> int: ...
    @property
    def at_ns(self) -> int: ...
    @property
    def next_ns(self) -> int:
        """When the next header went over that descriptor; 0: none has."""

    @property
    def multiplexed(self) -> bool:
        """Other requests may have been under way on the connection: it was HTTP/2."""

@final
class WatchedProcess:
    """A process and who it is, see EVENT_PROCESS."""

    @property
    def tgid(self) -> int: ...
    @property
    def since_ns(self) -> int: ...
    @property
    def ended_ns(self) -> int:
        """0: it lives."""

    @property
    def flags(self) -> int: ...
    @property
    def start_ticks(self) -> int: ...
    @property
    def inner_pid(self) -> int: ...
    @property
    def container_id(self) -> bytes:
        """16 bytes, all 0: none."""

@final
class Matched:
    """What the index knows of the spans of one request. Numbers in lists are ordinals, ascending."""

    @property
    def evidence(self) -> list[SpanEvidence]:
        """Of the spans that were blocked for as long as the threshold, by ordinal."""

    @property
    def incomplete(self) -> list[int]:
        """Matched spans that are not in `evidence`, and of which evidence was lost or may still come."""

    @property
    def matched(self) -> int:
        """How many spans were tied to a goroutine."""

    @property
    def unmatched(self) -> list[int]: ...
    @property
    def open_until_ns(self) -> int:
        """The end of a tail for which it was too early; then nothing else is told. 0: there is none."""

@final
class EvidenceIndex:
    """A reader of the evidence log, and all it knows, findable."""

    def __init__(self, fd: int, retention_ns: int, max_waits: int, max_span_ends: int) -> None:
        """Reads the log in `fd`, which may be closed afterwards. Span ends and waits are kept for the
        retention time, and at most so many (of span ends: the next power of two, and four times as many where they are
        younger than 6 s).

        Raises MalformedLog if there is no log of this version, OSError if it cannot be mapped.
        """

    def poll(self) -> int:
        """Reads what is new in the log, and forgets what is too old. Returns how many records were read.
        Raises MalformedLog if the log's header contradicts itself."""

    def shed(self, keep_ns: int) -> None:
        """Forgets all evidence but the newest, as memory is short: what is older than this before the watermark counts
        as lost."""

    @property
    def watermark_ns(self) -> int:
        """Every event up to this time has been read, or its loss is known."""

    @property
    def going_on_ns(self) -> int:
        """Every wait that was going on at this time is known."""

    @property
    def heartbeat_seen_ns(self) -> int:
        """When `poll` last came upon a heartbeat that was newer than the one before; 0: never."""

    @property
    def watched(self) -> int:
        """Processes that are watched now."""

    @property
    def watched_without_span_ends(self) -> int:
        """Processes, ended ones within the retention time included, whose span ends are not seen."""

    @staticmethod
    def for_replay(retention_ns: int, max_waits: int, max_span_ends: int) -> EvidenceIndex:
        """One without a log: `poll` reads nothing, `feed` gives it what was recorded."""

    def feed(self, records: bytes, now_ns: int) -> None:
        """Takes packed `Event`s as `take_tapped` gave them; forgets what is too old. Raises ValueError if the size is
        not a multiple of a record's."""

    def tap(self, on: bool) -> None:
        """Whether what `poll` reads is kept for `take_tapped`."""

    def take_tapped(self) -> bytes:
        """The packed `Event`s read since the last call, with heartbeats and, where the log was overtaken, OVERTAKEN."""

    def sample_clock(self, monotonic_ns: int, realtime_ns: int) -> None:
        """What both clocks say at one moment. Steps of more than 1 ms are remembered, the last 64 of them."""

    def kernel_time_ns(self, unix_ns: int) -> int:
        """CLOCK_MONOTONIC at a time of CLOCK_REALTIME, by what was sampled then. Of a time that came twice as the clock
        was set back: the later one. 0 before the machine began."""

    def match(self, request: Request, tail_ns: int, threshold_ns: int, settled_ns: int | None = None) -> Matched:
        """Ties spans to the goroutines they ran on, and to what these and those made by them were blocked in.

        A span's start and end in kernel time are those of the SDK's calls; where only the end was seen, the start
        lies its own duration before, but not before the start it was given. Where its times differ from those of the
        calls by more than 250 ms, it was given them: unmatched. Spans that can have a tail (see `Request`) have one of
        `tail_ns`. Waits of which less than `threshold_ns` lies inside a span and its tail are not its own.

        Gives up, which is cheap, at the first span of which evidence may still come after `settled_ns`.
        """

    def explain(self, request: Request, ordinal: int, tail_ns: int, threshold_ns: int) -> Explained:
        """As `match` for one span, with what was considered."""

    def waits(self, tgid: int, goid: int, start_ns: int, end_ns: int) -> list[Wait]:
        """Of one goroutine, those that overlap, by start."""

    def thread_waits(self, tgid: int, tid: int, start_ns: int, end_ns: int) -> list[Wait]:
        """As `kernel_waits`, of one thread."""

    def labelled_waits(self, span_id: bytes) -> list[Wait]:
        """Waits of goroutines whose labels named this span, of processes whose span ends are not seen; by start."""

    def goroutine_of_connection(self, address: bytes, port: int, before_ns: int) -> tuple[int, int] | None:
        """Process and goroutine that reads from the connection whose other end this is (4 or 16 bytes of address), of
        processes whose span ends are not seen; None if it is not known, was not known before `before_ns`, or if there
        is more than one."""

    def connection_waits(self, tgid: int, fd: int, start_ns: int, end_ns: int) -> list[Wait]:
        """Waits of any goroutine on a descriptor, of processes whose span ends are not seen, that ended in
        (start_ns, end_ns]; by start."""

    def children(self, tgid: int, goid: int, start_ns: int, end_ns: int) -> list[int]:
        """Goroutines made by this one that waited in that time, of processes whose span ends are not seen."""

    def traceparent_read(self, trace_id: bytes, parent_span_id: bytes) -> Traceparent | None:
        """The request with this header that a server read; None also if there was more than one."""

    def traceparent_written(self, trace_id: bytes, span_id: bytes) -> Traceparent | None:
        """The request with this header that a client wrote; None also if there was more than one."""

    def processes(self) -> list[WatchedProcess]:
        """Those watched now, or ended within the retention time."""

    def kernel_waits(self, tgid: int, start_ns: int, end_ns: int) -> list[Wait]:
        """Sleeps inside system calls of a process whose span ends are not seen, of all its threads, by
        start."""

    def sender(self, peer: str) -> int | None:
        """The process that has this end of a connection, in gRPC's notation (`ipv4:127.0.0.1:5555`); of a Unix socket
        (`unix:pid=42`), if it is a watched one."""

    def process(self, tgid: int) -> tuple[int, int] | None:
        """Since when it is watched, and its PROCESS_* flags; None if it is not."""

    def missed(self, request: Request, ordinals: list[int], tgids: tuple[int, ...], tick_ns: int) -> list[int]:
        """Those of the spans of which something may have been missed, if they were of one of these processes: evidence
        was lost in their time, or the process ran then and was not watched yet. `tick_ns`: the unit of `start_ticks`.
        Raises IndexError."""

    def lost(self, start_ns: int, end_ns: int, tgid: int) -> bool:
        """Whether evidence of this process (0: of any) between these times was lost, is so old that it may have been
        forgotten, or is not all here yet."""

    def statistics(self) -> dict[str, int]:
        """What is held now and, ending in `_total`, what has been counted since the index was made."""

class UnusableClient(ValueError):
    """What was given to a Client cannot be used; says what, and why."""

@final
class ClientTls:
    """Whom to trust, and who we are; PEM files, read again when they have changed."""

    def __init__(
        self,
        *,
        ca_file: str | None = None,
        cert_file: str | None = None,
        key_file: str | None = None,
        server_name: str | None = None,
        skip_verify: bool = False,
        reload_interval_ns: int,
    ) -> None:
        """Without `ca_file` the authorities of this machine are trusted. Certificate and key: both or none."""

class _Sendable(Protocol):
    @property
    def body(self) -> bytes: ...

@final
class Client:
    """Sends to one backend. Thread-safe. What is under way shares a thread that Python knows nothing of."""

    @staticmethod
    def grpc(
        endpoint: str,
        *,
        path: str = ...,
        tls: ClientTls | None = None,
        headers: Sequence[tuple[str, str]] = (),
        compression: Literal["gzip", "zstd"] | None = None,
        keepalive_time_ns: int,
        keepalive_timeout_ns: int,
    ) -> Client:
        """`endpoint`: "host:port" or "unix:///path". Nothing is connected before the first request. Without `tls` in
        plain text. Raises UnusableClient."""

    @staticmethod
    def http(
        endpoint: str,
        *,
        path: str = "/v1/traces",
        encoding: Literal["proto", "json"] = "proto",
        tls: ClientTls | None = None,
        headers: Sequence[tuple[str, str]] = (),
        compression: Literal["gzip", "zstd"] | None = None,
        keepalive_time_ns: int,
        keepalive_timeout_ns: int,
    ) -> Client:
        """As `grpc`. JSON is for traces alone."""

    def send(
        self, bodies: Sequence[_Sendable], timeout_ns: int, *, path: str | None = None
    ) -> tuple[int, str, int | None, int]:
        """Sends all of `bodies` as one request, those of entries without a copy, and blocks without the GIL until it is
        answered, for `timeout_ns` at most: a gRPC code (also for HTTP), what the backend says to it, the delay that it
        asks for in ns, and how many spans a partial success has left out, by the backend's own count."""

    def close(self) -> None:
        """Ends what is under way with CANCELLED, and whatever is sent from then on."""

    @property
    def certificate_problem(self) -> str | None:
        """Why changed certificates are not in use; None where all is well."""

    def statistics(self) -> ClientStatistics: ...

class ClientStatistics(TypedDict):
    """Since the start."""

    connections: int  # that were made
    certificate_reloads: int
    certificate_failed_reloads: int

def request_halves(body: bytes) -> tuple[tuple[bytes, int], tuple[bytes, int]] | None:
    """A request cut in two between its ResourceSpans, each with its number of spans; None: it has only one. Raises
    MalformedRequest."""
