"""Which of the programs that run now are watched or would be, and how well their spans can be matched."""

from collections.abc import Iterator
from dataclasses import dataclass

from enricher.config.model import Select
from enricher.errors import EnricherError
from enricher.golang.binary import GoBinary, inspect
from enricher.observer.inspection import SDK_MODULE, GoProgram, NotGo, Uninspected
from enricher.observer.selection import Candidate, decide
from enricher.processes import proc

Found = GoBinary | EnricherError | None  # None: not built by Go


@dataclass(frozen=True, slots=True)
class WatchedProcess:
    """`exact`: each of its spans can be tied to its goroutine. `reasons`: sentences that say why not, and what else is
    not seen of it."""

    pid: int
    executable: str
    go_version: str
    sdk_version: str
    watched: bool
    exact: bool
    reasons: tuple[str, ...]


def running(select: Select) -> Iterator[WatchedProcess]:
    """All that are visible to this process and worth telling, by pid. What ends meanwhile is left out."""
    found: dict[proc.FileIdentity, Found] = {}
    for pid in sorted(proc.pids()):
        try:
            with proc.open_executable(pid) as executable:
                if executable.identity not in found:
                    found[executable.identity] = _inspected(f"/proc/self/fd/{executable.fd}")
            cgroup = proc.cgroup(pid)
        except proc.ProcessUnreadable:
            continue
        process = described(pid, executable.path, cgroup, found[executable.identity], select)
        if process is not None:
            yield process


def described(pid: int, executable: str, cgroup: str, found: Found, select: Select) -> WatchedProcess | None:
    """What to tell of a process. None of one that has no SDK and is not selected: there are many."""
    binary = found if isinstance(found, GoBinary) else None
    sdk_version = binary.modules.get(SDK_MODULE) if binary else None
    verdict = decide(Candidate(executable, cgroup, _as_inspected(found)), select)
    if not verdict.watch and sdk_version is None and not isinstance(found, EnricherError):
        return None
    reasons: tuple[str, ...]
    if not verdict.watch:
        reasons = (f"not watched: {verdict.value}",)
    elif binary is None:
        reasons = ("not a Go program: its threads are watched, not its spans' ends",)
    else:
        reasons = tuple(reason.sentence for reason in binary.reasons)
    if isinstance(found, EnricherError):
        reasons = (str(found),)
    return WatchedProcess(
        pid,
        executable,
        go_version=binary.go_version if binary else "",
        sdk_version=sdk_version or "",
        watched=verdict.watch,
        exact=verdict.watch and binary is not None and binary.span_end is not None,
        reasons=reasons,
    )


def _inspected(path: str) -> Found:
    try:
        return inspect(path)
    except EnricherError as error:
        return error


def _as_inspected(found: Found) -> GoProgram | NotGo | Uninspected:
    """As much of it as the decision looks at."""
    if isinstance(found, EnricherError):
        return Uninspected(str(found))
    if found is None:
        return NotGo()
    return GoProgram(
        found.go_version, found.modules.get(SDK_MODULE), found.is_collector, layout=None, targets=(), lacks=()
    )
