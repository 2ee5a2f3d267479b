"""A worker, unprivileged: `python -m enricher.pipeline --log-fd N --board-fd N ...`, settings as JSON on its input.

Reads top to bottom as the data flows: receiver, policy (with index and join), queue, exporter.
"""

import argparse
import gc
import importlib
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from enricher import causes
from enricher._native import EvidenceIndex, Queue
from enricher.beat import Beat
from enricher.config.model import Ebpf, Exporter, OtlpExporter, SendingQueue, Settings, Storage
from enricher.control.live_sampling import LiveSampling
from enricher.control.service import MESSAGE_MODULES, Control
from enricher.deadlines import EXPORTER_GRACE_S, POLICY_GRACE_S, RECEIVER_GRACE_S, RECORDER_GRACE_S
from enricher.errors import EnricherError
from enricher.exits import CANNOT_START
from enricher.join.assembly import assembled
from enricher.live import LiveSettings
from enricher.otlp import queue as otlp_queue
from enricher.otlp.memory import MemoryBounds, MemoryLimit
from enricher.otlp.native_receiver import Answer, NativeReceiver
from enricher.otlp.receiving import receivers
from enricher.otlp.sending import assembly
from enricher.place import Place
from enricher.policy import Policy
from enricher.privileges import can_read_as_dropped, die_with_parent, drop
from enricher.recording.file import Head
from enricher.recording.journal import Journal
from enricher.recording.limit import Limit
from enricher.recording.recorder import Recorder
from enricher.sampling.sampler import Sampler
from enricher.telemetry import process_usage
from enricher.telemetry.health import Health
from enricher.telemetry.logs import configure, get_logger
from enricher.telemetry.metrics import Metrics
from enricher.telemetry.pages import Pages
from enricher.trace_answers import TraceAnswers
from enricher.version import installed_version
from enricher.workers import State

if TYPE_CHECKING:
    from enricher.listening import Kind
    from enricher.otlp.durable import DurableQueue
    from enricher.telemetry.push import Push

# At 34,000 spans a second, the most measured for one service, these are the span ends of eight seconds, longer
# than an SDK keeps a span before it exports it (5 s by default).
MAX_SPAN_ENDS = 262_144
MAX_WAITS = 131_072
CHECK_EVERY_S = 1.0
# New objects between two collections. What is held for a tail is young, and would be looked through again and again;
# nothing on the way of a span has cycles.
GC_AFTER = 50_000

# What is imported only where it is needed, which after the change of user may be too late; see `preload`.
LAZY_MODULES = (
    "encodings.ascii",
    "encodings.idna",
    "encodings.latin_1",
    "opentelemetry.proto.collector.trace.v1.trace_service_pb2",
)
# Of that transport alone.
GRPCIO_MODULES = (
    "concurrent.futures.thread",
    "enricher.otlp.grpcio_receiver",
    "google.rpc.error_details_pb2",
    "google.rpc.status_pb2",
    "grpc._channel",
    "grpc._interceptor",
    "grpc._server",
    "grpc._simple_stubs",
    "grpc._utilities",
    "grpc_health.v1.health_pb2",
)
# Where metrics are pushed.
PUSH_MODULES = ("enricher.telemetry.otlp_metrics", "enricher.telemetry.push")


