"""The bounded queue as the metrics show it. The queue itself is native: native/src/queue.rs."""

from collections.abc import Iterator
from typing import Final

from enricher._native import Queue
from enricher.telemetry.metrics import Series

# What came in the meantime is joined up to this size, and decided as one: that saves most of the cost of small
# requests. Beyond it there is nothing left to gain, and a joined request is held as long as its last span.
JOIN_BYTES: Final = 256 << 10


def series(queue: Queue) -> Iterator[Series]:
    """What the queue counts."""
    now = queue.statistics()
    refused = now["refused_spans_by_outcome"]
    yield Series(
        "receiver_requests",
        "counter",
        "requests that were answered, by what the answer was",
        "outcome",
        now["requests_by_outcome"],
    )
    yield Series(
        "receiver_accepted_spans",
        "counter",
        "spans that were accepted into the queue",
        "",
        {"": now["accepted_spans"]},
    )
    yield Series(
        "receiver_refused_spans",
        "counter",
        "spans that were not accepted; their sender was told",
        "outcome",
        {outcome: count for outcome, count in refused.items() if count},
    )
    # As the collector names these, which answers only after its pipeline has: it counts them as accepted before.
    yield Series.counter(
        "receiver_failed_spans",
        "of those not accepted, spans that a fault of this program kept out",
        refused.get("failed", 0),
    )
    yield Series.counter(
        "exporter_enqueue_failed_spans",
        "of those not accepted, spans that the queue had no room for",
        refused.get("busy", 0),
    )
    yield Series.gauge("exporter_queue_size", "requests accepted and not yet sent or dropped", now["requests"])
    yield Series.gauge("exporter_queue_capacity", "requests that the queue takes", queue.capacity)
    yield Series.gauge("exporter_queue_bytes", "size of the requests in the queue", now["bytes"])
    yield Series.gauge("exporter_queue_spans", "spans accepted and not yet sent or dropped", now["spans"])
