"""Memory is given back where there is some, and not all the time."""

from enricher.otlp.memory import MemoryReturn, resident_bytes

MIB = 1 << 20


class Process:
    def __init__(self) -> None:
        self.now_s = 0.0
        self.resident = 50 * MIB
        self.memory = MemoryReturn(resident_bytes=lambda: self.resident, clock_s=lambda: self.now_s)
        self.memory._trim = self.trim

    def trim(self, pad: int) -> int:
        self.resident = 60 * MIB
        return 1

    def look(self, at_s: float) -> bool:
        self.now_s = at_s
        return self.memory.look()


def test_a_process_that_has_not_grown_is_left_alone() -> None:
    process = Process()
    assert [process.look(at) for at in (5.0, 10.0, 15.0)] == [False, False, False]


def test_one_that_has_grown_gives_back_once_in_a_while() -> None:
    process = Process()
    process.resident = 200 * MIB
    assert not process.look(4.9)
    assert process.look(5.0)
    process.resident = 200 * MIB
    assert not process.look(9.9)
    assert process.look(10.0)


def test_what_stays_is_the_measure_from_then_on() -> None:
    process = Process()
    process.resident = 90 * MIB
    assert process.look(5.0)
    process.resident = 91 * MIB  # 41 more than at first, 31 more than what could not be given back
    assert not process.look(10.0)


def test_the_kernel_is_asked_and_glibc_told() -> None:
    assert resident_bytes() > MIB
    now_s = [0.0]
    sizes = iter([0, 1 << 40, 0])
    memory = MemoryReturn(resident_bytes=lambda: next(sizes), clock_s=lambda: now_s[0])
    now_s[0] = 10.0
    assert memory.look()
