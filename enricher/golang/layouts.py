"""Offsets of the fields that probes read, by version of Go and of its OpenTelemetry SDK.

The table is layouts.json, measured and merged by scripts/make_layouts.py. A version outside of it gets
no guess: a wrong offset would put one span's evidence on another.

What is known is a minor version (1.26, say), and with it its patch releases: Go and the SDK keep those to
fixes, and in no minor of which several were measured (of Go: all) has a field used here moved. Release
candidates, development versions, other vendors' toolchains, forks and pseudo-versions are not known, as
each may hold any change.
"""

import json
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TypedDict

from enricher.golang.reason import Reason, ReasonCode

# "go1.26.8", "go1.17", "go1.25.0 X:jsonv2", from 1.26 on "go1.26.0-X:jsonv2": release, non-default experiments.
_GO_VERSION = re.compile(r"go1\.(\d{1,4})(?:\.\d{1,4})?(?:[ -]X:([a-z0-9_,]+))?", re.ASCII)
_SDK_VERSION = re.compile(r"v1\.(\d{1,4})\.\d{1,4}", re.ASCII)


@dataclass(frozen=True, slots=True)
class RuntimeLayout:
    """Offsets in bytes into runtime.g (`g_`) and runtime.m (`m_`), the same on amd64 and arm64.

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


@dataclass(frozen=True, slots=True)
class SdkLayout:
    """Offsets in bytes into recordingSpan of go.opentelemetry.io/otel/sdk/trace, the same on amd64 and
    arm64. `span_context` is a trace.SpanContext: trace id at 0, span id at 16, flags at 24."""

    parent: int
    span_kind: int
    name: int
    start_time: int
    end_time: int
    span_context: int


class _RuntimeRow(TypedDict):
    measured: list[str]
    experiments: list[str]
    offsets: dict[str, int | None]


class _SdkRow(TypedDict):
    measured: list[str]
    offsets: dict[str, int]


class _Table(TypedDict):
    runtime: dict[str, _RuntimeRow]
    sdk: dict[str, _SdkRow]


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
    return RuntimeLayout(**row["offsets"])  # type: ignore[arg-type]  # JSON: one field may be None


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
    return SdkLayout(**row["offsets"])


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
