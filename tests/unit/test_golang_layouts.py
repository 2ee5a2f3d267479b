"""Which versions are known, and that no others are guessed at."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest

import enricher.golang
from enricher.golang.client_calls import CLIENTS
from enricher.golang.layouts import (
    RuntimeLayout,
    SdkLayout,
    connection_offset,
    go_minor,
    runtime_layout,
    sdk_layout,
)
from enricher.golang.reason import Reason, ReasonCode

TABLE = json.loads((Path(enricher.golang.__file__).parent / "layouts.json").read_text("utf-8"))
SCRIPT = Path(__file__).parents[2] / "scripts" / "make_layouts.py"


def test_a_release_of_go_is_known() -> None:
    layout = runtime_layout("go1.26.8")
    assert isinstance(layout, RuntimeLayout)
    assert (layout.g_m, layout.g_goid, layout.g_parent_goid, layout.m_curg) == (48, 152, 280, 184)


def test_go_up_to_1_20_does_not_keep_the_parent() -> None:
    old, new = runtime_layout("go1.20.14"), runtime_layout("go1.21.0")
    assert isinstance(old, RuntimeLayout)
    assert isinstance(new, RuntimeLayout)
    assert old.g_parent_goid is None
    assert new.g_parent_goid == 272


@pytest.mark.parametrize(("version", "kind"), [("go1.21.0", "map"), ("go1.23.12", "map"), ("go1.24.0", "slice")])
def test_labels_are_a_map_up_to_1_23(version: str, kind: str) -> None:
    layout = runtime_layout(version)
    assert isinstance(layout, RuntimeLayout)
    assert layout.labels_kind == kind


@pytest.mark.parametrize("version", ["go1.17", "go1.27.99", "go1.25.3 X:jsonv2", "go1.26.0-X:boringcrypto,jsonv2"])
def test_releases_and_measured_experiments_are_known(version: str) -> None:
    assert isinstance(runtime_layout(version), RuntimeLayout)


@pytest.mark.parametrize(
    ("version", "says"),
    [
        ("go1.16.15", "Go 1.16 is older than the layouts known (1.17 to 1.27)"),
        ("go1.28", "Go 1.28 is newer than the layouts known (1.17 to 1.27)"),
        ("go1.26rc1", "'go1.26rc1' is not a release of Go"),
        ("devel go1.27-abcdef0123 Mon Jan 5 10:00:00 2026 +0000", "is not a release of Go"),
        ("go1.22.9 (Red Hat 1.22.9-2.el9_5)", "is not a release of Go"),
        ("go1.26.1 X:", "is not a release of Go"),
        ("go2.0.0", "is not a release of Go"),
        ("", "is not a release of Go"),
        ("go1.26.0-X:staticlockranking", "GOEXPERIMENT=staticlockranking was not measured"),
        ("go1.26.0 X:jsonv2,arenas", "GOEXPERIMENT=arenas was not measured"),
    ],
)
def test_another_go_gets_no_guess(version: str, says: str) -> None:
    reason = runtime_layout(version)
    assert isinstance(reason, Reason)
    assert reason.code is ReasonCode.GO_VERSION_UNKNOWN
    assert says in reason.sentence


@pytest.mark.parametrize(("version", "minor"), [("go1.26.8", 26), ("go1.17", 17), ("go1.26rc1", None), ("", None)])
def test_go_minor(version: str, minor: int | None) -> None:
    assert go_minor(version) == minor


@pytest.mark.parametrize(
    ("version", "layout"),
    [
        ("v1.0.1", SdkLayout(8, 72, 80, 96, 120, 232, 72)),
        ("v1.10.0", SdkLayout(8, 72, 80, 96, 120, 176, 72)),
        ("v1.47.0", SdkLayout(24, 88, 96, 112, 136, 192, 72)),
    ],
)
def test_a_release_of_the_sdk_is_known(version: str, layout: SdkLayout) -> None:
    assert sdk_layout(version) == layout


@pytest.mark.parametrize(
    ("version", "says"),
    [
        ("v1.48.0", "OpenTelemetry SDK v1.48.0 is newer than the layouts known (1.0 to 1.47)"),
        ("v0.20.0", "is not a release from 1.0 on"),
        ("v1.0.0-RC3", "is not a release from 1.0 on"),
        ("v1.47.1-0.20260101120000-0123456789ab", "is not a release from 1.0 on"),
        ("(devel)", "is not a release from 1.0 on"),
        ("", "is not a release from 1.0 on"),
    ],
)
def test_another_sdk_gets_no_guess(version: str, says: str) -> None:
    reason = sdk_layout(version)
    assert isinstance(reason, Reason)
    assert reason.code is ReasonCode.SDK_VERSION_UNKNOWN
    assert says in reason.sentence


HTTP, HTTP2 = "net/http.persistConn", "net/http.http2ClientConn"
HTTP2_SINCE_1_27 = "net/http/internal/http2.ClientConn"
GRPC = "google.golang.org/grpc/internal/transport.http2Client"


@pytest.mark.parametrize(
    ("structure", "version", "offset"),
    [
        (HTTP, "go1.26.8", 80),
        (HTTP2, "go1.21.5", 8),
        (HTTP2, "go1.27.4", None),
        (HTTP2_SINCE_1_27, "go1.26.8", None),
        (HTTP2_SINCE_1_27, "go1.27.1", 8),
        (HTTP, "go1.28.0", None),
        (HTTP, "go1.26rc1", None),
        # Measured were 1.40, 1.45, 1.50, 1.51 (64 bytes), 1.52 (136), ... 1.80 and 1.85 (128).
        (GRPC, "v1.39.1", None),
        (GRPC, "v1.47.3", 64),
        (GRPC, "v1.52.2", 136),
        (GRPC, "v1.83.0", 128),
        (GRPC, "v1.85.9", 128),
        (GRPC, "v1.86.0", None),
        (GRPC, "v2.60.0", None),
        (GRPC, "v1.60.1-0.20240101000000-0123456789ab", None),
        (GRPC, "=> ../fork", None),
        (GRPC, "(devel)", None),
        (GRPC, "", None),
        ("no.such", "v1.60.0", None),
    ],
)
def test_a_connection_is_known_where_it_was_measured_and_between(
    structure: str, version: str, offset: int | None
) -> None:
    assert connection_offset(structure, version) == offset


def test_between_measurements_that_differ_nothing_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    table = {"connections": {"a": {"1.10.0": 8, "1.12.0": 8, "1.20.3": 16}}}
    monkeypatch.setattr("enricher.golang.layouts._table", lambda: table)
    known = {minor: connection_offset("a", f"v1.{minor}.7") for minor in (9, 10, 11, 12, 13, 19, 20, 21)}
    assert known == {9: None, 10: 8, 11: 8, 12: 8, 13: None, 19: None, 20: 16, 21: None}


def test_every_client_was_measured() -> None:
    assert set(TABLE["connections"]) == {client.connection for client in CLIENTS}
    for structure, rows in TABLE["connections"].items():
        by_minor: dict[str, set[int]] = {}
        for version, offset in rows.items():
            by_minor.setdefault(".".join(version.split(".")[:2]), set()).add(offset)
        assert all(len(offsets) == 1 for offsets in by_minor.values()), f"{structure} moved within a minor version"


@pytest.mark.parametrize(("name", "shape"), [("runtime", RuntimeLayout), ("sdk", SdkLayout)])
def test_the_table_is_whole(name: str, shape: type[RuntimeLayout] | type[SdkLayout]) -> None:
    rows = TABLE[name]
    minors = [int(minor.removeprefix("1.")) for minor in rows]
    assert minors == list(range(minors[0], minors[-1] + 1)), "a minor version is missing, or not in order"
    for minor, row in rows.items():
        assert set(row["offsets"]) == {field.name for field in fields(shape)}
        assert row["measured"], "an offset that nobody measured"
        for field in fields(shape):
            value = row["offsets"][field.name]
            if field.name == "labels_kind":
                assert value in ("map", "slice")
            else:
                optional = field.name in ("g_parent_goid", "start_span_context")
                assert isinstance(value, int) or (optional and value is None), field.name
        assert all(version == minor or version.startswith(f"{minor}.") for version in row["measured"])


def test_the_table_agrees_with_the_go_at_hand() -> None:
    command = os.environ.get("GO") or shutil.which("go")
    if command is None:
        pytest.skip("there is no go: it is neither in PATH nor named by GO")
    environment = {**os.environ, "GOTOOLCHAIN": "local", "PYTHONPATH": os.pathsep.join(sys.path)}
    version = subprocess.run(
        [command, "env", "GOVERSION"], env=environment, capture_output=True, text=True, check=True
    ).stdout.strip()
    if isinstance(known := runtime_layout(version), Reason):
        pytest.skip(f"nothing to compare: {known}")
    done = subprocess.run(
        [sys.executable, SCRIPT, "--check", "--go", version.removeprefix("go")],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "agrees with the table" in done.stdout
