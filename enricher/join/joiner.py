"""From a request and the evidence to the request as it leaves: the one place where spans get attributes."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from enricher.causes.cause import Cause, Value
from enricher.join.claims import COMPLETE, MATCH_METHOD, OBSERVED, claims_of
from enricher.join.methods.method import Match, MatchMethod, Request, Window

Encode = Callable[[dict[str, Value]], bytes]


@dataclass(frozen=True, slots=True)
class OpenUntil:
    """Not decided: evidence may still come until then."""

    time_ns: int


@dataclass(slots=True)
class Tally:
    """What became of the spans so far, for the metrics."""

    matched: Counter[str] = field(default_factory=Counter)  # by method
    unmatched: int = 0
    enriched: int = 0  # left with at least one claim
    incomplete: int = 0  # left with ebpf.complete=false


class Joiner:
    """Decides requests. Not thread-safe: the policy thread owns it."""

    def __init__(
        self, methods: Sequence[MatchMethod], causes: Sequence[Cause], encode: Encode, *, stamp_all: bool
    ) -> None:
        self._methods = methods
        self._causes = causes
        self._encode = encode
        self._stamp_all = stamp_all
        self.tally = Tally()

    def saw(self, request: Request, window: Window) -> None:
        """To be called once for every request when it comes."""
        for method in self._methods:
            method.saw(request, window)

    def decide(self, request: Request, window: Window) -> bytes | OpenUntil:
        """The body to forward: the very same object where nothing is to be added.

        If a tail of this request may still change and reaches beyond `window.settled_ns`, nothing is decided.
        """
        attributes: dict[int, dict[str, Value]] = {}
        unmatched: Sequence[int] | None = None
        for method in self._methods:
            match = method.match(request, unmatched, window)
            if match.open_until_ns:
                return OpenUntil(match.open_until_ns)
            self._apply(match, method.method.name, request, attributes)
            unmatched = match.unmatched
            if not unmatched:
                break
        self.tally.unmatched += len(unmatched or ())
        if self._stamp_all:
            for ordinal in range(request.scanned.span_count):
                attributes.setdefault(ordinal, {OBSERVED: False})
        if not attributes:
            return request.scanned.body
        return request.scanned.splice([(ordinal, self._encode(attributes[ordinal])) for ordinal in sorted(attributes)])

    def _apply(self, match: Match, method: str, request: Request, attributes: dict[int, dict[str, Value]]) -> None:
        if match.matched:
            self.tally.matched[method] += match.matched
        for evidence in match.evidence:
            claims = claims_of(evidence, self._causes, method)
            if claims:
                attributes[evidence.ordinal] = claims
                self.tally.enriched += 1
                self.tally.incomplete += not evidence.complete
        for ordinal in match.incomplete:
            attributes[ordinal] = {MATCH_METHOD: method, COMPLETE: False}
            self.tally.incomplete += 1
        if self._stamp_all:
            self._stamp(match, method, request, attributes)

    @staticmethod
    def _stamp(match: Match, method: str, request: Request, attributes: dict[int, dict[str, Value]]) -> None:
        missing = set(match.unmatched)
        known = match.identified or (n for n in range(request.scanned.span_count) if n not in missing)
        for ordinal in known:
            stamp = attributes.setdefault(ordinal, {})
            stamp.setdefault(MATCH_METHOD, method)
            stamp.setdefault(COMPLETE, True)
            stamp[OBSERVED] = True
