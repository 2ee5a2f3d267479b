"""Rows of one file on their way into another, as many as can be read and few at a time."""

from collections.abc import Iterator
from contextlib import suppress
from typing import Final

from enricher.otlp.durable_errors import RequestDamaged, StorageError
from enricher.otlp.durable_rows import Kept, Rows

_PORTION_BYTES: Final = 4 << 20
# Where the tree of rows is broken, so many numbers are tried one by one: 20 us each.
_MAX_TRIED: Final = 100_000
_LARGEST_ID: Final = (1 << 63) - 1
_IDS_AT_ONCE: Final = 256


def portions(found: Iterator[Kept | None]) -> Iterator[tuple[list[Kept], int]]:
    """In portions of little memory, each with the number of rows that could not be read."""
    rows: list[Kept] = []
    size = unread = 0
    for kept in found:
        if kept is None:
            unread += 1
            continue
        rows.append(kept)
        size += len(kept.body)
        if size > _PORTION_BYTES:
            yield rows, unread
            rows, size, unread = [], 0, 0
    yield rows, unread


def readable(source: Rows) -> Iterator[Kept | None]:
    """Each row that can be read, None for one that is there and cannot: from both ends up to where it is broken, and
    what lies between, if that is not too much, by its numbers. A broken tree may also lead round in circles.
    """
    first, last = 0, _LARGEST_ID
    with suppress(StorageError):
        while ids := sorted({found for found in source.ids_after(first, _IDS_AT_ONCE) if found > first}):
            for first in ids:
                yield _row(source, first)
        return
    with suppress(StorageError):
        while ids := sorted(
            {found for found in source.ids_before(last, _IDS_AT_ONCE) if first < found < last}, reverse=True
        ):
            for last in ids:
                yield _row(source, last)
    if last == _LARGEST_ID:
        last = first + _MAX_TRIED
    for number in range(max(first + 1, last - _MAX_TRIED), last):
        with suppress(StorageError, RequestDamaged):
            if kept := source.get(number):
                yield kept


def _row(source: Rows, number: int) -> Kept | None:
    try:
        return source.get(number)
    except (StorageError, RequestDamaged):
        return None
