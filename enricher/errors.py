"""The root of every error this package raises on purpose."""

from typing import ClassVar


class EnricherError(Exception):
    """What went wrong, and what to do about it.

    Subclasses set `code`, a stable word for logs and scripts, and keep their particulars as attributes.
    """

    code: ClassVar[str] = "error"

    def __init__(self, message: str, *, fix: str = "") -> None:
        """`message` says what is wrong; `fix` is one sentence that says how to mend it, or empty."""
        super().__init__(message)
        self.fix = fix

    def __str__(self) -> str:
        message = super().__str__()
        return f"{message}. {self.fix}" if self.fix else message
