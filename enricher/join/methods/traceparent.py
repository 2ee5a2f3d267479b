"""The `traceparent` header of the request was seen on its connection, in plain text.

A server span has the parent that the header names: the goroutine that read it, over HTTP/1, is the handler's. A client
span is itself what the header names: its connection is then known, and over HTTP/1 has no other call under way. Over
HTTP/2 the goroutine that reads is never the handler's, and what blocks the connection may be any call's: no claim.
"""

from dataclasses import replace

from enricher._native import EvidenceIndex, Span, Traceparent, Wait
from enricher.evidence.records import EventFlag
from enricher.join.blocked import KernelSpan
from enricher.join.methods.handler import rulings
from enricher.join.methods.method import Method, Request, Window
from enricher.join.methods.one_by_one import CLOCK_SLACK_NS, OneByOne, Ruling, Tied, Untied, rule
from enricher.join.methods.origin import Origins

METHOD = Method(
    name="traceparent",
    summary="the traceparent header of its request was seen on a connection over HTTP/1 without TLS",
    exact=True,
    needs=("syscalls", "headers"),
)

_SERVER, _CLIENT = 2, 3


class TraceparentHeader(OneByOne):
    method = METHOD

    def __init__(self, index: EvidenceIndex, origins: Origins) -> None:
        super().__init__(index)
        self._origins = origins

    def tie(self, request: Request, span: Span, ordinal: int, window: Window) -> Tied | Untied:
        if (len(span.trace_id), len(span.span_id)) != (16, 8):
            return Untied("It has no ids.")
        if span.kind == _SERVER:
            if len(span.parent_span_id) != 8:
                return Untied("It has no parent, so no header of its request names one.")
            seen = self._index.traceparent_read(span.trace_id, span.parent_span_id)
            missing = "No single request was seen to be read whose header names its trace and parent."
        elif span.kind == _CLIENT:
            seen = self._index.traceparent_written(span.trace_id, span.span_id)
            missing = "No single request was seen to be written whose header names it."
        else:
            return Untied("It is neither a server nor a client span.")
        if seen is None:
            return Untied(missing)
        times = KernelSpan.of(span, self._index)
        if why := self._why_not(request, ordinal, seen, times):
            return Untied(why)
        if span.kind == _SERVER:
            return self._server(seen, times, window)
        return self._client(seen, times, window)

    def _why_not(self, request: Request, ordinal: int, seen: Traceparent, times: KernelSpan) -> str:
        if why := self.why_not_in(seen.tgid, times):
            return why
        if self._origins.of(request, ordinal).excludes(seen.tgid):
            return "The header was seen in another process than the one that the span came from."
        if seen.multiplexed:
            return "The header came over HTTP/2: other requests were under way on the connection."
        return ""

    def _server(self, seen: Traceparent, times: KernelSpan, window: Window) -> Tied | Untied:
        if not seen.goid:
            return Untied("The header was read, but it is not known by which goroutine.")
        if seen.at_ns > times.start_ns + CLOCK_SLACK_NS:
            return Untied("The header was read only after the span had begun.")
        return Tied(
            why="The goroutine is known that read the request whose header names its trace and parent.",
            tgid=seen.tgid,
            times=times,
            identity={"goid": seen.goid, "fd": seen.fd},
            open_until_ns=times.end_ns + window.threshold_ns,
            rulings=rulings(
                self._index,
                (seen.tgid, seen.goid),
                lambda wait: wait.fd == seen.fd,
                times,
                window.threshold_ns,
            ),
        )

    def _client(self, seen: Traceparent, times: KernelSpan, window: Window) -> Tied | Untied:
        if not times.start_ns - CLOCK_SLACK_NS <= seen.at_ns <= times.end_ns + CLOCK_SLACK_NS:
            return Untied("The header was written at another time than that of the span.")
        until_ns = min(times.end_ns, seen.next_ns or times.end_ns)
        waits = self._index.connection_waits(seen.tgid, seen.fd, seen.at_ns - 1, until_ns)
        call = replace(times, start_ns=max(times.start_ns, seen.at_ns))
        return Tied(
            why="The connection is known on which the request was written whose header names it.",
            tgid=seen.tgid,
            times=times,
            identity={"fd": seen.fd, "written_ns": seen.at_ns},
            rulings=[_of_call(wait, call, window.threshold_ns) for wait in waits],
            # What its own goroutine waited for, while there was no connection yet, is not seen.
            whole=seen.at_ns - times.start_ns < max(window.threshold_ns, CLOCK_SLACK_NS),
        )


def _of_call(wait: Wait, call: KernelSpan, threshold_ns: int) -> Ruling:
    """The reader of an idle connection waits from before the call on."""
    return rule(wait, call, threshold_ns, from_before=not wait.flags & EventFlag.WAIT_FOR_WRITE)
