"""Every setting, with its default, in the shape of the YAML file: a module for each section of it.

A field has the name of its key; a duration's field has `_ns` added and holds nanoseconds. An exporter that is
not configured is None.
"""

from enricher.config.model.exporters import (
    Exporters,
    OtlpGrpcExporter,
    RetryOnFailure,
    SendingQueue,
    TerminalExporter,
    Tls,
)
from enricher.config.model.processors import DEFAULT_RING_BYTES, Ebpf, Probes, ProbeSwitch, Processors, Select
from enricher.config.model.receivers import GrpcReceiver, OtlpReceiver, Protocols, Receivers
from enricher.config.model.service import Logs, Metrics, Pipelines, Service, Telemetry, Traces
from enricher.config.model.settings import Settings

__all__ = [
    "DEFAULT_RING_BYTES",
    "Ebpf",
    "Exporters",
    "GrpcReceiver",
    "Logs",
    "Metrics",
    "OtlpGrpcExporter",
    "OtlpReceiver",
    "Pipelines",
    "ProbeSwitch",
    "Probes",
    "Processors",
    "Protocols",
    "Receivers",
    "RetryOnFailure",
    "Select",
    "SendingQueue",
    "Service",
    "Settings",
    "Telemetry",
    "TerminalExporter",
    "Tls",
    "Traces",
]
