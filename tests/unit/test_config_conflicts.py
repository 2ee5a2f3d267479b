"""Settings that are each right, but not together, are told with what to do about it."""

import socket
from pathlib import Path

import pytest

from enricher.config.addresses import collide
from tests.unit.config_files import problems_of, settings_of

GRPC = "receivers.otlp.protocols.grpc"
HTTP = "receivers.otlp.protocols.http"
OTLP = "exporters.otlp_grpc"
OVER_HTTP = "exporters.otlp_http"
OWN = "is the receiver's own endpoint: spans would go round for ever; write the backend's"

# Each with the key and the message of its one problem.
CONFLICTS = [
    ("receivers: {otlp: {protocols: {grpc: , http: {endpoint: 'localhost:4317'}}}}", f"{HTTP}.endpoint",
     f"localhost:4317 is taken by {GRPC}.endpoint, 127.0.0.1:4317; write another"),
    ("receivers: {otlp: {protocols: {grpc: {endpoint: 'unix:///x'}, http: {endpoint: 'unix:///x'}}}}",
     f"{HTTP}.endpoint", f"unix:///x is taken by {GRPC}.endpoint, unix:///x; write another"),
    ("service: {telemetry: {metrics: {address: '0.0.0.0:4318'}}}", "service.telemetry.metrics.address",
     f"0.0.0.0:4318 is taken by {HTTP}.endpoint, 127.0.0.1:4318; write another"),
    ("service: {control: {endpoint: '127.0.0.1:8889'}}", "service.control.endpoint",
     "127.0.0.1:8889 is taken by service.telemetry.metrics.address, 127.0.0.1:8889; write another"),
    ("service: {control: {endpoint: '0.0.0.0:4319'}}", "service.control.endpoint",
     "0.0.0.0:4319 can be reached from elsewhere; add auth, or write 127.0.0.1 or unix:///path"),
    ("receivers: {otlp: {protocols: {grpc: {auth: {bearer_token: a, bearer_token_file: /b}}}}}",
     f"{GRPC}.auth.bearer_token_file", "bearer_token is given as well; keep one of them"),
    ("receivers: {otlp: {protocols: {http: {auth: {}}}}}", f"{HTTP}.auth",
     "it names no token; add bearer_token or bearer_token_file"),
    ("service: {control: {auth: {}}}", "service.control.auth",
     "it names no token; add bearer_token or bearer_token_file"),
    ("receivers: {otlp: {protocols: {grpc: {endpoint: 'unix:///x', tls: {cert_file: c, key_file: k}}}}}",
     f"{GRPC}.tls", "a Unix socket has no TLS here: its file's mode says who may connect"),
    ("exporters: {otlp_grpc: {endpoint: 'a:1', tls: {key_file: k}}}", f"{OTLP}.tls.cert_file",
     "this is needed: a certificate and its key go together"),
    ("exporters: {otlp_grpc: {tls: {ca_file: c}}}", f"{OTLP}.tls.ca_file",
     "this is for TLS, which 127.0.0.1:5317 does without as things stand; write insecure: false"),
    ("exporters: {otlp_http: {tls: {insecure_skip_verify: true}}}", f"{OVER_HTTP}.tls.insecure_skip_verify",
     "this is for TLS, which http://127.0.0.1:5318 does without as things stand; write https://"),
    ("exporters: {otlp_grpc: {endpoint: 'http://a:1', tls: {insecure: false}}}", f"{OTLP}.tls.insecure",
     "http://a:1 says otherwise; leave this key out, or the scheme"),
    ("exporters: {otlp_grpc: {endpoint: 'a:1', fail_over: ['https://b:1'], tls: {insecure: true}}}",
     f"{OTLP}.tls.insecure", "https://b:1 says otherwise; leave this key out, or the scheme"),
    ("exporters: {otlp_grpc: {endpoint: 'unix:///x', tls: {insecure: false}}}", f"{OTLP}.tls.insecure",
     "unix:///x is a Unix socket, which has no TLS here"),
    ("exporters: {otlp_grpc: {fail_over: ['a:1', '127.0.0.1:5317']}}", f"{OTLP}.fail_over[1]",
     "127.0.0.1:5317 is named already"),
    ("exporters: {otlp_grpc: {endpoint: 'a:1', fail_over: ['https://a:1']}}", f"{OTLP}.fail_over[0]",
     "https://a:1 is named already"),
    ("exporters: {otlp_grpc: {fail_over: ['127.0.0.1:4317']}}", f"{OTLP}.fail_over[0]",
     f"127.0.0.1:4317 {OWN}"),
    ("exporters: {otlp_http: {endpoint: 'http://localhost:4318'}}", f"{OVER_HTTP}.endpoint",
     f"http://localhost:4318 {OWN}"),
    ("exporters: {otlp_http: {traces_endpoint: 'https://127.0.0.1:4317/v1/traces'}}", f"{OVER_HTTP}.traces_endpoint",
     f"https://127.0.0.1:4317/v1/traces {OWN}"),
    ("receivers: {otlp: {protocols: {grpc: {endpoint: 'unix:///x'}}}}\nexporters: {otlp_grpc: {endpoint: 'unix:///x'}}",
     f"{OTLP}.endpoint",
     f"unix:///x {OWN}"),
    ("receivers: {otlp: {protocols: {http: {endpoint: '0.0.0.0:80'}}}}\nexporters: {otlp_http: {endpoint: 'http://[::1]'}}",
     f"{OVER_HTTP}.endpoint",
     f"http://[::1] {OWN}"),
    ("exporters: {otlp_grpc: {sending_queue: {queue_size_mib: 512}}}", f"{OTLP}.sending_queue.queue_size_mib",
     "512 MiB do not fit into service.memory.limit_mib, 512; lower this, or raise that"),
    ("receivers: {otlp: {protocols: {grpc: {max_recv_msg_size_mib: 200}}}}\nexporters: {otlp_grpc: }",
     f"{OTLP}.sending_queue.queue_size_mib",
     "the receiver takes requests of 200 MiB, which never fit into a queue of 128; raise this, or lower that"),
    ("receivers: {otlp: {ack: on_forward}}\nexporters: {otlp_grpc: {sending_queue: {storage: {directory: /q}}}}",
     f"{OTLP}.sending_queue.storage",
     "with ack: on_forward the senders keep what is not delivered; leave one of the two out"),
    (("receivers: {otlp: {protocols: {grpc: {max_recv_msg_size_mib: 40}}}}\n"
      "exporters: {otlp_grpc: {sending_queue: {storage: {directory: /q, max_size_mib: 64}}}}"),
     f"{OTLP}.sending_queue.storage.max_size_mib",
     "the receiver takes requests of 40 MiB, and the file needs room for two; raise this, or lower that"),
    ("exporters: {otlp_http: {retry_on_failure: {max_elapsed_time: 1s}}}",
     f"{OVER_HTTP}.retry_on_failure.max_elapsed_time",
     "1s is shorter than initial_interval, 5s: nothing would ever be tried again"),
    ("service: {telemetry: {metrics: {otlp: {endpoint: 'http://m:1/x'}}}}", "service.telemetry.metrics.otlp.endpoint",
     "OTLP over gRPC has no path; leave it out, or use http/protobuf"),
    ("service: {telemetry: {metrics: {otlp: {endpoint: 'm:1', protocol: http/protobuf}}}}",
     "service.telemetry.metrics.otlp.endpoint",
     "OTLP over HTTP needs a URL: write http:// or https:// in front"),
    ("service: {telemetry: {metrics: {otlp: {endpoint: '127.0.0.1:1', tls: {ca_file: c}}}}}",
     "service.telemetry.metrics.otlp.tls.ca_file",
     "this is for TLS, which 127.0.0.1:1 does without as things stand; write insecure: false"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "key", "message"), CONFLICTS)
