"""One setting that is wrong is told by line and key, with what is wrong about it."""

from pathlib import Path

import pytest

from tests.unit.config_files import problems_of, settings_of

GRPC = "receivers.otlp.protocols.grpc"
HTTP = "receivers.otlp.protocols.http"
EBPF = "processors.ebpf"
OTLP = "exporters.otlp_grpc"

# One wrong setting each, always on line 3 of its file.
BAD_VALUES = [
    ("receivers: {otlp: {protocols: {\n\ngrpc: 5}}}", GRPC, "5 is not a mapping of keys to values"),
    ("receivers: {otlp: {\n\nack: on_arrival}}", "receivers.otlp.ack",
     "'on_arrival' is not known here; it is one of on_queue, on_forward"),
    ("receivers: {otlp: {\n\nprotocols: {}}}", "receivers.otlp.protocols",
     "no protocol is named; name grpc, http or both, or leave protocols out for both"),
    ("receivers: {otlp: {protocols: {grpc: {\n\nendpoint: 'unix:x'}}}}", f"{GRPC}.endpoint",
     "'unix:x' is not unix:// and an absolute path, such as unix:///run/enricher.sock"),
    ("receivers: {otlp: {protocols: {grpc: {\n\nendpoint: 'unix:///%s'}}}}" % ("x" * 107), f"{GRPC}.endpoint",
     "the path of a Unix socket has at most 107 bytes"),
    ("receivers: {otlp: {protocols: {grpc: {\n\ntls: {cert_file: c}}}}}", f"{GRPC}.tls.key_file", "this is needed"),
    ("receivers: {otlp: {protocols: {grpc: {tls: {key_file: k,\n\ncert_file: ''}}}}}", f"{GRPC}.tls.cert_file",
     "'' is not a path"),
    ("receivers: {otlp: {protocols: {http: {\n\ntraces_url_path: v1/traces}}}}", f"{HTTP}.traces_url_path",
     "'v1/traces' is not a path such as /v1/traces"),
    ("receivers: {otlp: {protocols: {http: {\n\nmax_recv_msg_size_mib: 4}}}}", f"{HTTP}.max_recv_msg_size_mib",
     "unknown key, did you mean max_request_body_size_mib?"),
    ("receivers: {otlp: {protocols: {http: {cors: {\n\nallowed_origins: [shop]}}}}}",
     f"{HTTP}.cors.allowed_origins[0]", "'shop' is not an origin such as https://shop.example, or *"),
    ("receivers: {\n\nzipkin: }", "receivers.zipkin",
     "not known here: the one receiver here is otlp; others' spans come through a collector"),
    ("receivers: {\n\notlp/2: }", "receivers.otlp/2",
     "there is one otlp here, without a name of its own: write otlp"),
    ("processors: {\n\nbatch: {}}", "processors.batch",
     "not known here: requests are joined on their way out without it"),
    ("processors: {sampling: {\n\nratio: 50}}", "processors.sampling.ratio", "50 is outside 0 to 1"),
    ("processors: {sampling: {\n\nslow: 0}}", "processors.sampling.slow", "0 is outside 1ms to 24h"),
    ("receivers: {otlp: {protocols: {grpc: {\n\nendpoint: 4317}}}}", f"{GRPC}.endpoint",
     "4317 is not host:port, such as 127.0.0.1:4317"),
    ("receivers: {otlp: {protocols: {grpc: {\n\nendpoint: ':4317'}}}}", f"{GRPC}.endpoint",
     "':4317' names no host; write 127.0.0.1:4317, or 0.0.0.0:4317 for every address"),
    ("receivers: {otlp: {protocols: {grpc: {\n\nendpoint: localhost}}}}", f"{GRPC}.endpoint",
     "'localhost' names no port; write host:port, such as localhost:4317"),
    ("receivers: {otlp: {protocols: {grpc: {\n\nendpoint: '::1'}}}}", f"{GRPC}.endpoint",
     "'::1' names no port; write host:port, such as [::1]:4317"),
    ("receivers: {otlp: {protocols: {grpc: {\n\nendpoint: 'a b:1'}}}}", f"{GRPC}.endpoint", "'a b' is no host name"),
    ("receivers: {otlp: {protocols: {grpc: {\n\nendpoint: 'a:65536'}}}}", f"{GRPC}.endpoint",
     "port 65536 is outside 0 to 65535"),
    ("receivers: {otlp: {protocols: {grpc: {\n\nmax_recv_msg_size_mib: 0}}}}", f"{GRPC}.max_recv_msg_size_mib",
     "0 is outside 1 to 512"),
    ("receivers: {otlp: {protocols: {grpc: {\n\nmax_recv_msg_size_mib: 4.5}}}}", f"{GRPC}.max_recv_msg_size_mib",
     "4.5 is not a whole number"),
    ("receivers: {otlp: {protocols: {grpc: {\n\nmax_recv_msg_size_mib: true}}}}", f"{GRPC}.max_recv_msg_size_mib",
     "true is not a whole number"),
    ("processors: {ebpf: {\n\ntail_window: 300}}", f"{EBPF}.tail_window", "'300' has no unit; write 300ms or 300s"),
    ("processors: {ebpf: {\n\ntail_window: 11s}}", f"{EBPF}.tail_window", "11s is outside 0s to 10s"),
    ("processors: {ebpf: {\n\ntail_window: [1s]}}", f"{EBPF}.tail_window",
     "a list is not a duration such as 300ms, 1.5s or 1m30s"),
    ("processors: {ebpf: {\n\ntail_window: }}", f"{EBPF}.tail_window",
     "no value is not a duration such as 300ms, 1.5s or 1m30s"),
    ("processors: {ebpf: {\n\nblocked_threshold: 1ns}}", f"{EBPF}.blocked_threshold", "1ns is outside 10us to 1m"),
    ("processors: {ebpf: {\n\nretention: 1.0}}", f"{EBPF}.retention", "'1.0' has no unit; write 1.0ms or 1.0s"),
    ("processors: {ebpf: {tail_window: 2s,\n\nretention: 1s}}", f"{EBPF}.retention",
     "1s is not longer than tail_window, 2s: evidence would be gone before its span is decided"),
    ("processors: {ebpf: {\n\nring_size: 5000}}", f"{EBPF}.ring_size", "5000 is no power of two; the next is 8192"),
    ("processors: {ebpf: {\n\nring_size: 2048}}", f"{EBPF}.ring_size", "2048 is outside 4096 to 67108864"),
    ("processors: {ebpf: {\n\nring_size: 2MiB}}", f"{EBPF}.ring_size", "'2MiB' is not a whole number"),
    ("processors: {ebpf: {\n\nstamp: al}}", f"{EBPF}.stamp", "'al' is not known here; did you mean all?"),
    ("processors: {ebpf: {probes: {\n\nsyscalls: true}}}", f"{EBPF}.probes.syscalls",
     "true is not known here; it is one of auto, on, off"),
    ("processors: {ebpf: {select: {\n\nexclude: /opt}}}", f"{EBPF}.select.exclude",
     "'/opt' is not a list; write [a, b]"),
    ("processors: {ebpf: {select: {exclude: [a,\n\n7]}}}", f"{EBPF}.select.exclude[1]",
     "7 is not a text; put it in quotes"),
    ("receivers: {otlp: {protocols: {grpc: {\n\nendpoint: 'http://a:1'}}}}", f"{GRPC}.endpoint",
     "'http://a:1' is a URL; write host:port alone"),
    ("exporters: {otlp_http: {\n\nendpoint: 'a:1'}}", "exporters.otlp_http.endpoint",
     "'a:1' is not a URL; write http://a:1 or https://a:1"),
    ("exporters: {otlp_http: {\n\nendpoint: 'ftp://a:1'}}", "exporters.otlp_http.endpoint",
     "the scheme ftp:// is not known; write http:// or https://"),
    ("exporters: {otlp_http: {\n\nendpoint: 'http://a:1/x?y'}}", "exporters.otlp_http.endpoint",
     "'/x?y' is not a path; a query or a fragment cannot be part of it"),
    ("exporters: {otlp_http: {\n\nendpoint: 'http:///x'}}", "exporters.otlp_http.endpoint",
     "'http:///x' names no host"),
    ("exporters: {otlp_http: {\n\nendpoint: 'http://a:99999'}}", "exporters.otlp_http.endpoint",
     "port 99999 is outside 1 to 65535"),
    ("exporters: {otlp_grpc: {fail_over: [a:1,\n\nb]}}", f"{OTLP}.fail_over[1]",
     "'b' names no port; write host:port, such as b:4317"),
    ("exporters: {otlp_grpc: {tls: {\n\nserver_name_override: a b}}}", f"{OTLP}.tls.server_name_override",
     "'a b' is not the name of a host, or its address"),
    ("exporters: {otlp_grpc: {sending_queue: {\n\nstorage: {}}}}", f"{OTLP}.sending_queue.storage.directory",
     "this is needed"),
    ("exporters: {\n\nfile: }", "exporters.file.path", "this is needed"),
    ("exporters: {\n\notlp: }", "exporters.otlp",
     "not known here: write otlp_grpc, or otlp_http for OTLP over HTTP"),
    ("exporters: {\n\notlp/backend: }", "exporters.otlp/backend",
     "not known here: write otlp_grpc, or otlp_http for OTLP over HTTP"),
    ("exporters: {\n\notlphttp: }", "exporters.otlphttp", "not known here: write otlp_http"),
    ("exporters: {\n\nlogging: }", "exporters.logging", "not known here: write debug"),
    ("exporters: {\n\nfile/2: }", "exporters.file/2",
     "there is one file here, without a name of its own: write file"),
    ("exporters: {otlp_grpc: {\n\nendpoint: 'a:0'}}", f"{OTLP}.endpoint", "port 0 is outside 1 to 65535"),
    ("exporters: {otlp_grpc: {tls: {\n\ninsecure: 'no'}}}", f"{OTLP}.tls.insecure", "'no' is neither true nor false"),
    ("exporters: {otlp_grpc: {\n\nheaders: [a]}}", f"{OTLP}.headers", "a list is not a mapping of names to values"),
    ("exporters: {otlp_grpc: {\n\nheaders: {'a b': c}}}", f"{OTLP}.headers", "'a b' is no header name"),
    ("exporters: {otlp_grpc: {\n\nheaders: {Grpc-Timeout: c}}}", f"{OTLP}.headers",
     "Grpc-Timeout: names from grpc- on and binary ones (-bin) are gRPC's own"),
    ("exporters: {otlp_grpc: {\n\nheaders: {a: 5}}}", f"{OTLP}.headers",
     "the value of a is not a text; put it in quotes"),
    ("exporters: {otlp_grpc: {\n\nheaders: {a: sécret}}}", f"{OTLP}.headers",
     "the value of a has characters that are not printable ASCII"),
    ("exporters: {otlp_grpc: {\n\ncompression: snappy}}", f"{OTLP}.compression",
     "'snappy' is not known here; it is one of none, gzip, zstd"),
    ("exporters: {otlp_grpc: {sending_queue: {\n\nenabled: false}}}", f"{OTLP}.sending_queue.enabled",
     "this exporter always has its queue"),
    ("exporters: {otlp_grpc: {retry_on_failure: {\n\nrandomization_factor: .nan}}}",
     f"{OTLP}.retry_on_failure.randomization_factor", "'.nan' is not a number"),
    ("exporters: {otlp_grpc: {retry_on_failure: {\n\nmultiplier: 0.5}}}", f"{OTLP}.retry_on_failure.multiplier",
     "0.5 is outside 1 to 100"),
    ("exporters: {otlp_grpc: {retry_on_failure: {\n\nmax_interval: 1s}}}", f"{OTLP}.retry_on_failure.max_interval",
     "1s is shorter than initial_interval, 5s"),
    ("exporters: {terminal: {\n\ncolour: 1}}", "exporters.terminal.colour", "unknown key, there are none here"),
    ("\n\nexporters: [otlp_grpc]", "exporters", "a list is not a mapping of keys to values"),
    ("\n\nexporters: {otlp_grpc: {endpoint: 'localhost:4317'}}", f"{OTLP}.endpoint",
     "localhost:4317 is the receiver's own endpoint: spans would go round for ever; write the backend's"),
    ("service: {pipelines: {traces: {\n\nexporters: [otlp_grpc]}}}", "service.pipelines.traces.exporters[0]",
     "otlp_grpc is not configured; add it under exporters"),
    ("service: {pipelines: {traces: {\n\nexporters: [otlp]}}}", "service.pipelines.traces.exporters[0]",
     "'otlp' is not known here: write otlp_grpc, or otlp_http for OTLP over HTTP"),
    ("service: {pipelines: {traces: {\n\nexporters: []}}}", "service.pipelines.traces.exporters",
     "a pipeline needs one of the exporters"),
    ("service: {pipelines: {traces: {\n\nprocessors: [batch]}}}", "service.pipelines.traces.processors[0]",
     "'batch' is not known here: requests are joined on their way out without it"),
    ("service: {pipelines: {traces: {\n\nprocessors: [sampling, ebpf]}}}", "service.pipelines.traces.processors",
     "sampling keeps what ebpf has found: write [ebpf, sampling]"),
    ("service: {pipelines: {traces: {\n\nprocessors: [ebpf, ebpf]}}}", "service.pipelines.traces.processors",
     "a processor stands here twice"),
    ("service: {pipelines: {\n\nmetrics: {}}}", "service.pipelines.metrics",
     "not known here: only traces pass here; send the rest straight to its backend"),
    ("service: {\n\nextensions: [health_check]}", "service.extensions",
     "not known here: health is at service.telemetry.metrics.address, a queue on disk is sending_queue.storage"),
    ("\n\nconnectors: {}", "connectors", "not known here: spans go one way, from otlp to the exporter"),
    ("service: {\n\nworkers: 0}", "service.workers", "0 is outside 1 to 64"),
    ("service: {\n\ntransport: tonic}", "service.transport",
     "'tonic' is not known here; it is one of native, grpcio"),
    ("service: {memory: {\n\nlimit_mib: 8}}", "service.memory.limit_mib", "8 is outside 64 to 1048576"),
    ("service: {telemetry: {metrics: {\n\notlp: {}}}}", "service.telemetry.metrics.otlp.endpoint", "this is needed"),
    ("service: {telemetry: {metrics: {\n\naddress: 'unix:///x'}}}", "service.telemetry.metrics.address",
     "'unix:///x' is a Unix socket; here only host:port is known"),
    ("service: {pipelines: {traces: {\n\nreceivers: [otlp, otlp]}}}", "service.pipelines.traces.receivers",
     "2 receivers, but a pipeline has one in this version"),
    ("service: {\n\npipelines: 5}", "service.pipelines", "5 is not a mapping of keys to values"),
    ("service: {telemetry: {logs: {\n\nlevel: warning}}}", "service.telemetry.logs.level",
     "'warning' is not known here; did you mean warn?"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "key", "message"), BAD_VALUES)
