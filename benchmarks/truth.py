"""How true the claims are: what came out of the enricher against what the service measured of every span itself.

`python -m benchmarks.truth [--quick] [--json FILE] [--seed N]`. A driver asks a real Go service, over HTTP/1 and gRPC,
for a seeded mix of all causes, at different concurrencies and rates, in turns. Says at the end which figures were not
reached, and then ends with status 1.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.kit import progress
from tests.e2e.testbed.line import Line, Outcome, line
from tests.e2e.testbed.scoring import Score, scores, shortcomings, table, total
from tests.e2e.testbed.truth import judge_all
from tests.e2e.testbed.workload import Load

# Of most requests nothing is asked, as it is in life, or no machine gets to a high rate.
QUIET = 0.8
# So small that no evidence can get through whole.
TINY_RING_BYTES = 4096

# So few spans may say that evidence was lost where none was.
MOST_INCOMPLETE = 0.001

MOST_TOLD = 5
MOST_EXPLAINED = 2000


@dataclass(frozen=True, slots=True)
class Cell:
    """One place in the matrix."""

    concurrency: int
    rate: float  # sequences begun a second; 0: as many as there is room for
    quiet: float

    @property
    def name(self) -> str:
        rate = f"{self.rate:g}/s" if self.rate else "all it can"
        return f"{self.concurrency} at once, {rate}, {self.quiet:.0%} quiet"

    def load(self, label: str, seconds: float, seed: int) -> Load:
        # A sequence has about two requests; what is not limited by the rate is so by the pauses.
        begun_a_second = self.rate or min(2000, 20 * self.concurrency)
        return Load(
            label=label,
            sequences=int(begun_a_second * seconds),
            concurrency=self.concurrency,
            rate=self.rate,
            seed=seed,
            mix="all",
            shortest_ms=10,
            longest_ms=50,
            quiet=self.quiet,
        )


# Every cause at once, and a load as in life.
MATRIX = (
    Cell(1, 0, 0.0),
    Cell(8, 0, 0.0),
    Cell(64, 0, 0.0),
    Cell(256, 0, 0.0),
    Cell(64, 100, 0.0),
    Cell(64, 1000, QUIET),
    Cell(64, 3000, QUIET),
    Cell(256, 10_000, 0.95),
    Cell(64, 10_000, 0.95),
)
SHORT = (Cell(64, 0, 0.0),)
JUDGED_CONCURRENCY = 64


@dataclass(slots=True)
class Tally:
    """What is known of one cell, or of several."""

    by_row: dict[str, Score] = field(default_factory=dict)
    changes: list[str] = field(default_factory=list)
    rates: list[float] = field(default_factory=list)
    losses: int = 0  # times that the observer said so

    def add(self, outcome: Outcome) -> None:
        self.changes += outcome.changes
        self.rates.append(outcome.requests_per_s)
        self.losses += outcome.losses
        self.merge(scores(outcome.truth, outcome.spans))

    @property
    def is_lossy(self) -> bool:
        """Evidence of the service itself was lost. What is lost of others on this machine is in `losses`, too."""
        whole = total(self.by_row)
        return self.losses > 0 and whole.incomplete_for_loss > MOST_INCOMPLETE * whole.spans

    def merge(self, by_row: dict[str, Score]) -> None:
        for row, score in by_row.items():
            self.by_row.setdefault(row, Score()).merge(score)


def measure(on: Line, cells: Sequence[Cell], *, rounds: int, seconds: float, seed: int) -> dict[Cell, Tally]:
    """Every cell in each round, so that whatever else the machine does meanwhile meets all of them."""
    tallies = {cell: Tally() for cell in cells}
    for number in range(rounds):
        for place, cell in enumerate(cells):
            outcome = on.run(cell.load(f"round{number}cell{place}", seconds, seed + number))
            tallies[cell].add(outcome)
            progress(f"round {number + 1}, {cell.name}: {outcome.requests_per_s:,.0f} requests/s")
            _tell_wrong(on, outcome)
    return tallies


def _tell_wrong(on: Line, outcome: Outcome) -> None:
    """The first spans of which something is wrong, while the enricher still knows why."""
    wrong = [f for f in judge_all(outcome.truth, outcome.spans).findings if f.what != "completeness"]
    for finding in wrong[:MOST_TOLD]:
        progress(f"  {finding}\n    {on.explain(finding.truth.id[:32])[:MOST_EXPLAINED]}")
    if len(wrong) > MOST_TOLD:
        progress(f"  and {len(wrong) - MOST_TOLD} more")


def judged(tallies: dict[Cell, Tally]) -> Tally:
    """What the figures are about: so many at once as they say, whatever the rate, where nothing was lost."""
    whole = Tally()
    for cell, tally in tallies.items():
        if cell.concurrency == JUDGED_CONCURRENCY and not tally.is_lossy:
            whole.merge(tally.by_row)
    return whole


def forced_loss(directory: Path, seconds: float, seed: int) -> Tally:
    """The same with a ring that is too small for it."""
    tally = Tally()
    with line(directory, ebpf={"ring_size": TINY_RING_BYTES}) as on:
        on.wait_until_watching()
        tally.add(on.run(Cell(64, 0, 0.0).load("loss", seconds, seed)))
    return tally


def loss_shortcomings(tally: Tally) -> list[str]:
    """No claim may be false, and what lacks evidence must say so."""
    whole = total(tally.by_row)
    problems = [*tally.changes[:5]]
    if not tally.is_lossy:
        problems.append("nothing was lost")
    if whole.wrongly_marked:
        problems.append(f"{whole.wrongly_marked} spans are wrongly marked")
    if whole.missed_in_silence:
        problems.append(f"{whole.missed_in_silence} of {whole.missed} missed spans do not say that evidence was lost")
    return problems


def problems_of(tallies: dict[Cell, Tally]) -> list[str]:
    """Figures that are not reached, and spans that were lost or changed."""
    changes = [change for tally in tallies.values() for change in tally.changes]
    without_loss = judged(tallies)
    if not without_loss.by_row:
        return [f"evidence was lost at every rate with {JUDGED_CONCURRENCY} at once"]
    problems = shortcomings(without_loss.by_row)
    whole = total(without_loss.by_row)
    if whole.incomplete_for_loss > MOST_INCOMPLETE * whole.spans:
        problems.append(
            f"{whole.incomplete_for_loss} of {whole.spans} spans say that they are incomplete for no reason"
        )
    if changes:
        problems.append(f"{len(changes)} spans were lost, duplicated or changed: {changes[0]}")
    return problems


def report(tallies: dict[Cell, Tally], lossy: Tally | None) -> str:
    cells = {}
    for cell, tally in tallies.items():
        reached = sum(tally.rates) / len(tally.rates)
        lost = ", with loss" if tally.is_lossy else ""
        cells[f"{cell.name}: {reached:,.0f} requests/s{lost}"] = total(tally.by_row)
    if lossy is not None:
        cells[f"a ring of {TINY_RING_BYTES} bytes, {lossy.losses} losses"] = total(lossy.by_row)
    everything = judged(tallies)
    rows = dict(sorted(everything.by_row.items())) | {"all": total(everything.by_row)}
    return f"{table(cells, 'load')}\n\n{table(rows, f'{JUDGED_CONCURRENCY} at once, by cause')}"


def figures(tallies: dict[Cell, Tally], lossy: Tally | None) -> dict[str, Any]:
    """For JSON."""
    found: dict[str, Any] = {
        cell.name: {
            "concurrency": cell.concurrency,
            "rate_asked": cell.rate,
            "requests_per_s": tally.rates,
            "losses": tally.losses,
            "changed": len(tally.changes),
            "causes": {row: score.figures() for row, score in tally.by_row.items()},
            "all": total(tally.by_row).figures(),
        }
        for cell, tally in tallies.items()
    }
    if lossy is not None:
        found["forced loss"] = total(lossy.by_row).figures() | {"losses": lossy.losses}
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one cell, one short round")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=5.0, help="of each cell in each round, about")
    parser.add_argument("--seed", type=int, default=1, help="the same seed asks for the same")
    parser.add_argument("--json", type=Path, metavar="FILE")
    arguments = parser.parse_args()
    rounds, seconds = (1, 3.0) if arguments.quick else (arguments.rounds, arguments.seconds)
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        with line(directory) as on:
            on.wait_until_watching()
            cells = SHORT if arguments.quick else MATRIX
            tallies = measure(on, cells, rounds=rounds, seconds=seconds, seed=arguments.seed)
        lossy = None
        if not arguments.quick:
            (directory / "loss").mkdir()
            lossy = forced_loss(directory / "loss", seconds, arguments.seed)
    print(report(tallies, lossy))
    if arguments.json:
        arguments.json.write_text(json.dumps(figures(tallies, lossy), indent=1))
    problems = problems_of(tallies) + (loss_shortcomings(lossy) if lossy else [])
    for problem in problems:
        print(f"not reached: {problem}", file=sys.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
