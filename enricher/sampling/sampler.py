"""What is kept, and why.

A span is kept for the first of these that holds:

- *evidence*: a cause has claimed something of it. That its evidence is not whole is no claim.
- *error*: its status is ERROR.
- *slow*: it took as long as `slow`, or longer.
- *undecidable*: it has no trace id, or a tracestate that no threshold can be written into.
- *ratio*: the randomness of its trace reaches the threshold of the ratio.

The first four leave as if there were no sampling: each stands for as many as it did when it came. One that the ratio
has kept gets the threshold into its tracestate, and stands for those like it that were dropped. No reason before it
depends on the randomness of a trace, so within each what the spans stand for adds up to what came. With a ratio of 0
neither of the last two keeps anything.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Final, Protocol

from enricher._native import Request as ScannedRequest
from enricher._native import Sampled
from enricher.sampling.threshold import threshold_of
from enricher.telemetry.metrics import Series

__all__ = ["REASONS", "InForce", "LiveSettings", "Sampled", "Sampler", "Settings"]

REASONS: Final = ("evidence", "error", "slow", "undecidable", "ratio")


class Settings(Protocol):
    """As processors.sampling."""

    @property
    def ratio(self) -> float: ...
    @property
    def slow_ns(self) -> int: ...
    @property
    def keep_errors(self) -> bool: ...
    @property
    def keep_evidence(self) -> bool: ...


class InForce(Protocol):
    @property
    def sampling(self) -> Settings | None:
        """None: nothing was set."""


class LiveSettings(Protocol):
    """What can be changed while everything runs."""

    def get(self) -> InForce:
        """The same object as long as nothing has changed."""


class Sampler:
    """Not thread-safe: the policy thread owns it; any may ask for `series`."""

    def __init__(self, settings: Settings, live: LiveSettings | None = None) -> None:
        """`settings` hold until `live` has others."""
        self._live = live
        self._seen: InForce | None = None
        self.kept: Counter[str] = Counter()  # spans, by reason; of requests that came while all are kept, none
        self.sampled_out = 0  # spans
        self._apply(settings)

    def refresh(self) -> None:
        """Takes up what was changed. Within a request the same settings hold, so this is for between requests."""
        if self._live is None or (now := self._live.get()) is self._seen:
            return
        self._seen = now
        if now.sampling is not None:
            self._apply(now.sampling)

    @property
    def active(self) -> bool:
        """False where all are kept: then nothing is looked at, and requests stay as they are."""
        return self._rule[0] > 0

    def sample(
        self,
        request: ScannedRequest,
        with_evidence: Sequence[int],
        patches: list[tuple[int, bytes]],
        fills: list[tuple[list[int] | None, bytes]],
    ) -> Sampled:
        """The request with these patches and fills, without the spans that are sampled out. Nothing is counted."""
        kept = sorted(with_evidence) if self.settings.keep_evidence else []
        return request.sample(self._rule, kept, patches, fills)

    def count(self, sampled: Sampled) -> None:
        """It has left so."""
        self.sampled_out += sampled.sampled_out
        self.kept.update(
            evidence=sampled.kept_evidence,
            error=sampled.kept_error,
            slow=sampled.kept_slow,
            undecidable=sampled.kept_undecidable,
            ratio=sampled.kept_ratio,
        )

    def series(self) -> Iterator[Series]:
        """For the metrics."""
        meaning = "accepted spans that were left out, as the ratio wants"
        yield Series("sampling_sampled_out_spans", "counter", meaning, "", {"": self.sampled_out})
        meaning = "spans that were kept while others were left out, by the first reason that held"
        yield Series("sampling_kept_spans", "counter", meaning, "reason", {name: self.kept[name] for name in REASONS})
        meaning = "of the spans that nothing else keeps, the part that is kept"
        yield Series.gauge("sampling_ratio", meaning, self.settings.ratio)

    def _apply(self, settings: Settings) -> None:
        self.settings = settings
        self._rule = (threshold_of(settings.ratio), settings.slow_ns, settings.keep_errors)
