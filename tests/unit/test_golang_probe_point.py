"""Stack checks as Go's compilers write them, and what is not one."""

import capstone
import pytest

from enricher.golang.probe_point import amd64_calls, amd64_probe_offset, arm64_calls, arm64_probe_offset

# The beginnings of functions of real binaries, and what a probe goes on.
AMD64 = {
    "frame over 128 bytes, Go 1.26": ("4c8da42450fdffff 4d3b6610 0f868f0b0000 55 4889e5", (18, "push %rbp")),
    "frame over 128 bytes, near end, Go 1.26": ("4c8d6424b8 4d3b6610 7650 55 4889e5", (11, "push %rbp")),
    "small frame, Go 1.26": ("493b6610 0f8611020000 55 4889e5", (10, "push %rbp")),
    "small frame, near end, Go 1.26": ("493b6610 7636 55 4889e5 4883ec18", (6, "push %rbp")),
    "frame over 128 bytes, Go 1.20": ("4c8da42410fcffff 4d3b6610 0f86b00a0000 4881ec70040000", (12, "jbe")),
    "small frame, Go 1.20": ("493b6610 7636 4883ec18", (4, "jbe")),
}
ARM64 = {
    "frame over 128 bytes": ("900b40f9 f1c30ad1 3f0210eb 89520054 f4c30cd1", (12, "b.ls")),
    "small frame": ("900b40f9 ff6330eb 49010054 fe0f1ef8", (8, "b.ls")),
}
SIZE = 3040


@pytest.mark.parametrize("name", AMD64)
def test_amd64_stack_check(name: str) -> None:
    code, expected = AMD64[name]
    assert amd64_probe_offset(bytes.fromhex(code), SIZE) == expected


@pytest.mark.parametrize("name", ARM64)
def test_arm64_stack_check(name: str) -> None:
    code, expected = ARM64[name]
    assert arm64_probe_offset(bytes.fromhex(code), SIZE) == expected


@pytest.mark.parametrize(
    ("why", "code"),
    [
        ("no stack check", "55 4889e5 4883ec18 90909090"),
        ("another register holds the bound", "493b6710 7636 55 4889e5"),
        ("the bound of the system stack", "493b6618 7636 55 4889e5"),
        ("the argument is overwritten first", "4889d8 493b6610 7636 55 4889e5"),
        ("another condition", "493b6610 7736 55 4889e5"),
        ("frame over 4096 bytes", "4989e4 4981ec00200000 0f82b00a0000 4d3b6610 0f86a50a0000"),
        ("it jumps back", "493b6610 76f0 55 4889e5"),
        ("it jumps to the next instruction", "493b6610 7600 55 4889e5"),
        ("cut off", "4c8da42450fdffff 4d3b6610 0f86"),
        ("empty", ""),
    ],
)
def test_amd64_without_a_known_stack_check_is_refused(why: str, code: str) -> None:
    assert amd64_probe_offset(bytes.fromhex(code), SIZE) is None, why


@pytest.mark.parametrize(
    ("why", "code"),
    [
        ("no stack check", "fe0f1ef8 fd831ff8 fd2300d1 00000000"),
        ("another register holds the bound", "700b40f9 ff6330eb 49010054"),
        ("another condition", "900b40f9 ff6330eb 48010054"),
        ("a comparison of other registers", "900b40f9 f1c30ad1 3f0211eb 89520054"),
        ("it jumps back", "900b40f9 ff6330eb c9ffff54"),
        ("cut off", "900b40f9 f1c30ad1 3f0210eb 8952"),
        ("empty", ""),
    ],
)
def test_arm64_without_a_known_stack_check_is_refused(why: str, code: str) -> None:
    assert arm64_probe_offset(bytes.fromhex(code), SIZE) is None, why


def test_a_jump_out_of_the_function_is_refused() -> None:
    amd64, _ = AMD64["frame over 128 bytes, Go 1.26"]
    arm64, _ = ARM64["frame over 128 bytes"]
    assert amd64_probe_offset(bytes.fromhex(amd64), 0x12 + 0xB8F) is None
    assert amd64_probe_offset(bytes.fromhex(amd64), 0x12 + 0xB8F + 1) is not None
    assert arm64_probe_offset(bytes.fromhex(arm64), 12 + 0xA50) is None
    assert arm64_probe_offset(bytes.fromhex(arm64), 12 + 0xA50 + 4) is not None


@pytest.mark.parametrize("name", [*AMD64, *ARM64])
def test_the_disassembler_agrees(name: str) -> None:
    if name in AMD64:
        code, (offset, instruction) = AMD64[name]
        engine = capstone.Cs(capstone.CS_ARCH_X86, capstone.CS_MODE_64)
        engine.syntax = capstone.CS_OPT_SYNTAX_ATT
    else:
        code, (offset, instruction) = ARM64[name]
        engine = capstone.Cs(capstone.CS_ARCH_ARM64, capstone.CS_MODE_LITTLE_ENDIAN)
    found = {i.address: f"{i.mnemonic} {i.op_str}" for i in engine.disasm(bytes.fromhex(code), 0)}
    assert found[offset].replace("pushq", "push").startswith(instruction)


# nop, call back, call forth, call elsewhere.
AMD64_CALLS = bytes.fromhex("90 e8faffffff e8f5ffffff e8f0ffffff e800010000")
ARM64_CALLS = bytes.fromhex("1f2003d5 ffffff97 feffff97 01000094 00010094")


def test_amd64_calls_are_found_by_their_target() -> None:
    engine = capstone.Cs(capstone.CS_ARCH_X86, capstone.CS_MODE_64)
    targets = {i.address: int(i.op_str, 16) for i in engine.disasm(AMD64_CALLS, 0x1000) if i.mnemonic == "call"}
    assert len(targets) == 4
    for target in {*targets.values(), 0x5000}:
        expected = [address - 0x1000 for address, called in targets.items() if called == target]
        assert amd64_calls(AMD64_CALLS, target - 0x1000) == expected


def test_arm64_calls_are_found_by_their_target() -> None:
    engine = capstone.Cs(capstone.CS_ARCH_ARM64, capstone.CS_MODE_LITTLE_ENDIAN)
    targets = {
        i.address: int(i.op_str.removeprefix("#"), 16) for i in engine.disasm(ARM64_CALLS, 0x1000) if i.mnemonic == "bl"
    }
    assert len(targets) == 4
    for target in {*targets.values(), 0x5000}:
        expected = [address - 0x1000 for address, called in targets.items() if called == target]
        assert arm64_calls(ARM64_CALLS, target - 0x1000) == expected


@pytest.mark.parametrize("code", ["", "e8", "e8ffffff", "ffffff97"[:6]])
def test_a_call_that_is_cut_off_is_none(code: str) -> None:
    assert amd64_calls(bytes.fromhex(code), 4) == []
    assert arm64_calls(bytes.fromhex(code), -4) == []
