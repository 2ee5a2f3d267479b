"""Which line of libbpf's output is the useful one, and what is said where libbpf itself is not as it should be."""

import ctypes

import pytest

from enricher.observer import libbpf
from enricher.observer.libbpf import LibbpfMissing, useful_line

VERIFIER = """\
libbpf: prog 'sys_exit': BPF program load failed: Permission denied
libbpf: prog 'sys_exit': -- BEGIN PROG LOAD LOG --
0: R1=ctx(off=0,imm=0) R10=fp0
; int BPF_PROG(sys_exit, struct pt_regs *regs, long ret)
0: (79) r6 = *(u64 *)(r1 +0)
1: (61) r0 = *(u32 *)(r0 +0)
R0 invalid mem access 'scalar'
verification time 84 usec
stack depth 0
processed 2 insns (limit 1000000) max_states_per_insn 0 total_states 0 peak_states 0 mark_read 0
-- END PROG LOAD LOG --
libbpf: prog 'sys_exit': failed to load: -13
libbpf: failed to load object 'waits.bpf.o'
"""
TWO_PROGRAMS = VERIFIER.replace("R0 invalid mem access 'scalar'", "the first complaint") + VERIFIER
NO_PRIVILEGE = """\
libbpf: Error in bpf_object__probe_loading():Operation not permitted(1). Couldn't load trivial BPF program.
libbpf: failed to load object 'waits.bpf.o'
"""
NO_HOOK = """\
libbpf: prog 'sys_exit': failed to find kernel BTF type ID of 'sys_exit': -3
libbpf: prog 'sys_exit': failed to prepare load attributes: -3
libbpf: failed to load object 'waits.bpf.o'
"""
EMPTY_LOG = """\
libbpf: prog 'exec': BPF program load failed: Operation not permitted
libbpf: prog 'exec': -- BEGIN PROG LOAD LOG --
-- END PROG LOAD LOG --
libbpf: failed to load object 'processes.bpf.o'
"""


@pytest.mark.parametrize(
    ("log", "line"),
    [
        (VERIFIER, "R0 invalid mem access 'scalar'"),
        (TWO_PROGRAMS, "R0 invalid mem access 'scalar'"),
        (
            NO_PRIVILEGE,
            "Error in bpf_object__probe_loading():Operation not permitted(1). Couldn't load trivial BPF program.",
        ),
        (NO_HOOK, "prog 'sys_exit': failed to find kernel BTF type ID of 'sys_exit': -3"),
        (EMPTY_LOG, "prog 'exec': BPF program load failed: Operation not permitted"),
        ("", ""),
        ("\n\n", ""),
    ],
)
def test_the_useful_line(log: str, line: str) -> None:
    assert useful_line(log) == line


@pytest.fixture
def forgotten_library():
    """libbpf is looked up anew within the test, and again after it."""
    libbpf._library.cache_clear()
    yield
    libbpf._library.cache_clear()


@pytest.mark.usefixtures("forgotten_library")
def test_a_missing_library_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(libbpf, "_LIBRARY", "libbpf.so.none")
    with pytest.raises(LibbpfMissing, match="apt-get install libbpf1") as missing:
        libbpf.version()
    assert missing.value.code == "libbpf_missing"


@pytest.mark.usefixtures("forgotten_library")
def test_a_library_that_is_none_is_not_taken_for_libbpf(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(libbpf, "_LIBRARY", "libc.so.6")
    with pytest.raises(LibbpfMissing, match="lacks a function"):
        libbpf.version()


@pytest.mark.usefixtures("forgotten_library")
def test_an_old_library_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(libbpf, "_OLDEST", (99, 0))
    with pytest.raises(LibbpfMissing, match="older than"):
        libbpf.version()


def test_the_options_of_a_test_run_are_laid_out_as_in_c() -> None:
    # struct bpf_test_run_opts of libbpf 1.0, x86-64 and arm64
    assert ctypes.sizeof(libbpf._TestRunOptions) == 80
    assert libbpf._TestRunOptions.retval.offset == 56
