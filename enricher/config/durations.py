"""Durations as the collector and Go write them: "300ms", "1.5s", "1m30s", to integer nanoseconds and back."""

import re

UNIT_NS = {
    "ns": 1,
    "us": 1_000,
    "µs": 1_000,  # U+00B5, micro sign
    "μs": 1_000,  # U+03BC, Greek mu: Go takes both
    "ms": 1_000_000,
    "s": 1_000_000_000,
    "m": 60_000_000_000,
    "h": 3_600_000_000_000,
}
MS = UNIT_NS["ms"]
SECOND = UNIT_NS["s"]
MINUTE = UNIT_NS["m"]
HOUR = UNIT_NS["h"]
LONGEST_NS = 2**63 - 1

_PART = re.compile(r"(?P<whole>\d{0,19})(?:\.(?P<fraction>\d{0,19}))?(?P<unit>ns|us|µs|μs|ms|s|m|h)", re.ASCII)
_BARE_NUMBER = re.compile(r"\d+(?:\.\d+)?", re.ASCII)


def parse(text: str) -> int:
    """Nanoseconds of `text`: decimal numbers, each with a unit (time.ParseDuration of Go; no signs).

    Raises ValueError, its message a sentence for the user.
    """
    text = text.strip()
    if text == "0":
        return 0
    if _BARE_NUMBER.fullmatch(text):
        raise ValueError(f"{text!r} has no unit; write {text}ms or {text}s")
    total_ns, at = 0, 0
    while at < len(text):
        part = _PART.match(text, at)
        if part is None or not (part["whole"] or part["fraction"]):
            break
        fraction = part["fraction"] or ""
        digits = int(part["whole"] + fraction)
        scaled, finer = divmod(digits * UNIT_NS[part["unit"]], 10 ** len(fraction))
        if finer:
            raise ValueError(f"{text!r} is finer than a nanosecond")
        total_ns += scaled
        at = part.end()
    if at == 0 or at < len(text):
        raise ValueError(f"{text!r} is not a duration such as 300ms, 1.5s or 1m30s")
    if total_ns > LONGEST_NS:
        raise ValueError(f"{text!r} is longer than {LONGEST_NS // UNIT_NS['h'] // 24 // 365} years")
    return total_ns


def render(duration_ns: int) -> str:
    """The shortest usual notation; `parse` gives the same number back."""
    if duration_ns < UNIT_NS["s"]:
        for unit in ("ms", "us"):
            if duration_ns >= UNIT_NS[unit]:
                return _decimal(duration_ns, UNIT_NS[unit]) + unit
        return f"{duration_ns}ns" if duration_ns else "0s"
    hours, rest_ns = divmod(duration_ns, UNIT_NS["h"])
    minutes, rest_ns = divmod(rest_ns, UNIT_NS["m"])
    return (
        (f"{hours}h" if hours else "")
        + (f"{minutes}m" if minutes else "")
        + (_decimal(rest_ns, UNIT_NS["s"]) + "s" if rest_ns else "")
    )


def _decimal(number: int, of: int) -> str:
    whole, rest = divmod(number, of)
    digits = len(str(of)) - 1
    return f"{whole}.{rest:0{digits}d}".rstrip("0").rstrip(".")
