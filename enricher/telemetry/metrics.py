"""What the pipeline counts of itself. Names follow the collector's; spans must add up at any time:

    receiver_accepted_spans = exporter_sent_spans + exporter_send_failed_spans + exporter_queue_spans
                              + sampling_sampled_out_spans

Only counting is here; `metrics_endpoint` shows it to Prometheus, and is all that needs its client.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from threading import Lock
from typing import Literal, Self

Kind = Literal["counter", "gauge"]


@dataclass(frozen=True, slots=True)
class Series:
    """One metric as of now. `values` by the value of `label`; {"": value} where `label` is ""."""

    name: str  # without the prefix of this program, and without the _total of a counter
    kind: Kind
    meaning: str
    label: str
    values: Mapping[str, float]

    @classmethod
    def gauge(cls, name: str, meaning: str, value: float) -> Self:
        return cls(name, "gauge", meaning, "", {"": value})


Source = Callable[[], Iterable[Series]]


class Counter:
    """A number that only grows, or one for each value of a label. Any thread may add."""

    __slots__ = ("_label", "_lock", "_meaning", "_name", "_values")

    def __init__(self, name: str, meaning: str, label: str = "") -> None:
        self._name = name
        self._meaning = meaning
        self._label = label
        self._lock = Lock()
        self._values: dict[str, int] = {} if label else {"": 0}

    def add(self, amount: int, value: str = "") -> None:
        """`value` is of the label; there must be few of them."""
        with self._lock:
            self._values[value] = self._values.get(value, 0) + amount

    def values(self) -> dict[str, int]:
        with self._lock:
            return dict(self._values)

    def total(self) -> int:
        """Over all values of the label."""
        return sum(self.values().values())

    def series(self) -> Series:
        return Series(self._name, "counter", self._meaning, self._label, self.values())


class Metrics:
    """The counters of one pipeline, and what others measure: see `add_source`."""

    def __init__(self) -> None:
        self._counters: list[Counter] = []
        self._sources: list[Source] = []
        self.exporter_sent_spans = self._counter("exporter_sent_spans", "spans that the backend has taken")
        self.exporter_send_failed_spans = self._counter(
            "exporter_send_failed_spans",
            "accepted spans that were dropped: by the status of the backend, rejected by a partial success, "
            "or shutdown",
            "reason",
        )
        self.exporter_retries = self._counter(
            "exporter_retries",
            "times that a request to the backend was sent again, by the status before",
            "status",
        )

    def add_source(self, source: Source) -> None:
        """Asked at every scrape, from a thread of its own. Must be quick and must not raise."""
        self._sources.append(source)

    def series(self) -> Iterator[Series]:
        for counter in self._counters:
            yield counter.series()
        for source in self._sources:
            yield from source()

    def _counter(self, name: str, meaning: str, label: str = "") -> Counter:
        counter = Counter(name, meaning, label)
        self._counters.append(counter)
        return counter
