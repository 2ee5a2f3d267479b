"""Entries as the queue in memory has them, and a queue of one directory."""

import os
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from enricher.otlp.durable import DurableQueue

MIB = 1 << 20


@dataclass
class FakeEntry:
    body: bytes | None = field(default_factory=lambda: os.urandom(100))
    spans: int = 1
    id: int = 0

    def replace_body(self, body: bytes | None) -> None:
        self.body = body


def entries(count: int, size: int = 100, spans: int = 1) -> list[FakeEntry]:
    return [FakeEntry(os.urandom(size), spans) for _ in range(count)]


def opened(directory: Path, **settings: Any) -> DurableQueue:
    return DurableQueue(directory, **{"fsync": "never", "max_bytes": 256 * MIB} | settings)


def recovered(queue: DurableQueue) -> list[tuple[int, bytes]]:
    """All that is there of earlier lives, as if each were decided at once."""
    found: list[tuple[int, bytes]] = []

    def offer(body: bytes, number: int) -> bool:
        found.append((number, body))
        return True

    while queue.recovering:
        before = len(found)
        queue.recover(offer)
        queue.decided([FakeEntry(body, id=number) for number, body in found[before:]])
    return found


def values(queue: DurableQueue, name: str) -> dict[str, float]:
    return dict(next(series.values for series in queue.series() if series.name == name))


def value(queue: DurableQueue, name: str) -> float:
    return sum(values(queue, name).values())


def deliver(queue: DurableQueue, sent: Sequence[FakeEntry]) -> list[bytes | None]:
    """As a backend that takes all."""
    queue.decided(sent)
    lost = queue.sending(sent)
    bodies = [entry.body for entry in sent if entry not in lost]
    queue.released(sent)
    return bodies


def left_by_a_killed_process(directory: Path) -> Path:
    """What stands in `directory`/a, which is in use, at this moment: a copy, in another process, as to close a file in
    this one would end its locks.
    """
    subprocess.run(["cp", "-r", directory / "a", directory / "b"], check=True)
    return directory / "b"
