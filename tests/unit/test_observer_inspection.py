"""Binaries are inspected beside the tick, and nothing that a binary does reaches it."""

import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from enricher.evidence.records import OFFSET_NONE, LabelsKind
from enricher.golang.binary import CallPoint, GoBinary
from enricher.golang.layouts import RuntimeLayout, SdkLayout, runtime_layout, sdk_layout
from enricher.golang.probe_point import ProbePoint
from enricher.golang.reason import Reason, ReasonCode
from enricher.observer.inspection import GoProgram, Inspected, Inspector, NotGo, Uninspected
from enricher.observer.uprobes import Uprobe, UprobeTarget
from enricher.processes.proc import FileIdentity

DEADLINE_S = 10.0
RUNTIME = RuntimeLayout(
    g_m=48,
    g_goid=152,
    g_parent_goid=None,
    g_atomicstatus=144,
    g_waitreason=176,
    g_labels=352,
    g_gopc=288,
    m_procid=64,
    m_curg=184,
    g_tracking_seq=191,
    wrapper_func_id=22,
    wait_steps=1,
    labels_kind="slice",
    poll_sysfd=16,
    net_family=56,
    net_sotype=64,
)
SDK = SdkLayout(parent=24, span_kind=88, name=96, start_time=112, end_time=136, span_context=192, start_span_context=72)
END = ProbePoint("End", 0x1000, 0x2012, "push %rbp")
START = ProbePoint("newRecordingSpan", 0x1100, 0x2112, "push %rbp")
MADE = ProbePoint("newproc.func1", 0x1200, 0x2254, "call")
CALLS = (
    CallPoint(ProbePoint("(*persistConn).roundTrip", 0x1300, 0x2312, "push %rbp"), 80, multiplexed=False),
    CallPoint(ProbePoint("(*http2Client).NewStream", 0x1400, 0x2412, "push %rbp"), 128, multiplexed=True),
)


def binary(**changes: object) -> GoBinary:
    fields: dict[str, object] = {
        "path": "/app",
        "go_version": "1.26.1",
        "main_module": "example.com/app",
        "modules": {"go.opentelemetry.io/otel/sdk": "v1.47.0"},
        "machine": "amd64",
        "runtime": RUNTIME,
        "sdk": SDK,
        "span_end": END,
        "span_start": START,
        "goroutine_made": MADE,
        "calls": CALLS,
        "reasons": (),
    }
    return GoBinary(**(fields | changes))  # type: ignore[arg-type]


@pytest.fixture
def inspectors() -> Iterator[Callable[..., Inspector]]:
    made: list[Inspector] = []

    def make(*arguments: object) -> Inspector:
        made.append(Inspector(*arguments))  # type: ignore[arg-type]
        return made[-1]

    yield make
    for inspector in made:
        inspector.close()


def submit(inspector: Inspector, path: Path) -> FileIdentity:
    found = path.stat()
    identity = FileIdentity(found.st_dev, found.st_ino, found.st_mtime_ns, found.st_size)
    with path.open("rb") as file:
        inspector.submit(identity, file.fileno())
    return identity


def results(inspector: Inspector, count: int) -> dict[FileIdentity, Inspected]:
    found: dict[FileIdentity, Inspected] = {}
    end_s = time.monotonic() + DEADLINE_S
    while len(found) < count:
        found |= dict(inspector.results())
        assert time.monotonic() < end_s, "the inspections did not end"
    return found


def inspect_one(make: Callable[..., Inspector], found: GoBinary | None, path: Path) -> Inspected:
    inspector = make(lambda _: found)
    identity = submit(inspector, path)
    return results(inspector, 1)[identity]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "app"
    path.write_bytes(b"content")
    return path


def test_it_reads_the_file_that_was_open_even_when_that_is_gone(
    inspectors: Callable[..., Inspector], file: Path
) -> None:
    read: list[bytes] = []

    def inspect(path: str) -> None:
        read.append(Path(path).read_bytes())

    inspector = inspectors(inspect)
    with file.open("rb") as opened:
        file.unlink()
        inspector.submit(FileIdentity(1, 2, 3, 4), opened.fileno())
    assert results(inspector, 1) == {FileIdentity(1, 2, 3, 4): NotGo()}
    assert read == [b"content"]


def test_programs_that_are_not_go(inspectors: Callable[..., Inspector], file: Path) -> None:
    inspector = inspectors()
    identities = {submit(inspector, path) for path in (file, Path("/bin/sh"))}
    assert results(inspector, 2) == dict.fromkeys(identities, NotGo())


