"""Whether the pipeline does its work, and whether there is evidence for it to work with.

Two questions on purpose: with the observer gone spans still pass, so a probe that restarts what is unhealthy
must not restart the pipeline for it.
"""

import time
from collections.abc import Callable
from enum import Enum
from typing import Final

from enricher.telemetry.metrics import Series

# The observer writes a heartbeat every 40 ms.
STALE_AFTER_NS: Final = 1_000_000_000

EVIDENCE_SERVICE: Final = "enricher.evidence"
_TRACE_SERVICE: Final = "opentelemetry.proto.collector.trace.v1.TraceService"


class EvidenceState(Enum):
    LIVE = "live"
    STALE = "stale"  # there were heartbeats, but none for STALE_AFTER_NS
    NONE = "none"  # there never was one


def evidence_state(heartbeat_seen_ns: int, now_ns: int) -> EvidenceState:
    """`heartbeat_seen_ns`: CLOCK_MONOTONIC when the last new heartbeat was read, 0 for never."""
    if heartbeat_seen_ns == 0:
        return EvidenceState.NONE
    return EvidenceState.LIVE if now_ns - heartbeat_seen_ns <= STALE_AFTER_NS else EvidenceState.STALE


class Health:
    """What the health service answers from. Thread-safe.

    `heartbeat_seen_ns` as for `evidence_state`. `working` tells whether every thread that spans need is
    alive: a pipeline whose workers have died takes spans and delivers none.
    """

    def __init__(
        self,
        heartbeat_seen_ns: Callable[[], int],
        working: Callable[[], bool],
        clock_ns: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self._heartbeat_seen_ns = heartbeat_seen_ns
        self._working = working
        self._clock_ns = clock_ns
        self.taking_spans = False  # from start to shutdown

    def evidence(self) -> EvidenceState:
        return evidence_state(self._heartbeat_seen_ns(), self._clock_ns())

    def serving(self, service: str) -> bool | None:
        """By service name, "" for the whole; None: there is no such service."""
        if service in ("", _TRACE_SERVICE):
            return self.taking_spans and self._working()
        if service == EVIDENCE_SERVICE:
            return self.evidence() is EvidenceState.LIVE
        return None

    def series(self) -> list[Series]:
        """For the metrics."""
        evidence = self.evidence()
        return [
            Series.gauge("pipeline_serving", "1 while spans are taken and delivered", float(self.serving("") or 0)),
            Series(
                "evidence_state",
                "gauge",
                "1 for the state that the evidence is in",
                "state",
                {state.value: float(state is evidence) for state in EvidenceState},
            ),
        ]
