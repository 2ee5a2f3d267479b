"""The goroutine says itself which span it is in: its pprof labels name the span, and are read as a wait ends.

For hosts that forbid probes inside processes: the program sets the labels. A goroutine inherits the labels of the one
that made it, so what it waits for belongs to the same span, as long as that lasts. It keeps them for ever: a connection
that was made inside a span goes on under its name when it serves others. So nothing is claimed of a goroutine that
was blocked across the span's end. What belongs to a span belongs to its ancestors in the process, too: these are known
by the parents that spans name, as far as the spans have come by.
"""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

from enricher._native import EvidenceIndex, Span, Wait
from enricher.evidence.records import EventFlag
from enricher.join.blocked import KernelSpan
from enricher.join.methods.method import Match, Method, Request, Window
from enricher.join.methods.one_by_one import FOR_EVER_NS, OneByOne, Ruling, Tied, Untied, rule
from enricher.join.methods.origin import Origins

METHOD = Method(
    name="goroutine_labels",
    summary="pprof labels of the goroutine that was blocked name the span",
    exact=True,
    needs=("syscalls",),
)

SPAN_ID_BYTES = 8
PARENTS_KEPT = 16_384
CHILDREN_KEPT = 256  # of each
DEEPEST = 64
WAITS_KEPT = 1024  # of what is below a span
# Their parents are elsewhere: in the process that called.
_KINDS_WITH_REMOTE_PARENT = (2, 5)  # SERVER and CONSUMER

_Parent = tuple[bytes, bytes, int]  # trace id, span id, number of the resource: children elsewhere are not its own


@dataclass(frozen=True, slots=True)
class _Below:
    """Waits of a span's descendants. `is_whole`: none of those known were left out."""

    waits: tuple[Wait, ...] = ()
    is_whole: bool = True


_NOTHING = _Below()


class GoroutineLabels(OneByOne):
    method = METHOD

    def __init__(self, index: EvidenceIndex, origins: Origins) -> None:
        super().__init__(index)
        self._origins = origins
        self._children: OrderedDict[_Parent, dict[bytes, None]] = OrderedDict()
        self._looked_up: dict[_Parent, _Below] = {}  # within one `match`

    def saw(self, request: Request) -> None:
        """Remembers whose children its spans are."""
        if not self._index.watched_without_span_ends:
            return
        for ordinals in request.by_origin:
            resource = self._origins.number(request, ordinals[0])
            for ordinal in ordinals:
                span = request.spans[ordinal]
                named = len(span.span_id) == len(span.parent_span_id) == SPAN_ID_BYTES
                if named and span.kind not in _KINDS_WITH_REMOTE_PARENT:
                    self._remember(span, resource)

    def match(self, request: Request, unmatched: Sequence[int] | None, window: Window) -> Match:
        self._looked_up.clear()
        return super().match(request, unmatched, window)

    def tie(self, request: Request, span: Span, ordinal: int, window: Window) -> Tied | Untied:
        own = self._index.labelled_waits(span.span_id) if len(span.span_id) == SPAN_ID_BYTES else []
        below = self._below((span.trace_id, span.span_id, self._origins.number(request, ordinal)))
        tgids = {wait.tgid for wait in own} or {wait.tgid for wait in below.waits}
        if not tgids:
            return Untied("No wait was of a goroutine whose labels name the span, or one below it.")
        if len(tgids) > 1:
            return Untied("Goroutines of more than one process have labels that name the span.")
        (tgid,) = tgids
        times = KernelSpan.of(span, self._index)
        if why := self.why_not_in(tgid, times):
            return Untied(why)
        if self._origins.of(request, ordinal).excludes(tgid):
            return Untied("The labels are of another process than the one that the span came from.")
        waits = [(wait, False) for wait in own] + [(wait, True) for wait in below.waits if wait.tgid == tgid]
        outlived = {goid for goid in {wait.goid for wait, _ in waits} if self._outlives(tgid, goid, times)}
        rulings = []
        for wait, inherited in waits:
            if wait.goid in outlived:
                why = "its goroutine was blocked across the end of the span"
                rulings.append(Ruling(wait, claimed=False, why=why))
            elif self._looks_out(wait):
                why = "it looked out for the end of the connection"
                rulings.append(Ruling(wait, claimed=False, why=why))
            else:
                rulings.append(rule(wait, times, window.threshold_ns, inherited=inherited))
        return Tied(
            why="Labels of the goroutines that were blocked name the span, or one below it.",
            tgid=tgid,
            times=times,
            identity={"goids": ", ".join(map(str, sorted({wait.goid for wait, _ in waits})))},
            rulings=rulings,
            whole=below.is_whole,
            open_until_ns=times.end_ns + window.threshold_ns,
        )

    def _outlives(self, tgid: int, goid: int, times: KernelSpan) -> bool:
        """Whether the goroutine was blocked in something when the span ended: the one that ends a span is not."""
        return any(
            wait.start_ns < times.end_ns and (wait.going_on or wait.end_ns > times.end_ns)
            for wait in self._index.waits(tgid, goid, times.end_ns, FOR_EVER_NS)
        )

    def _looks_out(self, wait: Wait) -> bool:
        """Whether it is net/http's: while a handler runs, a child of the goroutine that reads from a connection looks
        out for its end, and finds the next request if that comes early."""
        if wait.flags & EventFlag.WAIT_FOR_WRITE or not wait.parent_goid or not wait.peer_address:
            return False
        reader = self._index.goroutine_of_connection(wait.peer_address, wait.peer_port, wait.start_ns)
        return reader == (wait.tgid, wait.parent_goid)

    def _below(self, span: _Parent, depth: int = 0) -> _Below:
        children = self._children.get(span)
        if not children:
            return _NOTHING
        known = self._looked_up.get(span)
        if known is not None:
            return known
        if depth == DEEPEST:
            return _Below(is_whole=False)
        self._looked_up[span] = _NOTHING  # spans that name each other as parents end here
        waits: list[Wait] = []
        is_whole = len(children) < CHILDREN_KEPT
        trace_id, _, resource = span
        for child in children:
            below = self._below((trace_id, child, resource), depth + 1)
            waits += self._index.labelled_waits(child)
            waits += below.waits
            is_whole &= below.is_whole
        found = self._looked_up[span] = _Below(tuple(waits[:WAITS_KEPT]), is_whole and len(waits) <= WAITS_KEPT)
        return found

    def _remember(self, span: Span, resource: int) -> None:
        parent = (span.trace_id, span.parent_span_id, resource)
        children = self._children.setdefault(parent, {})
        if len(children) < CHILDREN_KEPT:
            children[span.span_id] = None
        self._children.move_to_end(parent)
        if len(self._children) > PARENTS_KEPT:
            self._children.popitem(last=False)
