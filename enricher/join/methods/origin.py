"""Which watched process the spans of a resource come from.

Three ways to know: the connection that brought them is that process's own; the resource names pid and container, or
pid and host; spans of that very resource were tied exactly to a process before. The last is no proof, as replicas of a
service may send equal resources. Where two ways contradict each other, as when one process forwards what others sent,
it is not known.
"""

import os
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from enricher._native import EvidenceIndex, WatchedProcess
from enricher.join.methods.method import Request, Window

RESOURCES_KEPT = 256
LARGEST_RESOURCE = 8192  # bytes; nothing is remembered of a larger one
PROCESSES_KEPT = 16  # of a resource
LOOKED_AT = 16  # spans of a resource in one request, for one that was tied
# A resource that is known is looked at again so often, as a replica may have come.
LEARN_AGAIN_NS = 1_000_000_000

_PID, _CONTAINER, _HOST = "process.pid", "container.id", "host.name"
_SHORT_CONTAINER_ID = 12  # digits; the name of the host inside, if no other is given
_CONTAINER_DIGITS = 32  # those that the observer tells
_TICK_NS = 1_000_000_000 // os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Origin:
    """`tgid`: None if not known for sure; then it may still be one of `candidates`."""

    tgid: int | None
    why: str
    candidates: tuple[int, ...] = ()
    is_direct: bool = False  # known by this very connection or resource, which others do not share

    def excludes(self, tgid: int) -> bool:
        """Whether the span cannot be of this process, whatever else says so."""
        return self.is_direct and self.tgid != tgid


@dataclass(slots=True)
class _Resource:
    number: int
    seen: dict[int, int] = field(default_factory=dict)  # by pid: what tells the process from others of that pid
    learned_ns: int = -LEARN_AGAIN_NS


