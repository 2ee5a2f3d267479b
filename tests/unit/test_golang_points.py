"""Where real programs are probed, held against a disassembler and what only their unstripped builds tell."""

from dataclasses import replace
from pathlib import Path

import capstone
import pytest
from capstone import arm64_const, x86_const
from elftools.elf.elffile import ELFFile

from enricher.golang.binary import GoBinary, ReasonCode
from enricher.golang.client_calls import CLIENTS, GRPC_MODULE, NET_MODULE
from enricher.golang.elf import Machine
from enricher.golang.points import (
    GOROUTINE_EXIT_FUNCTION,
    GOROUTINE_MAKER_FUNCTION,
    GOROUTINE_QUEUE_FUNCTION,
    SPAN_END_FUNCTION,
    SPAN_START_FUNCTION,
)
from enricher.golang.probe_point import ProbePoint
from tests.unit.golang_builds import EXTERNAL_LINKER, Build, Variant, inspected, symbols

CLIENTS_1_26 = {
    "net/http.(*persistConn).roundTrip": False,
    "net/http.(*Transport).tryPutIdleConn": False,
    "net/http.(*http2ClientConn).roundTrip": True,
    "golang.org/x/net/http2.(*ClientConn).internalRoundTrip": True,
    "google.golang.org/grpc/internal/transport.(*http2Client).NewStream": True,
}
CLIENTS_1_27 = {
    "net/http.(*persistConn).roundTrip": False,
    "net/http.(*Transport).tryPutIdleConn": False,
    "net/http/internal/http2.(*ClientConn).roundTrip": True,
    "golang.org/x/net/http2.(*ClientConn).roundTrip": True,
    "google.golang.org/grpc/internal/transport.(*http2Client).NewStream": True,
}
CLIENTS_1_21 = {
    "net/http.(*persistConn).roundTrip": False,
    "net/http.(*Transport).tryPutIdleConn": False,
    "net/http.(*http2ClientConn).RoundTrip": True,
    "golang.org/x/net/http2.(*ClientConn).RoundTrip": True,
    "google.golang.org/grpc/internal/transport.(*http2Client).NewStream": True,
}
NEW, OLD = "./clients", "./clients_of_old"
STRIPPED = "-ldflags=-s -w"
GO_1_26 = "go1.26.11"
AMD64 = Variant(NEW, machine="amd64", toolchain=GO_1_26)
VARIANTS = {
    "default": (AMD64, CLIENTS_1_26),
    "trimpath": (replace(AMD64, flags=("-trimpath",)), CLIENTS_1_26),
    "pie": (replace(AMD64, flags=("-buildmode=pie",)), CLIENTS_1_26),
    "not optimised": (replace(AMD64, flags=("-gcflags=all=-N -l",)), CLIENTS_1_26),
    "arm64": (Variant(NEW, machine="arm64", toolchain=GO_1_26), CLIENTS_1_26),
    "arm64 pie": (Variant(NEW, ("-buildmode=pie",), machine="arm64", toolchain=GO_1_26), CLIENTS_1_26),
    "with cgo": (Variant(NEW, c=True, toolchain=GO_1_26), CLIENTS_1_26),
    "linked by C": (Variant(NEW, (EXTERNAL_LINKER,), c=True, toolchain=GO_1_26), CLIENTS_1_26),
    "pie linked by C": (Variant(NEW, ("-buildmode=pie", EXTERNAL_LINKER), c=True, toolchain=GO_1_26), CLIENTS_1_26),
    "static, linked by C": (
        Variant(
            NEW, ("-ldflags=-linkmode=external -extldflags=-static", "-tags=netgo,osusergo"), c=True, toolchain=GO_1_26
        ),
        CLIENTS_1_26,
    ),
    "Go 1.21": (Variant(OLD, toolchain="go1.21.0", machine="amd64"), CLIENTS_1_21),
    "Go 1.21 pie": (Variant(OLD, ("-buildmode=pie",), toolchain="go1.21.0", machine="amd64"), CLIENTS_1_21),
    "Go 1.21 arm64": (Variant(OLD, toolchain="go1.21.0", machine="arm64"), CLIENTS_1_21),
    "Go 1.27": (replace(AMD64, toolchain="go1.27.4"), CLIENTS_1_27),
    "Go 1.27 arm64": (Variant(NEW, toolchain="go1.27.4", machine="arm64"), CLIENTS_1_27),
}

