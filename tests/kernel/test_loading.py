"""libbpf.py and probe_set.py against the real kernel: what loads, what is refused, and what is said about it."""

import ctypes
import errno
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from enricher.errors import EnricherError
from enricher.evidence.records import EventFlag, ProbeCounter, ProbeProgram, ProcessLayout
from enricher.observer import libbpf
from enricher.observer.libbpf import (
    AttachRefused,
    LibbpfError,
    LoadRefused,
    MapFull,
    ObjectUnreadable,
    Spec,
)
from enricher.observer.probe_set import OBJECTS, Failed, Loaded, NothingLoaded, Off, Probe, ProbeSet, try_load
from enricher.observer.uprobes import Uprobe, UprobeTarget, connection_cookie
from enricher.processes.proc import pids

HEADERS = """
#include "vmlinux.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>
#include <bpf/bpf_core_read.h>
char LICENSE[] SEC("license") = "GPL";
"""

COUNT_CALLS = (
    HEADERS
    + """
struct { __uint(type, BPF_MAP_TYPE_HASH); __uint(max_entries, 4); __type(key, __u32); __type(value, __u64); }
calls SEC(".maps");
struct { __uint(type, BPF_MAP_TYPE_PERCPU_ARRAY); __uint(max_entries, 3); __type(key, __u32); __type(value, __u64); }
per_cpu SEC(".maps");
const volatile struct { __u64 step; } config = { .step = 1 };

static __always_inline void add(__u32 key)
{
	__u64 *value = bpf_map_lookup_elem(&calls, &key), step = config.step;
	if (value)
		__sync_fetch_and_add(value, step);
	else
		bpf_map_update_elem(&calls, &key, &step, BPF_ANY);
}

SEC("syscall") int run(void *context)
{
	__u32 index = 2;
	__u64 *value = bpf_map_lookup_elem(&per_cpu, &index);
	if (value)
		(*value)++;
	add(1);
	return 7;
}

SEC("uprobe") int hit(struct pt_regs *ctx) { add(2); return 0; }

SEC("iter/task") int tasks(struct bpf_iter__task *ctx)
{
	if (ctx->task)
		add(3);
	return 0;
}
"""
)


def u32(number: int) -> bytes:
    return number.to_bytes(4, sys.byteorder)


def u64(value: bytes | None) -> int:
    assert value is not None
    return int.from_bytes(value, sys.byteorder)


def test_every_object_of_the_package_loads_and_attaches() -> None:
    assert try_load() == tuple((probe.file, True, "") for probe in Probe)


def test_a_program_runs_with_the_constants_it_was_given(compile_probe: Callable[[str], Path]) -> None:
    with Spec(compile_probe(COUNT_CALLS)) as spec:
        spec.set_constants((5).to_bytes(8, sys.byteorder))
        with spec.load() as loaded:
            assert loaded.programs["run"].run() == 7
            assert loaded.programs["run"].run() == 7
            assert u64(loaded.maps["calls"].lookup(u32(1))) == 10
            per_cpu = loaded.maps["per_cpu"].read_per_cpu_array().tolist()
            cpus = libbpf.possible_cpus()
            assert len(per_cpu) == 3 * cpus
            assert per_cpu[: 2 * cpus] == [0] * 2 * cpus
            assert sum(per_cpu[2 * cpus :]) == 2


def test_constants_of_another_size_are_refused(compile_probe: Callable[[str], Path]) -> None:
    with Spec(compile_probe(COUNT_CALLS)) as spec, pytest.raises(LibbpfError, match="8 bytes, not 4"):
        spec.set_constants(b"\0" * 4)


