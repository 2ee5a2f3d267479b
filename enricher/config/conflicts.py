"""What no single setting tells: settings that are each right, but not together."""

from collections.abc import Iterator

from enricher.config.addresses import collide, leads_to
from enricher.config.durations import render
from enricher.config.endpoints import is_local, scheme_of, unix_path
from enricher.config.model import (
    BearerAuth,
    ClientTls,
    GrpcReceiver,
    HttpReceiver,
    OtlpExporter,
    OtlpGrpcExporter,
    OtlpHttpExporter,
    Settings,
)
from enricher.config.problems import KeyPath, Problem

TRACES = ("service", "pipelines", "traces")
PROTOCOLS = ("receivers", "otlp", "protocols")
CONTROL = ("service", "control")
METRICS = ("service", "telemetry", "metrics")


def conflicts(settings: Settings) -> Iterator[Problem]:
    yield from _pipeline(settings)
    yield from _durations(settings)
    yield from _listeners(settings)
    yield from _loops(settings)
    yield from _tls(settings)
    yield from _authentication(settings)
    yield from _queue(settings)
    if settings.service.transport == "grpcio":
        yield from _reference_transport(settings)


def _pipeline(settings: Settings) -> Iterator[Problem]:
    traces = settings.service.pipelines.traces
    for kind, components in (("receivers", traces.receivers), ("exporters", traces.exporters)):
        path = (*TRACES, kind)
        if not components:
            yield Problem(path, f"a pipeline needs one of the {kind}")
        if len(components) > 1:
            yield Problem(path, f"{len(components)} {kind}, but a pipeline has one in this version")
        for index, component in enumerate(components):
            if getattr(getattr(settings, kind), component) is None:
                yield Problem((*path, index), f"{component} is not configured; add it under {kind}")
    if len(set(traces.processors)) < len(traces.processors):
        yield Problem((*TRACES, "processors"), "a processor stands here twice")
    elif traces.processors == ("sampling", "ebpf"):
        yield Problem((*TRACES, "processors"), "sampling keeps what ebpf has found: write [ebpf, sampling]")
    if not list(_receivers(settings)):
        yield Problem(PROTOCOLS, "no protocol is named; name grpc, http or both, or leave protocols out for both")


def _durations(settings: Settings) -> Iterator[Problem]:
    ebpf = settings.processors.ebpf
    if ebpf.retention_ns <= ebpf.tail_window_ns:
        yield Problem(
            ("processors", "ebpf", "retention"),
            f"{render(ebpf.retention_ns)} is not longer than tail_window, {render(ebpf.tail_window_ns)}: "
            "evidence would be gone before its span is decided",
        )
    for path, exporter in _exporters(settings):
        retry = exporter.retry_on_failure
        first = f"initial_interval, {render(retry.initial_interval_ns)}"
        if retry.max_interval_ns < retry.initial_interval_ns:
            yield Problem(
                (*path, "retry_on_failure", "max_interval"), f"{render(retry.max_interval_ns)} is shorter than {first}"
            )
        if 0 < retry.max_elapsed_time_ns < retry.initial_interval_ns:
            yield Problem(
                (*path, "retry_on_failure", "max_elapsed_time"),
                f"{render(retry.max_elapsed_time_ns)} is shorter than {first}: nothing would ever be tried again",
            )


def _listeners(settings: Settings) -> Iterator[Problem]:
    """Two that cannot both listen."""
    listeners: list[tuple[KeyPath, str]] = [
        ((*path, "endpoint"), receiver.endpoint) for path, receiver in _receivers(settings)
    ]
    listeners.append(((*METRICS, "address"), settings.service.telemetry.metrics.address))
    if settings.service.control:
        listeners.append(((*CONTROL, "endpoint"), settings.service.control.endpoint))
    for index, (path, endpoint) in enumerate(listeners):
        for earlier, taken in listeners[:index]:
            if collide(endpoint, taken):
                name = ".".join(map(str, earlier))
                yield Problem(path, f"{endpoint} is taken by {name}, {taken}; write another")
                break


