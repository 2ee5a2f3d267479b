"""Whether the pipeline does its work, and whether there is evidence for it to work with.

Two questions on purpose: with the observer gone spans still pass, so a probe that restarts what is unhealthy
must not restart the pipeline for it.
"""

import time
from collections.abc import Callable
from enum import Enum
from typing import Final

from enricher.otlp.transport import TRACE_SERVICE
from enricher.telemetry.metrics import Series

# The observer writes a heartbeat every 40 ms.
STALE_AFTER_NS: Final = 1_000_000_000

EVIDENCE_SERVICE: Final = "enricher.evidence"
SERVICES: Final = ("", TRACE_SERVICE, EVIDENCE_SERVICE)


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

    `heartbeat_seen_ns` as for `evidence_state`. `serving` tells whether this worker takes spans and delivers them,
    `all_serving` whether every worker does: whoever asks one of them must not be told that all is well when the others
    are dead.
    """

    def __init__(
        self,
        heartbeat_seen_ns: Callable[[], int],
        serving: Callable[[], bool],
        all_serving: Callable[[], bool],
        clock_ns: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self._heartbeat_seen_ns = heartbeat_seen_ns
        self._serving = serving
        self._all_serving = all_serving
        self._clock_ns = clock_ns

    def evidence(self) -> EvidenceState:
        return evidence_state(self._heartbeat_seen_ns(), self._clock_ns())

    def serving(self, service: str) -> bool | None:
        """By service name, "" for the whole; None: there is no such service."""
        if service == "":
            return self._all_serving()
        if service == TRACE_SERVICE:
            return self._serving()
        if service == EVIDENCE_SERVICE:
            return self.evidence() is EvidenceState.LIVE
        return None

    def series(self) -> list[Series]:
        """For the metrics."""
        evidence = self.evidence()
        states = {state.value: float(state is evidence) for state in EvidenceState}
        return [Series("evidence_state", "gauge", "1 for the state that the evidence is in", "state", states)]
