"""A trace in words, for whoever is on call: a tree of its spans, and below each what the kernel did to it.

Pure: lines of styled pieces out; `plain` and `coloured` make text of them.
"""

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from enum import Enum
from typing import Final

from enricher.otlp.span_json import Value
from enricher.otlp.terminal_traces import CLAIM_PREFIX, COMPLETE, METHOD, OBSERVED, STAMPS, Placed, Trace, placed

_RESET: Final = "\x1b[0m"
_KINDS: Final = ("", "internal", "server", "client", "producer", "consumer")
_NAME_WIDTH: Final = 48
_MAX_DEPTH: Final = 24  # of indentation; what is deeper stays there

_BLOCKED: Final = "ebpf.system_call_blocked"
_SYSCALL: Final = "ebpf.syscall."
_KIND_WORDS: Final = {
    "parked": "goroutine parked",
    "kernel": "thread asleep in the kernel",
    "mixed": "goroutine parked and thread asleep by turns",
}
_TO: Final = frozenset({"write", "writev", "pwrite64", "sendto", "sendmsg", "sendmmsg", "sendfile", "connect"})
_FROM: Final = frozenset({"read", "readv", "pread64", "recvfrom", "recvmsg", "recvmmsg"})
_DURATIONS: Final = ("duration", "after_end", "smoothed", "variation")


class Style(Enum):
    """With the ANSI sequence of each."""

    PLAIN = ""
    TITLE = "\x1b[1m"
    DIM = "\x1b[2m"
    ERROR = "\x1b[31m"
    CLAIM = "\x1b[33m"


Piece = tuple[str, Style]
Line = list[Piece]


def plain(line: Line) -> str:
    return "".join(text for text, _ in line).rstrip()


def coloured(line: Line) -> str:
    return "".join(text if style is Style.PLAIN else f"{style.value}{text}{_RESET}" for text, style in line).rstrip()


def lines_of(trace: Trace) -> Iterator[Line]:
    """The trace, ending with an empty line."""
    yield _title(trace)
    began_ns = min(span.start_ns for span in trace.spans)
    for place in placed(trace.spans):
        yield _span(place, began_ns)
        for claim in claims_in_words(place.span.claims):
            yield [(_below(place), Style.DIM), (claim, Style.CLAIM)]
    if trace.left_out:
        yield [(f"… and {trace.left_out} more spans", Style.DIM)]
    yield []


def claims_in_words(claims: Mapping[str, Value]) -> Iterator[str]:
    """One line for each thing that is known."""
    said = {_BLOCKED} | {key for key in claims if key.startswith(_SYSCALL)} if claims.get(_BLOCKED) else set()
    words = [_blocked(claims)] if said else []
    words += [_generic(key, value) for key, value in claims.items() if key not in said and key not in STAMPS]
    note = _note(claims)
    if words:
        yield from (f"▸ {word}{note}" for word in words)
    elif claims.get(OBSERVED) is False:
        yield "▸ not watched: nothing is known of it"
    elif claims.get(COMPLETE) is False:
        yield "▸ watched, but evidence was lost: what happened to it is not known"
    elif claims:
        yield "▸ watched: nothing held it up"


def duration(seconds: float) -> str:
    """Three figures and a unit: "1.20 ms"."""
    for unit, factor in (("s", 1.0), ("ms", 1e3), ("µs", 1e6)):
        number = seconds * factor
        if number >= 1:
            return f"{number:.{2 if number < 10 else 1 if number < 100 else 0}f} {unit}"
    return f"{seconds * 1e9:.0f} ns"


