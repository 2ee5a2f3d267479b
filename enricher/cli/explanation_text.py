"""An explained trace for people: plain text in 80 columns."""

import json
from collections.abc import Iterator, Mapping

from enricher.cli.layout import heading, wrapped
from enricher.join.explanation import ConsideredWait, Trial
from enricher.recording.trace import SAMPLED_OUT, ExplainedSpan, TraceExplanation

_KINDS = ("unspecified", "internal", "server", "client", "producer", "consumer")
MOST_WAITS = 20  # of one trial; --json has all


def report(explanation: TraceExplanation) -> Iterator[str]:
    number = len(explanation.spans)
    yield heading(f"Trace {explanation.trace_id}: {number} span{'s' if number != 1 else ''}")
    for span in explanation.spans:
        yield ""
        yield from _span(span)
    if explanation.not_explained:
        yield ""
        yield from wrapped(
            f"{explanation.not_explained} spans more are not explained: there was no time, or no room", 0
        )


def _span(span: ExplainedSpan) -> Iterator[str]:
    made = span.explanation
    kind = _KINDS[made.kind] if 0 <= made.kind < len(_KINDS) else f"kind {made.kind}"
    service = f" of {_printable(span.service)}" if span.service else ""
    lasted = _time(made.end_unix_ns - made.start_unix_ns)
    yield heading(f"{_printable(span.name)}{service} ({kind}, {lasted})")
    parent = f", parent {made.parent_span_id}" if made.parent_span_id else ""
    yield from wrapped(f"span {made.span_id}{parent}", 2)
    process = "process not known" if made.process is None else f"process {made.process}"
    yield from wrapped(f"{process}: {made.process_why}", 2)
    yield from _outcome(span)
    for trial in made.trials:
        yield from _trial(trial)
    if made.left_off:
        yield "  left off"
        for sentence in made.left_off:
            yield from wrapped(sentence, 4)


def _outcome(span: ExplainedSpan) -> Iterator[str]:
    if span.verdict == SAMPLED_OUT:
        yield from wrapped(f"did not leave: {span.verdict}", 2)
    elif span.left_with:
        yield "  left with"
        yield from _attributes(span.left_with)
    else:
        yield from wrapped(f"left with nothing added: {span.verdict}", 2)
    if span.left_with != span.explanation.claims:
        yield "  with the evidence there is now it would leave with"
        yield from _attributes(span.explanation.claims)


def _attributes(attributes: Mapping[str, object]) -> Iterator[str]:
    for key, value in attributes.items():
        told = _printable(value) if isinstance(value, str) else json.dumps(value)
        yield f"    {key:<36}{told}"
    if not attributes:
        yield "    nothing"


def _trial(trial: Trial) -> Iterator[str]:
    yield from wrapped(f"{'matched' if trial.matched else 'not matched'} by {trial.method}: {trial.why}", 2)
    if trial.identity:
        told = ", ".join(f"{key} {_printable(value)}" for key, value in trial.identity.items())
        yield from wrapped(told, 4)
    for wait in trial.considered[:MOST_WAITS]:
        yield from _wait(wait, trial)
    if len(trial.considered) > MOST_WAITS:
        yield f"    and {len(trial.considered) - MOST_WAITS} waits more: --json has them all"


def _wait(wait: ConsideredWait, trial: Trial) -> Iterator[str]:
    start_ns = trial.identity.get("start_ns")
    at = f" from {_time(wait.start_ns - start_ns)}" if isinstance(start_ns, int) and start_ns else ""
    lasted = f"{_time(wait.end_ns - wait.start_ns)}{' and more' if wait.going_on else ''}"
    whose = f"goroutine {wait.goid}" if wait.goid else f"thread {wait.tid}"
    peer = f" ({_printable(wait.peer)})" if wait.peer else ""
    call = f"{wait.syscall} on {wait.fd}{peer}" if wait.fd >= 0 else wait.syscall
    what = f"{whose}: {call}, {wait.blocked_in} for {lasted}{at}"
    yield from wrapped(f"{'claimed' if wait.claimed else 'not claimed'}: {what}: {wait.why}", 4)


def _time(time_ns: int) -> str:
    sign, size_ns = ("-" if time_ns < 0 else ""), abs(time_ns)
    for unit, name in ((1_000_000_000, "s"), (1_000_000, "ms"), (1_000, "us")):
        if size_ns >= unit:
            return f"{sign}{size_ns / unit:.3g} {name}"
    return f"{sign}{size_ns} ns"


def _printable(value: object) -> str:
    """What senders chose must not steer the terminal."""
    text = str(value)
    return text if text.isprintable() else json.dumps(text)
