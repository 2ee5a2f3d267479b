"""From a request and the evidence to the request as it leaves: the one place where spans get attributes."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from enricher.causes.cause import Cause, Value
from enricher.join.claims import COMPLETE, MATCH_METHOD, OBSERVED, claims_of
from enricher.join.explanation import SpanExplanation, Trial
from enricher.join.methods import connection, span_end
from enricher.join.methods.method import Match, MatchMethod, Method, Request, Window
from enricher.join.methods.origin import Origins
from enricher.sampling.sampler import Sampled, Sampler

Encode = Callable[[dict[str, Value]], bytes]


@dataclass(frozen=True, slots=True)
class OpenUntil:
    """Not decided: evidence may still come until then."""

    time_ns: int


@dataclass(frozen=True, slots=True)
class Joined:
    """How a request is to leave."""

    body: bytes | None = None  # None: as it came
    with_evidence: Sequence[int] = ()  # spans for which a cause claims something
    sampled: Sampled | None = None  # what became of which spans; None: all leave


AS_IT_CAME: Final = Joined()
# What is said of a span though no cause claims anything.
_OF_NO_CAUSE: Final = frozenset({MATCH_METHOD, COMPLETE, OBSERVED})
Fill = tuple[list[int] | None, bytes]


@dataclass(slots=True)
class Tally:
    """What became of the spans so far, for the metrics."""

    matched: Counter[str] = field(default_factory=Counter)  # by method
    unmatched: int = 0
    enriched: int = 0  # left with at least one claim
    incomplete: int = 0  # left with ebpf.complete=false
    missed: int = 0  # of these, the ones that were unmatched, as evidence was missed


class Joiner:
    """Decides requests. Not thread-safe: the policy thread owns it."""

    def __init__(
        self,
        methods: Sequence[MatchMethod],
        causes: Sequence[Cause],
        encode: Encode,
        origins: Origins | None = None,
        *,
        stamp_all: bool,
        sampler: Sampler | None = None,
    ) -> None:
        """Without `origins`, nothing is said of unmatched spans. `sampler`, which can be set, leaves spans out."""
        self._methods = methods
        self._causes = causes
        self._encode = encode
        self._origins = origins
        self._stamp_all = stamp_all
        self.sampler = sampler
        self.tally = Tally()

    def saw(self, request: Request) -> None:
        """To be called once for every request when it comes."""
        for method in self._methods:
            method.saw(request)

    def decide(self, request: Request, window: Window) -> Joined | OpenUntil:
        """If a tail of this request may still change and reaches beyond `window.settled_ns`, nothing is decided."""
        matches = []
        unmatched: Sequence[int] | None = None
        for method in self._methods:
            match = method.match(request, unmatched, window)
            if match.open_until_ns:
                return OpenUntil(match.open_until_ns)
            if self._origins and method.method is span_end.METHOD and match.matched:
                self._origins.learn(request, match.unmatched, window)
            matches.append((method.method, match, unmatched))
            unmatched = match.unmatched
            if not unmatched:
                break
        attributes: dict[int, dict[str, Value]] = {}
        for declared, match, _ in matches:
            self._apply(match, declared, attributes, self.tally)
        with_evidence = [ordinal for ordinal, claims in attributes.items() if not claims.keys() <= _OF_NO_CAUSE]
        self._give_up(unmatched or (), request, attributes, self.tally)
        fills = self._stamps(matches, attributes) if self._stamp_all else []
        sampler = self.sampler if self.sampler and self.sampler.active else None
        if not attributes and not fills and not sampler:
            return AS_IT_CAME
        patches = [(ordinal, self._encode(attributes[ordinal])) for ordinal in sorted(attributes)]
        if sampler:
            sampled = sampler.sample(request.scanned, with_evidence, patches, fills)
            return Joined(sampled.body, with_evidence, sampled)
        return Joined(request.scanned.splice(patches, fills), with_evidence)

    def explain(self, request: Request, ordinal: int, window: Window) -> SpanExplanation:
        """Why a span would leave as it would if it were decided now. Nothing is counted or learned.

        Raises IndexError if the request has no such span.
        """
        span = request.spans[ordinal]
        window = replace(window, settled_ns=None)
        claims, trials = self._try(request, ordinal, window)
        found = trials[-1] if trials and trials[-1].matched else None
        process, process_why = self._process_of(request, ordinal, found)
        return SpanExplanation(
            trace_id=span.trace_id.hex(),
            span_id=span.span_id.hex(),
            parent_span_id=span.parent_span_id.hex(),
            kind=span.kind,
            start_unix_ns=span.start_unix_ns,
            end_unix_ns=span.end_unix_ns,
            method=str(claims.get(MATCH_METHOD, found.method if found else "")),
            process=process,
            process_why=process_why,
            trials=trials,
            claims=claims,
            left_off=_left_off(found, claims),
        )

    def _try(self, request: Request, ordinal: int, window: Window) -> tuple[dict[str, Value], tuple[Trial, ...]]:
        """The attributes of one span, and the trials of the methods up to the one that matched."""
        attributes: dict[int, dict[str, Value]] = {}
        matches: list[tuple[Method, Match, Sequence[int] | None]] = []
        unmatched: Sequence[int] | None = None
        trials = []
        for method in self._methods:
            trials.append(method.explain(request, ordinal, window))
            match = method.match(request, unmatched, window)
            matches.append((method.method, match, unmatched))
            if ordinal not in match.unmatched:
                self._apply(match, method.method, attributes, Tally())
                break
            unmatched = [ordinal]
        else:
            self._give_up([ordinal], request, attributes, Tally())
        if self._stamp_all:
            attributes.setdefault(ordinal, {})
            self._stamps(matches, attributes)
        return attributes.get(ordinal, {}), tuple(trials)

    def _process_of(self, request: Request, ordinal: int, found: Trial | None) -> tuple[int | None, str]:
        tgid = found.identity.get("tgid") if found else None
        if found and isinstance(tgid, int):
            return tgid, f"What {found.method} found is of that process."
        if self._origins is None:
            return None, "Nothing is asked of where spans come from."
        origin = self._origins.of(request, ordinal)
        return origin.tgid, origin.why

    def _apply(self, match: Match, method: Method, attributes: dict[int, dict[str, Value]], tally: Tally) -> None:
        if match.matched:
            tally.matched[method.name] += match.matched
        for evidence in match.evidence:
            name = connection.name_of(method, evidence)
            if name != method.name:
                tally.matched[method.name] -= 1
                tally.matched[name] += 1
            claims = claims_of(evidence, self._causes, name)
            if claims:
                attributes[evidence.ordinal] = claims
                tally.enriched += 1
                tally.incomplete += not evidence.complete
        for ordinal in match.incomplete:
            attributes[ordinal] = {MATCH_METHOD: method.name, COMPLETE: False}
            tally.incomplete += 1

    def _give_up(
        self, unmatched: Sequence[int], request: Request, attributes: dict[int, dict[str, Value]], tally: Tally
    ) -> None:
        """Says of spans that no method could tie what can be said."""
        missed = set(self._origins.missed(request, unmatched)) if self._origins else set()
        tally.unmatched += len(unmatched)
        tally.incomplete += len(missed)
        tally.missed += len(missed)
        for ordinal in missed:
            attributes[ordinal] = {COMPLETE: False}

    def _stamps(
        self, matches: Sequence[tuple[Method, Match, Sequence[int] | None]], attributes: dict[int, dict[str, Value]]
    ) -> list[Fill]:
        """What every span says, for many at once; for those in `attributes` it is added there.

        `matches`: with the spans that each method was given. The last come first in the result: a span gets the first
        run that names it, and that of the first method names all.
        """
        fills: list[Fill] = []
        if matches and (untied := matches[-1][1].unmatched):
            all_are = matches[0][2] is None and not any(match.matched for _, match, _ in matches)
            fills.append((None if all_are else list(untied), self._encode({OBSERVED: False})))
            for ordinal in attributes.keys() & set(untied):
                attributes[ordinal][OBSERVED] = bool(attributes[ordinal])  # nothing is missed of what nobody watched
        for method, match, given in reversed(matches):
            identified = match.identified
            if not match.matched and not identified:
                continue
            if identified is None and given is not None:
                missing = set(match.unmatched)
                identified = [ordinal for ordinal in given if ordinal not in missing]
            # Of the others nobody knows what they did not see.
            stamp: dict[str, Value] = {MATCH_METHOD: method.name, COMPLETE: method.exact, OBSERVED: True}
            fills.append((None if identified is None else list(identified), self._encode(stamp)))
            for ordinal in attributes if identified is None else attributes.keys() & set(identified):
                claims = attributes[ordinal]
                if OBSERVED not in claims:
                    claims.update({key: value for key, value in stamp.items() if key not in claims})
        return fills


def _left_off(found: Trial | None, claims: Mapping[str, Value]) -> tuple[str, ...]:
    if found is None:
        if claims.get(COMPLETE) is False:
            return ("Evidence of its process was lost, or it was not watched yet: more might have been known.",)
        return ()
    whys = Counter(wait.why for wait in found.considered if not wait.claimed)
    waits = tuple(f"{count} wait{'s' if count > 1 else ''}: {why}" for why, count in whys.items())
    return (*waits, *found.incomplete_because)
