"""Holds a program of a known build against what the probes take for granted of its functions."""

from go_dwarf import GoDwarf, Mismatch

from enricher.golang.client_calls import Client
from enricher.golang.elf import ElfImage, Machine
from enricher.golang.layouts import go_minor
from enricher.golang.pclntab import Function, FunctionTable, find_function_table
from enricher.golang.points import GOROUTINE_MAKER_FUNCTION, GOROUTINE_QUEUE_FUNCTION, SPAN_START_FUNCTION
from enricher.golang.probe_point import REGISTER_ARGUMENTS_SINCE_MINOR, ProbePoint, call_point, probe_point

SPAN_CONTEXT_SIZE = 64

# DWARF's numbers of the registers of the first two arguments.
ARGUMENT_REGISTERS: dict[Machine, tuple[int, int]] = {"amd64": (0, 3), "arm64": (0, 1)}
# A call puts its return address on the stack of amd64; on arm64 the caller leaves the room, which belongs to its frame.
FRAME_BEHIND_STACK_POINTER: dict[Machine, int] = {"amd64": 8, "arm64": 0}
FRAME_POINTER_FIRST_SINCE_MINOR = 21
# Before, it may tell the place on the stack where a function puts an argument later.
DWARF_TELLS_REGISTERS_SINCE_MINOR = 21


class ProbedProgram:
    """A binary that was just built, to be held against what the probes take for granted."""

    def __init__(self, image: ElfImage, dwarf: GoDwarf, go_version: str, wrapper_func_id: int) -> None:
        table = find_function_table(image)
        minor = go_minor(go_version)
        if table is None or minor is None:
            raise Mismatch(f"{image.path} has no function table, or {go_version} is no release")
        self._image = image
        self._dwarf = dwarf
        self._table: FunctionTable = table
        self._minor = minor
        self._wrapper_func_id = wrapper_func_id
        self._registers = ARGUMENT_REGISTERS[image.machine]

    @property
    def takes_arguments_in_registers(self) -> bool:
        """Otherwise none of its functions is probed."""
        return self._minor >= REGISTER_ARGUMENTS_SINCE_MINOR[self._image.machine]

    @property
    def saves_frame_pointer_first(self) -> bool:
        """Before, functions of arm64 with small frames have another stack check, which is not known."""
        return self._minor >= FRAME_POINTER_FIRST_SINCE_MINOR

    def check_goroutine_made(self) -> None:
        """The call in the maker of goroutines, with the new one in the second register."""
        (maker,), (queue,) = map(self._functions, (GOROUTINE_MAKER_FUNCTION, GOROUTINE_QUEUE_FUNCTION))
        point = call_point(self._image, maker, queue.address)
        if point is None or self._dwarf.is_inlined(GOROUTINE_QUEUE_FUNCTION):
            raise Mismatch(f"no single call of {queue.name} in {maker.name}")
        self._check_argument(GOROUTINE_QUEUE_FUNCTION, 1)
        self._tell(point, maker.address)

    def check_start(self, function: str, *, argument: int | None = 0) -> None:
        """The start of a function, with the argument at place `argument` in its register (None: none is read)."""
        found = self._functions(function)
        point = probe_point(self._image, found[0]) if len(found) == 1 else None
        if point is None or self._dwarf.is_inlined(function):
            raise Mismatch(f"{function} cannot be probed: {found}")
        expected = "b.ls" if self._image.machine == "arm64" else "jbe"
        if self._image.machine == "amd64" and self.saves_frame_pointer_first:
            expected = "push %rbp"
        if point.instruction != expected:
            raise Mismatch(f"{function} is probed at {point.instruction}, not {expected}")
        if argument is not None:
            self._check_argument(function, argument)
        self._tell(point, found[0].address)

    def check_client(self, client: Client) -> None:
        """The start of the innermost of the client's functions, and of the one that takes its connections back."""
        linked = next(name for name in client.functions if self._functions(name))
        self.check_start(linked)
        if client.giver is not None:
            self.check_start(client.giver, argument=1)

    def start_span_context(self) -> int | None:
        """See SdkLayout. Raises Mismatch if the parent's does not end there."""
        behind = FRAME_BEHIND_STACK_POINTER[self._image.machine]
        parent, own = (self._dwarf.frame_offset(SPAN_START_FUNCTION, name) for name in ("psc", "sc"))
        if parent is None or own is None:
            return None
        if parent + SPAN_CONTEXT_SIZE != own:
            raise Mismatch(f"{SPAN_START_FUNCTION} finds the parent at {parent}, the span at {own}")
        return own + behind

    def _functions(self, name: str) -> list[Function]:
        return [function for function in self._table.functions(name) if function.func_id != self._wrapper_func_id]

    def _check_argument(self, function: str, place: int) -> None:
        if self._minor < DWARF_TELLS_REGISTERS_SINCE_MINOR:
            return
        register = self._dwarf.register(function, place)
        if register != self._registers[place]:
            raise Mismatch(f"{function} finds argument {place} in register {register}, not {self._registers[place]}")

    def _tell(self, point: ProbePoint, start: int) -> None:
        print(f"    {self._image.machine} {point.function}: {point.instruction} at +{point.address - start:#x}")
