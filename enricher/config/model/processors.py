"""processors: what is done to spans."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, ClassVar, Literal

from enricher.config.durations import HOUR, MINUTE, MS, SECOND
from enricher.config.values import Duration, Flag, PowerOfTwo, Real, Texts

# At 34,000 spans/s, the most measured for one service, this holds half a second. The kernel maps a ring twice, and all
# of it counts as resident.
DEFAULT_RING_BYTES = 2 << 20

ProbeSwitch = Literal["auto", "on", "off"]
TextList = Annotated[tuple[str, ...], Texts()]


@dataclass(frozen=True, slots=True, kw_only=True)
class Probes:
    """processors.ebpf.probes: `auto` is on where the host can, `on` fails at start where it cannot."""

    syscalls: ProbeSwitch = "auto"
    go_sdk: ProbeSwitch = "auto"
    go_runtime: ProbeSwitch = "auto"
    go_net: ProbeSwitch = "auto"
    headers: ProbeSwitch = "auto"
    processes: ProbeSwitch = "auto"


@dataclass(frozen=True, slots=True, kw_only=True)
class Select:
    """processors.ebpf.select: shell patterns. `exclude` wins; the two others add to the Go programs found."""

    executables: TextList = ()  # paths of executables
    cgroups: TextList = ()  # cgroup paths
    exclude: TextList = ()  # paths of executables


@dataclass(frozen=True, slots=True, kw_only=True)
class Ebpf:
    """processors.ebpf"""

    SUMMARY: ClassVar[str] = "writes what the kernel knows about a span onto the span"

    blocked_threshold_ns: Annotated[int, Duration(10_000, MINUTE)] = 1 * MS
    tail_window_ns: Annotated[int, Duration(0, 10 * SECOND)] = 300 * MS
    retention_ns: Annotated[int, Duration(1 * SECOND, 10 * MINUTE)] = 30 * SECOND
    stamp: Literal["evidence", "all"] = "evidence"
    ring_size: Annotated[int, PowerOfTwo(4096, 64 << 20)] = DEFAULT_RING_BYTES
    probes: Probes = field(default_factory=Probes)
    select: Select = field(default_factory=Select)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """processors.sampling: what is kept in any case, and how much of the rest."""

    SUMMARY: ClassVar[str] = "keeps spans with kernel evidence, errors and slow ones, and a ratio of the rest"

    ratio: Annotated[float, Real(0, 1)] = 1.0
    slow_ns: Annotated[int, Duration(1 * MS, 24 * HOUR)] = 1 * SECOND
    keep_errors: Annotated[bool, Flag()] = True
    keep_evidence: Annotated[bool, Flag()] = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Processors:
    ELSEWHERE: ClassVar[Mapping[str, str]] = {
        "batch": "requests are joined on their way out without it",
        "memory_limiter": "set service.memory",
        "probabilistic_sampler": "write sampling, with ratio from 0 to 1",
        "tail_sampling": "write sampling, which keeps slow spans, errors and those with kernel evidence",
        "attributes": "ebpf adds what it finds; other attributes are for a collector to change",
    }

    ebpf: Ebpf = field(default_factory=Ebpf)
    sampling: Sampling = field(default_factory=Sampling)
