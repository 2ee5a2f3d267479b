"""What the pipeline counts of itself. Names follow the collector's; spans must add up at any time:

    receiver_accepted_spans = exporter_sent_spans + exporter_send_failed_spans + exporter_queue_spans
                              + sampling_sampled_out_spans

With a durable queue exporter_storage_recovered_spans stand on the left, too, and exporter_enqueue_failed_spans on the
right.

Only counting is here; `exposition` writes it for Prometheus, `push` sends it as OTLP.
"""

from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from threading import Lock
from typing import Literal, Self

Kind = Literal["counter", "gauge", "histogram"]
Unit = Literal["", "s", "By"]


@dataclass(frozen=True, slots=True)
class Distribution:
    """How many observations fell below each bound, and what they add up to."""

    bounds: tuple[float, ...]  # upper ones, themselves included, ascending
    counts: tuple[int, ...]  # of each bucket alone; one more than bounds
    sum: float

    @property
    def count(self) -> int:
        return sum(self.counts)


Value = float | Distribution


@dataclass(frozen=True, slots=True)
class Series:
    """One metric as of now. `values` by the value of `label`; {"": value} where `label` is "".

    Of a histogram each value is a Distribution, of the others a number.
    """

    name: str  # without the prefix of this program, and without the _total of a counter
    kind: Kind
    meaning: str
    label: str
    values: Mapping[str, Value]
    unit: Unit = ""

    @classmethod
    def gauge(cls, name: str, meaning: str, value: float, unit: Unit = "") -> Self:
        return cls(name, "gauge", meaning, "", {"": value}, unit)

    @classmethod
    def counter(cls, name: str, meaning: str, value: float, unit: Unit = "") -> Self:
        return cls(name, "counter", meaning, "", {"": value}, unit)


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


class Histogram:
    """Counts observations by their size. Any thread may add."""

    __slots__ = ("_bounds", "_counts", "_lock", "_meaning", "_name", "_sum", "_unit")

    def __init__(self, name: str, meaning: str, bounds: Sequence[float], unit: Unit = "") -> None:
        """`bounds` ascend; a value that equals one is below it."""
        self._name = name
        self._meaning = meaning
        self._unit: Unit = unit
        self._bounds = tuple(bounds)
        self._counts = [0] * (len(self._bounds) + 1)
        self._sum = 0.0
        self._lock = Lock()

    def add(self, value: float) -> None:
        bucket = bisect_left(self._bounds, value)
        with self._lock:
            self._counts[bucket] += 1
            self._sum += value

    def distribution(self) -> Distribution:
        with self._lock:
            return Distribution(self._bounds, tuple(self._counts), self._sum)

    def series(self) -> Series:
        return Series(self._name, "histogram", self._meaning, "", {"": self.distribution()}, self._unit)


class Metrics:
    """The counters of one pipeline, and what others measure: see `add_source`."""

    def __init__(self) -> None:
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
        """Asked at every scrape and once a second, from threads of their own. Must be quick and must not raise."""
        self._sources.append(source)

    def series(self) -> Iterator[Series]:
        for source in self._sources:
            yield from source()

    def _counter(self, name: str, meaning: str, label: str = "") -> Counter:
        counter = Counter(name, meaning, label)
        self.add_source(lambda: [counter.series()])
        return counter
