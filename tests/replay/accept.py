"""Writes into recordings what is decided now: `python -m tests.replay.accept [NAME...]`, all without a name.

For when the join was changed on purpose. What the kernel told and what the services measured stays as it was.
"""

import sys
from dataclasses import replace
from pathlib import Path

from enricher.recording.entries import Decision, Entry, Verdict
from enricher.recording.file import Recording, block, preamble
from enricher.recording.replay import Replay
from tests.replay.record import CASES


def main() -> None:
    for path in [CASES / f"{name}.rec" for name in sys.argv[1:]] or sorted(CASES.glob("*.rec")):
        changed = accept(path)
        print(f"{path.stem}: {changed} requests are decided otherwise")


def accept(path: Path) -> int:
    """How many requests are decided otherwise than they were."""
    with Recording(path) as recording:
        replay = Replay(recording.head)
        made: list[Entry] = []
        changed = 0
        for entry in recording.entries():
            found = next(replay.run([entry]), None)
            if found is None or found.same:
                made.append(entry)
                continue
            assert isinstance(entry, Decision)
            # Then it was open, or is now: what stands behind it was recorded for another course of things.
            assert Verdict.OPEN not in (entry.verdict, found.verdict), f"{path}: to be recorded anew"
            changed += 1
            body = found.left_as if found.verdict is Verdict.CHANGED else b""
            made.append(replace(entry, verdict=found.verdict, body=body))
    if changed:
        path.write_bytes(preamble(recording.head) + block(made))
    return changed


if __name__ == "__main__":
    main()
