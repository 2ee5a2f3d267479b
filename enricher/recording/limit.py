"""What is asked of a recording; all that the supervisor needs to know of them."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limit:
    """Where to record, and how much."""

    fd: int  # of an empty file; whoever records closes it
    max_bytes: int
    for_ns: int | None = None  # None: until it is stopped
