"""Which processes are watched: a decision on what is known of one, with no look at the process itself."""

from dataclasses import dataclass
from enum import Enum
from fnmatch import fnmatchcase

from enricher.config.model import Select
from enricher.observer.inspection import GoProgram, Inspected


class Verdict(Enum):
    """Whether to watch a process, and why."""

    GO_SDK = "a Go program with the OpenTelemetry SDK"
    SELECTED = "selected by the configuration"
    EXCLUDED = "excluded by the configuration"
    COLLECTOR = "an OpenTelemetry collector"
    NOT_SELECTED = "not a Go program with the OpenTelemetry SDK"

    @property
    def watch(self) -> bool:
        """Whether to watch it."""
        return self in (Verdict.GO_SDK, Verdict.SELECTED)


@dataclass(frozen=True, slots=True)
class Candidate:
    """What the decision needs. `executable` is the path in the process's own mount namespace."""

    executable: str
    cgroup: str
    inspected: Inspected


def decide(candidate: Candidate, select: Select) -> Verdict:
    """Exclusion wins, then selection; then it depends on the binary."""
    if _any_matches(candidate.executable, select.exclude):
        return Verdict.EXCLUDED
    if _any_matches(candidate.executable, select.executables) or any(
        _in_cgroup(candidate.cgroup, pattern) for pattern in select.cgroups
    ):
        return Verdict.SELECTED
    found = candidate.inspected
    if not isinstance(found, GoProgram) or found.sdk_version is None:
        return Verdict.NOT_SELECTED
    return Verdict.COLLECTOR if found.is_collector else Verdict.GO_SDK


def _any_matches(path: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatchcase(path, pattern) for pattern in patterns)


def _in_cgroup(path: str, pattern: str) -> bool:
    """A pattern names a cgroup and with it all below."""
    return fnmatchcase(path, pattern) or fnmatchcase(path, pattern.rstrip("/") + "/*")
