"""`enricher explain`: why the spans of a trace left as they did."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Final

import click

from enricher.config.values import split_endpoint
from enricher.errors import EnricherError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from enricher.recording.trace import ExplainedSpan, TraceExplanation

ASK_TIMEOUT_S: Final = 5.0
MOST_ANSWER_BYTES: Final = 256 << 20


class UnknownTrace(EnricherError):
    """Nothing is known of the trace where it was asked for."""

    code: ClassVar[str] = "unknown_trace"


class CannotAsk(EnricherError):
    """No enricher answers."""

    code: ClassVar[str] = "cannot_ask"


@click.command("explain")
@click.argument("trace_id")
@click.option("--recording", type=click.Path(path_type=Path), metavar="FILE", help="Explain out of a recording.")
@click.option(
    "--address",
    default="127.0.0.1:8889",
    show_default=True,
    metavar="HOST:PORT",
    help="Where the running enricher has its metrics.",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object, for scripts.")
def command(trace_id: str, recording: Path | None, address: str, as_json: bool) -> None:
    """Tell why the spans of a trace left as they did.

    For each span: who it is taken to be, which match methods were tried and why each failed or won, which blocked
    calls were found, what was claimed, and what was left off.

    A running enricher remembers the spans of the last minute, at most 8 MiB of them; what the kernel saw it keeps for
    processors.ebpf.retention. A recording explains each span with just what was known when it was decided.
    """
    from enricher.cli.explanation_text import report
    from enricher.trace_ids import parsed

    wanted = parsed(trace_id)
    if wanted is None:
        raise click.BadParameter("a trace id is 32 hex digits, not all 0", param_hint="TRACE_ID")
    explanation = of_recording(recording, wanted) if recording else asked(address, wanted)
    if as_json:
        click.echo(json.dumps(explanation.tree(), indent=2))
        return
    for line in report(explanation):
        click.echo(line)


def of_recording(file: Path, trace_id: bytes) -> "TraceExplanation":
    """Replays the recording; explains each span at the moment at which it is decided."""
    from enricher.recording.entries import Verdict
    from enricher.recording.file import DamagedRecording, Recording
    from enricher.recording.replay import Replay
    from enricher.recording.trace import MOST_SPANS, by_start, found_spans

    def explained() -> "Iterator[ExplainedSpan]":
        for replayed in replay.run(recording.entries()):
            if replayed.then.decision.verdict is Verdict.OPEN:
                continue  # it comes again, when it is decided
            for span in found_spans(replayed.then, trace_id):
                yield span.explained(replay.joiner.explain(replayed.then.request, span.ordinal, replayed.window))

    spans: list[ExplainedSpan] = []
    others = 0
    with Recording(file) as recording:
        replay = Replay(recording.head)
        try:
            for span in explained():
                if len(spans) < MOST_SPANS:
                    spans.append(span)
                else:
                    others += 1
        except DamagedRecording as error:
            click.echo(f"enricher: {error}", err=True)
    if not spans:
        raise UnknownTrace(
            f"{file}: no span of trace {trace_id.hex()} was decided in this recording",
            fix="see to it that its spans come through the enricher while it records",
        )
    return by_start(trace_id, spans, others)


def asked(address: str, trace_id: bytes) -> "TraceExplanation":
    """What the running enricher says."""
    import http.client

    from enricher.recording.trace import from_tree

    fix = "see that `enricher run` is running, and give --address as in service.telemetry.metrics.address"
    try:
        host, port = split_endpoint(address)
        connection = http.client.HTTPConnection(host, port, timeout=ASK_TIMEOUT_S)
        connection.request("GET", f"/explain/{trace_id.hex()}")
        answer = connection.getresponse()
        tree = json.loads(answer.read(MOST_ANSWER_BYTES))
        connection.close()
        if not isinstance(tree, dict):
            raise ValueError("this is another program")  # noqa: TRY004, TRY301 - as for what is no JSON at all
    except (OSError, ValueError, http.client.HTTPException) as error:
        raise CannotAsk(f"{address}: no enricher answers there ({error})", fix=fix) from error
    if answer.status == http.client.NOT_FOUND:
        raise UnknownTrace(str(tree.get("error", "")), fix=str(tree.get("fix", "")))
    if answer.status != http.client.OK:
        raise CannotAsk(f"{address}: {tree.get('error', answer.reason)}", fix=str(tree.get("fix", fix)))
    try:
        return from_tree(tree)
    except (TypeError, KeyError) as error:
        raise CannotAsk(
            f"{address}: the enricher there is of another version", fix="ask with its own `enricher explain`"
        ) from error