def _loops(settings: Settings) -> Iterator[Problem]:
    for path, exporter in _exporters(settings):
        named: set[str] = set()
        for (key, endpoint), target in zip(_endpoints(exporter), exporter.targets, strict=True):
            if any(leads_to(endpoint, receiver.endpoint) for _, receiver in _receivers(settings)):
                message = (
                    f"{endpoint} is the receiver's own endpoint: spans would go round for ever; write the backend's"
                )
                yield Problem((*path, *key), message)
            elif target.address in named:
                yield Problem((*path, *key), f"{endpoint} is named already")
            named.add(target.address)


def _tls(settings: Settings) -> Iterator[Problem]:
    for path, receiver in _receivers(settings):
        if receiver.tls and unix_path(receiver.endpoint) is not None:
            yield Problem((*path, "tls"), "a Unix socket has no TLS here: its file's mode says who may connect")
    for path, exporter in _exporters(settings):
        endpoints = tuple(endpoint for _, endpoint in _endpoints(exporter))
        plaintext = all(target.plaintext for target in exporter.targets)
        yield from _client_tls((*path, "tls"), exporter.tls, endpoints, plaintext)
    push = settings.service.telemetry.metrics.otlp
    if push:
        path = (*METRICS, "otlp")
        yield from _client_tls((*path, "tls"), push.tls, (push.endpoint,), push.plaintext)
        scheme = scheme_of(push.endpoint)
        if push.protocol == "grpc" and scheme and "/" in push.endpoint.partition("://")[2].rstrip("/"):
            yield Problem((*path, "endpoint"), "OTLP over gRPC has no path; leave it out, or use http/protobuf")
        if push.protocol != "grpc" and scheme is None:
            yield Problem((*path, "endpoint"), "OTLP over HTTP needs a URL: write http:// or https:// in front")


def _client_tls(path: KeyPath, tls: ClientTls, endpoints: tuple[str, ...], plaintext: bool) -> Iterator[Problem]:
    if (tls.cert_file is None) != (tls.key_file is None):
        lacking = "cert_file" if tls.cert_file is None else "key_file"
        yield Problem((*path, lacking), "this is needed: a certificate and its key go together")
    for endpoint in endpoints:
        if tls.insecure is not None and scheme_of(endpoint) not in {None, "http" if tls.insecure else "https"}:
            yield Problem((*path, "insecure"), f"{endpoint} says otherwise; leave this key out, or the scheme")
            return
        if tls.insecure is False and unix_path(endpoint) is not None:
            yield Problem((*path, "insecure"), f"{endpoint} is a Unix socket, which has no TLS here")
            return
    given = (
        key for key in ("ca_file", "cert_file", "server_name_override", "insecure_skip_verify") if getattr(tls, key)
    )
    key = next(given, None)
    if plaintext and key:
        fix = "write https://" if scheme_of(endpoints[0]) else "write insecure: false"
        yield Problem((*path, key), f"this is for TLS, which {endpoints[0]} does without as things stand; {fix}")


def _authentication(settings: Settings) -> Iterator[Problem]:
    guarded: list[tuple[KeyPath, BearerAuth | None]] = [
        (path, receiver.auth) for path, receiver in _receivers(settings)
    ]
    control = settings.service.control
    if control:
        guarded.append((CONTROL, control.auth))
        if control.auth is None and not is_local(control.endpoint):
            yield Problem(
                (*CONTROL, "endpoint"),
                f"{control.endpoint} can be reached from elsewhere; add auth, or write 127.0.0.1 or unix:///path",
            )
    for path, auth in guarded:
        if auth is None:
            continue
        if auth.bearer_token is not None and auth.bearer_token_file is not None:
            yield Problem((*path, "auth", "bearer_token_file"), "bearer_token is given as well; keep one of them")
        if auth.bearer_token is None and auth.bearer_token_file is None:
            yield Problem((*path, "auth"), "it names no token; add bearer_token or bearer_token_file")


