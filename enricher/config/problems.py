"""What can be wrong with a configuration, told so that the user need not search."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from enricher.errors import EnricherError

KeyPath = tuple[str | int, ...]  # keys of mappings and indexes of lists, from the root


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong. `source` is the file or the environment variable it stands in."""

    path: KeyPath
    message: str
    nearest: str | None = None  # the known key that an unknown one may be a slip of
    source: str = ""
    line: int | None = None  # of the file, from 1

    @property
    def key(self) -> str:
        """`processors.ebpf.select.exclude[0]`"""
        return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in self.path).lstrip(".")

    def __str__(self) -> str:
        place = f"{self.source}:{self.line}" if self.line else self.source
        return ": ".join(part for part in (place, self.key, self.message) if part)


class ConfigError(EnricherError):
    """The configuration cannot be used; `problems` holds all that was found, at least one."""

    code: ClassVar[str] = "config"

    def __init__(self, problems: Sequence[Problem]) -> None:
        super().__init__("\n".join(map(str, problems)))
        self.problems = tuple(problems)
