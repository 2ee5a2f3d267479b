"""What no single setting tells: settings that are each right, but not together."""

import socket
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv6Address, ip_address

from enricher.config.durations import render
from enricher.config.model import OtlpGrpcExporter, Settings
from enricher.config.problems import Problem
from enricher.config.values import split_endpoint

TRACES = ("service", "pipelines", "traces")


def conflicts(settings: Settings) -> Iterator[Problem]:
    yield from _pipeline(settings)
    yield from _durations(settings)
    exporter = settings.exporters.otlp_grpc
    if exporter is not None and _is_loop(settings.grpc.endpoint, exporter.endpoint):
        yield Problem(
            ("exporters", "otlp_grpc", "endpoint"),
            f"{exporter.endpoint} is the receiver's own endpoint: spans would go round for ever; write the backend's",
        )


def _pipeline(settings: Settings) -> Iterator[Problem]:
    traces = settings.service.pipelines.traces
    for kind, components, most in (
        ("receivers", traces.receivers, 1),
        ("processors", traces.processors, 1),
        ("exporters", traces.exporters, 1),
    ):
        path = (*TRACES, kind)
        if not components and kind != "processors":
            yield Problem(path, f"a pipeline needs one of the {kind}")
        if len(components) > most:
            yield Problem(path, f"{len(components)} {kind}, but a pipeline has one in this version")
        for index, component in enumerate(components):
            if getattr(getattr(settings, kind), component) is None:
                yield Problem((*path, index), f"{component} is not configured; add it under {kind}")


def _durations(settings: Settings) -> Iterator[Problem]:
    ebpf = settings.processors.ebpf
    if ebpf.retention_ns <= ebpf.tail_window_ns:
        yield Problem(
            ("processors", "ebpf", "retention"),
            f"{render(ebpf.retention_ns)} is not longer than tail_window, {render(ebpf.tail_window_ns)}: "
            "evidence would be gone before its span is decided",
        )
    exporter = settings.exporters.otlp_grpc or OtlpGrpcExporter()
    retry = exporter.retry_on_failure
    if retry.max_interval_ns < retry.initial_interval_ns:
        yield Problem(
            ("exporters", "otlp_grpc", "retry_on_failure", "max_interval"),
            f"{render(retry.max_interval_ns)} is shorter than initial_interval, {render(retry.initial_interval_ns)}",
        )


def _is_loop(receiver: str, exporter: str) -> bool:
    """Whether what is sent to `exporter` comes in at `receiver`, as far as that shows without asking DNS."""
    receiver_host, receiver_port = split_endpoint(receiver)
    exporter_host, exporter_port = split_endpoint(exporter)
    if receiver_port != exporter_port:
        return False
    if not _is_wildcard(receiver_host):
        return bool(_addresses(receiver_host) & _addresses(exporter_host))
    return receiver_host == exporter_host or any(map(_is_of_this_machine, _addresses(exporter_host)))


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