class Pipeline:
    """Everything between the sender and the backend, built from the settings."""

    def __init__(self, settings: Settings, log_fd: int, place: Place, recorder: Recorder | None = None) -> None:
        ebpf = settings.ebpf or Ebpf()
        live = LiveSettings(place.board)
        metrics = Metrics()
        exporter = settings.exporter
        on_forward = settings.receivers.otlp.ack == "on_forward"
        self._store = _store(exporter, place.worker, settings.service.workers)
        places = exporter.sending_queue if isinstance(exporter, OtlpExporter) else SendingQueue()
        queue = Queue(
            places.queue_size,
            self._store.max_bytes if self._store else places.max_bytes,
            settings.max_recv_bytes,
            answers_late=on_forward or self._store is not None,
        )
        line = assembly.Line(queue=queue, metrics=metrics, on_forward=on_forward, store=self._store)
        self._exporter = assembly.exporter(exporter, settings.service.transport, line)
        index = EvidenceIndex(log_fd, ebpf.retention_ns, MAX_WAITS, MAX_SPAN_ENDS)
        enriching = settings.ebpf is not None  # without the processor, requests only pass through
        self._sampler = Sampler(settings.sampling, live) if settings.sampling else None
        joiner = assembled(
            index,
            enriching=enriching,
            stamp_all=ebpf.stamp == "all",
            host=os.uname().nodename,
            sampler=self._sampler,
        )
        self._journal = Journal(index, recorder)
        memory = MemoryLimit(
            MemoryBounds(settings.service.memory.soft_limit_bytes, settings.service.memory.limit_bytes),
            queue,
            index,
            ebpf.retention_ns,
            lambda: queue.statistics()["requests"],
        )
        self._policy = Policy(
            index,
            joiner,
            queue,
            self._journal,
            memory=memory,
            store=self._store,
            tail_ns=ebpf.tail_window_ns,
            threshold_ns=ebpf.blocked_threshold_ns,
            max_body_bytes=settings.max_recv_bytes,
            # The backend's answer is that of one sender, where it is the sender's.
            join_bytes=0 if on_forward else otlp_queue.JOIN_BYTES,
        )
        self._parts: Mapping[str, Callable[[], bool]] = {
            "policy": lambda: self._policy.working,
            "exporter": lambda: self._exporter.alive,
        }
        self._beat = Beat(place.board, place.slot, self._problems, metrics.series)
        explain = TraceAnswers(self._policy, self._journal.recent, ebpf.tail_window_ns, ebpf.blocked_threshold_ns)
        pages = Pages(place.board, self._beat.report, metrics.series, explain, lambda: self._health.evidence().value)
        self._health = Health(self._policy.heartbeat_seen_ns, lambda: self._beat.report().serves, pages.serving)
        answers: dict[Kind, Answer] = {"pages": pages}
        if settings.service.control:
            answers["control"] = Control(LiveSampling(live))
        self._receivers = receivers(
            settings, queue, self._health, place.listening, answers, share_ports=place.share_ports
        )
        self._metrics = metrics
        self._queue = queue
        for source in (
            *(receiver.series for receiver in self._receivers if isinstance(receiver, NativeReceiver)),
            self._policy.series,
            lambda: otlp_queue.series(queue),
            self._health.series,
            self._journal.series,
            memory.series,
            process_usage.series,
            *([self._store.series] if self._store else []),
        ):
            metrics.add_source(source)
        self._push = _push(settings, metrics, place.worker)

    def start(self) -> int:
        """From the backend's end to the sender's, so that what comes in can go out. Returns the receiver's port.

        Raises CannotListenError.
        """
        self._exporter.start()
        self._policy.start()
        self._beat.start()
        for receiver in self._receivers:
            receiver.start()
        if self._push:
            self._push.start()
        self._beat.tell(State.SERVING)
        return self._receivers[0].port

    def stop(self) -> None:
        """From the sender's end to the backend's: what was accepted is delivered, or counted."""
        self._beat.tell(State.ENDING)
        for receiver in self._receivers:
            receiver.stop(RECEIVER_GRACE_S)
        self._policy.stop(POLICY_GRACE_S)
        self._journal.close(RECORDER_GRACE_S)
        self._exporter.stop(EXPORTER_GRACE_S)
        if self._store:
            self._store.close()
        if self._push:
            self._push.stop()
        self._beat.stop()

    @property
    def working(self) -> bool:
        """False when a thread that spans need has died: then only a new process helps."""
        return not any(self._problems())

    def spans(self) -> dict[str, int]:
        """What has become of them so far: those accepted are sent, failed, sampled out or queued."""
        now = self._queue.statistics()
        return {
            "accepted_spans": now["accepted_spans"],
            "sent_spans": self._metrics.exporter_sent_spans.total(),
            "failed_spans": self._metrics.exporter_send_failed_spans.total(),
            "sampled_out_spans": self._sampler.sampled_out if self._sampler else 0,
            "queued_spans": now["spans"],  # of a queue on disk they are still there
        }

    def _problems(self) -> Iterator[str]:
        return (f"the {part} has died" for part, alive in self._parts.items() if not alive())


