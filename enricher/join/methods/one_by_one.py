"""What the methods have in common that look at one span after the other, and at what the kernel saw without probes in
the process.

They are for processes whose span ends are not seen. Spans have their own clock's times only: these are turned into the
kernel's. No wait after a span's end is claimed, as nobody saw what its goroutine did next.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from enricher._native import EvidenceIndex, Span, Wait
from enricher.evidence.records import EventFlag
from enricher.join.blocked import BlockedSpan, KernelSpan, blocked_span
from enricher.join.explanation import Trial, considered
from enricher.join.methods.method import Match, Method, Request, Window

# For what must only be about right. What lies inside a span and what does not is decided to the microsecond: net/http
# wakes goroutines within a hundred of them after the end, and the two clocks agree to one.
CLOCK_SLACK_NS = 1_000_000

FOR_EVER_NS = 1 << 62

INSIDE = "it lies inside the span"


@dataclass(frozen=True, slots=True)
class Ruling:
    """On one wait."""

    wait: Wait
    claimed: bool
    why: str
    direct: bool = True  # it is in no child span


@dataclass(frozen=True, slots=True)
class Tied:
    """The span's identity was found."""

    why: str
    tgid: int
    times: KernelSpan
    identity: Mapping[str, int | str]
    rulings: Sequence[Ruling]
    whole: bool = True  # False: the method does not see all that may have blocked the span
    open_until_ns: int = 0  # what goes on then must be known before something is claimed; 0: nothing


@dataclass(frozen=True, slots=True)
class Untied:
    why: str


class OneByOne(ABC):
    """A method at work on one index."""

    method: Method

    def __init__(self, index: EvidenceIndex) -> None:
        self._index = index

    @abstractmethod
    def tie(self, request: Request, span: Span, ordinal: int, window: Window) -> Tied | Untied:
        """What is known of one span."""

    def saw(self, request: Request) -> None:  # noqa: B027 - most have nothing to remember
        """See MatchMethod."""

    def match(self, request: Request, unmatched: Sequence[int] | None, window: Window) -> Match:
        """See MatchMethod."""
        if not self._index.watched_without_span_ends:
            return Match(unmatched=unmatched if unmatched is not None else range(request.scanned.span_count))
        identified: list[int] = []
        missed: list[int] = []
        incomplete: list[int] = []
        evidence: list[BlockedSpan] = []
        for ordinal in range(request.scanned.span_count) if unmatched is None else unmatched:
            found = self.tie(request, request.spans[ordinal], ordinal, window)
            if isinstance(found, Untied):
                missed.append(ordinal)
                continue
            waits = [ruling.wait for ruling in found.rulings if ruling.claimed]
            if waits and window.settled_ns is not None and found.open_until_ns > window.settled_ns:
                return Match(open_until_ns=found.open_until_ns)
            identified.append(ordinal)
            known = not self._missing(found.tgid, found.times)
            if waits:
                direct = [ruling.wait for ruling in found.rulings if ruling.claimed and ruling.direct]
                complete = known and found.whole
                evidence.append(blocked_span(ordinal, found.tgid, found.times, waits, complete=complete, direct=direct))
            elif not known:
                incomplete.append(ordinal)
        return Match(
            matched=len(identified),
            evidence=evidence,
            incomplete=incomplete,
            unmatched=missed,
            identified=identified,
        )

    def explain(self, request: Request, ordinal: int, window: Window) -> Trial:
        """See MatchMethod."""
        if not self._index.watched_without_span_ends:
            return Trial(self.method.name, matched=False, why="The span ends of every watched process are seen.")
        found = self.tie(request, request.spans[ordinal], ordinal, window)
        if isinstance(found, Untied):
            return Trial(self.method.name, matched=False, why=found.why)
        rulings = sorted(found.rulings, key=lambda ruling: ruling.wait.start_ns)
        return Trial(
            self.method.name,
            matched=True,
            why=found.why,
            identity={
                "tgid": found.tgid,
                **found.identity,
                "start_ns": found.times.start_ns,
                "end_ns": found.times.end_ns,
            },
            considered=tuple(considered(ruling.wait, ruling.why, claimed=ruling.claimed) for ruling in rulings),
            incomplete_because=(
                *self._missing(found.tgid, found.times),
                *(() if found.whole else ("This method cannot know all that may have blocked the span.",)),
            ),
        )

    def _missing(self, tgid: int, times: KernelSpan) -> tuple[str, ...]:
        """Why something that the kernel told of that time may not be here; (): it all is."""
        watched = self._index.process(tgid)
        whys = (
            (watched is None or watched[0] > times.start_ns, "Its process was not watched from its start on."),
            (self._index.watermark_ns < times.end_ns, "What happened up to its end is not all known yet."),
            (self._index.lost(times.start_ns, times.end_ns, tgid), "Events of its time were lost."),
        )
        return tuple(why for is_so, why in whys if is_so)

    def why_not_in(self, tgid: int, times: KernelSpan) -> str:
        """Why a span of that time cannot be of that process, or is left to the best method. "": it can be."""
        watched = self._index.process(tgid)
        if watched is None:
            return "Its process is not watched."
        if watched[1] & EventFlag.PROCESS_HAS_SPAN_ENDS:
            return "Its process is one whose span ends are seen, and this one was not."
        if watched[0] > times.start_ns + CLOCK_SLACK_NS:
            return "Its process has been watched only since after the span began."
        return ""


def rule(
    wait: Wait, times: KernelSpan, threshold_ns: int, *, from_before: bool = False, inherited: bool = False
) -> Ruling:
    """A wait is the span's if it lies inside; with `from_before` also if it had begun earlier, and then in part.

    `inherited`: it is of a span below.
    """
    if wait.label not in (b"", times.span_id) and not inherited:
        why = "labels of its goroutine name another span"
    elif wait.going_on:
        why = "it was not over when the span was"
    elif wait.end_ns > times.end_ns:
        why = "it ended after the span"
    elif not from_before and wait.start_ns < times.start_ns:
        why = "it had begun before the span"
    elif times.inside_ns(wait) < max(threshold_ns, 1):
        why = "less of it than the threshold lies inside the span"
    else:
        return Ruling(wait, claimed=True, why=INSIDE, direct=not inherited)
    return Ruling(wait, claimed=False, why=why)