# First and second argument, g, stack pointer.
AMD64_READ = {
    x86_const.X86_REG_RAX,
    x86_const.X86_REG_EAX,
    x86_const.X86_REG_RBX,
    x86_const.X86_REG_EBX,
    x86_const.X86_REG_R14,
    x86_const.X86_REG_RSP,
}
ARM64_READ = {
    arm64_const.ARM64_REG_X0,
    arm64_const.ARM64_REG_X1,
    arm64_const.ARM64_REG_X28,
    arm64_const.ARM64_REG_SP,
}


@pytest.fixture(params=VARIANTS)
def name(request: pytest.FixtureRequest) -> str:
    found: str = request.param
    return found


def starts(binary: GoBinary) -> list[ProbePoint]:
    """The points at the starts of functions."""
    points = [binary.span_end, binary.span_start, binary.goroutine_exit, *(call.point for call in binary.calls)]
    return [point for point in points if point is not None]


def disassembled(path: Path, point: ProbePoint, start: int, machine: Machine) -> list[capstone.CsInsn]:
    """The instructions from `start`, the address of the point's function, to the point and at it."""
    if machine == "amd64":
        engine = capstone.Cs(capstone.CS_ARCH_X86, capstone.CS_MODE_64)
    else:
        engine = capstone.Cs(capstone.CS_ARCH_ARM64, capstone.CS_MODE_LITTLE_ENDIAN)
    engine.detail = True
    with path.open("rb") as stream:
        stream.seek(point.file_offset - (point.address - start))
        code = stream.read(point.address - start + 16)
    instructions = [i for i in engine.disasm(code, start) if i.address <= point.address]
    assert instructions[-1].address == point.address, "not where an instruction begins"
    return instructions


def test_all_points_are_found(build: Build, name: str) -> None:
    variant, clients = VARIANTS[name]
    binary = inspected(build(variant))
    assert binary.reasons == ()
    assert [point.function for point in starts(binary)] == [
        SPAN_END_FUNCTION,
        SPAN_START_FUNCTION,
        GOROUTINE_EXIT_FUNCTION,
        *clients,
    ]
    assert {call.point.function: call.multiplexed for call in binary.calls} == clients
    assert binary.goroutine_made is not None
    assert binary.goroutine_made.function == GOROUTINE_MAKER_FUNCTION
    assert [call.point.function for call in binary.calls if call.over] == ["net/http.(*Transport).tryPutIdleConn"]
    assert {GRPC_MODULE, NET_MODULE} < set(binary.modules)


def test_starts_are_probed_behind_the_stack_check_with_arguments_untouched(build: Build, name: str) -> None:
    variant, _ = VARIANTS[name]
    path = build(variant)
    known = symbols(path)
    amd64 = variant.machine == "amd64"
    for point in starts(inspected(path)):
        *before, probed = disassembled(path, point, known[point.function], variant.machine)
        text = f"{probed.mnemonic} {probed.op_str}"
        assert text.startswith("push rbp" if amd64 else "b.ls"), point
        bound = "[r14 + 0x10]" if amd64 else "[x28, #0x10]"
        assert any(bound in i.op_str for i in before), "no stack check"
        # A comparison writes flags alone; the disassembler takes sp, where it is compared, for what is written.
        for instruction in (i for i in before if i.mnemonic != "cmp"):
            _, written = instruction.regs_access()
            kept = AMD64_READ if amd64 else ARM64_READ
            assert not kept & set(written), f"{instruction.mnemonic} {instruction.op_str} writes what is to be read"


def test_goroutines_are_seen_at_the_call_that_hands_them_over(build: Build, name: str) -> None:
    variant, _ = VARIANTS[name]
    path = build(variant)
    known = symbols(path)
    point = inspected(path).goroutine_made
    assert point is not None
    *_, probed = disassembled(path, point, known[GOROUTINE_MAKER_FUNCTION], variant.machine)
    assert probed.mnemonic == ("call" if variant.machine == "amd64" else "bl") == point.instruction
    assert int(probed.op_str.removeprefix("#"), 16) == known[GOROUTINE_QUEUE_FUNCTION]


