"""What the DWARF of a Go program says of its structures, and of where its functions find their arguments."""

from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from elftools.dwarf.locationlists import LocationEntry
from elftools.elf.elffile import ELFFile

_OP_PLUS_UCONST, _OP_REG0, _OP_REG31, _OP_FBREG, _OP_CALL_FRAME_CFA = 0x23, 0x50, 0x6F, 0x91, 0x9C
_TYPES = ("DW_TAG_structure_type", "DW_TAG_typedef")

_Die = Any  # of pyelftools, which has no types


class Mismatch(Exception):
    """Something is not as it was measured elsewhere, or as the probes take it to be."""


class GoDwarf:
    """Types and functions of `binary`, those called `names` only. Raises Mismatch for what is asked of others."""

    def __init__(self, binary: Path, names: Iterable[str]) -> None:
        self._binary = binary
        self._stream = binary.open("rb")
        info = ELFFile(self._stream).get_dwarf_info()
        self._lists = info.location_lists()
        self._types: dict[tuple[str, str], _Die] = {}
        self._functions: dict[str, _Die] = {}
        self._inlined: set[str] = set()
        wanted = {name.encode(): name for name in names}
        for die in (die for unit in info.iter_CUs() for die in unit.iter_DIEs() if "DW_AT_name" in die.attributes):
            name = wanted.get(die.attributes["DW_AT_name"].value)
            if name is None:
                continue
            if die.tag in _TYPES:
                self._types.setdefault((name, die.tag), die)
            elif die.tag == "DW_TAG_subprogram":
                if "DW_AT_inline" in die.attributes:
                    self._inlined.add(name)
                self._functions[name] = die

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stream.close()

    def has_structure(self, structure: str) -> bool:
        """Whether there is a structure of this name."""
        return (structure, "DW_TAG_structure_type") in self._types

    def offset(self, structure: str, field: str) -> int | None:
        """Offset of a field in bytes; None if the structure has no such field."""
        for member in self._members(self._structure(structure)):
            if member.attributes["DW_AT_name"].value == field.encode():
                return _constant(member.attributes["DW_AT_data_member_location"].value)
        return None

    def size(self, structure: str) -> int:
        """Bytes."""
        size: int = self._structure(structure).attributes["DW_AT_byte_size"].value
        return size

    def typed(self, name: str) -> str:
        """What the type called `name` is: a pointer ("*..."), a slice ("[]..."), of a structure with one field what
        that is, "struct" of any other."""
        die = self._types.get((name, "DW_TAG_typedef"))
        if die is None:
            raise Mismatch(f"{self._binary} has no type {name}")
        while True:
            target = die.get_DIE_from_attribute("DW_AT_type")
            text = target.attributes["DW_AT_name"].value.decode()
            if text.startswith(("*", "[]")):
                return str(text)
            members = self._members(target)
            if target.tag == "DW_TAG_structure_type" and len(members) != 1:
                return "struct"
            die = members[0] if members else target

    def is_inlined(self, function: str) -> bool:
        """Whether the compiler put it into a function that calls it."""
        return function in self._inlined

    def register(self, function: str, place: int) -> int | None:
        """DWARF's number of the register in which `function` finds argument `place` at its start; None: in none."""
        expression = self._location(self._parameters(function)[place])
        single = len(expression) == 1 and _OP_REG0 <= expression[0] <= _OP_REG31
        return expression[0] - _OP_REG0 if single else None

    def frame_offset(self, function: str, parameter: str) -> int | None:
        """Where `function` finds an argument: so many bytes behind its frame's address. None: elsewhere."""
        named = [p for p in self._parameters(function) if p.attributes["DW_AT_name"].value == parameter.encode()]
        expression = self._location(named[0]) if named else []
        if expression == [_OP_CALL_FRAME_CFA]:
            return 0
        if expression[:1] == [_OP_FBREG]:
            offset = _leb128(expression[1:])
            return offset - (1 << 7 * (len(expression) - 1)) if expression[-1] & 0x40 else offset
        return None

    def _structure(self, name: str) -> _Die:
        try:
            return self._types[name, "DW_TAG_structure_type"]
        except KeyError:
            raise Mismatch(f"{self._binary} has no structure {name}") from None

    def _members(self, structure: _Die) -> list[_Die]:
        return [child for child in structure.iter_children() if child.tag == "DW_TAG_member"]

    def _parameters(self, function: str) -> list[_Die]:
        die = self._functions.get(function)
        if die is None or function in self._inlined:
            raise Mismatch(f"{self._binary} has no {function}, or has it inside of others")
        return [child for child in die.iter_children() if child.tag == "DW_TAG_formal_parameter"]

    def _location(self, parameter: _Die) -> list[int]:
        location = parameter.attributes["DW_AT_location"]
        if location.form in ("DW_FORM_block1", "DW_FORM_exprloc"):
            return list(location.value)
        ranges = self._lists.get_location_list_at_offset(location.value, parameter)
        first = next(entry for entry in ranges if isinstance(entry, LocationEntry))
        return list(first.loc_expr)


def _constant(location: int | list[int]) -> int:
    if isinstance(location, int):
        return location
    # DW_OP_plus_uconst: how older Go writes a constant.
    operation, *digits = location
    if operation != _OP_PLUS_UCONST:
        raise Mismatch(f"unknown DWARF operation {operation:#x}")
    return _leb128(digits)


def _leb128(digits: list[int]) -> int:
    return sum((digit & 0x7F) << 7 * place for place, digit in enumerate(digits))