def main() -> int:
    """Runs until SIGTERM; the exit status."""
    parser = argparse.ArgumentParser(prog="python -m enricher.pipeline")
    parser.add_argument("--log-fd", type=int, required=True)
    Place.add_arguments(parser)
    parser.add_argument("--record-fd", type=int)
    parser.add_argument("--record-bytes", type=int)
    parser.add_argument("--record-for-ns", type=int)
    arguments = parser.parse_args()
    # Blocked in every thread, and taken by this one. SIGINT and SIGHUP are the parent's business.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT, signal.SIGHUP})
    settings = Settings.from_json(sys.stdin.read())
    configure("pipeline", settings.service.telemetry.logs.level)
    log = get_logger()
    recorder = None
    if arguments.record_fd is not None:
        limit = Limit(arguments.record_fd, arguments.record_bytes, arguments.record_for_ns)
        recorder = Recorder(limit, head_of(settings))
    # Looked at while the answer can still be acted upon.
    if not can_read_as_dropped([path for path in sys.path if Path(path).exists()]):
        preload(settings)
    drop()
    die_with_parent()
    place = Place.of(arguments)
    addresses = place.addresses()
    try:
        pipeline = Pipeline(settings, arguments.log_fd, place, recorder)
        port = pipeline.start()
    except EnricherError as error:
        log.error("cannot start", error=error)  # noqa: TRY400 - for a person to mend: no traceback
        return CANNOT_START
    gc.collect()
    gc.freeze()  # what is alive now stays: no need to look through it at every collection
    gc.set_threshold(GC_AFTER)
    if settings.grpc and "grpc" not in addresses:
        addresses["grpc"] = [f"{settings.grpc.endpoint.rpartition(':')[0]}:{port}"]
    for kind, receiver in (("grpc", settings.grpc), ("http", settings.http)):
        if receiver and receiver.port is None:
            addresses[kind] = [receiver.endpoint]  # the socket knows it by the name that it was made with
    exporter = _destination(settings)
    log.info("spans are taken", **addresses, exporter=exporter, uid=os.getuid(), worker=place.worker)
    while signal.sigtimedwait({signal.SIGTERM}, CHECK_EVERY_S) is None:
        if not pipeline.working:
            log.error("a thread has died, ending to be started anew")
            pipeline.stop()  # what can still be delivered is
            return 1
    began_s = time.monotonic()
    pipeline.stop()
    log.info("ended", worker=place.worker, took_s=round(time.monotonic() - began_s, 3), **pipeline.spans())
    return 0


def head_of(settings: Settings) -> Head:
    """What a recording says of how it came about. Before `drop`: the version stands beside the modules."""
    ebpf = settings.ebpf or Ebpf()
    return Head(
        product_version=installed_version(),
        kernel=os.uname().release,
        machine=os.uname().machine,
        host=os.uname().nodename,
        started_unix_ns=time.time_ns(),
        enriching=settings.ebpf is not None,
        stamp_all=ebpf.stamp == "all",
        tail_ns=ebpf.tail_window_ns,
        threshold_ns=ebpf.blocked_threshold_ns,
        retention_ns=ebpf.retention_ns,
        max_waits=MAX_WAITS,
        max_span_ends=MAX_SPAN_ENDS,
        max_body_bytes=settings.max_recv_bytes,
    )


def _storage(exporter: Exporter) -> Storage | None:
    return exporter.sending_queue.storage if isinstance(exporter, OtlpExporter) else None


def _store(exporter: Exporter, worker: int, workers: int) -> "DurableQueue | None":
    """Where accepted requests are kept; None: in memory alone. Raises StorageError."""
    storage = _storage(exporter)
    if storage is None:
        return None
    from enricher.otlp.durable import DurableQueue

    return DurableQueue(
        Path(storage.directory), fsync=storage.fsync, max_bytes=storage.max_bytes, worker=worker, workers=workers
    )


def _push(settings: Settings, metrics: Metrics, worker: int) -> "Push | None":
    """Raises CannotSendError."""
    wanted = settings.service.telemetry.metrics.otlp
    if wanted is None:
        return None
    from enricher.telemetry.push import push

    made = push(wanted, metrics.series, worker, installed_version())
    metrics.add_source(made.series)
    return made


def _destination(settings: Settings) -> str:
    exporter = settings.exporter
    return exporter.endpoint if isinstance(exporter, OtlpExporter) else settings.service.pipelines.traces.exporters[0]


def preload(settings: Settings) -> None:
    """Imports now what is imported late, as the user that this process becomes cannot read where modules come from.

    A checkout or a Python in root's home is such a place. Elsewhere what is never needed is never loaded.
    """
    causes.registry()
    storage = ("enricher.otlp.durable",) if _storage(settings.exporter) else ()
    control = MESSAGE_MODULES if settings.service.control else ()
    push = PUSH_MODULES if settings.service.telemetry.metrics.otlp else ()
    exporter = assembly.module_of(settings.exporter, settings.service.transport)
    grpcio = GRPCIO_MODULES if settings.service.transport == "grpcio" else ()
    installed_version()  # it stands beside the modules
    for module in (*LAZY_MODULES, exporter, *grpcio, *storage, *control, *push):
        importlib.import_module(module)


if __name__ == "__main__":
    sys.exit(main())
