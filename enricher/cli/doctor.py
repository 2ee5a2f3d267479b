"""`enricher doctor`: what this host lacks, what that costs, and how to mend it."""

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from enricher.cli.config_option import config_option
from enricher.cli.layout import heading, wrapped
from enricher.config.load import load
from enricher.config.model import Settings
from enricher.observer.host import NOTHING_SEEN, Answer, Check, examine, worst

if TYPE_CHECKING:
    from enricher.cli.go_processes import WatchedProcess

# 2 is what a wrong command line ends with.
EXIT_STATUS: Final = {Answer.YES: 0, Answer.NO: 1, Answer.UNKNOWN: 3}
COLOURS: Final = {Answer.YES: "green", Answer.NO: "red", Answer.UNKNOWN: "yellow"}
VERDICTS: Final = {
    Answer.YES: "This host has all that is needed.",
    Answer.NO: "Something is missing. Spans flow on all the same, with less or nothing added.",
    Answer.UNKNOWN: "Nothing is known to be missing, but not all could be found out.",
}
ANSWER_WIDTH: Final = 9

# What is lost without each of the probes' object files.
PROBE_COSTS: Final = {
    "waits.bpf.o": "blocked system calls are not seen",
    "spans.bpf.o": "no span ends are seen: no exact match, only by process and time",
    "processes.bpf.o": "programs that start later are not noticed",
}


@dataclass(frozen=True, slots=True)
class Diagnosis:
    needs: tuple[Check, ...]
    processes: tuple["WatchedProcess", ...]

    @property
    def answer(self) -> Answer:
        """Of the host: how well a program can be matched is not for the host to mend."""
        return worst(self.needs)


@click.command("doctor")
@config_option
@click.option("--json", "as_json", is_flag=True, help="One JSON object, for scripts.")
def command(config: Path | None, as_json: bool) -> None:
    """Tell what this host lacks, what that costs, and how to mend it.

    Each need is answered yes, no or unknown. Exit status: 0 if all are yes, 1 if one is no, 3 if none is no
    but one is unknown.
    """
    diagnosis = diagnose(load(config, os.environ))
    if as_json:
        click.echo(json.dumps(as_tree(diagnosis), indent=2))
    else:
        for line in report(diagnosis):
            click.echo(line)
    click.get_current_context().exit(EXIT_STATUS[diagnosis.answer])


def diagnose(settings: Settings) -> Diagnosis:
    """Looks at this host: loads the probes for a moment, binds the ports for a moment, reads every binary."""
    from enricher.cli import files, go_processes
    from enricher.observer.probe_set import try_load

    loaded = try_load()
    needs = (
        *examine(probes_loaded=all(ok for _, ok, _ in loaded)),
        *probes(loaded),
        *listeners(settings),
        *files.checks(settings),
    )
    return Diagnosis(needs, tuple(go_processes.running(settings.processors.ebpf.select)))


def listeners(settings: Settings) -> Iterator[Check]:
    """One need for each socket that is listened at."""
    from enricher.cli import ports

    unstarted = "`enricher run` does not start"
    for name, receiver in (("gRPC", settings.grpc), ("HTTP", settings.http)):
        if receiver:
            yield ports.endpoint(f"{name} receiver's", receiver.endpoint, unstarted)
    address = settings.service.telemetry.metrics.address
    yield ports.endpoint("metrics'", address, "the enricher's own metrics cannot be read")
    if settings.service.control:
        yield ports.endpoint("control's", settings.service.control.endpoint, unstarted)


def probes(loaded: Iterable[tuple[str, bool, str]]) -> Iterator[Check]:
    """One need for each object file: its name, whether it loads, and the kernel's reason if not."""
    for file, ok, reason in loaded:
        yield Check(
            name=f"load {file.partition('.')[0]}",
            answer=Answer.YES if ok else Answer.NO,
            detail="loads and attaches" if ok else reason,
            cost=PROBE_COSTS.get(file, NOTHING_SEEN),
            fix="mend what is missing above; where nothing is, report this with the kernel's version",
        )


def as_tree(diagnosis: Diagnosis) -> dict[str, object]:
    return {
        "answer": diagnosis.answer.value,
        "needs": [asdict(need) | {"answer": need.answer.value} for need in diagnosis.needs],
        "processes": [asdict(process) for process in diagnosis.processes],
    }


def report(diagnosis: Diagnosis) -> Iterator[str]:
    for need in diagnosis.needs:
        yield from _need(need)
    yield ""
    yield heading("Programs watched")
    yield from _processes(diagnosis.processes)
    yield ""
    yield click.style(VERDICTS[diagnosis.answer], fg=COLOURS[diagnosis.answer])


def _need(need: Check) -> Iterator[str]:
    answer = click.style(f"{need.answer.value:<{ANSWER_WIDTH}}", fg=COLOURS[need.answer])
    detail = wrapped(need.detail, indent=ANSWER_WIDTH + 26)
    yield f"{answer}{need.name:<26}{detail[0].lstrip() if detail else ''}"
    yield from detail[1:]
    if need.answer is not Answer.YES:
        yield from wrapped(f"without it: {need.cost}", indent=ANSWER_WIDTH + 2)
        if need.fix:
            yield from wrapped(f"to mend it: {need.fix}", indent=ANSWER_WIDTH + 2)


def _processes(processes: Sequence["WatchedProcess"]) -> Iterator[str]:
    if not processes:
        yield "  no Go program with the OpenTelemetry SDK is running, or none is visible here"
    for process in processes:
        word, colour = ("exact", "green") if process.exact else ("inexact" if process.watched else "no", "yellow")
        answer = click.style(f"{word:<{ANSWER_WIDTH}}", fg=colour)
        versions = f" (Go {process.go_version}, SDK {process.sdk_version})" if process.go_version else ""
        yield f"{answer}{process.pid} {process.executable}{versions}"
        for reason in process.reasons:
            yield from wrapped(reason, indent=ANSWER_WIDTH + 2)