def test_a_map_says_when_it_is_full_and_what_is_in_it(compile_probe: Callable[[str], Path]) -> None:
    with Spec(compile_probe(COUNT_CALLS)) as spec:
        spec.set_max_entries("calls", 2)
        with spec.load() as loaded:
            calls = loaded.maps["calls"]
            assert calls.max_entries == 2
            for key in (8, 9):
                calls.update(u32(key), (key * 10).to_bytes(8, sys.byteorder))
            with pytest.raises(MapFull, match=r"calls is full \(2 entries\)"):
                calls.update(u32(10), bytes(8))
            assert {key: u64(calls.lookup(key)) for key in calls} == {u32(8): 80, u32(9): 90}
            assert calls.delete(u32(8))
            assert not calls.delete(u32(8))
            assert calls.lookup(u32(8)) is None
            with pytest.raises(LibbpfError, match="3 bytes given for 4"):
                calls.lookup(b"abc")


def test_an_iterator_visits_every_task(compile_probe: Callable[[str], Path]) -> None:
    with Spec(compile_probe(COUNT_CALLS)) as spec, spec.load() as loaded:
        with loaded.programs["tasks"].attach() as link:
            assert link.iterate() == b""
        tasks = u64(loaded.maps["calls"].lookup(u32(3)))
    assert tasks >= len(list(pids())) / 2


def test_a_uprobe_is_hit_as_often_as_the_instruction_runs(
    compile_probe: Callable[[str], Path], compile_c: Callable[[str], Path]
) -> None:
    program = compile_c(
        """
        #include <stdlib.h>
        __attribute__((noinline)) int step(int n) { __asm__ volatile(""); return n + 1; }
        int main(int argc, char **argv) { int n = 0; while (n < atoi(argv[1])) n = step(n); return 0; }
        """
    )
    with Spec(compile_probe(COUNT_CALLS)) as spec, spec.load() as loaded:
        calls = loaded.maps["calls"]
        with program.open("rb") as file:
            link = loaded.programs["hit"].attach_uprobe(f"/proc/self/fd/{file.fileno()}", file_offset(program, "step"))
        with link:
            subprocess.run([str(program), "13"], check=True)
            assert u64(calls.lookup(u32(2))) == 13
        subprocess.run([str(program), "13"], check=True)
        assert u64(calls.lookup(u32(2))) == 13


def file_offset(program: Path, symbol: str) -> int:
    """Small programs: their segments are mapped such that the difference is that of the program header."""
    symbols = subprocess.run(["nm", str(program)], check=True, capture_output=True, text=True).stdout
    address = next(int(line.split()[0], 16) for line in symbols.splitlines() if line.endswith(f" T {symbol}"))
    headers = subprocess.run(["readelf", "-lW", str(program)], check=True, capture_output=True, text=True).stdout
    for line in headers.splitlines():
        fields = line.split()
        if fields[:1] == ["LOAD"]:
            offset, virtual, size = (int(fields[at], 16) for at in (1, 2, 4))
            if virtual <= address < virtual + size:
                return address - virtual + offset
    raise AssertionError(symbol)


def test_a_uprobe_where_there_is_no_file_is_refused(compile_probe: Callable[[str], Path]) -> None:
    with Spec(compile_probe(COUNT_CALLS)) as spec, spec.load() as loaded, pytest.raises(AttachRefused) as refused:
        loaded.programs["hit"].attach_uprobe("/nonexistent", 4096)
    assert refused.value.errno == errno.ENOENT
    assert "hit cannot be attached to /nonexistent at 0x1000" in str(refused.value)


def test_a_verifiers_no_is_told_in_its_one_useful_line(compile_probe: Callable[[str], Path]) -> None:
    source = HEADERS + 'SEC("syscall") int wild(void *c) { return *(int *)bpf_ktime_get_ns(); }'
    with pytest.raises(LoadRefused) as refused:
        Spec(compile_probe(source)).load()
    error = refused.value
    assert error.program == "wild"
    assert error.errno == errno.EACCES
    assert "program wild: R" in str(error)
    assert "invalid mem access" in str(error).splitlines()[0]
    assert "BEGIN PROG LOAD LOG" in error.log
    assert "processed" in error.log
    assert "processed" not in str(error)


