"""The unprivileged half: `python -m enricher.pipeline --log-fd N`, settings as JSON on standard input.

Reads top to bottom as the data flows: receiver, policy (with index and join), queue, exporter.
"""

import argparse
import gc
import importlib
import os
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from enricher import causes
from enricher._native import EvidenceIndex, Queue
from enricher.config.model import Ebpf, Exporter, OtlpExporter, Settings, Storage
from enricher.errors import EnricherError
from enricher.exits import CANNOT_START
from enricher.join.assembly import assembled
from enricher.otlp import queue as otlp_queue
from enricher.otlp.grpcio_receiver import GrpcioReceiver
from enricher.otlp.sending import assembly
from enricher.otlp.transport import Limits
from enricher.policy import Policy
from enricher.privileges import can_read_as_dropped, die_with_parent, drop
from enricher.recording.file import Head
from enricher.recording.journal import Journal
from enricher.recording.limit import Limit
from enricher.recording.recorder import Recorder
from enricher.sampling.sampler import Sampler
from enricher.telemetry.health import Health
from enricher.telemetry.logs import configure, get_logger
from enricher.telemetry.metrics import Metrics
from enricher.telemetry.metrics_endpoint import MetricsEndpoint
from enricher.trace_answers import TraceAnswers
from enricher.version import installed_version

if TYPE_CHECKING:
    from enricher.otlp.durable import DurableQueue

# At 34,000 spans a second, the most measured for one service, these are the span ends of eight seconds, longer
# than an SDK keeps a span before it exports it (5 s by default).
MAX_SPAN_ENDS = 262_144
MAX_WAITS = 131_072
PLAIN_QUEUE_SIZE = 1000  # requests; as of the exporters that have a setting for it
CHECK_EVERY_S = 1.0

RECEIVER_GRACE_S = 2.0
POLICY_GRACE_S = 3.0
RECORDER_GRACE_S = 1.0
EXPORTER_GRACE_S = 8.0

# What is imported only where it is needed, which after the change of user may be too late; see `preload`.
LAZY_MODULES = (
    "encodings.ascii",
    "encodings.idna",
    "encodings.latin_1",
    "google.rpc.error_details_pb2",
    "google.rpc.status_pb2",
    "grpc._channel",
    "grpc._interceptor",
    "grpc._server",
    "grpc._simple_stubs",
    "grpc._utilities",
    "grpc_health.v1.health_pb2",
    "opentelemetry.proto.collector.trace.v1.trace_service_pb2",
)


