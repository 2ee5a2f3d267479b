"""From what is configured to what sends: the one table of all kinds of exporters."""

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal, Protocol, cast

from enricher._native import Queue
from enricher.config.model import (
    DebugExporter,
    FileExporter,
    OtlpExporter,
    OtlpGrpcExporter,
    OtlpHttpExporter,
    TerminalExporter,
)
from enricher.config.model import Exporter as ExporterSettings
from enricher.otlp.delivery import Delivery, DeliverySettings, Store
from enricher.otlp.sending.fail_over import FailOver
from enricher.otlp.transport import Exporter, Sender
from enricher.telemetry.metrics import Metrics

# The module of each kind, whose `build` makes it. Named and not imported: a pipeline has one of them.
KINDS: Final[Mapping[type[ExporterSettings], str]] = {
    OtlpGrpcExporter: "enricher.otlp.sending.grpc",
    OtlpHttpExporter: "enricher.otlp.sending.http",
    DebugExporter: "enricher.otlp.sending.debug",
    FileExporter: "enricher.otlp.sending.file",
    TerminalExporter: "enricher.otlp.terminal",
}
# Those that have another on grpcio.
KINDS_ON_GRPCIO: Final[Mapping[type[ExporterSettings], str]] = {OtlpGrpcExporter: "enricher.otlp.sending.grpcio"}


class Module(Protocol):
    def build(self, settings: ExporterSettings, line: "Line") -> Exporter:
        """Raises CannotSendError."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """What an exporter is part of."""

    queue: Queue
    metrics: Metrics
    store: Store | None = None  # where what is in the queue is kept, too
    on_forward: bool = False  # senders wait for the answer of the backend

    def delivery(self, settings: DeliverySettings, sender: Sender) -> Exporter:
        return Delivery(replace(settings, on_forward=self.on_forward), sender, self.queue, self.metrics, self.store)

    def otlp(self, settings: OtlpExporter, senders: Sequence[Sender]) -> Exporter:
        """To the first of `senders`, and to the next where that cannot be had."""
        sender = FailOver(senders)
        self.metrics.add_source(sender.series)
        delivery = DeliverySettings(
            timeout_ns=settings.timeout_ns,
            retry=settings.retry_on_failure,
            consumers=settings.sending_queue.num_consumers,
        )
        return self.delivery(delivery, sender)


def module_of(settings: ExporterSettings, transport: Literal["native", "grpcio"]) -> str:
    """The name of the module that has the exporter."""
    on_grpcio = KINDS_ON_GRPCIO if transport == "grpcio" else {}
    return on_grpcio.get(type(settings)) or KINDS[type(settings)]


def exporter(settings: ExporterSettings, transport: Literal["native", "grpcio"], line: Line) -> Exporter:
    """The exporter that is configured. Raises CannotSendError."""
    module = cast("Module", importlib.import_module(module_of(settings, transport)))
    return module.build(settings, line)