def test_a_bad_value_is_told_with_line_and_key(tmp_path: Path, text: str, key: str, message: str) -> None:
    assert problems_of(tmp_path, text) == [(3, key, message)]


@pytest.mark.parametrize(
    "host",
    [
        "a..b",
        "." * 5,
        "x" * 64,
        ".".join(["x" * 60] * 5),
        "ä" * 70,
        "a\\0b",
        "a\\x1bb",
        "\\ud800",
        "[hello]",
        "[127",
        "a,b",
    ],
)
@pytest.mark.parametrize(
    ("key", "text"),
    [
        (f"{GRPC}.endpoint", "receivers: {{otlp: {{protocols: {{grpc: {{endpoint: {}}}}}}}}}"),
        (f"{OTLP}.endpoint", "exporters: {{otlp_grpc: {{endpoint: {}}}}}"),
        ("service.telemetry.metrics.address", "service: {{telemetry: {{metrics: {{address: {}}}}}}}"),
    ],
)
def test_a_host_that_no_resolver_takes_is_refused_as_such(tmp_path: Path, key: str, text: str, host: str) -> None:
    ((line, told, message),) = problems_of(tmp_path, text.format(f'"{host}:4317"'))
    assert (line, told) == (1, key)
    assert "host" in message or "no port" in message


@pytest.mark.parametrize(
    "host", ["collector", "otel_collector.my-ns.svc.cluster.local.", "café.example", "[fe80::1%eth0]"]
)
def test_hosts_that_are_names_or_addresses_pass(tmp_path: Path, host: str) -> None:
    settings_of(tmp_path, f'exporters: {{otlp_grpc: {{endpoint: "{host}:4317"}}}}')
