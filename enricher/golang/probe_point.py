"""Where in a Go function to put a uprobe.

The first instruction of a Go function and its RET are never emulated by the kernel: it single-steps
them, which costs 15 to 17 us a hit against 0.6 us for an instruction that it emulates (measured, Linux
6.18). Near the start it emulates, on amd64, the jump of the stack check and the `push %rbp` behind it
(arch/x86/kernel/uprobes.c), on arm64 the branch of the stack check
(arch/arm64/kernel/probes/decode-insn.c). The jump runs once more when the stack had to grow, the push
does not, so the push is preferred. Go saves the frame pointer right behind the stack check from 1.21 on;
up to 1.20 it lowers the stack pointer first, which would be single-stepped.

A call is emulated too, on amd64 as on arm64: where it is the call that matters, it is the one to probe.

Go's assemblers write the stack check in few forms (stacksplit in cmd/internal/obj/x86/obj6.go and
cmd/internal/obj/arm64/obj7.go), and none of them touches what a probe reads: arguments, g, stack
pointer. So the two usual forms are matched exactly and all else is refused. The tests hold them against
a disassembler. At run time that would take 16 MiB of resident memory for as long as the process lives.
"""

import re
import struct
from dataclasses import dataclass
from typing import Literal

from enricher.golang.elf import ElfImage, Machine
from enricher.golang.pclntab import Function

Instruction = Literal["push %rbp", "jbe", "b.ls", "call", "bl"]

# Minor of the first Go 1.x that passes arguments in registers.
REGISTER_ARGUMENTS_SINCE_MINOR: dict[Machine, int] = {"amd64": 17, "arm64": 18}

_LONGEST_STACK_CHECK = 20

# The functions in which calls are looked for have some 100 bytes.
_LONGEST_SCAN = 4096
_AMD64_CALL = re.compile(rb"\xe8(?=(.{4}))", re.DOTALL)  # call rel32
_AMD64_CALL_SIZE = 5

# g is in R14, the bound of its stack 16 bytes into it.
_AMD64_STACK_CHECK = re.compile(
    rb"""
    (?: \x49\x3b\x66\x10                                # cmp 16(%r14), %rsp    frames up to 128 bytes
      | \x4c\x8d (?: \x64\x24 . | \xa4\x24 .{4} )       # lea -size(%rsp), %r12
        \x4d\x3b\x66\x10                                # cmp 16(%r14), %r12
    )
    (?P<jump> \x76 . | \x0f\x86 .{4} )                  # jbe more_stack
    (?P<push> \x55 )?                                   # push %rbp
    """,
    re.VERBOSE | re.DOTALL,
)

# g is in X28. (mask, value) of each instruction.
_ARM64_STACK_CHECK_SMALL = (
    (0xFFFFFFFF, 0xF9400B90),  # ldr x16, [x28, #16]
    (0xFFFFFFFF, 0xEB3063FF),  # cmp sp, x16    frames up to 128 bytes
    (0xFF00001F, 0x54000009),  # b.ls more_stack
)
_ARM64_STACK_CHECK = (
    (0xFFFFFFFF, 0xF9400B90),  # ldr x16, [x28, #16]
    (0xFF8003FF, 0xD10003F1),  # sub x17, sp, #size
    (0xFFFFFFFF, 0xEB10023F),  # cmp x17, x16
    (0xFF00001F, 0x54000009),  # b.ls more_stack
)
_ARM64_INSTRUCTION_SIZE = 4


@dataclass(frozen=True, slots=True)
class ProbePoint:
    """An instruction of `function` that the kernel emulates. At the start of a function its arguments are still in
    their registers, at a call those of the function called are. `address` is the file's own, `file_offset` is what a
    uprobe is attached by."""

    function: str
    address: int
    file_offset: int
    instruction: Instruction


def probe_point(image: ElfImage, function: Function) -> ProbePoint | None:
    """The place to probe `function` of `image`; None: it does not begin with a stack check of a known form."""
    code = image.read(function.address, min(function.size, _LONGEST_STACK_CHECK))
    found = (amd64_probe_offset if image.machine == "amd64" else arm64_probe_offset)(code, function.size)
    if found is None:
        return None
    offset, instruction = found
    address = function.address + offset
    return ProbePoint(function.name, address, image.offset_of(address), instruction)


def call_point(image: ElfImage, function: Function, target: int) -> ProbePoint | None:
    """The call of the function at address `target` in `function` of `image`.

    None: there is none or more than one, or `function` does not begin with a stack check of a known form.
    """
    start = probe_point(image, function)
    if start is None or function.size > _LONGEST_SCAN:
        return None
    code = image.read(function.address, function.size)
    calls = (amd64_calls if image.machine == "amd64" else arm64_calls)(code, target - function.address)
    address = function.address + calls[0] if len(calls) == 1 else 0
    if address <= start.address:
        return None
    instruction: Instruction = "call" if image.machine == "amd64" else "bl"
    return ProbePoint(function.name, address, image.offset_of(address), instruction)


def amd64_calls(code: bytes, target: int) -> list[int]:
    """Offsets in `code` of the calls of what is `target` bytes from its start.

    Code is not decoded: a distance of four bytes that is right by chance, inside of other instructions, is one in
    four billion for each byte.
    """
    return [
        match.start()
        for match in _AMD64_CALL.finditer(code)
        if match.start() + _AMD64_CALL_SIZE + int.from_bytes(match[1], "little", signed=True) == target
    ]


def arm64_calls(code: bytes, target: int) -> list[int]:
    """Offsets in `code` of the calls of what is `target` bytes from its start."""
    found: list[int] = []
    for index, (word,) in enumerate(struct.iter_unpack("<I", code[: len(code) // 4 * 4])):
        distance = (word & 0x3FFFFFF) - ((word & 0x2000000) << 1)
        if word >> 26 == 0b100101 and (index + distance) * _ARM64_INSTRUCTION_SIZE == target:  # bl
            found.append(index * _ARM64_INSTRUCTION_SIZE)
    return found


def amd64_probe_offset(code: bytes, size: int) -> tuple[int, Instruction] | None:
    """Offset of the instruction to probe in a function of `size` bytes that begins with `code`."""
    check = _AMD64_STACK_CHECK.match(code)
    if check is None:
        return None
    jump = check["jump"]
    distance = int.from_bytes(jump[1:] if len(jump) == 2 else jump[2:], "little", signed=True)
    if not check.end("jump") < check.end("jump") + distance < size:
        return None
    return (check.start("push"), "push %rbp") if check["push"] else (check.start("jump"), "jbe")


def arm64_probe_offset(code: bytes, size: int) -> tuple[int, Instruction] | None:
    """Offset of the instruction to probe in a function of `size` bytes that begins with `code`."""
    words = [word for (word,) in struct.iter_unpack("<I", code[: len(code) // 4 * 4])]
    for check in (_ARM64_STACK_CHECK_SMALL, _ARM64_STACK_CHECK):
        if len(words) >= len(check) and all(
            word & mask == value for word, (mask, value) in zip(words, check, strict=False)
        ):
            at = (len(check) - 1) * _ARM64_INSTRUCTION_SIZE
            distance = ((words[len(check) - 1] >> 5) & 0x7FFFF) * _ARM64_INSTRUCTION_SIZE
            return (at, "b.ls") if _ARM64_INSTRUCTION_SIZE < distance < size - at else None
    return None
