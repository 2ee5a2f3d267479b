"""What a single setting may hold: each type checks a raw value of the file and gives it back for printing.

A field of the model names its type as `Annotated[int, Duration(...)]`. `read` takes what YAML, JSON or an
environment variable held and returns the value, or raises Rejected; `plain` is its inverse, into what YAML
and JSON can hold.
"""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Literal, Protocol

from enricher.config import durations

MASK: Final = "****"
_LONGEST_PATH: Final = 4095  # PATH_MAX without its NUL


class ValueType(Protocol):
    def read(self, raw: object) -> object: ...
    def plain(self, value: object) -> object: ...


class TextType(Protocol):
    """A ValueType whose values are texts."""

    def read(self, raw: object) -> str: ...
    def plain(self, value: object) -> object: ...


class Rejected(ValueError):
    """A value that its setting cannot hold; the message is for the user."""


class Expanded(str):
    """A text out of the environment, which knows no types: it is read as what the setting is."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class Duration:
    """Nanoseconds, written as "300ms"."""

    least_ns: int = 0
    most_ns: int = durations.LONGEST_NS

    def read(self, raw: object) -> int:
        if isinstance(raw, bool) or not isinstance(raw, (str, int, float)):
            raise Rejected(f"{shown(raw)} is not a duration such as 300ms, 1.5s or 1m30s")
        try:
            duration_ns = durations.parse(str(raw))
        except ValueError as error:
            raise Rejected(str(error)) from error
        if not self.least_ns <= duration_ns <= self.most_ns:
            raise Rejected(f"{raw} is outside {durations.render(self.least_ns)} to {durations.render(self.most_ns)}")
        return duration_ns

    def plain(self, value: object) -> str:
        assert isinstance(value, int)
        return durations.render(value)


@dataclass(frozen=True, slots=True)
class Whole:
    """An integer."""

    least: int
    most: int

    def read(self, raw: object) -> int:
        if isinstance(raw, Expanded) and re.fullmatch(r"[-+]?\d{1,20}", raw, re.ASCII):
            raw = int(raw)
        if isinstance(raw, bool) or not isinstance(raw, int):
            raise Rejected(f"{shown(raw)} is not a whole number")
        if not self.least <= raw <= self.most:
            raise Rejected(f"{raw} is outside {self.least} to {self.most}")
        return raw

    def plain(self, value: object) -> object:
        return value


@dataclass(frozen=True, slots=True)
class PowerOfTwo(Whole):
    """An integer, a power of two."""

    def read(self, raw: object) -> int:
        # Without super(): in a class with slots it would look for the class that this one was before it had them.
        found = Whole.read(self, raw)
        if found & (found - 1):
            raise Rejected(f"{raw} is no power of two; the next is {1 << found.bit_length()}")
        return found


@dataclass(frozen=True, slots=True)
class Real:
    """A number."""

    least: float
    most: float

    def read(self, raw: object) -> float:
        if isinstance(raw, Expanded) and re.fullmatch(r"[-+]?\d{1,20}(?:\.\d{1,20})?", raw, re.ASCII):
            raw = float(raw)
        if isinstance(raw, bool) or not isinstance(raw, (int, float)):
            raise Rejected(f"{shown(raw)} is not a number")
        if not self.least <= raw <= self.most:  # false for NaN as well
            raise Rejected(f"{raw} is outside {self.least:g} to {self.most:g}")
        return float(raw)

    def plain(self, value: object) -> object:
        return value


@dataclass(frozen=True, slots=True)
class Flag:
    """true or false. `missing`, if given, says why it cannot be false in this version."""

    missing: str = ""

    def read(self, raw: object) -> bool:
        if isinstance(raw, Expanded):
            raw = {"true": True, "false": False}.get(raw.lower(), raw)
        if not isinstance(raw, bool):
            raise Rejected(f"{shown(raw)} is neither true nor false")
        if self.missing and not raw:
            raise Rejected(self.missing)
        return raw

    def plain(self, value: object) -> object:
        return value


@dataclass(frozen=True, slots=True)
class Choice:
    """One word of a few. `elsewhere` says of words that other programs have here what stands for them."""

    words: tuple[str, ...]
    elsewhere: Mapping[str, str] = field(default_factory=dict)

    def read(self, raw: object) -> str:
        if isinstance(raw, str) and raw in self.words:
            return raw
        if isinstance(raw, str) and raw in self.elsewhere:
            raise Rejected(f"{shown(raw)} is not known here: {self.elsewhere[raw]}")
        near = nearest(raw, self.words) if isinstance(raw, str) else None
        hint = f"did you mean {near}?" if near else f"it is one of {', '.join(self.words)}"
        raise Rejected(f"{shown(raw)} is not known here; {hint}")

    def plain(self, value: object) -> object:
        return value


@dataclass(frozen=True, slots=True)
class Texts:
    """A list of texts, each as `of` wants it."""

    of: TextType | None = None

    def read(self, raw: object) -> tuple[str, ...]:
        if not isinstance(raw, (list, tuple)):
            raise Rejected(f"{shown(raw)} is not a list; write [a, b]")
        return tuple(self.read_item(item) for item in raw)

    def read_item(self, raw: object) -> str:
        if self.of is not None:
            return self.of.read(raw)
        if not isinstance(raw, str) or not raw:
            raise Rejected(f"{shown(raw)} is not a text; put it in quotes")
        return raw

    def plain(self, value: object) -> object:
        assert isinstance(value, tuple)
        return list(value)


@dataclass(frozen=True, slots=True)
class Matching:
    """A text of a certain form: `pattern` as a whole; `what` completes "is not"."""

    pattern: str
    what: str

    def read(self, raw: object) -> str:
        if not isinstance(raw, str) or not re.fullmatch(self.pattern, raw, re.ASCII):
            raise Rejected(f"{shown(raw)} is not {self.what}")
        return raw

    def plain(self, value: object) -> object:
        return value


@dataclass(frozen=True, slots=True)
class File:
    """A path. `use` is what the pipeline's user must be able to do with what is there."""

    use: Literal["read", "write", "keep"] = "read"  # keep: a directory, for files of our own

    def read(self, raw: object) -> str:
        if not isinstance(raw, str) or not raw:
            raise Rejected(f"{shown(raw)} is not a path")
        try:
            encoded = os.fsencode(raw)
        except UnicodeError as error:
            raise Rejected(f"{shown(raw)} is not a path") from error
        if b"\0" in encoded or len(encoded) > _LONGEST_PATH:
            raise Rejected(f"{shown(raw)} is not a path")
        return raw

    def plain(self, value: object) -> object:
        return value


