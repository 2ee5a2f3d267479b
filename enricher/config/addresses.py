"""Whether two endpoints are one and the same place, as far as that shows without asking DNS."""

import socket
from ipaddress import IPv4Address, IPv6Address, ip_address

from enricher.config.endpoints import scheme_of, split_url, unix_path
from enricher.config.values import split_endpoint


def leads_to(destination: str, receiver: str) -> bool:
    """Whether what is sent to `destination` (host:port, unix:///path or a URL) comes in at `receiver`."""
    if unix_path(receiver) is not None or unix_path(destination) is not None:
        return receiver == destination
    receiver_host, receiver_port = split_endpoint(receiver)
    host, port = split_url(destination) if scheme_of(destination) else split_endpoint(destination)
    if receiver_port != port:
        return False
    if not _is_wildcard(receiver_host):
        return bool(_addresses(receiver_host) & _addresses(host))
    return receiver_host == host or any(map(_is_of_this_machine, _addresses(host)))


def collide(one: str, other: str) -> bool:
    """Whether no two sockets can listen at both endpoints, host:port or unix:///path."""
    if unix_path(one) is not None or unix_path(other) is not None:
        return one == other
    (host, port), (other_host, other_port) = split_endpoint(one), split_endpoint(other)
    if port != other_port or port == 0:
        return False
    # An address of the other family stands aside from 0.0.0.0; [::] takes both (net.ipv6.bindv6only is 0).
    wildcard = next((found for found in (host, other_host) if _is_wildcard(found)), None)
    if wildcard is None:
        return bool(_addresses(host) & _addresses(other_host))
    rest = other_host if wildcard == host else host
    address = _address(rest)
    return address is None or ":" in wildcard or address.version == 4 or rest == "::"


def _addresses(host: str) -> set[str]:
    """Whom a connection to `host` reaches; to an unspecified address means to this machine."""
    if host.lower() == "localhost" or _is_wildcard(host):
        return {"127.0.0.1", "::1"}
    address = _address(host)
    return {str(address) if address else host.lower().rstrip(".")}


def _is_of_this_machine(host: str) -> bool:
    """`host` is an address, or a name in lower case."""
    address = _address(host)
    if address is None:
        own_name = socket.gethostname().lower()
        return host in {own_name, own_name.partition(".")[0]}
    if address.is_loopback:
        return True
    try:
        # The kernel lets a socket have an address of this machine only. Nothing is sent.
        with socket.socket(socket.AF_INET if address.version == 4 else socket.AF_INET6, socket.SOCK_DGRAM) as probe:
            probe.bind((host, 0))
    except OSError:
        return False
    return True


def _address(host: str) -> IPv4Address | IPv6Address | None:
    """One that is written as IPv6 for an IPv4 address is that."""
    try:
        address = ip_address(host)
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address


def _is_wildcard(host: str) -> bool:
    address = _address(host)
    return address is not None and address.is_unspecified
