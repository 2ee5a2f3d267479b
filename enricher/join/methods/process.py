"""The process is known, the goroutine is not: only a wait that can be one span's alone is given to it.

For processes whose SDK or Go version has no known layout. Their threads' sleeps inside system calls are seen. A wait
belongs to a span if every span of that process at that time is the span itself, or its ancestor, or its descendant:
with two requests at once there is no telling, and nothing is claimed.
"""

from enricher._native import EvidenceIndex, Span, Wait
from enricher.evidence.records import EventFlag
from enricher.join.blocked import KernelSpan
from enricher.join.methods.method import Method, Request, Window
from enricher.join.methods.neighbours import Neighbours
from enricher.join.methods.one_by_one import OneByOne, Ruling, Tied, Untied
from enricher.join.methods.origin import Origins

METHOD = Method(
    name="process",
    summary="the span's process is known, and a single chain of spans ran in it at the time",
    exact=False,
    needs=("syscalls",),
)


class Process(OneByOne):
    method = METHOD

    def __init__(self, index: EvidenceIndex, origins: Origins) -> None:
        super().__init__(index)
        self._origins = origins
        self._neighbours: Neighbours[int] = Neighbours()

    def saw(self, request: Request) -> None:
        """Remembers which spans ran in which process."""
        if not self._index.watched_without_span_ends:
            return
        for ordinals in request.by_origin:
            tgid = self._origins.of(request, ordinals[0]).tgid
            if tgid is not None and self._is_for_it(tgid):
                for ordinal in ordinals:
                    self._neighbours.add(tgid, KernelSpan.of(request.spans[ordinal], self._index))

    def tie(self, request: Request, span: Span, ordinal: int, window: Window) -> Tied | Untied:
        origin = self._origins.of(request, ordinal)
        if origin.tgid is None:
            return Untied(origin.why)
        times = KernelSpan.of(span, self._index)
        if why := self.why_not_in(origin.tgid, times):
            return Untied(why)
        waits = self._index.kernel_waits(origin.tgid, times.start_ns, times.end_ns)
        return Tied(
            why=origin.why,
            tgid=origin.tgid,
            times=times,
            identity={},
            rulings=[self._rule(origin.tgid, wait, times, window.threshold_ns) for wait in waits],
            whole=False,  # of the spans that ran at that time only those are known that have come by, so far
        )

    def _is_for_it(self, tgid: int) -> bool:
        watched = self._index.process(tgid)
        return watched is not None and not watched[1] & EventFlag.PROCESS_HAS_SPAN_ENDS

    def _rule(self, tgid: int, wait: Wait, times: KernelSpan, threshold_ns: int) -> Ruling:
        if wait.label not in (b"", times.span_id):
            why = "labels of its goroutine name another span"
        elif wait.going_on:
            why = "it was not over when it was looked at"
        elif times.inside_ns(wait) < max(threshold_ns, 1):
            why = "less of it than the threshold lies inside the span"
        elif not self._neighbours.are_one_chain(tgid, wait.start_ns, wait.end_ns):
            why = "other spans ran in the process at that time that are not its ancestors or descendants"
        else:
            return Ruling(wait, claimed=True, why="no other span ran in the process at that time")
        return Ruling(wait, claimed=False, why=why)
