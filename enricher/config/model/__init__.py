"""Every setting, with its default, in the shape of the YAML file: a module for each section of it.

A field has the name of its key; a duration's field has `_ns` added and holds nanoseconds. An exporter that is
not configured is None.
"""

from enricher.config.model.exporters import (
    DebugExporter,
    Exporter,
    ExporterName,
    Exporters,
    FileExporter,
    Keepalive,
    OtlpExporter,
    OtlpGrpcExporter,
    OtlpHttpExporter,
    RetryOnFailure,
    Rotation,
    SendingQueue,
    Storage,
    TerminalExporter,
)
from enricher.config.model.processors import (
    DEFAULT_RING_BYTES,
    Ebpf,
    Probes,
    ProbeSwitch,
    Processors,
    Sampling,
    Select,
)
from enricher.config.model.receivers import (
    Cors,
    GrpcReceiver,
    HttpReceiver,
    OtlpReceiver,
    Protocols,
    Receivers,
)
from enricher.config.model.security import (
    BearerAuth,
    ClientTls,
    ServerTls,
)
from enricher.config.model.service import (
    Control,
    LogLevel,
    Logs,
    Memory,
    Metrics,
    MetricsPush,
    Pipelines,
    Service,
    Telemetry,
    Traces,
)
from enricher.config.model.settings import (
    Settings,
)

__all__ = [
    "DEFAULT_RING_BYTES",
    "BearerAuth",
    "ClientTls",
    "Control",
    "Cors",
    "DebugExporter",
    "Ebpf",
    "Exporter",
    "ExporterName",
    "Exporters",
    "FileExporter",
    "GrpcReceiver",
    "HttpReceiver",
    "Keepalive",
    "LogLevel",
    "Logs",
    "Memory",
    "Metrics",
    "MetricsPush",
    "OtlpExporter",
    "OtlpGrpcExporter",
    "OtlpHttpExporter",
    "OtlpReceiver",
    "Pipelines",
    "ProbeSwitch",
    "Probes",
    "Processors",
    "Protocols",
    "Receivers",
    "RetryOnFailure",
    "Rotation",
    "Sampling",
    "Select",
    "SendingQueue",
    "ServerTls",
    "Service",
    "Settings",
    "Storage",
    "Telemetry",
    "TerminalExporter",
    "Traces",
]
