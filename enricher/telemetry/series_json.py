"""Series as JSON, by which a worker tells the others its numbers; see `board`."""

from collections.abc import Iterable
from typing import Any, cast

from enricher.telemetry.metrics import Distribution, Kind, Series, Unit, Value

_KINDS: frozenset[Kind] = frozenset({"counter", "gauge", "histogram"})
_UNITS: frozenset[Unit] = frozenset({"", "s", "By"})


def plain(series: Iterable[Series]) -> list[list[object]]:
    """What `json.dumps` takes, and `parsed` gives back."""
    return [
        [one.name, one.kind, one.meaning, one.label, {at: _plain(value) for at, value in one.values.items()}, one.unit]
        for one in series
    ]


def parsed(told: object) -> list[Series]:
    """Raises ValueError where this is not what `plain` makes."""
    try:
        return [_series(one) for one in cast("list[Any]", told)]
    except (TypeError, KeyError, AttributeError) as error:
        raise ValueError("these are no series") from error


def _plain(value: Value) -> object:
    return [value.bounds, value.counts, value.sum] if isinstance(value, Distribution) else value


def _series(told: Any) -> Series:  # noqa: ANN401 - any JSON
    name, kind, meaning, label, values, unit = told
    if kind not in _KINDS or unit not in _UNITS or not all(isinstance(text, str) for text in (name, meaning, label)):
        raise ValueError(f"{str(told)[:80]!r} is no series")
    return Series(name, kind, meaning, label, {at: _value(kind, value) for at, value in values.items()}, unit)


def _value(kind: Kind, told: Any) -> Value:  # noqa: ANN401 - any JSON
    if kind != "histogram":
        if not isinstance(told, int | float):
            raise ValueError("this is no number")
        return told
    bounds, counts, total = told
    made = Distribution(tuple(map(float, bounds)), tuple(map(int, counts)), float(total))
    if len(made.counts) != len(made.bounds) + 1:
        raise ValueError("a histogram has one count more than bounds")
    return made
