"""Trace ids as people write them."""

from typing import Final

_BYTES: Final = 16


def parsed(text: str) -> bytes | None:
    """The id that 32 hex digits stand for; None if they are anything else, or all 0, which is no trace."""
    try:
        found = bytes.fromhex(text)
    except ValueError:
        return None
    return found if len(text) == 2 * _BYTES and len(found) == _BYTES and any(found) else None
