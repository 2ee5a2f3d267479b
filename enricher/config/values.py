"""What a single setting may hold: each type checks a raw value of the file and gives it back for printing.

A field of the model names its type as `Annotated[int, Duration(...)]`. `read` takes what YAML, JSON or an
environment variable held and returns the value, or raises Rejected; `plain` is its inverse, into what YAML
and JSON can hold.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Protocol

from enricher.config import durations


class ValueType(Protocol):
    def read(self, raw: object) -> object: ...
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
    """One word of a few."""

    words: tuple[str, ...]

    def read(self, raw: object) -> str:
        if isinstance(raw, str) and raw in self.words:
            return raw
        near = nearest(raw, self.words) if isinstance(raw, str) else None
        hint = f"did you mean {near}?" if near else f"it is one of {', '.join(self.words)}"
        raise Rejected(f"{shown(raw)} is not known here; {hint}")

    def plain(self, value: object) -> object:
        return value


@dataclass(frozen=True, slots=True)
class Endpoint:
    """host:port, the host an IPv4 address, a name, or an IPv6 address in square brackets."""

    least_port: int = 1

    def read(self, raw: object) -> str:
        if not isinstance(raw, str) or not raw:
            raise Rejected(f"{shown(raw)} is not host:port, such as 127.0.0.1:4317")
        if "://" in raw:
            raise Rejected(f"{raw!r} is a URL; write host:port alone")
        host, port = split_endpoint(raw)
        if host and not _is_host(host, bracketed=raw.startswith("[")):
            raise Rejected(f"{shown(host)} is neither a host name nor an address")
        if not host:
            raise Rejected(f"{raw!r} names no host; write 127.0.0.1:{port}, or 0.0.0.0:{port} for every address")
        if not self.least_port <= port <= 65535:
            raise Rejected(f"port {port} is outside {self.least_port} to 65535")
        return raw

    def plain(self, value: object) -> object:
        return value


@dataclass(frozen=True, slots=True)
class Texts:
    """A list of texts, or of the words of `of` alone."""

    of: Choice | None = None

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


_METADATA_KEY = re.compile(r"[0-9a-z_.-]+", re.ASCII)
_METADATA_VALUE = re.compile(r"[\x20-\x7e]*", re.ASCII)


@dataclass(frozen=True, slots=True)
class Headers:
    """gRPC metadata: names are put into lower case, values are printable ASCII (gRPC over HTTP/2)."""

    def read(self, raw: object) -> Mapping[str, str]:
        if not isinstance(raw, Mapping):
            raise Rejected(f"{shown(raw)} is not a mapping of names to values")
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


def _is_host(host: str, *, bracketed: bool) -> bool:
    """Whether it can be looked up at all (RFC 1035, 2.3.4; RFC 5891): what cannot raises in odd places."""
    if bracketed:
        try:
            ip_address(host)
        except ValueError:
            return False
        return True
    try:
        name = (host if host.isascii() else host.encode("idna").decode()).removesuffix(".")
    except (UnicodeError, LookupError):
        return False
    return len(name) <= 253 and all(re.fullmatch(r"[\w-]{1,63}", label, re.ASCII) for label in name.split("."))


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
    return host.strip("[]"), int(port)


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
