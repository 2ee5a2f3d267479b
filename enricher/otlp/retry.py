"""When a request that failed is sent again: the rules of OTLP, and exponential back-off with jitter.

Pure: the code, the time gone by and the random number are handed in.
"""

from dataclasses import dataclass
from enum import Enum
from typing import Final

from enricher.config.model import RetryOnFailure
from enricher.otlp.transport import StatusCode

# The table in "OTLP/gRPC response, failures" of the OTLP specification; RESOURCE_EXHAUSTED stands for itself.
_RETRYABLE: Final = frozenset(
    {
        StatusCode.CANCELLED,
        StatusCode.DEADLINE_EXCEEDED,
        StatusCode.ABORTED,
        StatusCode.OUT_OF_RANGE,
        StatusCode.UNAVAILABLE,
        StatusCode.DATA_LOSS,
    }
)


# What a backend may ask for at most: a slip of it shall not hold the spans for years, nor have them dropped at once,
# as a wait beyond max_elapsed_time (5 min by default) would.
MAX_RETRY_DELAY_NS: Final = 120_000_000_000


class Verdict(Enum):
    RETRY = "retry"
    # RESOURCE_EXHAUSTED without RetryInfo: never again as it is, but its parts may be small enough.
    TOO_LARGE = "too_large"
    PERMANENT = "permanent"


def classify(code: StatusCode, retry_delay_ns: int | None) -> Verdict:
    """`retry_delay_ns`: from the RetryInfo of the status, None if it had none."""
    if code is StatusCode.RESOURCE_EXHAUSTED:
        return Verdict.TOO_LARGE if retry_delay_ns is None else Verdict.RETRY
    return Verdict.RETRY if code in _RETRYABLE else Verdict.PERMANENT


@dataclass(frozen=True, slots=True)
class Backoff:
    """How long to wait before each further try; the collector's settings and meaning."""

    settings: RetryOnFailure

    def delay_ns(self, failures: int, elapsed_ns: int, retry_delay_ns: int | None, random: float) -> int | None:
        """The wait before the next try, None to give up.

        `failures`: tries so far, at least 1. `elapsed_ns`: since the first of them. `retry_delay_ns`: what the
        backend asked for, which is waited at least, up to MAX_RETRY_DELAY_NS. `random`: in [0, 1).
        """
        settings = self.settings
        if not settings.enabled:
            return None
        # Bounded, as a power with a large exponent does not fit a float.
        growth = settings.multiplier ** min(failures - 1, 64)
        interval_ns = min(settings.initial_interval_ns * growth, settings.max_interval_ns)
        jitter = 1 + settings.randomization_factor * (2 * random - 1)
        delay_ns = max(int(interval_ns * jitter), min(retry_delay_ns or 0, MAX_RETRY_DELAY_NS))
        limit_ns = settings.max_elapsed_time_ns
        return None if limit_ns and elapsed_ns + delay_ns > limit_ns else delay_ns
