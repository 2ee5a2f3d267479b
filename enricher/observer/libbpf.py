"""libbpf through ctypes: what the observer needs of it, with types and errors.

An object goes through three states, as in cilium/ebpf: a `Spec` is the opened file, which can still be changed and
touches no kernel; an `Object` is in the kernel, accepted by the verifier; a `Link` is a program attached to its hook.
Each is a context manager and gives back what it holds.

ctypes and not a C extension: an installed wheel then works with whatever libbpf.so.1 the host has, and these calls
are rare (loading) or cheap beside the system call they make (maps). libbpf 1.x reports a failure of a function that
returns a pointer by NULL and `errno`, of one that returns an int by the negative errno; both become exceptions here.
Nothing newer than libbpf 1.0 is used. Not thread-safe: libbpf's print callback is one for the process.
"""

import ctypes
import errno
import functools
import mmap
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import ClassVar, NoReturn, Self

from enricher.errors import EnricherError

_LIBRARY = "libbpf.so.1"
_OLDEST = (1, 0)
_LOG_BYTES = 32 << 20  # libbpf gives the verifier a buffer of 16 MiB; only the pages written to become resident
_PRINT_DEBUG = 2  # enum libbpf_print_level

_pointer = ctypes.c_void_p
_u32 = ctypes.c_uint32
_fd = ctypes.c_int

# name: (result, arguments), as in bpf/libbpf.h and bpf/bpf.h
_SIGNATURES: dict[str, tuple[type | None, tuple[type, ...]]] = {
    "libbpf_major_version": (_u32, ()),
    "libbpf_minor_version": (_u32, ()),
    "libbpf_num_possible_cpus": (ctypes.c_int, ()),
    "libbpf_set_print": (_pointer, (_pointer,)),
    "bpf_object__open_file": (_pointer, (ctypes.c_char_p, _pointer)),
    "bpf_object__load": (ctypes.c_int, (_pointer,)),
    "bpf_object__close": (None, (_pointer,)),
    "bpf_object__next_program": (_pointer, (_pointer, _pointer)),
    "bpf_object__next_map": (_pointer, (_pointer, _pointer)),
    "bpf_program__name": (ctypes.c_char_p, (_pointer,)),
    "bpf_program__section_name": (ctypes.c_char_p, (_pointer,)),
    "bpf_program__fd": (_fd, (_pointer,)),
    "bpf_program__set_autoload": (ctypes.c_int, (_pointer, ctypes.c_bool)),
    "bpf_program__attach": (_pointer, (_pointer,)),
    "bpf_program__attach_uprobe_opts": (
        _pointer,
        (_pointer, ctypes.c_int, ctypes.c_char_p, ctypes.c_size_t, _pointer),
    ),
    "bpf_link__fd": (_fd, (_pointer,)),
    "bpf_link__destroy": (ctypes.c_int, (_pointer,)),
    "bpf_iter_create": (_fd, (_fd,)),
    "bpf_prog_test_run_opts": (ctypes.c_int, (_fd, _pointer)),
    "bpf_map__name": (ctypes.c_char_p, (_pointer,)),
    "bpf_map__fd": (_fd, (_pointer,)),
    "bpf_map__key_size": (_u32, (_pointer,)),
    "bpf_map__value_size": (_u32, (_pointer,)),
    "bpf_map__max_entries": (_u32, (_pointer,)),
    "bpf_map__set_max_entries": (ctypes.c_int, (_pointer, _u32)),
    "bpf_map__set_initial_value": (ctypes.c_int, (_pointer, _pointer, ctypes.c_size_t)),
    "bpf_map__initial_value": (_pointer, (_pointer, ctypes.POINTER(ctypes.c_size_t))),
    "bpf_map__reuse_fd": (ctypes.c_int, (_pointer, _fd)),
    "bpf_map_lookup_elem": (ctypes.c_int, (_fd, _pointer, _pointer)),
    "bpf_map_update_elem": (ctypes.c_int, (_fd, _pointer, _pointer, ctypes.c_uint64)),
    "bpf_map_delete_elem": (ctypes.c_int, (_fd, _pointer)),
    "bpf_map_get_next_key": (ctypes.c_int, (_fd, _pointer, _pointer)),
    "bpf_map_lookup_batch": (
        ctypes.c_int,
        (_fd, _pointer, _pointer, _pointer, _pointer, ctypes.POINTER(_u32), _pointer),
    ),
}