@dataclass(frozen=True, slots=True)
class Secret:
    """A text that no message and no listing shows, fit for the value of an HTTP header."""

    def read(self, raw: object) -> str:
        if not isinstance(raw, str):
            raise Rejected("this is not a text; put it in quotes")
        if not re.fullmatch(r"[\x21-\x7e]{1,4096}", raw):
            raise Rejected("this is empty, longer than 4096, or has characters that are not printable ASCII")
        return raw

    def plain(self, value: object) -> object:
        return value

    def masked(self, value: object) -> object:
        return value and MASK


_METADATA_KEY = re.compile(r"[0-9a-z_.-]+", re.ASCII)
_METADATA_VALUE = re.compile(r"[\x20-\x7e]*", re.ASCII)


@dataclass(frozen=True, slots=True)
class Headers:
    """gRPC metadata: names are put into lower case, values are printable ASCII (gRPC over HTTP/2)."""

    def read(self, raw: object) -> Mapping[str, str]:
        if not isinstance(raw, Mapping):
            what = "a text" if isinstance(raw, str) else shown(raw)
            raise Rejected(f"{what} is not a mapping of names to values")
        headers = {}
        for name, value in raw.items():
            if not isinstance(name, str) or not _METADATA_KEY.fullmatch(name.lower()):
                raise Rejected(f"{name!r} is no header name")
            if name.lower().startswith("grpc-") or name.lower().endswith("-bin"):
                raise Rejected(f"{name}: names from grpc- on and binary ones (-bin) are gRPC's own")
            # The value may be a secret: no message shows it.
            if not isinstance(value, str):
                raise Rejected(f"the value of {name} is not a text; put it in quotes")
            if not _METADATA_VALUE.fullmatch(value):
                raise Rejected(f"the value of {name} has characters that are not printable ASCII")
            headers[name.lower()] = value
        return headers

    def plain(self, value: object) -> object:
        assert isinstance(value, Mapping)
        return dict(value)

    def masked(self, value: object) -> object:
        assert isinstance(value, Mapping)
        return dict.fromkeys(value, MASK)


def split_endpoint(endpoint: str) -> tuple[str, int]:
    """Host (without the brackets of an IPv6 address) and port. Raises Rejected where there is no port."""
    host, colon, port = endpoint.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    if not colon or not re.fullmatch(r"\d{1,5}", port, re.ASCII) or (":" in host and not bracketed):
        name = f"[{endpoint}]" if endpoint.count(":") > 1 else endpoint.rstrip(":") or "127.0.0.1"
        example = f"{name}:4317"
        raise Rejected(f"{endpoint!r} names no port; write host:port, such as {example}")
    if re.search(r"[\s/@]", host):
        raise Rejected(f"{host!r} is no host name")
    return host[1:-1] if bracketed else host, int(port)


def nearest(word: str, words: tuple[str, ...]) -> str | None:
    """The one of `words` that `word` may be a slip of, None if none is near."""
    from difflib import get_close_matches  # only where something is wrong

    return next(iter(get_close_matches(word, words, n=1, cutoff=0.6)), None)


def shown(raw: object) -> str:
    """A raw value for a message: short, in the words of YAML."""
    if raw is None:
        return "no value"
    if isinstance(raw, bool):
        return str(raw).lower()
    if isinstance(raw, Mapping):
        return "a mapping"
    if isinstance(raw, (list, tuple)):
        return "a list"
    text = repr(raw) if isinstance(raw, str) else str(raw)
    return text if len(text) <= 80 else text[:77] + "..."
