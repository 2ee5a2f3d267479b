"""Memory is given back where there is some, and not all the time."""

from enricher.otlp.memory import MemoryBounds, MemoryLimit, MemoryReturn, resident_bytes

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


class Limited:
    """A process with a soft limit of 100 MiB and a hard one of 200."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.resident = 50 * MIB
        self.free = 0  # of that, what can be given back
        self.waiting = 1
        self.refusing = False
        self.kept_ns: list[int] = []
        memory = MemoryReturn(resident_bytes=lambda: self.resident, clock_s=lambda: self.now_s)
        memory._trim = self.trim
        self.limit = MemoryLimit(
            MemoryBounds(100 * MIB, 200 * MIB),
            self,
            self,
            30_000_000_000,
            lambda: self.waiting,
            memory=memory,
            resident_bytes=lambda: self.resident,
            clock_s=lambda: self.now_s,
        )

    def trim(self, pad: int) -> int:
        self.resident, self.free = self.resident - self.free, 0
        return 1

    def refuse_new(self, refusing: bool) -> None:
        self.refusing = refusing

    def shed(self, keep_ns: int) -> None:
        self.kept_ns.append(keep_ns)

    def look(self, resident_mib: int, *, free_mib: int = 0) -> bool:
        self.resident, self.free = resident_mib * MIB, free_mib * MIB
        self.now_s += 0.1
        self.limit.look()
        return self.refusing


def test_spans_are_refused_beyond_the_soft_limit_and_taken_again_below() -> None:
    process = Limited()
    assert [process.look(mib) for mib in (99, 101, 150, 101, 99)] == [False, True, True, True, False]
    assert process.kept_ns == []


def test_what_is_only_not_given_back_is_no_reason_to_refuse() -> None:
    process = Limited()
    assert not process.look(150, free_mib=60)


def test_with_nothing_to_send_nothing_is_refused_whatever_takes_the_memory() -> None:
    process = Limited()
    process.waiting = 0
    assert not process.look(150)
    process.waiting = 1
    assert process.look(150)


def test_beyond_the_hard_limit_half_of_the_evidence_goes_each_time_but_never_the_newest() -> None:
    process = Limited()
    for _ in range(7):
        assert process.look(250)
    assert [ns // 10**6 for ns in process.kept_ns] == [15000, 7500, 3750, 1875, 1000, 1000, 1000]
    process.look(90)
    process.look(250)
    assert process.kept_ns[-1] == 15_000_000_000


def test_the_limit_is_looked_at_ten_times_a_second() -> None:
    process = Limited()
    process.look(50)
    process.resident = 150 * MIB
    process.now_s += 0.09
    process.limit.look()
    assert not process.refusing
    process.now_s += 0.02
    process.limit.look()
    assert process.refusing
    shown = {series.name: series.values[""] for series in process.limit.series()}
    assert shown == {"process_memory_limit_bytes": 200 * MIB, "receiver_refusing": 1.0}