class LibbpfError(EnricherError):
    """libbpf or the kernel said no. `errno` is why, `log` everything libbpf had to say."""

    code: ClassVar[str] = "libbpf"

    def __init__(self, message: str, *, errno: int = 0, log: str = "", fix: str = "") -> None:
        super().__init__(message, fix=fix)
        self.errno = errno
        self.log = log


class LibbpfMissing(LibbpfError):
    """There is no libbpf.so.1, or one that is too old."""

    code: ClassVar[str] = "libbpf_missing"


class ObjectUnreadable(LibbpfError):
    """The file of a BPF object is missing or is none."""

    code: ClassVar[str] = "object_unreadable"


class NotPermitted(LibbpfError):
    """The kernel refuses BPF to this process."""

    code: ClassVar[str] = "not_permitted"


class KernelBtfMissing(LibbpfError):
    """The kernel does not describe its types, so that nothing can be relocated."""

    code: ClassVar[str] = "kernel_btf_missing"


class LoadRefused(LibbpfError):
    """The verifier or a relocation says no to a program.

    `program` is its name, empty where not known; the message holds the one line that matters, `log` all of it.
    """

    code: ClassVar[str] = "load_refused"

    def __init__(self, message: str, *, program: str, errno: int, log: str) -> None:
        fix = "This kernel cannot run the probe: send the log with the kernel's version"
        super().__init__(message, errno=errno, log=log, fix=fix)
        self.program = program


class AttachRefused(LibbpfError):
    """The program is loaded, but the kernel does not attach it to its hook."""

    code: ClassVar[str] = "attach_refused"


class MapFull(LibbpfError):
    """The map has no room for another key."""

    code: ClassVar[str] = "map_full"


class _TestRunOptions(ctypes.Structure):
    _fields_ = (
        ("sz", ctypes.c_size_t),
        ("data_in", _pointer),
        ("data_out", _pointer),
        ("data_size_in", _u32),
        ("data_size_out", _u32),
        ("ctx_in", _pointer),
        ("ctx_out", _pointer),
        ("ctx_size_in", _u32),
        ("ctx_size_out", _u32),
        ("retval", _u32),
        ("repeat", ctypes.c_int),
        ("duration", _u32),
        ("flags", _u32),
        ("cpu", _u32),
        ("batch_size", _u32),
    )


class _UprobeOptions(ctypes.Structure):
    _fields_ = (
        ("sz", ctypes.c_size_t),
        ("ref_ctr_offset", ctypes.c_size_t),
        ("bpf_cookie", ctypes.c_uint64),
        ("retprobe", ctypes.c_bool),
        ("func_name", ctypes.c_char_p),
    )


@functools.cache
def _library() -> ctypes.CDLL:
    fix = "Install libbpf 1.0 or newer: apt-get install libbpf1"
    try:
        library = ctypes.CDLL(_LIBRARY, use_errno=True)
    except OSError as error:
        raise LibbpfMissing(f"{_LIBRARY} cannot be loaded: {error}", fix=fix) from error
    try:
        for name, (result, arguments) in _SIGNATURES.items():
            function = getattr(library, name)
            function.restype = result
            function.argtypes = arguments
    except AttributeError as error:
        raise LibbpfMissing(f"{_LIBRARY} lacks a function: {error}", fix=fix) from error
    found = (library.libbpf_major_version(), library.libbpf_minor_version())
    if found < _OLDEST:
        raise LibbpfMissing(f"libbpf is {found[0]}.{found[1]}, older than {_OLDEST[0]}.{_OLDEST[1]}", fix=fix)
    library.libbpf_set_print(_print_callback)
    return library


