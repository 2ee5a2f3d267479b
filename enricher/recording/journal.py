"""Takes down what the policy does: the last of it in memory, and all of it in a recording while there is one."""

from collections.abc import Iterator

from enricher._native import EvidenceIndex
from enricher.join.methods.method import Request
from enricher.recording.entries import Arrival, ClockSample, Decision, Evidence, Sampling, Verdict
from enricher.recording.recent import Decided, Recent
from enricher.recording.recorder import Recorder
from enricher.sampling.sampler import Settings
from enricher.telemetry.metrics import Series


class Journal:
    """Not thread-safe: the policy thread owns it from its start to its end."""

    def __init__(self, index: EvidenceIndex, recorder: Recorder | None = None) -> None:
        """Before the index is polled for the first time: a recording has its evidence from the beginning."""
        self.recent = Recent()
        self._index = index
        self._recorder = recorder
        self._sampling: Settings | None = None  # as it was recorded last
        if recorder:
            index.tap(True)
            recorder.start()

    @property
    def joins(self) -> bool:
        """Whether requests may be joined before they are decided: a recording has each by itself, and its peer."""
        return self._recorder is None

    def polled(self, monotonic_ns: int, realtime_ns: int) -> None:
        """To be called after each poll of the index, with what it was told of the clocks before."""
        self.recent.forget(monotonic_ns)
        if not self._recorder:
            return
        records = self._index.take_tapped()
        if not self._recorder.active:
            self._index.tap(False)
            self._recorder = None
            return
        self._recorder.add(ClockSample(monotonic_ns, realtime_ns))
        if records:
            self._recorder.add(Evidence(monotonic_ns, records))

    def sampling(self, settings: Settings) -> None:
        """What the next decisions are made with; to be called before them, however often."""
        if self._recorder and settings is not self._sampling:
            self._sampling = settings
            ratio, slow_ns = settings.ratio, settings.slow_ns
            self._recorder.add(Sampling(ratio, slow_ns, settings.keep_errors, settings.keep_evidence))

    def came(self, number: int, request: Request, now_ns: int) -> None:
        """`number` is the request's own, for as long as this process lives. It comes from one peer: see `joins`."""
        if self._recorder:
            self._recorder.add(Arrival(number, now_ns, request.peer(0), request.scanned.body))

    def decided(self, request: Request, decision: Decision) -> None:
        if decision.verdict is not Verdict.OPEN:
            self.recent.add(Decided(request, decision))
        if self._recorder:
            self._recorder.add(decision)

    def close(self, patience_s: float) -> None:
        """Ends the recording, if there is one; the policy thread has ended."""
        if self._recorder:
            self._recorder.stop(patience_s)

    def series(self) -> Iterator[Series]:
        """For the metrics."""
        if self._recorder:
            yield from self._recorder.series()
