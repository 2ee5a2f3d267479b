"""Turns the evidence of one span into the attributes that are written on it."""

from collections.abc import Sequence

from enricher.causes.cause import Attribute, Cause, Value
from enricher.join.evidence import SpanEvidence

MATCH_METHOD = "ebpf.match.method"
COMPLETE = "ebpf.complete"
OBSERVED = "ebpf.observed"

ATTRIBUTES = (
    Attribute(MATCH_METHOD, "string", "", "how the evidence was tied to this span; see `enricher components`"),
    Attribute(COMPLETE, "bool", "", "false: evidence was lost, or is not whole, for this span"),
    Attribute(OBSERVED, "bool", "", "with `stamp: all` only: whether the span's process was watched"),
)


def claims_of(evidence: SpanEvidence, causes: Sequence[Cause], method: str) -> dict[str, Value]:
    """The attributes for one span; {} if no cause claims anything. A cause never sets what another has set."""
    found: dict[str, Value] = {}
    for cause in causes:
        found = cause.claims(evidence) | found
    if found:
        found[MATCH_METHOD] = method
        if not evidence.complete:
            found[COMPLETE] = False
    return found