def version() -> tuple[int, int]:
    """Major and minor version of the libbpf in use. Raises LibbpfMissing."""
    library = _library()
    return library.libbpf_major_version(), library.libbpf_minor_version()


@functools.cache
def possible_cpus() -> int:
    """How many values a per-CPU map has for a key."""
    count: int = _library().libbpf_num_possible_cpus()
    if count <= 0:
        _fail("the number of possible CPUs cannot be read", -count)
    return count


_vsnprintf = ctypes.CDLL(None).vsnprintf
_vsnprintf.restype = ctypes.c_int
_vsnprintf.argtypes = (_pointer, ctypes.c_size_t, ctypes.c_char_p, _pointer)


class _Printed:
    """What libbpf prints, while somebody wants to know."""

    def __init__(self) -> None:
        self.lines: list[str] | None = None
        # A mapping of its own, so that a log of megabytes leaves no trace in the heap.
        self._page: mmap.mmap | None = None

    def take(self, level: int, template: bytes, arguments: int) -> int:
        """The callback. A va_list argument is a pointer in the calling conventions of x86-64 and of arm64."""
        page, lines = self._page, self.lines
        if page is None or lines is None or level >= _PRINT_DEBUG:
            return 0
        view = (ctypes.c_char * len(page)).from_buffer(page)
        length = _vsnprintf(view, len(page), template, arguments)
        lines.append(page[: min(max(length, 0), len(page) - 1)].decode(errors="replace"))
        del view
        return 0

    @contextmanager
    def collected(self) -> Iterator[list[str]]:
        lines: list[str] = []
        with mmap.mmap(-1, _LOG_BYTES) as page:
            self.lines, self._page = lines, page
            try:
                yield lines
            finally:
                self.lines = self._page = None


_printed = _Printed()
_messages = _printed.collected
_print_callback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int, ctypes.c_char_p, _pointer)(_printed.take)


_BEGIN_LOG = "-- BEGIN PROG LOAD LOG --"
_END_LOG = "-- END PROG LOAD LOG --"
_SUMMARY = re.compile(r"^(processed \d+ insns|verification time |stack depth |peak_states |mark_read )")


def useful_line(log: str) -> str:
    """The line of libbpf's output that says what is wrong, without its prefix; empty if there is none.

    With a verifier log it is the last line before the summary, as the verifier gives up where it complains.
    Otherwise it is the first line, as libbpf then goes on to say who failed because of it.
    """
    _, begin, verifier = log.rpartition(_BEGIN_LOG)
    if begin:
        lines = [line.strip() for line in verifier.partition(_END_LOG)[0].splitlines()]
        lines = [line for line in lines if line and not _SUMMARY.match(line)]
        if lines:
            return lines[-1]
    lines = [line for line in log.splitlines() if line.strip() and _BEGIN_LOG not in line and _END_LOG not in line]
    return lines[0].removeprefix("libbpf: ").strip() if lines else ""


def _refused_program(log: str) -> str:
    found = re.search(r"prog '([^']*)': (?:BPF program load failed|failed to)", log)
    return found[1] if found else ""


def _fail_to_load(name: str, error: int, log: str) -> NoReturn:
    line = useful_line(log) or os.strerror(error)
    verified = _BEGIN_LOG in log and not re.search(rf"{_BEGIN_LOG}\s*{_END_LOG}", log)
    if "valid kernel BTF" in log or "vmlinux BTF" in log or "kernel BTF is missing" in log:
        raise KernelBtfMissing(
            f"{name}: the kernel has no type information: {line}",
            errno=error,
            log=log,
            fix="Use a kernel with CONFIG_DEBUG_INFO_BTF=y (Debian 11 and newer), and mount /sys",
        )
    if error == errno.EPERM and not verified:
        _fail_permission(f"{name}: {line}", log)
    program = _refused_program(log)
    where = f"{name}, program {program}" if program else name
    raise LoadRefused(f"{where}: {line}", program=program, errno=error, log=log)


