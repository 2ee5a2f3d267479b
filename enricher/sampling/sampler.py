"""What is kept, and why.

A span is kept, for the first of these that holds:

- *evidence*: a cause has claimed something of it. That the evidence is not whole is no claim.
- *error*: its status is ERROR.
- *slow*: it took as long as `slow`, or longer.
- *undecidable*: it has no trace id, or a tracestate that no threshold can be written into.
- *ratio*: the randomness of its trace reaches the threshold of the ratio.

The first four leave as if there were no sampling: each stands for as many as it did when it came. One that the ratio
has kept gets the threshold into its tracestate and stands for those like it that were dropped. None of the reasons
depends on the randomness of a trace, so within each of them what the spans stand for adds up to what came.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Protocol

from enricher._native import Request as ScannedRequest
from enricher.causes.cause import Value
from enricher.join.claims import COMPLETE, MATCH_METHOD, OBSERVED
from enricher.sampling.threshold import threshold_of
from enricher.telemetry.metrics import Series

# What is also said of spans of which nothing is claimed.
_NO_CLAIMS: AbstractSet[str] = frozenset({MATCH_METHOD, COMPLETE, OBSERVED})


class Settings(Protocol):
    """As of processors.sampling, or as they were changed since."""

    @property
    def ratio(self) -> float: ...
    @property
    def slow_ns(self) -> int: ...
    @property
    def keep_errors(self) -> bool: ...
    @property
    def keep_evidence(self) -> bool: ...


class Sampler:
    """Not thread-safe: the policy thread owns it, but for `series`."""

    def __init__(self, settings: Settings) -> None:
        self.kept: Counter[str] = Counter()  # spans, by reason; those of requests that were not sampled are not counted
        self.sampled_out = 0  # spans
        self.apply(settings)

    def apply(self, settings: Settings) -> None:
        """From the next request on these hold."""
        self.settings = settings
        self._threshold = threshold_of(settings.ratio)

    @property
    def active(self) -> bool:
        """False where all are kept: then no span needs to be looked at."""
        return self._threshold > 0

    def leave(
        self,
        request: ScannedRequest,
        attributes: Mapping[int, Mapping[str, Value]],
        patches: list[tuple[int, bytes]],
    ) -> bytes | None:
        """The request with these patches and without the spans that are sampled out; None if that are all.

        `attributes`: what the join has found, by ordinal.
        """
        kept: list[int] = []
        if self.settings.keep_evidence:
            kept = sorted(ordinal for ordinal, found in attributes.items() if found.keys() - _NO_CLAIMS)
        slow_ns, keep_errors = self.settings.slow_ns, self.settings.keep_errors
        sampled = request.sample(self._threshold, slow_ns, keep_errors, kept, patches)
        self.sampled_out += sampled.sampled_out
        self.kept["evidence"] += sampled.kept_evidence
        self.kept["error"] += sampled.kept_error
        self.kept["slow"] += sampled.kept_slow
        self.kept["ratio"] += sampled.kept_ratio
        self.kept["undecidable"] += sampled.kept_undecidable
        return sampled.body

    def series(self) -> Iterator[Series]:
        """For the metrics."""
        yield Series("sampling_sampled_out_spans", "counter", "accepted spans that were dropped, as the sampling ratio wants", "", {"": self.sampled_out})
        kept = {reason: self.kept[reason] for reason in REASONS}
        yield Series("sampling_kept_spans", "counter", "spans that sampling has kept, by the first reason that held", "reason", kept)
        yield Series.gauge("sampling_ratio", "of the spans that nothing else keeps, the share that is kept", self.settings.ratio)
