"""The span names the thread it ran on: what that thread was blocked in meanwhile is the span's.

For runtimes in which a thread does one request at a time. Most of them put a number of their own into `thread.id`, and
these are small: only of languages whose threads have no other number than the kernel's is it taken for that. Pids of
threads inside a pid namespace of its own are not known here, but for that of the first thread.
"""

from enricher._native import EvidenceIndex, Span, WatchedProcess
from enricher.evidence.records import EventFlag
from enricher.join.blocked import KernelSpan
from enricher.join.methods.method import Method, Request, Window
from enricher.join.methods.neighbours import Neighbours
from enricher.join.methods.one_by_one import OneByOne, Tied, Untied, rule
from enricher.join.methods.origin import Origins

METHOD = Method(
    name="thread",
    summary="the span names its thread, in a process with one request at a time on a thread",
    exact=True,
    needs=("syscalls",),
)

_THREAD = "thread.id"
_LANGUAGE = "telemetry.sdk.language"
# Python's other number of a thread is an address, and never one of these.
LANGUAGES = ("cpp", "php", "python")

_Thread = tuple[int, int]  # process and thread


class Thread(OneByOne):
    method = METHOD

    def __init__(self, index: EvidenceIndex, origins: Origins) -> None:
        super().__init__(index)
        self._origins = origins
        self._neighbours: Neighbours[_Thread] = Neighbours()

    def saw(self, request: Request) -> None:
        """Remembers which spans name which thread."""
        if not self._index.watched_without_span_ends:
            return
        for ordinals in request.by_origin:
            process = self._process(request, ordinals[0])
            for ordinal in ordinals if not isinstance(process, Untied) else ():
                thread = self._thread(request, ordinal)
                if not isinstance(thread, Untied):
                    self._neighbours.add(thread, KernelSpan.of(request.spans[ordinal], self._index))

    def tie(self, request: Request, span: Span, ordinal: int, window: Window) -> Tied | Untied:
        thread = self._thread(request, ordinal)
        if isinstance(thread, Untied):
            return thread
        tgid, tid = thread
        times = KernelSpan.of(span, self._index)
        if why := self.why_not_in(tgid, times):
            return Untied(why)
        if not self._neighbours.are_one_chain(thread, times.start_ns, times.end_ns):
            return Untied("Spans that ran at the same time and are not each other's parents name its thread, too.")
        waits = self._index.thread_waits(tgid, tid, times.start_ns, times.end_ns)
        if not waits and tid != tgid:
            return Untied("Its process was not seen to have a thread of that number.")
        return Tied(
            why="It names its thread, and spans of that thread ran one inside the other.",
            tgid=tgid,
            times=times,
            identity={"tid": tid},
            rulings=[rule(wait, times, window.threshold_ns) for wait in waits],
        )

    def _thread(self, request: Request, ordinal: int) -> _Thread | Untied:
        process = self._process(request, ordinal)
        if isinstance(process, Untied):
            return process
        named = request.scanned.span_attributes(ordinal, (_THREAD,)).get(_THREAD)
        if type(named) is not int or named <= 0:
            return Untied("It does not name its thread.")
        return _in_our_namespace(process, named)

    def _process(self, request: Request, ordinal: int) -> WatchedProcess | Untied:
        scanned = request.scanned
        told = scanned.resource_attributes(scanned.resource_of(ordinal), (_LANGUAGE,))
        if told.get(_LANGUAGE) not in LANGUAGES:
            return Untied("In its language, threads have numbers of their own.")
        origin = self._origins.of(request, ordinal)
        if origin.tgid is None:
            return Untied(origin.why)
        process = self._origins.process(origin.tgid)
        if process is None or process.flags & EventFlag.PROCESS_HAS_GOROUTINES:
            return Untied("Its process is a Go program: goroutines change their threads.")
        return process


def _in_our_namespace(process: WatchedProcess, tid: int) -> _Thread | Untied:
    if process.inner_pid in (0, process.tgid):
        return process.tgid, tid
    if tid in (process.inner_pid, process.tgid):
        return process.tgid, process.tgid
    return Untied("Its process has a pid namespace of its own, in which only its first thread is known.")