def _fail_permission(message: str, log: str = "") -> NoReturn:
    raise NotPermitted(
        message,
        errno=errno.EPERM,
        log=log,
        fix="Run as root, or with CAP_BPF, CAP_PERFMON and CAP_SYS_ADMIN, outside of lockdown",
    )


def _fail(what: str, error: int, log: str = "") -> NoReturn:
    raise LibbpfError(f"{what}: {useful_line(log) or os.strerror(error)}", errno=error, log=log)


class Map:
    """A map in the kernel. Keys and values are the bytes of the C structures.

    Belongs to its Object, and is of no use after that is closed.
    """

    def __init__(self, handle: int) -> None:
        library = _library()
        self.name: str = library.bpf_map__name(handle).decode()
        self.fd: int = library.bpf_map__fd(handle)
        self.key_size: int = library.bpf_map__key_size(handle)
        self.value_size: int = library.bpf_map__value_size(handle)
        self.max_entries: int = library.bpf_map__max_entries(handle)
        self._library = library

    def lookup(self, key: bytes) -> bytes | None:
        """The value, None if there is none. Not for per-CPU maps."""
        value = ctypes.create_string_buffer(self.value_size)
        result = self._library.bpf_map_lookup_elem(self.fd, self._checked(key, self.key_size), value)
        if result == -errno.ENOENT:
            return None
        self._check(result, "lookup")
        return value.raw

    def update(self, key: bytes, value: bytes) -> None:
        """Sets the value. Raises MapFull where there is no room for another key."""
        value = self._checked(value, self.value_size)
        result = self._library.bpf_map_update_elem(self.fd, self._checked(key, self.key_size), value, 0)
        if result == -errno.E2BIG:
            raise MapFull(f"map {self.name} is full ({self.max_entries} entries)", errno=errno.E2BIG)
        self._check(result, "update")

    def delete(self, key: bytes) -> bool:
        """Whether there was such a key."""
        result = self._library.bpf_map_delete_elem(self.fd, self._checked(key, self.key_size))
        if result == -errno.ENOENT:
            return False
        self._check(result, "delete")
        return True

    def __iter__(self) -> Iterator[bytes]:
        """All keys. One that is deleted while this goes on may begin it anew, so it ends after max_entries."""
        before, key = None, ctypes.create_string_buffer(self.key_size)
        for _ in range(self.max_entries):
            result = self._library.bpf_map_get_next_key(self.fd, before, key)
            if result == -errno.ENOENT:
                return
            self._check(result, "next key")
            before = key.raw
            yield before

    def view(self) -> memoryview:
        """The values of a mappable array of u64, as a view of format Q that is always up to date. Keep it: it is a
        mapping of its own."""
        size = -(-self.value_size * self.max_entries // mmap.PAGESIZE) * mmap.PAGESIZE
        return memoryview(mmap.mmap(self.fd, size, prot=mmap.PROT_READ)).cast("Q")

    def read_per_cpu_array(self) -> memoryview:
        """All values of a per-CPU array of u64 in one system call: [entry][cpu], flat, as a view of format Q.

        The view is the same memory at every call.
        """
        keys, values, view = self._batch
        count = _u32(self.max_entries)
        token = _u32()
        result = self._library.bpf_map_lookup_batch(
            self.fd, None, ctypes.byref(token), keys, values, ctypes.byref(count), None
        )
        if result != -errno.ENOENT:  # that is how the kernel says that the batch was the last
            self._check(result, "batch lookup")
        return view

    @functools.cached_property
    def _batch(self) -> tuple[ctypes.Array[ctypes.c_char], ctypes.Array[ctypes.c_char], memoryview]:
        if self.value_size != 8:
            _fail(f"map {self.name} is no per-CPU array of u64", errno.EINVAL)
        keys = ctypes.create_string_buffer(self.key_size * self.max_entries)
        values = ctypes.create_string_buffer(self.value_size * self.max_entries * possible_cpus())
        return keys, values, memoryview(values).cast("B").cast("Q")

    def _checked(self, content: bytes, size: int) -> bytes:
        if len(content) != size:
            _fail(f"map {self.name}: {len(content)} bytes given for {size}", errno.EINVAL)
        return content

    def _check(self, result: int, what: str) -> None:
        if result == -errno.EPERM:
            _fail_permission(f"map {self.name}: {what} is not permitted")
        if result < 0:
            _fail(f"map {self.name}: {what} failed", -result)


class Link:
    """A program attached to its hook, until closed."""

    def __init__(self, handle: int) -> None:
        self._handle: int | None = handle

    def iterate(self) -> bytes:
        """Runs an iterator program over everything it iterates; what it printed."""
        link: int = _library().bpf_link__fd(self._handle)
        fd: int = _library().bpf_iter_create(link)
        if fd < 0:
            _fail("the iterator cannot be started", -fd)
        output: list[bytes] = []
        try:
            while True:
                try:
                    piece = os.read(fd, 65536)
                except BlockingIOError:  # the kernel takes a rest after a million objects
                    continue
                if not piece:
                    return b"".join(output)
                output.append(piece)
        finally:
            os.close(fd)

    def close(self) -> None:
        """Detaches. More than once is no error."""
        if self._handle is not None:
            _library().bpf_link__destroy(self._handle)
            self._handle = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class Program:
    """A program of a loaded object."""

    def __init__(self, handle: int) -> None:
        self._handle = handle
        self.name: str = _library().bpf_program__name(handle).decode()
        self.section: str = _library().bpf_program__section_name(handle).decode()

    def attach(self) -> Link:
        """Attaches to the hook that the section names. Raises NotPermitted, AttachRefused."""
        with _messages() as lines:
            link = _library().bpf_program__attach(self._handle)
        return self._attached(link, lines, self.section)

    def attach_uprobe(self, path: str, file_offset: int, *, cookie: int = 0) -> Link:
        """Attaches to an instruction of the file at `path`, in every process that runs it, now and later.

        The kernel follows `path` itself, so /proc/PID/exe and /proc/self/fd/N reach into other mount namespaces.
        `cookie`, of 64 bits, is what the program gets from bpf_get_attach_cookie(); kernels before 5.15 take none.
        Raises NotPermitted, AttachRefused.
        """
        options = _UprobeOptions(sz=ctypes.sizeof(_UprobeOptions), bpf_cookie=cookie)
        with _messages() as lines:
            link = _library().bpf_program__attach_uprobe_opts(
                self._handle, -1, os.fsencode(path), file_offset, ctypes.byref(options)
            )
        return self._attached(link, lines, f"{path} at {file_offset:#x}")

    def _attached(self, link: int | None, lines: list[str], where: str) -> Link:
        if link:
            return Link(link)
        error = ctypes.get_errno()
        log = "".join(lines)
        message = f"{self.name} cannot be attached to {where}: {useful_line(log) or os.strerror(error)}"
        if error in (errno.EPERM, errno.EACCES):
            _fail_permission(message, log)
        raise AttachRefused(message, errno=error, log=log)

    def run(self) -> int:
        """Runs a SEC("syscall") program once, with an empty context; what it returned."""
        options = _TestRunOptions(sz=ctypes.sizeof(_TestRunOptions))
        result = _library().bpf_prog_test_run_opts(_library().bpf_program__fd(self._handle), ctypes.byref(options))
        if result < 0:
            _fail(f"program {self.name} cannot be run", -result)
        value: int = options.retval
        return value


class Object:
    """Programs and maps in the kernel, until closed. Links attached from it must be closed before."""

    def __init__(self, handle: int) -> None:
        self._handle: int | None = handle
        self.programs: dict[str, Program] = {
            program.name: program for program in map(Program, _each("bpf_object__next_program", handle))
        }
        self.maps: dict[str, Map] = {found.name: found for found in map(Map, _each("bpf_object__next_map", handle))}

    def close(self) -> None:
        """Unloads. More than once is no error."""
        if self._handle is not None:
            _library().bpf_object__close(self._handle)
            self._handle = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class Spec:
    """An opened object file: may be changed, then loaded once."""

    def __init__(self, path: Path) -> None:
        """Raises LibbpfMissing, ObjectUnreadable."""
        self.name = path.name
        with _messages() as lines:
            handle = _library().bpf_object__open_file(os.fsencode(path), None)
        if not handle:
            error = ctypes.get_errno()
            log = "".join(lines)
            raise ObjectUnreadable(
                f"{path}: {os.strerror(error)}", errno=error, log=log, fix="Build the probes: make probes"
            )
        self._handle: int | None = handle
        self._maps = {
            _library().bpf_map__name(found).decode(): found for found in _each("bpf_object__next_map", handle)
        }
        self._programs = {
            _library().bpf_program__name(found).decode(): found for found in _each("bpf_object__next_program", handle)
        }

    @property
    def maps(self) -> frozenset[str]:
        """Names of the maps."""
        return frozenset(self._maps)

    def leave_out(self, program: str) -> None:
        """Does not load this program."""
        self._check(_library().bpf_program__set_autoload(self._programs[program], False), program)

    def set_max_entries(self, name: str, entries: int) -> None:
        """Makes the map this big; for a ring buffer, bytes."""
        self._check(_library().bpf_map__set_max_entries(self._maps[name], entries), name)

    def set_constants(self, values: bytes) -> None:
        """Writes .rodata, all of it. Raises LibbpfError if its size is another."""
        name = next((name for name in self._maps if name.endswith(".rodata")), None)
        if name is None:
            _fail(f"{self.name} has no .rodata", errno.ENOENT)
        size = ctypes.c_size_t()
        _library().bpf_map__initial_value(self._maps[name], ctypes.byref(size))
        if size.value != len(values):
            _fail(f"{name} is {size.value} bytes, not {len(values)}", errno.EINVAL)
        self._check(_library().bpf_map__set_initial_value(self._maps[name], values, len(values)), name)

    def share(self, other: Map) -> None:
        """Uses `other`, of a loaded object, in place of the map of that name. Raises LibbpfError if they differ."""
        own = self._maps[other.name]
        sizes = (_library().bpf_map__key_size(own), _library().bpf_map__value_size(own))
        if sizes != (other.key_size, other.value_size):
            _fail(f"{self.name}: map {other.name} is another than the one there is", errno.EINVAL)
        self._check(_library().bpf_map__reuse_fd(own, other.fd), other.name)

    def load(self) -> Object:
        """Into the kernel; this Spec is spent then. Raises NotPermitted, KernelBtfMissing, LoadRefused."""
        with _messages() as lines:
            result = _library().bpf_object__load(self._handle)
        if result < 0:
            self.close()
            _fail_to_load(self.name, -result, "".join(lines))
        handle, self._handle = self._handle, None
        assert handle is not None
        return Object(handle)

    def close(self) -> None:
        """Gives up what was not loaded. More than once is no error."""
        if self._handle is not None:
            _library().bpf_object__close(self._handle)
            self._handle = None

    def _check(self, result: int, what: str) -> None:
        if result < 0:
            _fail(f"{self.name}: {what} cannot be set", -result)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _each(step: str, handle: int) -> Iterator[int]:
    following = getattr(_library(), step)
    found = following(handle, None)
    while found:
        yield found
        found = following(handle, found)
