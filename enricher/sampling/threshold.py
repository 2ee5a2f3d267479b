"""Ratios, and the thresholds that they are in a tracestate.

All spans of a trace share 56 bits of randomness. A span is kept if they are, as a number, at least the threshold:
so a larger ratio keeps all that a smaller one keeps, whoever decides. Source: OpenTelemetry specification,
"TraceState: Probability Sampling", and "TraceState Handling" for how a threshold is written.
"""

from math import inf, ldexp
from typing import Final

BITS: Final = 56
NEVER: Final = 1 << BITS  # more than any randomness
_DIGITS: Final = BITS // 4
# What SDKs and collectors round to. With the same ratio we have the same threshold: spans that they have sampled with
# it are not sampled again, and their tracestate stays as it is.
_PRECISION: Final = 4


def threshold_of(ratio: float) -> int:
    """0 for 1, NEVER for 0. Four hexadecimal digits are significant, those behind leading f: 0.1 gives e666."""
    if not 0 <= ratio <= 1:
        raise ValueError(f"a ratio of {ratio} is not between 0 and 1")
    if ratio == 0:
        return NEVER
    exact = NEVER - max(1, round(ldexp(ratio, BITS)))
    leading = _DIGITS - len(f"{exact:014x}".lstrip("f"))
    dropped_bits = 4 * max(0, _DIGITS - leading - _PRECISION)
    return (exact + (1 << dropped_bits >> 1)) >> dropped_bits << dropped_bits


def ratio_of(threshold: int) -> float:
    """The share of all traces that is kept."""
    return ldexp(NEVER - threshold, -BITS)


def adjusted_count(threshold: int) -> float:
    """How many spans one that was kept stands for; infinite for NEVER."""
    return inf if threshold == NEVER else NEVER / (NEVER - threshold)


def written(threshold: int) -> str:
    """As `th` has it; empty for NEVER, which is never written."""
    return "" if threshold == NEVER else f"{threshold:014x}".rstrip("0") or "0"
