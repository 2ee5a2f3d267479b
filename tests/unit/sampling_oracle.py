"""What is to become of one span by the specification, written as plainly as can be: with regular expressions."""

import re

from enricher.sampling.threshold import NEVER, written

_MEMBER = re.compile(r"[a-z0-9][a-z0-9_*/@-]{0,255}=[ -<>-~]{0,255}[!-<>-~]")
_ENTRY = re.compile(r"[a-z][a-z0-9]*:[a-zA-Z0-9._-]*")


def _members(trace_state: str) -> list[str]:
    return [member.strip(" \t") for member in trace_state.split(",") if member.strip(" \t")]


def _entries(members: list[str]) -> list[str]:
    ot = [member.removeprefix("ot=") for member in members if member.startswith("ot=")]
    return ot[0].split(";") if ot else []


def _value(entries: list[str], key: str, digits: str) -> str | None:
    values = [entry.partition(":")[2] for entry in entries if entry.startswith(f"{key}:")]
    return values[0] if values and re.fullmatch(f"[0-9a-f]{digits}", values[0]) else None


def threshold_in(trace_state: str) -> int | None:
    th = _value(_entries(_members(trace_state)), "th", "{1,14}")
    return None if th is None else int(th.ljust(14, "0"), 16)


def unsampled(trace_id: bytes, trace_state: str, threshold: int) -> str | None:
    """The tracestate with which a span of the rest leaves, None if it does not."""
    if threshold == 0:
        return trace_state
    if threshold == NEVER:
        return None
    members = _members(trace_state)
    entries = _entries(members)
    keys = [entry.partition(":")[0] for entry in entries]
    well_formed = (
        len(members) <= 32
        and all(_MEMBER.fullmatch(member) for member in members)
        and sum(member.startswith("ot=") for member in members) <= 1
        and all(_ENTRY.fullmatch(entry) for entry in entries)
        and keys.count("th") <= 1
        and keys.count("rv") <= 1
    )
    rv = _value(entries, "rv", "{14}")
    if not well_formed or (rv is None and (len(trace_id) != 16 or not any(trace_id))):
        return trace_state
    randomness = int(rv, 16) if rv else int.from_bytes(trace_id[9:])
    before = threshold_in(trace_state)
    if before is not None and threshold <= before <= randomness:
        return trace_state
    th = f"th:{written(threshold)}"
    ot = ";".join(th if entry.startswith("th:") else entry for entry in entries + ([] if "th" in keys else [th]))
    if len(ot) > 256:
        return trace_state
    if randomness < threshold:
        return None
    rest = [member for member in members if not member.startswith("ot=")]
    return ",".join([f"ot={ot}", *rest[:31]])