def test_what_does_not_go_together_is_told(tmp_path: Path, text: str, key: str, message: str) -> None:
    assert [(told, why) for _, told, why in problems_of(tmp_path, text)] == [(key, message)]


CHOSEN = "service: {pipelines: {traces: {exporters: [debug]}}}"
FINE = [
    "receivers: {otlp: {protocols: {grpc: {endpoint: '127.0.0.1:0'}, http: {endpoint: '127.0.0.1:0'}}}}",
    "receivers: {otlp: {protocols: {grpc: }}}\nservice: {telemetry: {metrics: {address: '127.0.0.1:4318'}}}",
    "service: {control: {endpoint: '0.0.0.0:4319', auth: {bearer_token: a}}}",
    "service: {control: {endpoint: 'unix:///c'}}",
    "exporters: {otlp_grpc: {endpoint: 'a:1', tls: {ca_file: c}}}",
    "exporters: {otlp_grpc: {fail_over: ['a:1'], tls: {ca_file: c}}}",
    "exporters: {otlp_grpc: {endpoint: 'http://a:1', tls: {insecure: true}}}",
    "exporters: {otlp_http: {endpoint: 'http://a:1/', fail_over: ['https://a:1/']}}",
    "exporters: {debug: , otlp_grpc: {sending_queue: {queue_size_mib: 512}}}\n" + CHOSEN,
    "exporters: {otlp_grpc: {retry_on_failure: {max_elapsed_time: 0}}}",
    "processors: {sampling: }\nservice: {pipelines: {traces: {processors: [sampling]}}}",
]