def _queue(settings: Settings) -> Iterator[Problem]:
    limit_mib = settings.service.memory.limit_mib
    for path, exporter in _exporters(settings):
        queue = exporter.sending_queue
        if path[1] not in settings.service.pipelines.traces.exporters:
            continue
        if queue.queue_size_mib >= limit_mib:
            yield Problem(
                (*path, "sending_queue", "queue_size_mib"),
                f"{queue.queue_size_mib} MiB do not fit into service.memory.limit_mib, {limit_mib}; "
                "lower this, or raise that",
            )
        if queue.queue_size_mib << 20 < settings.max_recv_bytes:
            yield Problem(
                (*path, "sending_queue", "queue_size_mib"),
                f"the receiver takes requests of {settings.max_recv_bytes >> 20} MiB, which never fit into a queue of "
                f"{queue.queue_size_mib}; raise this, or lower that",
            )
        if queue.storage and queue.storage.max_bytes < 2 * settings.max_recv_bytes:
            yield Problem(
                (*path, "sending_queue", "storage", "max_size_mib"),
                f"the receiver takes requests of {settings.max_recv_bytes >> 20} MiB, and the file needs room for two; "
                "raise this, or lower that",
            )
        if queue.storage and settings.receivers.otlp.ack == "on_forward":
            yield Problem(
                (*path, "sending_queue", "storage"),
                "with ack: on_forward the senders keep what is not delivered; leave one of the two out",
            )


def _reference_transport(settings: Settings) -> Iterator[Problem]:
    """What only the native transport has."""
    fix = "use service.transport: native"
    if settings.http:
        yield Problem(
            (*PROTOCOLS, "http"), f"the transport grpcio has gRPC alone; name grpc alone under protocols, or {fix}"
        )
    for path, receiver in _receivers(settings):
        for key in ("tls", "auth"):
            if getattr(receiver, key):
                yield Problem((*path, key), f"the transport grpcio has no {key}; leave it out, or {fix}")
        if unix_path(receiver.endpoint) is not None:
            yield Problem((*path, "endpoint"), f"the transport grpcio has no Unix sockets; write host:port, or {fix}")
    exporter = settings.exporter if len(settings.service.pipelines.traces.exporters) == 1 else None
    if isinstance(exporter, OtlpHttpExporter):
        yield Problem(("exporters", "otlp_http"), f"the transport grpcio has gRPC alone; use otlp_grpc, or {fix}")
    if isinstance(exporter, OtlpGrpcExporter):
        path = ("exporters", "otlp_grpc")
        if not all(target.plaintext for target in exporter.targets):
            yield Problem(path, f"the transport grpcio has no TLS; write tls.insecure: true, or {fix}")
        if any(unix_path(target.address) is not None for target in exporter.targets):
            yield Problem((*path, "endpoint"), f"the transport grpcio has no Unix sockets; write host:port, or {fix}")
        if exporter.compression == "zstd":
            yield Problem((*path, "compression"), f"the transport grpcio has no zstd; write gzip, or {fix}")


def _receivers(settings: Settings) -> Iterator[tuple[KeyPath, GrpcReceiver | HttpReceiver]]:
    for name in ("grpc", "http"):
        receiver = getattr(settings.receivers.otlp.protocols, name)
        if receiver is not None:
            yield (*PROTOCOLS, name), receiver


def _exporters(settings: Settings) -> Iterator[tuple[KeyPath, OtlpExporter]]:
    for name in ("otlp_grpc", "otlp_http"):
        exporter = getattr(settings.exporters, name)
        if exporter is not None:
            yield ("exporters", name), exporter


def _endpoints(exporter: OtlpExporter) -> Iterator[tuple[KeyPath, str]]:
    """Those in force, each with its key."""
    if isinstance(exporter, OtlpHttpExporter) and exporter.traces_endpoint is not None:
        yield ("traces_endpoint",), exporter.traces_endpoint
    else:
        yield ("endpoint",), exporter.endpoint
    for number, endpoint in enumerate(exporter.fail_over):
        yield ("fail_over", number), endpoint
