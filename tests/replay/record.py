"""Records a case for the tests here: `python -m tests.replay.record NAME [OPTIONS]`, as root.

The workload is that of the end-to-end tests. NAME.rec is what the enricher was given and what it decided, and
NAME.truth.jsonl what the service measured of each of its spans.
"""

import argparse
import tempfile
from dataclasses import replace
from pathlib import Path

from enricher.evidence.records import Event
from enricher.recording.entries import Evidence
from enricher.recording.file import Recording, block, preamble
from tests.e2e.testbed.enricher import Enricher
from tests.e2e.testbed.truth import Truth, read_truths
from tests.e2e.testbed.workload import Load, Service, Sink, drive

CASES = Path(__file__).parent
MOST_BYTES = 200 << 10  # of a recording that is checked in


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.replay.record", description=__doc__)
    parser.add_argument("name")
    parser.add_argument("--sequences", type=int, default=60)
    parser.add_argument("--concurrency", type=int, default=48)
    parser.add_argument("--rate", type=float, default=40.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--mix", default="plain")
    parser.add_argument("--only", default="")
    arguments = vars(parser.parse_args())
    name = arguments.pop("name")
    with tempfile.TemporaryDirectory() as made:
        directory = Path(made)
        truth, pid = recorded(directory, Load(label="case", **arguments))
        keep_process(directory / "case.rec", pid)
        size = (directory / "case.rec").stat().st_size
        if size > MOST_BYTES:
            parser.error(f"the recording has {size} bytes, more than {MOST_BYTES}: ask for less")
        ids = {t.id for t in truth}
        lines = (directory / "truth.jsonl").read_text().splitlines()
        kept = [line for line in lines if read_truths([line])[0].id in ids]
        (CASES / f"{name}.rec").write_bytes((directory / "case.rec").read_bytes())
        (CASES / f"{name}.truth.jsonl").write_text("".join(line + "\n" for line in kept))
    print(f"{name}: {size} bytes, {len(truth)} spans, {sum(t.blocked is True for t in truth)} of them blocked")


def recorded(directory: Path, load: Load) -> tuple[list[Truth], int]:
    """Leaves case.rec and truth.jsonl in the directory. Returns the pid of the service, too."""
    with (
        Sink(directory, "subject") as subject,
        Sink(directory, "reference") as reference,
        Enricher(directory, subject.port, recording=directory / "case.rec") as enricher,
        Service(directory, enricher.port, reference.port) as service,
    ):
        enricher.wait_until_watching(service, subject)
        truth = drive(directory, service, load)
        subject.wait_for(t.id for t in truth)
        service.finish()
        enricher.stop()
    return truth, service.pid


def keep_process(path: Path, pid: int) -> None:
    """Leaves out the records of whatever else ran on this machine."""
    with Recording(path) as recording:
        head, entries = recording.head, list(recording.entries())
    kept = [
        replace(entry, records=b"".join(e.pack() for e in Event.iter_unpack(entry.records) if e.tgid in (0, pid)))
        if isinstance(entry, Evidence)
        else entry
        for entry in entries
    ]
    path.write_bytes(preamble(head) + block(kept))


if __name__ == "__main__":
    main()