@pytest.mark.parametrize("text", FINE)
def test_what_goes_together_passes(tmp_path: Path, text: str) -> None:
    settings_of(tmp_path, text)


NATIVE = "use service.transport: native"
GRPC_ALONE = "receivers: {otlp: {protocols: {grpc: %s}}}\nservice: {transport: grpcio, workers: 2}\n"
BEYOND_GRPCIO = [
    ("service: {transport: grpcio}", HTTP,
     f"the transport grpcio has gRPC alone; name grpc alone under protocols, or {NATIVE}"),
    (GRPC_ALONE % "{auth: {bearer_token: a}}", f"{GRPC}.auth",
     f"the transport grpcio has no auth; leave it out, or {NATIVE}"),
    (GRPC_ALONE % "{tls: {cert_file: c, key_file: k}}", f"{GRPC}.tls",
     f"the transport grpcio has no tls; leave it out, or {NATIVE}"),
    (GRPC_ALONE % "{endpoint: 'unix:///x'}", f"{GRPC}.endpoint",
     f"the transport grpcio has no Unix sockets; write host:port, or {NATIVE}"),
    (GRPC_ALONE % "" + "exporters: {otlp_http: }", OVER_HTTP,
     f"the transport grpcio has gRPC alone; use otlp_grpc, or {NATIVE}"),
    (GRPC_ALONE % "" + "exporters: {otlp_grpc: {endpoint: 'a:1'}}", OTLP,
     f"the transport grpcio has no TLS; write tls.insecure: true, or {NATIVE}"),
    (GRPC_ALONE % "" + "exporters: {otlp_grpc: {fail_over: ['https://a:1']}}", OTLP,
     f"the transport grpcio has no TLS; write tls.insecure: true, or {NATIVE}"),
    (GRPC_ALONE % "" + "exporters: {otlp_grpc: {endpoint: 'unix:///x'}}", f"{OTLP}.endpoint",
     f"the transport grpcio has no Unix sockets; write host:port, or {NATIVE}"),
    (GRPC_ALONE % "" + "exporters: {otlp_grpc: {compression: zstd}}", f"{OTLP}.compression",
     f"the transport grpcio has no zstd; write gzip, or {NATIVE}"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "key", "message"), BEYOND_GRPCIO)
