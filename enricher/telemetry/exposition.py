"""Series as text for Prometheus: its exposition format, version 0.0.4."""

from collections.abc import Iterable, Iterator, Mapping
from itertools import accumulate
from typing import Final

from enricher.telemetry.metrics import Distribution, Series, Value

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
PREFIX: Final = "enricher_"


def text(by_worker: Mapping[str, Iterable[Series]]) -> Iterator[str]:
    """Lines. `by_worker`: each one's series by the value of their label `worker`, which "" has none of."""
    families: dict[str, list[tuple[str, Series]]] = {}
    for worker, told in by_worker.items():
        for series in told:
            families.setdefault(series.name, []).append((worker, series))
    for members in families.values():
        yield from _family(members)


def _family(members: list[tuple[str, Series]]) -> Iterator[str]:
    """All lines of one name must stand together, under one type."""
    first = members[0][1]
    name = PREFIX + first.name + ("_total" if first.kind == "counter" else "")
    meaning = first.meaning.replace("\\", r"\\").replace("\n", r"\n")
    yield f"# HELP {name} {meaning}\n# TYPE {name} {first.kind}\n"
    for worker, series in members:
        if series.kind != first.kind:
            continue  # of a worker of another version, in the middle of a change
        of_worker = {"worker": worker} if worker else {}
        for of_label, value in series.values.items():
            labels = ({series.label: of_label} if series.label else {}) | of_worker
            yield from _sample(name, labels, value)


def _sample(name: str, labels: dict[str, str], value: Value) -> Iterator[str]:
    if not isinstance(value, Distribution):
        yield f"{name}{_labels(labels)} {value}\n"
        return
    bounds = [*map(repr, value.bounds), "+Inf"]
    for bound, below in zip(bounds, accumulate(value.counts), strict=True):
        yield f"{name}_bucket{_labels(labels | {'le': bound})} {below}\n"
    yield f"{name}_sum{_labels(labels)} {value.sum}\n{name}_count{_labels(labels)} {value.count}\n"


def _labels(labels: Mapping[str, str]) -> str:
    if not labels:
        return ""
    inside = ",".join(f'{name}="{_escaped(value)}"' for name, value in labels.items())
    return f"{{{inside}}}"


def _escaped(value: str) -> str:
    return value.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")
