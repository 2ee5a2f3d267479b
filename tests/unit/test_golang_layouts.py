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
from enricher.golang.layouts import RuntimeLayout, SdkLayout, go_minor, runtime_layout, sdk_layout
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
        ("v1.0.1", SdkLayout(8, 72, 80, 96, 120, 232)),
        ("v1.10.0", SdkLayout(8, 72, 80, 96, 120, 176)),
        ("v1.47.0", SdkLayout(24, 88, 96, 112, 136, 192)),
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


@pytest.mark.parametrize(("name", "shape"), [("runtime", RuntimeLayout), ("sdk", SdkLayout)])
def test_the_table_is_whole(name: str, shape: type[RuntimeLayout] | type[SdkLayout]) -> None:
    rows = TABLE[name]
    minors = [int(minor.removeprefix("1.")) for minor in rows]
    assert minors == list(range(minors[0], minors[-1] + 1)), "a minor version is missing, or not in order"
    for minor, row in rows.items():
        assert set(row["offsets"]) == {field.name for field in fields(shape)}
        assert row["measured"], "an offset that nobody measured"
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
