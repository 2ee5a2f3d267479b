"""Decides a recording anew."""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import ClassVar

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from enricher._native import EvidenceIndex, MalformedRequest
from enricher._native import Request as ScannedRequest
from enricher.errors import EnricherError
from enricher.join.assembly import assembled
from enricher.join.joiner import OpenUntil
from enricher.join.methods.method import Request, Window
from enricher.recording.entries import Arrival, ClockSample, Decision, Entry, Evidence, Sampling, Verdict
from enricher.recording.file import Head
from enricher.recording.recent import Decided
from enricher.sampling.sampler import Sampler

MOST_DIFFERENCES = 20  # of one request, that are told


class ContradictoryRecording(EnricherError):
    """A request left as something else than itself with attributes: no enricher has recorded this."""

    code: ClassVar[str] = "contradictory_recording"

    def __init__(self, number: int) -> None:
        super().__init__(
            f"request {number} left with other spans than it came with", fix="take the file as it was recorded"
        )


@dataclass(frozen=True, slots=True)
class Replayed:
    """A request that was decided then, and has been decided now."""

    then: Decided
    window: Window
    verdict: Verdict  # now
    left_as: bytes  # now
    fault: BaseException | None = None  # of verdict FAULT

    @property
    def same(self) -> bool:
        return self.verdict is self.then.decision.verdict and self.left_as == self.then.left_as

    def differences(self) -> list[str]:
        """What is decided otherwise, a line each; [] if nothing is."""
        if self.same:
            return []
        told = []
        before = self.then.decision.verdict
        if self.verdict is not before:
            why = f" ({type(self.fault).__name__}: {self.fault})" if self.fault else ""
            told.append(f"{before.name.lower()} then, {self.verdict.name.lower()} now{why}")
        then, now = _claims(self.then.left_as), _claims(self.left_as)
        if len(then) != len(now):
            told.append(f"{len(then)} spans left then, {len(now)} now")
        left_then = dict(then)
        for ordinal, (name, attributes) in enumerate(now):
            was = then[ordinal][1] if len(then) == len(now) else left_then.get(name, {})
            told += [
                f"{name}: {key}: {_told(was, key)} then, {_told(attributes, key)} now"
                for key in sorted(was.keys() | attributes.keys())
                if was.get(key) != attributes.get(key)
            ]
        told = told or ["the same claims, other bytes"]
        more = len(told) - MOST_DIFFERENCES
        return [*told[:MOST_DIFFERENCES], *([f"and {more} more"] if more > 0 else [])]


class Replay:
    """The join of a recording."""

    def __init__(self, head: Head) -> None:
        self.index = EvidenceIndex.for_replay(head.retention_ns, head.max_waits, head.max_span_ends)
        self.joiner = assembled(self.index, enriching=head.enriching, stamp_all=head.stamp_all, host=head.host)
        self.spans = 0  # decided
        self.verdicts: Counter[Verdict] = Counter()  # of requests, now
        self._head = head
        self._undecided: dict[int, Request] = {}

    @property
    def undecided(self) -> int:
        """Requests that have come, and were not decided when the recording ended."""
        return len(self._undecided)

    def run(self, entries: Iterable[Entry]) -> Iterator[Replayed]:
        """The requests as they are decided. When one is given, the join knows what it knew at that moment.

        Raises ContradictoryRecording. What `entries` raises goes through.
        """
        for entry in entries:
            if isinstance(entry, Evidence):
                self.index.feed(entry.records, entry.read_ns)
            elif isinstance(entry, ClockSample):
                self.index.sample_clock(entry.monotonic_ns, entry.realtime_ns)
            elif isinstance(entry, Sampling):
                self.joiner.sampler = Sampler(entry)
            elif isinstance(entry, Arrival):
                self._take(entry)
            elif isinstance(entry, Decision) and (replayed := self._decide(entry)):
                yield replayed

    def _take(self, arrival: Arrival) -> None:
        try:
            scanned = ScannedRequest.scan(arrival.body)
        except MalformedRequest:
            return  # nobody takes such a request, so nobody has recorded it: its decisions are passed over, too
        request = Request(scanned, ((0, arrival.peer),))
        self._undecided[arrival.number] = request
        self.joiner.saw(request)

    def _decide(self, then: Decision) -> Replayed | None:
        """None: it is not decided yet, then as now."""
        request = self._undecided.get(then.number)
        if request is None:
            return None
        if then.verdict is Verdict.CHANGED:
            _check(request, then, sampled=self.joiner.sampler is not None)
        window = self._window(then.settled_ns)
        verdict, left_as, fault = self._verdict(request, window)
        if then.verdict is Verdict.OPEN and verdict is Verdict.OPEN:
            return None
        if then.verdict is not Verdict.OPEN:
            del self._undecided[then.number]
            self.spans += request.scanned.span_count
            self.verdicts[verdict] += 1
        return Replayed(Decided(request, then), window, verdict, left_as, fault)

    def _verdict(self, request: Request, window: Window) -> tuple[Verdict, bytes, BaseException | None]:
        body = request.scanned.body
        try:
            decision = self.joiner.decide(request, window)
        except BaseException as error:  # noqa: BLE001 - whatever a rule does, as the policy has it
            return Verdict.FAULT, body, error
        if isinstance(decision, OpenUntil):
            return Verdict.OPEN, body, None
        if decision.body is None:
            return Verdict.UNTOUCHED, body, None
        if len(decision.body) > self._head.max_body_bytes:
            return Verdict.TOO_LARGE, body, None
        return Verdict.CHANGED, decision.body, None

    def _window(self, settled_ns: int | None) -> Window:
        return Window(tail_ns=self._head.tail_ns, threshold_ns=self._head.threshold_ns, settled_ns=settled_ns)


def _check(request: Request, then: Decision, *, sampled: bool) -> None:
    try:
        spans = ScannedRequest.scan(then.body).span_count
    except MalformedRequest as error:
        raise ContradictoryRecording(then.number) from error
    came = request.scanned.span_count
    if spans > came or (spans < came and not sampled):
        raise ContradictoryRecording(then.number)


def _claims(body: bytes) -> list[tuple[str, dict[str, str]]]:
    """Of each span what it is called, and its attributes as they are told."""
    return [
        (
            f"span {span.span_id.hex()} {span.name!r}",
            {a.key: str(a.value).strip() for a in span.attributes if a.key.startswith("ebpf.")},
        )
        for group in ExportTraceServiceRequest.FromString(body).resource_spans
        for scope in group.scope_spans
        for span in scope.spans
    ]


def _told(attributes: dict[str, str], key: str) -> str:
    return attributes.get(key, "absent").rpartition("_value: ")[2]