class Origins:
    """What was learned of resources. Not thread-safe: the policy thread owns it."""

    def __init__(self, index: EvidenceIndex, host: str) -> None:
        """`host`: the name of this one, as SDKs have it for `host.name`; "" if it is not to be told by that."""
        self._index = index
        self._host = host
        self._resources: OrderedDict[bytes, _Resource] = OrderedDict()
        self._next_number = 1
        # What was last asked for holds as long as nothing new is known: by number of the resource in that request.
        self._found: dict[int, Origin] = {}
        self._found_for: tuple[Request, int] | None = None
        self._processes: dict[int, WatchedProcess] = {}
        self._processes_of_ns = -1

    def number(self, request: Request, ordinal: int) -> int:
        """The same for equal resources, as long as they are remembered. 0: too large to be."""
        known = self._resource(request, request.scanned.resource_of(ordinal))
        return known.number if known else 0

    def learn(self, request: Request, unmatched: Sequence[int], window: Window) -> None:
        """All spans but these were tied to the goroutines that ended them, and with that to their processes."""
        missed: set[int] | None = None
        for spans in request.by_origin:
            known = self._resource(request, request.scanned.resource_of(spans[0]))
            if known is None or self._index.watermark_ns - known.learned_ns < LEARN_AGAIN_NS:
                continue
            if missed is None:
                missed = set(unmatched)
            tied = next((ordinal for ordinal in spans[:LOOKED_AT] if ordinal not in missed), None)
            if tied is not None:
                explained = self._index.explain(request.scanned, tied, window.tail_ns, window.threshold_ns)
                self._learn(known, explained.tgid)

    def _learn(self, known: _Resource, tgid: int) -> None:
        process = self.process(tgid)
        if process is None:
            return
        known.learned_ns = self._index.watermark_ns
        known.seen[tgid] = _incarnation(process)
        self._found_for = None
        if len(known.seen) > PROCESSES_KEPT:
            del known.seen[next(iter(known.seen))]

    def of(self, request: Request, ordinal: int) -> Origin:
        """Where a span comes from."""
        if (
            self._found_for is None
            or self._found_for[0] is not request
            or self._found_for[1] != self._index.watermark_ns
        ):
            self._found_for = request, self._index.watermark_ns
            self._found.clear()
        number = request.scanned.resource_of(ordinal)
        if number not in self._found:
            self._found[number] = self._find(request, number, ordinal)
        return self._found[number]

    def _find(self, request: Request, number: int, ordinal: int) -> Origin:
        learned = self._learned(request, number)
        sender = self._sender(request, ordinal)
        if learned and sender is not None and sender not in learned:
            why = "Another process has the connection than those that sent this resource before."
            return Origin(None, why, (*learned, sender))
        if sender is None and len(learned) == 1:
            return Origin(learned[0], "Spans of this resource were tied to that process before.", learned)
        if sender is None and learned:
            return Origin(None, "Several processes send this resource.", learned)
        named = self._named(request, number)
        if sender is not None and named is not None and sender != named:
            why = "The resource names another process than the one that has the connection."
            return Origin(None, why, (sender, named))
        if sender is not None:
            return Origin(sender, "The connection that brought it is that process's.", (sender,), is_direct=True)
        if named is not None:
            return Origin(named, "The resource names that process.", (named,), is_direct=True)
        return Origin(None, "Neither its resource nor its connection is known to be of a watched process.")

    def process(self, tgid: int) -> WatchedProcess | None:
        """A process that is watched, or was a short time ago."""
        return self._now().get(tgid)

    def missed(self, request: Request, untied: Sequence[int]) -> Iterator[int]:
        """Those of the spans tied to nothing that might have been, had no evidence been missed: of a process that
        they may come from some was lost, or it was not watched yet."""
        if not untied or not self._now():
            return
        wanted = set(untied)
        for ordinals in request.by_origin:
            candidates = self.of(request, ordinals[0]).candidates
            if not candidates:
                continue
            untied_here = [ordinal for ordinal in ordinals if ordinal in wanted]
            yield from self._index.missed(request.scanned, untied_here, candidates, _TICK_NS)

    def _now(self) -> dict[int, WatchedProcess]:
        if self._processes_of_ns != self._index.watermark_ns:
            self._processes_of_ns = self._index.watermark_ns
            self._processes = {process.tgid: process for process in self._index.processes()}
        return self._processes

    def _resource(self, request: Request, number: int) -> _Resource | None:
        encoded = request.scanned.resource(number)
        if len(encoded) > LARGEST_RESOURCE:
            return None
        known = self._resources.get(encoded)
        if known is None:
            known = self._resources[encoded] = _Resource(self._next_number)
            self._next_number += 1
            if len(self._resources) > RESOURCES_KEPT:
                self._resources.popitem(last=False)
        self._resources.move_to_end(encoded)
        return known

    def _learned(self, request: Request, number: int) -> tuple[int, ...]:
        known = self._resource(request, number)
        if known is None or not known.seen:
            return ()
        for tgid, incarnation in list(known.seen.items()):
            process = self.process(tgid)
            if process is None or _incarnation(process) != incarnation:  # long ended, or the pid is another's by now
                del known.seen[tgid]
        return tuple(known.seen)

    def _sender(self, request: Request, ordinal: int) -> int | None:
        # The observer asks whose the connections are only while there is a process that needs it.
        return self._index.sender(request.peer(ordinal)) if self._index.watched_without_span_ends else None

    def _named(self, request: Request, number: int) -> int | None:
        told = request.scanned.resource_attributes(number, (_PID, _CONTAINER, _HOST))
        pid = told.get(_PID)
        if type(pid) is not int:
            return None
        container, host = told.get(_CONTAINER), told.get(_HOST)
        found = [
            process
            for process in self._now().values()
            if process.inner_pid == pid and self._is_at_home(process, container, host)
        ]
        return found[0].tgid if len(found) == 1 else None

    def _is_at_home(self, process: WatchedProcess, container: object, host: object) -> bool:
        """Whether the resource names the place that a process is in: pids alone are the same on every machine."""
        home = process.container_id.hex()
        if not any(process.container_id):
            return container is None and host == self._host != ""
        if isinstance(container, str):
            return len(container) >= _CONTAINER_DIGITS and container[:_CONTAINER_DIGITS].lower() == home
        return isinstance(host, str) and len(host) == _SHORT_CONTAINER_ID and home.startswith(host.lower())


def _incarnation(process: WatchedProcess) -> int:
    return process.start_ticks or process.since_ns
