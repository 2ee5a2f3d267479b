"""Plain text for 80 columns. Colours are click's: they go where the output is no terminal."""

import textwrap
from collections.abc import Iterator
from typing import Final

import click

WIDTH: Final = 80
TERM_WIDTH: Final = 18


def heading(text: str) -> str:
    return click.style(text, bold=True)


def wrapped(text: str, indent: int) -> list[str]:
    margin = " " * indent
    return textwrap.wrap(
        text,
        WIDTH,
        initial_indent=margin,
        subsequent_indent=margin,
        break_long_words=False,
        break_on_hyphens=False,
    )


def definition(term: str, text: str) -> Iterator[str]:
    """A term and what it means beside it, or below it where the term is long."""
    lines = wrapped(text, indent=2 + TERM_WIDTH)
    if len(term) >= TERM_WIDTH:
        yield f"  {term}"
    elif lines:
        lines[0] = f"  {term:<{TERM_WIDTH}}{lines[0].lstrip()}"
    else:
        lines = [f"  {term}"]
    yield from lines