class Pipeline:
    """Everything between the sender and the backend, built from the settings."""

    def __init__(self, settings: Settings, log_fd: int, recorder: Recorder | None = None) -> None:
        ebpf = settings.ebpf or Ebpf()
        assert settings.grpc is not None
        limits = Limits(max_message_bytes=settings.max_recv_bytes)
        metrics = Metrics()
        exporter = settings.exporter
        queue_size = exporter.sending_queue.queue_size if isinstance(exporter, OtlpExporter) else PLAIN_QUEUE_SIZE
        self._store = _store(exporter)
        max_bytes = self._store.max_bytes if self._store else otlp_queue.MAX_QUEUE_BYTES
        queue = Queue(queue_size, max_bytes, limits.max_message_bytes, answers_late=self._store is not None)
        line = assembly.Line(queue=queue, metrics=metrics, store=self._store)
        self._exporter = assembly.exporter(exporter, settings.service.transport, line)
        index = EvidenceIndex(log_fd, ebpf.retention_ns, MAX_WAITS, MAX_SPAN_ENDS)
        enriching = settings.ebpf is not None  # without the processor, requests only pass through
        joiner = assembled(
            index,
            enriching=enriching,
            stamp_all=ebpf.stamp == "all",
            host=os.uname().nodename,
            sampler=Sampler(settings.sampling) if settings.sampling else None,
        )
        self._journal = Journal(index, recorder)
        self._policy = Policy(
            index,
            joiner,
            queue,
            self._journal,
            self._store,
            tail_ns=ebpf.tail_window_ns,
            threshold_ns=ebpf.blocked_threshold_ns,
            max_body_bytes=limits.max_message_bytes,
        )
        self._health = Health(self._policy.heartbeat_seen_ns, lambda: self._policy.working and self._exporter.alive)
        self._receiver = GrpcioReceiver(settings.grpc.endpoint, queue, limits, self._health)
        self._endpoint = MetricsEndpoint(
            settings.service.telemetry.metrics.address,
            metrics,
            TraceAnswers(self._policy, self._journal.recent, ebpf.tail_window_ns, ebpf.blocked_threshold_ns),
        )
        for source in (
            self._policy.series,
            lambda: otlp_queue.series(queue),
            self._health.series,
            self._journal.series,
        ):
            metrics.add_source(source)
        if self._store:
            metrics.add_source(self._store.series)

    def start(self) -> int:
        """From the backend's end to the sender's, so that what comes in can go out. Returns the receiver's port.

        Raises CannotListen.
        """
        self._exporter.start()
        self._policy.start()
        self._receiver.start()
        self._endpoint.start()
        self._health.taking_spans = True
        return self._receiver.port

    def stop(self) -> None:
        """From the sender's end to the backend's: what was accepted is delivered, or counted."""
        self._health.taking_spans = False
        self._receiver.stop(RECEIVER_GRACE_S)
        self._policy.stop(POLICY_GRACE_S)
        self._journal.close(RECORDER_GRACE_S)
        self._exporter.stop(EXPORTER_GRACE_S)
        if self._store:
            self._store.close()
        self._endpoint.stop()

    @property
    def metrics_port(self) -> int:
        """0 where there is no endpoint."""
        return self._endpoint.port

    @property
    def working(self) -> bool:
        """False when a thread that spans need has died: then only a new process helps."""
        return self._policy.working and self._exporter.alive


def main() -> int:
    """Runs until SIGTERM; the exit status."""
    parser = argparse.ArgumentParser(prog="python -m enricher.pipeline")
    parser.add_argument("--log-fd", type=int, required=True)
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
    try:
        pipeline = Pipeline(settings, arguments.log_fd, recorder)
        port = pipeline.start()
    except EnricherError as error:
        log.error("cannot start", error=error)  # noqa: TRY400 - for a person to mend: no traceback
        return CANNOT_START
    gc.collect()
    gc.freeze()  # what is alive now stays: no need to look through it at every collection
    assert settings.grpc is not None
    host = settings.grpc.endpoint.rpartition(":")[0]
    log.info("spans are taken", endpoint=f"{host}:{port}", exporter=_destination(settings), uid=os.getuid())
    while signal.sigtimedwait({signal.SIGTERM}, CHECK_EVERY_S) is None:
        if not pipeline.working:
            log.error("a thread has died, ending to be started anew")
            pipeline.stop()  # what can still be delivered is
            return 1
    pipeline.stop()
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


def _store(exporter: Exporter) -> "DurableQueue | None":
    """Where accepted requests are kept; None: in memory alone. Raises StorageError."""
    storage = _storage(exporter)
    if storage is None:
        return None
    from enricher.otlp.durable import DurableQueue

    return DurableQueue(Path(storage.directory), fsync=storage.fsync, max_bytes=storage.max_bytes)


def _destination(settings: Settings) -> str:
    exporter = settings.exporter
    return exporter.endpoint if isinstance(exporter, OtlpExporter) else settings.service.pipelines.traces.exporters[0]


def preload(settings: Settings) -> None:
    """Imports now what is imported late, as the user that this process becomes cannot read where modules come from.

    A checkout or a Python in root's home is such a place. Elsewhere what is never needed is never loaded.
    """
    causes.registry()
    storage = ("enricher.otlp.durable",) if _storage(settings.exporter) else ()
    for module in (*LAZY_MODULES, assembly.module_of(settings.exporter, settings.service.transport), *storage):
        importlib.import_module(module)


if __name__ == "__main__":
    sys.exit(main())