def test_a_field_that_this_kernel_lacks_is_named(compile_probe: Callable[[str], Path]) -> None:
    source = (
        HEADERS
        + """
    struct cred___other { int no_such_field; } __attribute__((preserve_access_index));
    SEC("syscall") int relocated(void *c) {
        struct cred___other *cred = (void *)bpf_get_current_task();
        return BPF_CORE_READ(cred, no_such_field);
    }"""
    )
    with pytest.raises(LoadRefused) as refused:
        Spec(compile_probe(source)).load()
    assert "no_such_field" in str(refused.value)


def test_a_hook_that_this_kernel_lacks_is_named(compile_probe: Callable[[str], Path]) -> None:
    source = HEADERS + 'SEC("tp_btf/no_such_hook") int BPF_PROG(hooked) { return 0; }'
    with pytest.raises(LoadRefused, match="no_such_hook"):
        Spec(compile_probe(source)).load()


def test_a_missing_object_is_said_to_be_missing(tmp_path: Path) -> None:
    with pytest.raises(ObjectUnreadable, match="No such file") as unreadable:
        Spec(tmp_path / "nothing.bpf.o")
    assert unreadable.value.errno == errno.ENOENT


def test_a_file_that_is_no_object_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "broken.bpf.o"
    path.write_bytes(b"\x7fELF" + b"\xff" * 100)
    with pytest.raises(ObjectUnreadable):
        Spec(path)


