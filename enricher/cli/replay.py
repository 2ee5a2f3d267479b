"""`enricher replay`: decides what was recorded anew, and tells what is decided otherwise."""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import click

from enricher.cli.layout import wrapped
from enricher.recording.entries import Arrival, End, Entry
from enricher.recording.file import DamagedRecording, Recording

if TYPE_CHECKING:
    from enricher.recording.replay import Replay, Replayed

MOST_DIFFERENT_REQUESTS = 20


@click.command("replay")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--output", type=click.Path(path_type=Path), metavar="OUT", help="Write the requests as they leave now.")
def command(file: Path, output: Path | None) -> None:
    """Decide a recording anew, and tell what is decided otherwise.

    Needs no kernel, no privilege and no network. OUT gets OTLP as JSON, a request a line. Exit status: 0 if all was
    decided as it was recorded, 1 if not.
    """
    from enricher._native import json_from_protobuf
    from enricher.recording.replay import Replay

    different: list[Replayed] = []  # the first of them
    others = 0
    damage: DamagedRecording | None = None
    with ExitStack() as open_files:
        recording = open_files.enter_context(Recording(file))
        out = open_files.enter_context(output.open("w", encoding="utf-8")) if output else None
        seen = _Seen()
        replay = Replay(recording.head)
        try:
            for replayed in replay.run(seen.watch(recording.entries())):
                if not replayed.same and len(different) < MOST_DIFFERENT_REQUESTS:
                    different.append(replayed)
                elif not replayed.same:
                    others += 1
                if out:
                    out.write(json_from_protobuf(replayed.left_as).decode() + "\n")
        except DamagedRecording as error:
            damage = error
    for told in summary(recording, replay, seen):
        click.echo(told)
    for told in _differences(different, others):
        click.echo(told)
    if damage:
        raise damage
    click.get_current_context().exit(1 if different else 0)


class _Seen:
    """What went by on the way from the file to the join."""

    def __init__(self) -> None:
        self.requests = 0
        self.end: End | None = None

    def watch(self, entries: Iterator[Entry]) -> Iterator[Entry]:
        for entry in entries:
            self.requests += isinstance(entry, Arrival)
            if isinstance(entry, End):
                self.end = entry
            yield entry


def summary(recording: Recording, replay: "Replay", seen: _Seen) -> Iterator[str]:
    head, tally = recording.head, replay.joiner.tally
    yield f"recorded by enricher {head.product_version} on Linux {head.kernel}, {head.machine}"
    if seen.end:
        yield f"it ends as {seen.end.reason.value}"
    records = replay.index.statistics()["records_total"]
    yield f"{records} records of evidence, {seen.requests} requests, {replay.spans} spans decided"
    for method, spans in sorted(tally.matched.items()):
        yield f"  {spans:>8} matched by {method}"
    yield f"  {tally.unmatched:>8} not matched"
    yield f"  {tally.enriched:>8} enriched"
    yield f"  {tally.incomplete:>8} with ebpf.complete=false"
    if replay.undecided:
        yield f"{replay.undecided} requests were not decided yet when the recording ended"


def _differences(different: list["Replayed"], others: int) -> Iterator[str]:
    if not different:
        return
    yield ""
    yield f"{len(different) + others} requests are decided otherwise than they were recorded:"
    for replayed in different:
        yield f"request {replayed.then.decision.number}"
        for told in replayed.differences():
            yield from wrapped(told, indent=2)
    if others:
        yield f"and {others} more"
