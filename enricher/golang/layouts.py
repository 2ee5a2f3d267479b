"""Offsets of the fields that probes read, by version of Go, its OpenTelemetry SDK and the clients it calls with.

The table is layouts.json, measured and merged by scripts/make_layouts.py. A version outside of it gets
no guess: a wrong offset would put one span's evidence on another.

What is known is a minor version (1.26, say), and with it its patch releases: Go and the SDK keep those to
fixes, and in no minor of which several were measured (of Go: all) has a field used here moved. Of clients
not every minor was measured: one between two measured ones is known if those two agree. Release
candidates, development versions, other vendors' toolchains, forks and pseudo-versions are not known, as
each may hold any change.
"""

import json
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal, TypedDict

from enricher.golang.reason import Reason, ReasonCode

# "go1.26.8", "go1.17", "go1.25.0 X:jsonv2", from 1.26 on "go1.26.0-X:jsonv2": release, non-default experiments.
_GO_VERSION = re.compile(r"go1\.(\d{1,4})(?:\.\d{1,4})?(?:[ -]X:([a-z0-9_,]+))?", re.ASCII)
_SDK_VERSION = re.compile(r"v1\.(\d{1,4})\.\d{1,4}", re.ASCII)
_MODULE_VERSION = re.compile(r"v(\d{1,4})\.(\d{1,4})\.\d{1,4}", re.ASCII)

LabelsKind = Literal["map", "slice"]


@dataclass(frozen=True, slots=True)
class RuntimeLayout:
    """Offsets in bytes into runtime.g (`g_`), runtime.m (`m_`) and net.netFD (`net_` and `poll_sysfd`), the same on
    amd64 and arm64.

    `wrapper_func_id` is the number that marks compiler-made wrappers among the functions.
    """

    g_m: int
    g_goid: int
    g_parent_goid: int | None
    """None up to Go 1.20, which does not keep it."""
    g_atomicstatus: int
    g_waitreason: int
    g_tracking_seq: int
    g_labels: int
    g_gopc: int
    m_procid: int
    m_curg: int
    wrapper_func_id: int
    wait_steps: int
    """By how much g.trackingSeq grows from a system call that says EAGAIN to the next one: entering a call counts up
    to Go 1.25, parking always."""
    labels_kind: LabelsKind
    """What g.labels points to: a map[string]string up to Go 1.23, from then on a slice of pairs of strings."""
    poll_sysfd: int
    """The descriptor, a C long: internal/poll.FD.Sysfd, counted from the start of the net.netFD around it."""
    net_family: int
    net_sotype: int


@dataclass(frozen=True, slots=True)
class SdkLayout:
    """Offsets in bytes into recordingSpan of go.opentelemetry.io/otel/sdk/trace, the same on amd64 and
    arm64. `parent` and `span_context` are of trace.SpanContext: trace id at 0, span id at 16, flags at 24, 64 bytes
    in all."""

    parent: int
    span_kind: int
    name: int
    start_time: int
    end_time: int
    span_context: int
    start_span_context: int | None
    """Offset from the stack pointer at which newRecordingSpan, before it has made its frame, finds the SpanContext of
    the new span; that of its parent ends there. None: it takes them in another way."""


class _RuntimeRow(TypedDict):
    measured: list[str]
    experiments: list[str]
    offsets: dict[str, int | str | None]


class _SdkRow(TypedDict):
    measured: list[str]
    offsets: dict[str, int | None]


class _Table(TypedDict):
    runtime: dict[str, _RuntimeRow]
    sdk: dict[str, _SdkRow]
    connections: dict[str, dict[str, int]]


def go_minor(go_version: str) -> int | None:
    """26 of "go1.26.8"; None for what is not a release of Go's own."""
    match = _GO_VERSION.fullmatch(go_version)
    return int(match[1]) if match else None


def runtime_layout(go_version: str) -> RuntimeLayout | Reason:
    """`go_version` as in the build information: "go1.26.8"."""
    rows = _table()["runtime"]
    match = _GO_VERSION.fullmatch(go_version)
    if match is None:
        return Reason(
            ReasonCode.GO_VERSION_UNKNOWN,
            f"{go_version!r} is not a release of Go, so its layout was not measured",
        )
    row = rows.get(f"1.{match[1]}")
    if row is None:
        sentence = f"Go 1.{match[1]} is {_where(int(match[1]), rows)} than the layouts known ({_span(rows)})"
        return Reason(ReasonCode.GO_VERSION_UNKNOWN, sentence)
    for experiment in (match[2] or "").split(","):
        if experiment and experiment not in row["experiments"]:
            return Reason(
                ReasonCode.GO_VERSION_UNKNOWN,
                f"the layout of Go 1.{match[1]} with GOEXPERIMENT={experiment} was not measured",
            )
    return RuntimeLayout(**row["offsets"])  # type: ignore[arg-type]  # JSON: the test of the table looks at types


def sdk_layout(module_version: str) -> SdkLayout | Reason:
    """`module_version` of go.opentelemetry.io/otel/sdk: "v1.47.0"."""
    rows = _table()["sdk"]
    match = _SDK_VERSION.fullmatch(module_version)
    if match is None:
        return Reason(
            ReasonCode.SDK_VERSION_UNKNOWN,
            f"OpenTelemetry SDK {module_version!r} is not a release from 1.0 on, so its layout was not measured",
        )
    row = rows.get(f"1.{match[1]}")
    if row is None:
        place = _where(int(match[1]), rows)
        sentence = f"OpenTelemetry SDK {module_version} is {place} than the layouts known ({_span(rows)})"
        return Reason(ReasonCode.SDK_VERSION_UNKNOWN, sentence)
    return SdkLayout(**row["offsets"])  # type: ignore[arg-type]  # JSON: one field may be None


def connection_offset(structure: str, version: str) -> int | None:
    """Where in a client's `structure`, as DWARF names it, its net.Conn is; None: not known.

    `version` is that of Go ("go1.26.8") for structures of its own packages, else that of the module ("v1.85.0").
    """
    match = _MODULE_VERSION.fullmatch(version)
    minor = go_minor(version)
    wanted = (int(match[1]), int(match[2])) if match else (1, minor) if minor is not None else None
    if wanted is None:
        return None
    measured = {_minor_of(release): offset for release, offset in _table()["connections"].get(structure, {}).items()}
    below = max((minor for minor in measured if minor <= wanted), default=None)
    above = min((minor for minor in measured if minor >= wanted), default=None)
    if below is None or above is None or measured[below] != measured[above]:
        return None
    return measured[below]


def _minor_of(release: str) -> tuple[int, int]:
    major, minor, *_ = release.split(".")
    return int(major), int(minor)


@cache
def _table() -> _Table:
    table: _Table = json.loads(Path(__file__).with_name("layouts.json").read_text("utf-8"))
    return table


def _minors(rows: dict[str, _RuntimeRow] | dict[str, _SdkRow]) -> list[int]:
    return sorted(int(minor.removeprefix("1.")) for minor in rows)


def _span(rows: dict[str, _RuntimeRow] | dict[str, _SdkRow]) -> str:
    minors = _minors(rows)
    return f"1.{minors[0]} to 1.{minors[-1]}"


def _where(minor: int, rows: dict[str, _RuntimeRow] | dict[str, _SdkRow]) -> str:
    return "newer" if minor > _minors(rows)[-1] else "older"
