"""How a cause declares itself: what it needs, what it sets, and the rule."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from enricher.join.evidence import SpanEvidence

TypeName = Literal["bool", "int", "double", "string"]
Value = bool | int | float | str


@dataclass(frozen=True, slots=True)
class Attribute:
    """An attribute that may be set on a span. `unit` is a UCUM code, "" where there is none."""

    name: str
    type: TypeName
    unit: str
    meaning: str


@dataclass(frozen=True, slots=True)
class Cause:
    """A rule that turns a span's evidence into attributes."""

    name: str
    summary: str
    needs: tuple[str, ...]  # probes, by their names in the configuration
    attributes: tuple[Attribute, ...]
    claims: Callable[[SpanEvidence], dict[str, Value]]  # {} where the evidence does not show this cause