def in_child(script: str, *launcher: str) -> str:
    done = subprocess.run(
        [*launcher, sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


TRY_LOAD = """
from enricher.processes.proc import pids
from enricher.observer.probe_set import NothingLoaded, ProbeSet
try:
    ProbeSet({}, blocked_threshold_ns=1_000_000)
except NothingLoaded as error:
    for failed in error.status.values():
        print(failed.error.code, failed.error)
"""


def test_without_privilege_it_says_so_and_how_to_get_it() -> None:
    output = in_child(TRY_LOAD, "setpriv", "--inh-caps=-all", "--bounding-set=-all")
    assert [line.split()[0] for line in output.splitlines()] == ["not_permitted"] * len(Probe)
    assert "Operation not permitted" in output
    assert "Run as root" in output


def test_without_types_of_the_kernel_it_says_so() -> None:
    hide = 'mount -t tmpfs none /sys/kernel/btf && exec "$@"'
    output = in_child(TRY_LOAD, "unshare", "--mount", "sh", "-c", hide, "sh")
    assert [line.split()[0] for line in output.splitlines()] == ["kernel_btf_missing"] * len(Probe)


def test_without_libbpf_it_says_what_to_install() -> None:
    hide = "from enricher.observer import libbpf; libbpf._LIBRARY = 'libbpf.so.none'\n"
    output = in_child(hide + TRY_LOAD)
    assert [line.split()[0] for line in output.splitlines()] == ["libbpf_missing"] * len(Probe)
    assert "apt-get install libbpf1" in output


def test_objects_share_the_maps_of_one_name() -> None:
    with ProbeSet({}, blocked_threshold_ns=1_000_000) as probes:
        assert set(probes.status.values()) == {Loaded()}
        identities = set()
        for loaded in probes._objects.values():
            info = ctypes.create_string_buffer(88)  # struct bpf_map_info: type, id, ...
            length = ctypes.c_uint32(len(info))
            get_info = ctypes.CDLL("libbpf.so.1").bpf_obj_get_info_by_fd
            assert get_info(loaded.maps["events"].fd, info, ctypes.byref(length)) == 0
            identities.add(int.from_bytes(info.raw[4:8], sys.byteorder))
        assert len(identities) == 1


def test_what_is_off_is_not_loaded_and_what_fails_is_told(tmp_path: Path) -> None:
    for probe in (Probe.SYSCALLS, Probe.PROCESSES):
        (tmp_path / probe.file).symlink_to(OBJECTS / probe.file)
    (tmp_path / Probe.PROCESSES.file).unlink()
    with ProbeSet({"go_sdk": "off"}, blocked_threshold_ns=1_000_000, directory=tmp_path) as probes:
        assert probes.status[Probe.SYSCALLS] == Loaded()
        assert probes.status[Probe.GO_SDK] == Off()
        failed = probes.status[Probe.PROCESSES]
        assert isinstance(failed, Failed)
        assert isinstance(failed.error, ObjectUnreadable)


def test_all_off_is_nothing_loaded() -> None:
    with pytest.raises(NothingLoaded, match="all of them are off"):
        ProbeSet(dict.fromkeys(Probe, "off"), blocked_threshold_ns=1_000_000)


def test_as_many_processes_as_the_map_holds_can_be_watched() -> None:
    with ProbeSet({}, blocked_threshold_ns=1_000_000) as probes:
        pids = range(1_000_000_000, 1_000_001_024)
        for pid in pids:
            probes.watch(pid, ProcessLayout())
        with pytest.raises(EnricherError, match="full"):
            probes.watch(1, ProcessLayout())
        for pid in pids:
            probes.unwatch(pid)
        probes.watch(1, ProcessLayout())


def test_counters_start_at_nothing_and_name_what_they_count() -> None:
    with ProbeSet({"processes": "off"}, blocked_threshold_ns=1_000_000) as probes:
        readings = probes.counters.readings()
        assert set(readings) == {(program, counter) for program in ProbeProgram for counter in ProbeCounter}
        assert set(readings.values()) == {0}
        assert probes.slots.newly_lost() == {}
        assert probes.failures() == ()


def test_the_span_end_probe_of_a_binary_is_there_as_long_as_one_process_uses_it(
    compile_c: Callable[[str], Path],
) -> None:
    program = compile_c("__attribute__((noinline)) int step(int n) { return n + 1; } int main() { return step(-1); }")
    offset = file_offset(program, "step")
    with ProbeSet({}, blocked_threshold_ns=1_000_000) as probes, program.open("rb") as one, program.open("rb") as two:
        attached = probes.attach(one.fileno(), [UprobeTarget(Uprobe.SPAN_END, offset)])
        assert attached.flags == EventFlag.PROCESS_HAS_SPAN_ENDS
        assert probes.attach(two.fileno(), [UprobeTarget(Uprobe.SPAN_END, offset)]) == attached
        assert probes.uprobes.places == set(attached.places)
        probes.release(attached.places)
        assert probes.uprobes.places == set(attached.places)
        probes.release(attached.places)
        assert not probes.uprobes.places


def test_of_the_points_of_one_probe_all_are_attached_or_none(compile_c: Callable[[str], Path]) -> None:
    program = compile_c("__attribute__((noinline)) int step(int n) { return n + 1; } int main() { return step(-1); }")
    offset = file_offset(program, "step")
    beyond = 1 << 40
    with ProbeSet({}, blocked_threshold_ns=1_000_000) as probes, program.open("rb") as file:
        attached = probes.attach(
            file.fileno(),
            [
                UprobeTarget(Uprobe.CONNECTION_CALL, offset, connection_cookie(80, multiplexed=False)),
                UprobeTarget(Uprobe.CONNECTION_CALL, beyond, connection_cookie(8, multiplexed=True)),
                UprobeTarget(Uprobe.SPAN_END, offset + 1),
                UprobeTarget(Uprobe.SPAN_START, beyond),
                UprobeTarget(Uprobe.GOROUTINE_MADE, offset + 2),
            ],
        )
        # Who is inside a span is known only with both starts and ends.
        assert attached.flags == EventFlag.PROCESS_HAS_SPAN_ENDS
        assert {place[2] for place in attached.places} == {offset + 1}
        assert [type(error) for error in attached.refused] == [AttachRefused, AttachRefused]
        assert probes.uprobes.places == set(attached.places)
