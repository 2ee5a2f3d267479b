"""What the control service changes: the settings on the board, so that all workers take them up, whichever was told."""

from dataclasses import replace

from enricher.control.service import InForce
from enricher.live import Live, LiveSettings


class LiveSampling:
    """A `ChangeableSampling`."""

    def __init__(self, live: LiveSettings) -> None:
        self._live = live

    def in_force(self) -> InForce | None:
        return _in_force(self._live.get())

    def change(self, ratio: float | None, slow_ns: int | None) -> InForce | None:
        """Raises SlotBusy."""

        def changed(now: Live) -> Live:
            if now.sampling is None:
                return now
            sampling = replace(
                now.sampling,
                ratio=now.sampling.ratio if ratio is None else ratio,
                slow_ns=now.sampling.slow_ns if slow_ns is None else slow_ns,
            )
            return replace(now, sampling=sampling)

        return _in_force(self._live.set(changed))


def _in_force(live: Live) -> InForce | None:
    return InForce(live.generation, live.sampling) if live.sampling else None