def test_what_the_reference_transport_lacks_is_told(tmp_path: Path, text: str, key: str, message: str) -> None:
    assert [(told, why) for _, told, why in problems_of(tmp_path, text)] == [(key, message)]
    settings_of(tmp_path, text.replace("transport: grpcio", "transport: native"))


def test_what_the_reference_transport_has_passes(tmp_path: Path) -> None:
    settings_of(tmp_path, GRPC_ALONE % "" + "exporters: {otlp_grpc: {fail_over: ['http://a:1'], compression: gzip}}")


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        ("127.0.0.1:1", "127.0.0.1:1", True),
        ("127.0.0.1:1", "127.0.0.2:1", False),
        ("127.0.0.1:1", "127.0.0.1:2", False),
        ("0.0.0.0:1", "127.0.0.2:1", True),
        ("0.0.0.0:1", "[::1]:1", False),
        ("0.0.0.0:1", "[::]:1", True),
        ("[::]:1", "127.0.0.1:1", True),
        ("[::]:1", "[::1]:1", True),
        ("0.0.0.0:1", "host:1", True),
        ("localhost:1", "[::1]:1", True),
        ("127.0.0.1:0", "127.0.0.1:0", False),
        ("unix:///a", "unix:///b", False),
        ("unix:///a", "127.0.0.1:1", False),
    ],
)
def test_two_that_cannot_both_listen_collide(one: str, other: str, expected: bool) -> None:
    assert collide(one, other) is expected
    assert collide(other, one) is expected


@pytest.mark.parametrize(
    ("receiver", "exporter", "is_loop"),
    [
        ("127.0.0.1:4317", "127.0.0.1:4317", True),
        ("127.0.0.1:4317", "localhost:4317", True),
        ("127.0.0.1:4317", "0.0.0.0:4317", True),
        ("localhost:4317", "[::1]:4317", True),
        ("0.0.0.0:4317", "127.0.0.1:4317", True),
        ("'[::]:4317'", "'LOCALHOST:4317'", True),
        ("0.0.0.0:4317", "0.0.0.0:4317", True),
        ("0.0.0.0:4317", "127.0.0.2:4317", True),
        ("0.0.0.0:4317", f"{socket.gethostname()}:4317", True),
        ("'[::]:4317'", f"{socket.gethostname().upper()}:4317", True),
        ("127.0.0.1:4317", "'[::ffff:127.0.0.1]:4317'", True),
        ("0.0.0.0:4317", "192.0.2.1:4317", False),
        ("127.0.0.1:4317", "127.0.0.1:5317", False),
        ("127.0.0.1:4317", "127.0.0.2:4317", False),
        ("127.0.0.1:4317", "collector:4317", False),
        ("0.0.0.0:4317", "collector:4317", False),
    ],
)
def test_sending_to_oneself_is_refused(tmp_path: Path, receiver: str, exporter: str, is_loop: bool) -> None:
    text = (
        f"receivers: {{otlp: {{protocols: {{grpc: {{endpoint: {receiver}}}}}}}}}\n"
        f"exporters: {{otlp_grpc: {{endpoint: {exporter}}}}}\n"
    ).replace("[::1]:4317}", "'[::1]:4317'}")
    if is_loop:
        ((line, key, _),) = problems_of(tmp_path, text)
        assert (line, key) == (2, f"{OTLP}.endpoint")
    else:
        settings_of(tmp_path, text)


def test_every_address_that_this_machine_has_leads_back_to_a_receiver_on_all(tmp_path: Path) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # sends nothing
        except OSError:
            pytest.skip("this machine has no route, and so no address but those of the loopback")
        own = probe.getsockname()[0]
    receiver = "receivers: {otlp: {protocols: {grpc: {endpoint: 0.0.0.0:4317}}}}"
    ((_, key, _),) = problems_of(tmp_path, f"{receiver}\nexporters: {{otlp_grpc: {{endpoint: {own}:4317}}}}")
    assert key == f"{OTLP}.endpoint"
