"""What the probes count of each process, they count by its slot; this says which process has which."""

from collections import deque

from enricher.evidence.records import SLOTS

SHARED_SLOT = 0  # of what is nobody's, and of processes for which there was no other


class Slots:
    """Gives slots to processes, and tells what was lost of whom."""

    def __init__(self, losses: memoryview) -> None:
        """`losses`: the map of that name, of format Q, by slot."""
        self._losses = losses
        self._seen = losses.tobytes()
        self._of: dict[int, int] = {}
        # Whose a slot is, or was last. What a process lost at its very end is read after it has gone.
        self._owners = [0] * SLOTS
        # The one that was given back first is the next: a thread that outlives its process counts on for a moment.
        self._free = deque(range(1, SLOTS))
        self._given_back: list[int] = []

    def take(self, tgid: int) -> int:
        """The slot of the process, which is SHARED_SLOT if all others are taken."""
        if tgid not in self._of:
            if not self._free:
                return SHARED_SLOT
            slot = self._of[tgid] = self._free.popleft()
            self._owners[slot] = tgid
        return self._of[tgid]

    def give_back(self, tgid: int) -> None:
        """Its slot is another's, once `newly_lost` has told what was lost up to now. Having none is no error."""
        slot = self._of.pop(tgid, None)
        if slot is not None:
            self._given_back.append(slot)

    def newly_lost(self) -> dict[int, int]:
        """How many events were lost since the last call, by process; under 0 those that may have been anybody's."""
        before, self._seen = self._seen, self._losses.tobytes()
        lost: dict[int, int] = {}
        if before != self._seen:
            counts = zip(memoryview(before).cast("Q"), memoryview(self._seen).cast("Q"), self._owners, strict=True)
            for earlier, now, tgid in counts:
                if now != earlier:
                    lost[tgid] = lost.get(tgid, 0) + now - earlier
        self._free += self._given_back
        self._given_back.clear()
        return lost
