"""processors: what is done to spans."""

from dataclasses import dataclass, field
from typing import Annotated, ClassVar, Literal

from enricher.config.durations import MINUTE, MS, SECOND
from enricher.config.values import Duration, PowerOfTwo, Texts

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
class Processors:
    ebpf: Ebpf = field(default_factory=Ebpf)