def _title(trace: Trace) -> Line:
    began_ns = min(span.start_ns for span in trace.spans)
    ended_ns = max(span.end_ns for span in trace.spans)
    count = len(trace.spans) + trace.left_out
    began = datetime.fromtimestamp(began_ns // 1_000_000_000, UTC).astimezone()
    told = f"{duration((ended_ns - began_ns) / 1e9)}, {count} span{'s' * (count != 1)}"
    if trace.enriched:
        told += f", {trace.enriched} with evidence"
    return [
        (f"{began:%H:%M:%S}.{began_ns // 1_000_000 % 1000:03}  ", Style.DIM),
        ("trace ", Style.PLAIN),
        (trace.trace_id.hex(), Style.TITLE),
        (f"  {told}", Style.PLAIN),
    ]


def _span(place: Placed, began_ns: int) -> Line:
    span = place.span
    branches = _branches(place)
    width = max(0, _NAME_WIDTH - len(branches))
    line: Line = [(branches, Style.DIM), (span.name.ljust(width), Style.TITLE)]
    line.append((f" {duration((span.end_ns - span.start_ns) / 1e9):>8}", Style.PLAIN))
    kind = _KINDS[span.kind] if 0 <= span.kind < len(_KINDS) else ""
    line.append((f"  {kind:<8}", Style.DIM))
    line.append((f"  +{duration((span.start_ns - began_ns) / 1e9):<8}", Style.DIM))
    if span.service and (place.parent is None or place.parent.service != span.service):
        line.append((f"  {span.service}", Style.PLAIN))
    if span.error is not None:
        line.append((f"  ERROR {span.error}", Style.ERROR))
    if _is_cut_off(place):
        line.append(("  (its parent did not come by here)", Style.DIM))
    return line


def _is_cut_off(place: Placed) -> bool:
    return place.parent is None and bool(place.span.parent_span_id)


def _branches(place: Placed) -> str:
    if not place.last:
        return ""
    return _trunk(place.last[:-1]) + ("└─ " if place.last[-1] else "├─ ")


def _below(place: Placed) -> str:
    return _trunk(place.last) + ("│    " if place.has_children else "     ")


def _trunk(last: Sequence[bool]) -> str:
    return "".join("   " if is_last else "│  " for is_last in last[:_MAX_DEPTH])


def _blocked(claims: Mapping[str, Value]) -> str:
    """ "blocked 120 ms in write to 10.0.0.1:443 (goroutine parked), 80.0 ms of it after the end" """
    name = str(claims.get("ebpf.syscall.name", "a system call"))
    words = f"blocked {_seconds(claims.get('ebpf.syscall.blocked.duration', 0.0))} in {name}"
    if peer := claims.get("ebpf.syscall.peer"):
        words += f" {_preposition(name)} {peer}"
    kind = str(claims.get("ebpf.syscall.blocked.kind", ""))
    details = [_KIND_WORDS.get(kind, kind)] if kind else []
    count = claims.get("ebpf.syscall.blocked.count", 1)
    if isinstance(count, int) and count > 1:
        details.append(f"{count} waits, this was the longest")
    if details:
        words += f" ({'; '.join(details)})"
    if after_end := claims.get("ebpf.syscall.blocked.after_end"):
        words += f", {_seconds(after_end)} of it after the end"
    return words


def _preposition(syscall: str) -> str:
    return "to" if syscall in _TO else "from" if syscall in _FROM else "on"


def _generic(key: str, value: Value) -> str:
    """For what has no words of its own: "tcp retransmit count 3", "fd exhausted"."""
    words = key.removeprefix(CLAIM_PREFIX).replace(".", " ").replace("_", " ")
    if value is True:
        return words
    if isinstance(value, bool):
        return f"not {words}"
    return f"{words} {_seconds(value) if key.endswith(_DURATIONS) else value}"


def _seconds(value: Value) -> str:
    return duration(value) if isinstance(value, (int, float)) else value


def _note(claims: Mapping[str, Value]) -> str:
    notes = []
    method = claims.get(METHOD)
    if method and method != "span_end":  # the exact one needs no words
        notes.append(f"matched by {method}")
    if claims.get(COMPLETE) is False:
        notes.append("more may have been lost")
    return f"  [{', '.join(notes)}]" if notes else ""