@pytest.mark.parametrize("name", ["default", "Go 1.21", "Go 1.27 arm64"], indirect=True)
def test_connections_are_where_the_debug_information_has_them(build: Build, name: str) -> None:
    variant, _ = VARIANTS[name]
    path = build(variant)
    wanted = {client.connection.encode(): client for client in CLIENTS}
    found: dict[str, int] = {}
    with path.open("rb") as stream:
        for unit in ELFFile(stream).get_dwarf_info().iter_CUs():
            for die in unit.iter_DIEs():
                client = wanted.get(die.attributes["DW_AT_name"].value) if "DW_AT_name" in die.attributes else None
                if client is None or die.tag != "DW_TAG_structure_type":
                    continue
                for member in die.iter_children():
                    if member.attributes["DW_AT_name"].value == client.field.encode():
                        found[client.connection] = member.attributes["DW_AT_data_member_location"].value
    calls = inspected(path).calls
    linked = [client for client in CLIENTS if any(call.point.function in client.functions for call in calls)]
    taken = [call.connection_offset for call in calls if not call.over]
    assert taken == [found[client.connection] for client in linked]


@pytest.mark.parametrize(
    "name", [name for name, (variant, _) in VARIANTS.items() if variant.machine == "amd64"], indirect=True
)
def test_a_program_stripped_by_the_go_linker_has_the_same_points(build: Build, name: str) -> None:
    variant, _ = VARIANTS[name]
    linker = " ".join(flag.removeprefix("-ldflags=") for flag in variant.flags if flag.startswith("-ldflags="))
    others = tuple(flag for flag in variant.flags if not flag.startswith("-ldflags="))
    path = build(variant)
    whole, stripped = inspected(path), inspected(build(replace(variant, flags=(*others, f"{STRIPPED} {linker}"))))
    assert [(p.function, p.address) for p in all_points(stripped)] == [
        (p.function, p.address) for p in all_points(whole)
    ]
    assert len(all_points(stripped)) == len(CLIENTS_1_26) + 4


def all_points(binary: GoBinary) -> list[ProbePoint]:
    assert binary.goroutine_made is not None
    return [*starts(binary), binary.goroutine_made]


@pytest.mark.parametrize(
    ("module", "known", "other"),
    [
        (GRPC_MODULE, "v1.85.0", "v9.85.0"),
        (GRPC_MODULE, "v1.85.0", "v1.99.0"),
        (GRPC_MODULE, "v1.85.0", "v1.85-x"),
        (NET_MODULE, "v0.62.0", "v0.99.0"),
    ],
)
def test_calls_of_a_client_of_an_unknown_version_are_left_alone(
    module: str, known: str, other: str, build: Build, tmp_path: Path
) -> None:
    path = build(AMD64)
    patched = tmp_path / "patched"
    data = path.read_bytes()
    recorded = f"dep\t{module}\t{known}".encode()
    assert recorded in data
    patched.write_bytes(data.replace(recorded, f"dep\t{module}\t{other}".ljust(len(recorded)).encode()))
    whole, binary = inspected(path), inspected(patched)
    left = [call for call in whole.calls if module not in call.point.function]
    assert (list(binary.calls), len(left)) == (left, len(whole.calls) - 1)
    assert [reason.code for reason in binary.reasons] == [ReasonCode.CLIENT_VERSION_UNKNOWN]
    assert f"the layout of {module} {other} was not measured" in binary.reasons[0].sentence


def test_with_a_profile_only_functions_that_stay_whole_are_probed(build: Build, tmp_path: Path) -> None:
    """As the functions are there, a program is made to say that it was built with one."""
    profiled = tmp_path / "profiled"
    data = build(AMD64).read_bytes()
    assert b"build\t-compiler=gc\n" in data
    profiled.write_bytes(data.replace(b"build\t-compiler=gc\n", b"build\t-pgo=a.pprof\n"))
    binary = inspected(profiled)
    assert binary.span_end is not None
    assert (binary.span_start, binary.goroutine_made) == (None, None)
    assert [call.point.function for call in binary.calls] == [name for name in CLIENTS_1_26 if "grpc" not in name]
    assert {reason.code for reason in binary.reasons} == {ReasonCode.PROBE_POINT_UNKNOWN}
    starts_lost, calls_lost = (reason.sentence for reason in binary.reasons)
    assert "newRecordingSpan" in starts_lost
    assert "NewStream" in calls_lost