def test_a_whole_go_program(inspectors: Callable[..., Inspector], file: Path) -> None:
    found = inspect_one(inspectors, binary(), file)
    assert isinstance(found, GoProgram)
    assert (found.go_version, found.sdk_version, found.lacks) == ("1.26.1", "v1.47.0", ())
    assert found.targets == (
        UprobeTarget(Uprobe.SPAN_END, 0x2012),
        UprobeTarget(Uprobe.SPAN_START, 0x2112),
        UprobeTarget(Uprobe.GOROUTINE_MADE, 0x2254),
        UprobeTarget(Uprobe.CONNECTION_CALL, 0x2312, 80),
        UprobeTarget(Uprobe.CONNECTION_CALL, 0x2412, 1 << 16 | 128),
    )
    assert found.layout
    assert (found.layout.g_m, found.layout.g_goid, found.layout.m_curg) == (48, 152, 184)
    assert found.layout.g_parent_goid == OFFSET_NONE
    assert (found.layout.span_context, found.layout.span_end_time) == (192, 136)
    assert (found.layout.span_parent, found.layout.span_kind) == (24, 88)
    assert (found.layout.g_labels, found.layout.labels_kind) == (352, LabelsKind.SLICE)
    assert (found.layout.poll_sysfd, found.layout.net_family, found.layout.net_sotype) == (16, 56, 64)
    assert not found.layout.flags


def test_a_go_program_without_the_sdk(inspectors: Callable[..., Inspector], file: Path) -> None:
    reason = Reason(ReasonCode.SDK_ABSENT, "the SDK is not linked in")
    lacking = binary(modules={}, sdk=None, span_end=None, span_start=None, goroutine_made=None, reasons=(reason,))
    found = inspect_one(inspectors, lacking, file)
    assert isinstance(found, GoProgram)
    assert (found.sdk_version, found.lacks) == (None, ("the SDK is not linked in",))
    assert {target.uprobe for target in found.targets} == {Uprobe.CONNECTION_CALL}
    assert found.layout
    assert (found.layout.span_context, found.layout.span_end_time) == (OFFSET_NONE, OFFSET_NONE)


def test_a_go_program_of_an_unknown_version_has_no_layout(inspectors: Callable[..., Inspector], file: Path) -> None:
    found = inspect_one(inspectors, binary(runtime=None, span_end=None), file)
    assert isinstance(found, GoProgram)
    assert found.layout is None


def test_a_collector(inspectors: Callable[..., Inspector], file: Path) -> None:
    found = inspect_one(inspectors, binary(modules={"go.opentelemetry.io/collector/service": "v0.165.0"}), file)
    assert isinstance(found, GoProgram)
    assert found.is_collector


def test_a_binary_that_breaks_the_parser_does_not_end_the_inspection_of_others(
    inspectors: Callable[..., Inspector], file: Path, tmp_path: Path
) -> None:

    def inspect(path: str) -> GoBinary:
        if Path(path).read_bytes() == b"content":
            raise ZeroDivisionError("nobody foresaw this")
        return binary()

    inspector = inspectors(inspect)
    other = tmp_path / "other"
    other.write_bytes(b"other content")
    bad, good = submit(inspector, file), submit(inspector, other)
    found = results(inspector, 2)
    assert found[bad] == Uninspected("ZeroDivisionError: nobody foresaw this")
    assert isinstance(found[good], GoProgram)


def test_a_broken_binary_is_told_by_what_is_wrong_with_it(inspectors: Callable[..., Inspector], file: Path) -> None:
    file.write_bytes(Path("/bin/sh").read_bytes()[:64])
    inspector = inspectors()
    identity = submit(inspector, file)
    found = results(inspector, 1)[identity]
    assert isinstance(found, Uninspected)
    assert found.reason
    assert "/proc" not in found.reason


def test_no_descriptor_is_left_open(inspectors: Callable[..., Inspector], file: Path) -> None:
    inspector = inspectors()
    before = len(list(Path("/proc/self/fd").iterdir()))
    submit(inspector, file)
    results(inspector, 1)
    assert len(list(Path("/proc/self/fd").iterdir())) == before


@pytest.mark.parametrize("minor", range(17, 28))
def test_every_known_runtime_fits_into_what_the_probes_read_of_a_goroutine_at_once(minor: int) -> None:
    runtime = runtime_layout(f"go1.{minor}")
    assert isinstance(runtime, RuntimeLayout)
    parent = () if runtime.g_parent_goid is None else (runtime.g_parent_goid,)
    for offset, size in (*((goid, 8) for goid in parent), (runtime.g_waitreason, 1), (runtime.g_tracking_seq, 1)):
        assert runtime.g_goid <= offset <= runtime.g_goid + G_VIEW_BYTES - size


@pytest.mark.parametrize("minor", range(48))
def test_every_known_sdk_fits_into_what_the_probes_read_of_a_span_at_once(minor: int) -> None:
    sdk = sdk_layout(f"v1.{minor}.0")
    assert isinstance(sdk, SdkLayout)
    assert sdk.span_kind <= sdk.end_time <= sdk.span_kind + SPAN_VIEW_BYTES - 16
    assert sdk.start_span_context == START_SPAN_CONTEXT


def constant(header: str, name: str) -> int:
    found = re.search(rf"^#define {name} (\d+)", (PROBES / header).read_text(), re.MULTILINE)
    assert found
    return int(found[1])


PROBES = Path(__file__).parents[2] / "probes"
G_VIEW_BYTES = 8 * constant("goroutine.h", "G_VIEW_WORDS")
SPAN_VIEW_BYTES = 8 * constant("spans.bpf.c", "SPAN_VIEW_WORDS")
# Behind the return address and the context of the parent.
START_SPAN_CONTEXT = 8 + constant("spans.bpf.c", "SPAN_CONTEXT_SIZE")
