"""Where something listens, and where something is sent to: how that is written, and what it means."""

import re
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Final

from enricher.config.values import Rejected, shown, split_endpoint

_UNIX: Final = "unix://"
_LONGEST_UNIX_PATH: Final = 107  # sockaddr_un.sun_path without its NUL
_SCHEME_PORTS: Final = {"http": 80, "https": 443}
_URL = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*)://(?P<authority>[^/?#]*)(?P<path>.*)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Target:
    """One place that an exporter sends to.

    `address` is `host:port` or `unix:///path` for gRPC, without a scheme, and the whole URL for HTTP.
    """

    address: str
    plaintext: bool  # else TLS


@dataclass(frozen=True, slots=True)
class Endpoint:
    """host:port, the host an IPv4 address, a name, or an IPv6 address in square brackets.

    With `unix` also unix:///path; with `scheme` also http:// or https:// in front.
    """

    least_port: int = 1
    unix: bool = False
    scheme: bool = False

    def read(self, raw: object) -> str:
        if not isinstance(raw, str) or not raw:
            raise Rejected(f"{shown(raw)} is not host:port, such as 127.0.0.1:4317")
        _refuse_user(raw)
        if raw.startswith("unix:"):
            return self._unix(raw)
        scheme, separator, rest = raw.rpartition("://")
        if not separator:
            return self._host_and_port(raw)
        if not self.scheme:
            raise Rejected(f"{raw!r} is a URL; write host:port alone")
        if scheme.lower() not in _SCHEME_PORTS:
            raise Rejected(f"the scheme {scheme}:// is not known; write http://host:port or https://host:port")
        host_and_port, _, path = rest.partition("/")
        if path:
            raise Rejected(
                f"/{path} is a path, which OTLP over gRPC has not; write {scheme}://{host_and_port}, or use otlp_http"
            )
        return f"{scheme.lower()}://{self._host_and_port(host_and_port)}"

    def _unix(self, raw: str) -> str:
        if not self.unix:
            raise Rejected(f"{raw!r} is a Unix socket; here only host:port is known")
        path = unix_path(raw)
        if path is None or not path.startswith("/") or not path.isprintable():
            raise Rejected(f"{raw!r} is not unix:// and an absolute path, such as unix:///run/enricher.sock")
        if len(path.encode()) > _LONGEST_UNIX_PATH:
            raise Rejected(f"the path of a Unix socket has at most {_LONGEST_UNIX_PATH} bytes")
        return raw

    def _host_and_port(self, text: str) -> str:
        host, port = split_endpoint(text)
        _check_host(host, text)
        if not host:
            raise Rejected(f"{text!r} names no host; write 127.0.0.1:{port}, or 0.0.0.0:{port} for every address")
        if not self.least_port <= port <= 65535:
            raise Rejected(f"port {port} is outside {self.least_port} to 65535")
        return text

    def plain(self, value: object) -> object:
        return value


@dataclass(frozen=True, slots=True)
class Url:
    """http:// or https://, a host, and if need be a port and a path."""

    def read(self, raw: object) -> str:
        if not isinstance(raw, str) or not raw:
            raise Rejected(f"{shown(raw)} is not a URL, such as http://127.0.0.1:4318")
        _refuse_user(raw)
        url = _URL.fullmatch(raw)
        if url is None:
            raise Rejected(f"{shown(raw)} is not a URL; write http://{raw} or https://{raw}")
        scheme = url["scheme"].lower()
        if scheme not in _SCHEME_PORTS:
            raise Rejected(f"the scheme {url['scheme']}:// is not known; write http:// or https://")
        if not re.fullmatch(r"(?:/[!-~]*)?", url["path"]) or re.search(r"[?#]", url["path"]):
            raise Rejected(f"{shown(url['path'])} is not a path; a query or a fragment cannot be part of it")
        host, port = split_url(raw)
        _check_host(host, url["authority"])
        if not host:
            raise Rejected(f"{shown(raw)} names no host")
        if not 1 <= port <= 65535:
            raise Rejected(f"port {port} is outside 1 to 65535")
        return f"{scheme}://{url['authority']}{url['path']}"

    def plain(self, value: object) -> object:
        return value


@dataclass(frozen=True, slots=True)
class Destination:
    """Either of the two: what has a scheme is a Url, what has none host:port or unix:///path."""

    def read(self, raw: object) -> str:
        has_scheme = isinstance(raw, str) and "://" in raw and not raw.startswith("unix:")
        return Url().read(raw) if has_scheme else Endpoint(unix=True).read(raw)

    def plain(self, value: object) -> object:
        return value


def unix_path(endpoint: str) -> str | None:
    """The path of unix:///path; None for another endpoint."""
    return endpoint.removeprefix(_UNIX) if endpoint.startswith(_UNIX) else None


def scheme_of(endpoint: str) -> str | None:
    """`http` or `https`, or None where there is none."""
    scheme, separator, _ = endpoint.partition("://")
    return scheme if separator and scheme in _SCHEME_PORTS else None


def without_scheme(endpoint: str) -> str:
    """host:port of http://host:port; other endpoints as they are."""
    return endpoint.partition("://")[2] if scheme_of(endpoint) else endpoint


def split_url(url: str) -> tuple[str, int]:
    """Host, without the brackets of an IPv6 address, and port. Raises Rejected."""
    parts = _URL.fullmatch(url)
    assert parts is not None, "only what a Url has read"
    authority = parts["authority"]
    bare = not re.search(r":\d*\Z", authority) or authority.endswith("]")
    return split_endpoint(f"{authority}:{_SCHEME_PORTS.get(parts['scheme'].lower(), 0)}" if bare else authority)


def is_plaintext(endpoint: str, insecure: bool | None) -> bool:
    """Whether what is sent to `endpoint` goes without TLS: its scheme decides, then `insecure`.

    Where neither says: TLS, but not within this machine.
    """
    scheme = scheme_of(endpoint)
    if scheme is not None:
        return scheme == "http"
    return is_local(endpoint) if insecure is None else insecure


def is_local(endpoint: str) -> bool:
    """Whether host:port or unix:///path is of this machine, by its looks: a loopback address or a Unix socket."""
    if unix_path(endpoint) is not None:
        return True
    host = split_endpoint(endpoint)[0]
    if host.lower() == "localhost":
        return True
    try:
        address = ip_address(host)
    except ValueError:
        return False
    return bool((getattr(address, "ipv4_mapped", None) or address).is_loopback)


def _refuse_user(raw: str) -> None:
    """The user may come with a password: no message shows it."""
    if "@" in raw:
        raise Rejected("there is a user in it (user@host); write the endpoint alone, and credentials under headers")


def _check_host(host: str, text: str) -> None:
    if host and not _is_host(host, bracketed=text.startswith("[")):
        raise Rejected(f"{shown(host)} is neither a host name nor an address")


def _is_host(host: str, *, bracketed: bool) -> bool:
    """Whether it can be looked up at all (RFC 1035, 2.3.4; RFC 5891): what cannot raises in odd places."""
    if bracketed:
        try:
            return ip_address(host).version == 6
        except ValueError:
            return False
    try:
        name = (host if host.isascii() else host.encode("idna").decode()).removesuffix(".")
    except (UnicodeError, LookupError):
        return False
    return len(name) <= 253 and all(re.fullmatch(r"[\w-]{1,63}", label, re.ASCII) for label in name.split("."))
