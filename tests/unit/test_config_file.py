"""A file that is wrong is told by line, key and nearest key; one that is right means what it says."""

import json
from pathlib import Path

import pytest

from enricher.config.endpoints import Target
from enricher.config.load import load
from enricher.config.model import (
    BearerAuth,
    ClientTls,
    Control,
    Cors,
    DebugExporter,
    Ebpf,
    FileExporter,
    GrpcReceiver,
    HttpReceiver,
    Keepalive,
    OtlpGrpcExporter,
    Rotation,
    Sampling,
    ServerTls,
    Settings,
    TerminalExporter,
)
from enricher.config.problems import ConfigError
from tests.unit.config_files import problems_of, settings_of

GRPC = "receivers.otlp.protocols.grpc"
EBPF = "processors.ebpf"
OTLP = "exporters.otlp_grpc"


def test_no_file_and_no_environment_mean_the_defaults() -> None:
    settings = load(None, {})
    assert settings == Settings()
    assert settings.exporter == TerminalExporter()
    assert settings.grpc is not None
    assert settings.http is not None
    assert (settings.grpc.port, settings.http.port) == (4317, 4318)
    assert settings.ebpf is not None
    assert settings.ebpf.tail_window_ns == 300_000_000


@pytest.mark.parametrize("text", ["", "# nothing\n", "---\n", "receivers:\nexporters:\n", "exporters: {}\n"])
def test_a_file_that_says_nothing_means_the_defaults(tmp_path: Path, text: str) -> None:
    assert settings_of(tmp_path, text) == Settings()


def test_every_key_can_be_set(tmp_path: Path) -> None:
    settings = settings_of(
        tmp_path,
        """
receivers:
  otlp:
    ack: on_forward
    protocols:
      grpc:
        endpoint: "[::1]:0"
        max_recv_msg_size_mib: 64
        max_concurrent_streams: 8
        max_connections: 9
        tls: {cert_file: /c, key_file: /k, client_ca_file: /a, reload_interval: 1m}
        auth: {bearer_token: t0ken}
      http:
        endpoint: unix:///run/enricher.sock
        max_request_body_size_mib: 2
        traces_url_path: /in/v1/traces
        max_connections: 10
        auth: {bearer_token_file: /t}
        cors: {allowed_origins: ["https://*.shop.example"], allowed_headers: [X-Tenant]}
processors:
  ebpf:
    blocked_threshold: 500us
    tail_window: 0
    retention: 1m30s
    stamp: all
    ring_size: 4096
    probes: {syscalls: on, go_sdk: off, processes: auto}
    select: {executables: [/opt/*], cgroups: [/shop], exclude: ["*/otelcol"]}
  sampling: {ratio: 0.25, slow: 1m, keep_errors: false, keep_evidence: false}
exporters:
  debug: {verbosity: detailed}
  file: {path: /var/spool/spans.jsonl, rotation: {max_megabytes: 1, max_backups: 2}}
  otlp_http:
    endpoint: https://backend/otlp
    traces_endpoint: https://backend:4318/spans
    fail_over: ["http://other:4318"]
    encoding: json
  otlp_grpc:
    endpoint: backend:4317
    fail_over: [other:4317]
    tls:
      insecure: false
      ca_file: /a
      cert_file: /c
      key_file: /k
      server_name_override: backend.example
      insecure_skip_verify: true
      reload_interval: 1h
    keepalive: {time: 10s, timeout: 2s}
    headers: {X-Tenant: "42"}
    compression: gzip
    timeout: 1.5s
    sending_queue: {enabled: true, queue_size: 7, queue_size_mib: 65, num_consumers: 3}
    retry_on_failure:
      enabled: false
      initial_interval: 1s
      randomization_factor: 0
      multiplier: 2
      max_interval: 2s
      max_elapsed_time: 0s
service:
  workers: 4
  transport: native
  memory: {limit_mib: 100, soft_percentage: 70}
  control: {endpoint: "unix:///run/control.sock", auth: {bearer_token_file: /t}}
  pipelines: {traces: {receivers: [otlp], processors: [], exporters: [otlp_grpc]}}
  telemetry:
    metrics:
      address: "0.0.0.0:9999"
      otlp: {endpoint: "https://m:4318", protocol: http/protobuf, interval: 10s, headers: {a: b}, tls: {ca_file: /a}}
    logs: {level: debug}
""",
    )
    assert settings.receivers.otlp.ack == "on_forward"
    grpc = settings.grpc
    assert grpc is not None
    assert (grpc.endpoint, grpc.port, grpc.max_recv_bytes) == ("[::1]:0", 0, 64 << 20)
    assert (grpc.max_concurrent_streams, grpc.max_connections) == (8, 9)
    assert grpc.tls == ServerTls(cert_file="/c", key_file="/k", client_ca_file="/a", reload_interval_ns=60_000_000_000)
    assert grpc.auth == BearerAuth(bearer_token="t0ken")
    assert settings.http == HttpReceiver(
        endpoint="unix:///run/enricher.sock",
        max_request_body_size_mib=2,
        traces_url_path="/in/v1/traces",
        max_connections=10,
        auth=BearerAuth(bearer_token_file="/t"),
        cors=Cors(allowed_origins=("https://*.shop.example",), allowed_headers=("X-Tenant",)),
    )
    assert settings.http.port is None
    assert settings.max_recv_bytes == 64 << 20
    assert settings.ebpf is None, "the pipeline leaves the processor out"
    assert settings.sampling is None
    assert settings.processors.sampling == Sampling(
        ratio=0.25, slow_ns=60_000_000_000, keep_errors=False, keep_evidence=False
    )
    ebpf = settings.processors.ebpf
    assert (ebpf.blocked_threshold_ns, ebpf.tail_window_ns, ebpf.retention_ns) == (500_000, 0, 90_000_000_000)
    assert (ebpf.stamp, ebpf.probes.syscalls, ebpf.probes.go_sdk) == ("all", "on", "off")
    assert ebpf.ring_size == 4096
    assert (ebpf.select.executables, ebpf.select.cgroups) == (("/opt/*",), ("/shop",))
    assert ebpf.select.exclude == ("*/otelcol",)
    exporter = settings.exporter
    assert isinstance(exporter, OtlpGrpcExporter)
    assert exporter.headers == {"x-tenant": "42"}
    assert (exporter.endpoint, exporter.compression, exporter.timeout_ns) == ("backend:4317", "gzip", 1_500_000_000)
    assert exporter.targets == (Target("backend:4317", plaintext=False), Target("other:4317", plaintext=False))
    assert exporter.tls == ClientTls(
        insecure=False,
        ca_file="/a",
        cert_file="/c",
        key_file="/k",
        server_name_override="backend.example",
        insecure_skip_verify=True,
        reload_interval_ns=3600_000_000_000,
    )
    assert exporter.keepalive == Keepalive(time_ns=10_000_000_000, timeout_ns=2_000_000_000)
    queue = exporter.sending_queue
    assert (queue.queue_size, queue.max_bytes, queue.num_consumers) == (7, 65 << 20, 3)
    retry = exporter.retry_on_failure
    assert (retry.enabled, retry.initial_interval_ns, retry.max_elapsed_time_ns) == (False, 1_000_000_000, 0)
    assert (retry.randomization_factor, retry.multiplier) == (0.0, 2.0)
    over_http = settings.exporters.otlp_http
    assert over_http is not None
    assert over_http.encoding == "json"
    assert over_http.targets == (
        Target("https://backend:4318/spans", plaintext=False),
        Target("http://other:4318/v1/traces", plaintext=True),
    )
    assert settings.exporters.debug == DebugExporter(verbosity="detailed")
    rotation = Rotation(max_megabytes=1, max_backups=2)
    assert settings.exporters.file == FileExporter(path="/var/spool/spans.jsonl", rotation=rotation)
    service = settings.service
    assert (service.workers, service.transport) == (4, "native")
    assert (service.memory.limit_bytes, service.memory.soft_limit_bytes) == (100 << 20, 70 << 20)
    assert service.control == Control(endpoint="unix:///run/control.sock", auth=BearerAuth(bearer_token_file="/t"))
    push = service.telemetry.metrics.otlp
    assert push is not None
    assert (push.target, push.interval_ns) == (Target("https://m:4318/v1/metrics", plaintext=False), 10_000_000_000)
    assert push.headers == {"a": "b"}
    assert settings.service.telemetry.metrics.address == "0.0.0.0:9999"
    assert settings.service.telemetry.logs.level == "debug"
    assert Settings.from_json(settings.to_json()) == settings


def test_of_the_protocols_those_named_are_received(tmp_path: Path) -> None:
    settings = settings_of(tmp_path, "receivers: {otlp: {protocols: {http: }}}\n")
    assert (settings.grpc, settings.http) == (None, HttpReceiver())
    settings = settings_of(tmp_path, "receivers: {otlp: {protocols: }}\n")
    assert (settings.grpc, settings.http) == (GrpcReceiver(), HttpReceiver())


def test_a_section_that_need_not_be_is_left_out_by_null(tmp_path: Path) -> None:
    text = (
        "receivers: {otlp: {protocols: {grpc: {tls: null, auth: null}}}}\n"
        "exporters: {otlp_grpc: {tls: {insecure: null, ca_file: null}, sending_queue: {storage: null}}}\n"
        "service: {control: null, telemetry: {metrics: {otlp: null}}}\n"
    )
    settings = settings_of(tmp_path, text)
    assert settings.grpc == GrpcReceiver()
    assert settings.exporter == OtlpGrpcExporter()
    assert settings.service.control is None
    assert settings_of(tmp_path, "service: {control: {}}\n").service.control == Control()


def test_processors_that_are_configured_take_part_where_the_pipeline_names_none(tmp_path: Path) -> None:
    settings = settings_of(tmp_path, "processors: {sampling: {ratio: 0.5}}\n")
    assert settings.sampling == Sampling(ratio=0.5)
    assert settings.ebpf == Ebpf()
    named = "service: {pipelines: {traces: {processors: [sampling]}}}\n"
    assert settings_of(tmp_path, named).ebpf is None
    assert settings_of(tmp_path, named).sampling == Sampling()


def test_a_component_with_no_value_has_its_defaults(tmp_path: Path) -> None:
    settings = settings_of(tmp_path, "receivers: {otlp: {protocols: {grpc: }}}\nexporters:\n  otlp_grpc:\n")
    assert settings.exporter == OtlpGrpcExporter()
    assert settings.service.pipelines.traces.exporters == ("otlp_grpc",)


def test_json_of_another_version_is_refused() -> None:
    tree = json.loads(Settings().to_json())
    tree["processors"]["ebpf"]["gone"] = 1
    with pytest.raises(ConfigError, match=r"processors\.ebpf\.gone: unknown key"):
        Settings.from_json(json.dumps(tree))


UNKNOWN_KEYS = [
    ("tail_windw: 1s", f"{EBPF}.tail_windw", "unknown key, did you mean tail_window?", "tail_window"),
    (
        "blocked: 1s",
        f"{EBPF}.blocked",
        "unknown key, the known ones are blocked_threshold, tail_window, retention, stamp, ring_size, probes, select",
        None,
    ),
    (
        "compression: gzip",
        f"{EBPF}.compression",
        "unknown key here, it belongs under exporters.otlp_grpc or exporters.otlp_http",
        None,
    ),
    ("stamps: gzip", f"{EBPF}.stamps", "unknown key, did you mean stamp?", "stamp"),
    (
        "3: 1s",
        f"{EBPF}.3",
        "unknown key, the known ones are blocked_threshold, tail_window, retention, stamp, ring_size, probes, select",
        None,
    ),
]


@pytest.mark.parametrize(("line", "key", "message", "nearest"), UNKNOWN_KEYS)
def test_an_unknown_key_is_told_with_line_and_nearest_key(
    tmp_path: Path, line: str, key: str, message: str, nearest: str | None
) -> None:
    with pytest.raises(ConfigError) as refused:
        settings_of(tmp_path, f"processors:\n  ebpf:\n    retention: 5s\n    {line}\n")
    (problem,) = refused.value.problems
    assert (problem.line, problem.key, problem.message, problem.nearest) == (4, key, message, nearest)
    assert str(refused.value) == f"{tmp_path / 'config.yaml'}:4: {key}: {message}"


def test_two_exporters_need_the_pipeline_to_choose(tmp_path: Path) -> None:
    both = "exporters:\n  terminal:\n  otlp_grpc:\n"
    assert problems_of(tmp_path, both) == [
        (None, "service.pipelines.traces.exporters", "2 exporters, but a pipeline has one in this version")
    ]
    chosen = settings_of(tmp_path, both + "service: {pipelines: {traces: {exporters: [terminal]}}}\n")
    assert chosen.exporter == TerminalExporter()


def test_all_problems_are_told_at_once_in_the_order_of_the_file(tmp_path: Path) -> None:
    text = "processors:\n  ebpf:\n    stmp: x\n    tail_window: 3\n    tail_window: 4\n    retention: ${env:MISSING}\n"
    assert [line for line, _, _ in problems_of(tmp_path, text)] == [3, 5, 6]


def test_a_key_given_twice_is_an_error(tmp_path: Path) -> None:
    text = "processors:\n  ebpf:\n    stamp: all\n    retention: 5s\n    stamp: evidence\n"
    assert problems_of(tmp_path, text) == [(5, f"{EBPF}.stamp", "given twice, first on line 3")]


NOT_TREES = [
    ("- a\n", 1, "a list is not a mapping of keys to values"),
    ("just words\n", 1, "'just words' is not a mapping of keys to values"),
    ("a: [1\nb: 2\n", 2, "not YAML: expected ',' or ']', but got ':'"),
    ("a: 1\n\tb: 2\n", 2, "not YAML: found character '\\t' that cannot start any token"),
    ("a: 1\n--- \nb: 2\n", 2, "not YAML: but found another document"),
    ("a: &x [*x]\n", None, "nested too deeply, or an alias holds itself"),
    ("a: {b: ${env:X}}\n", 1, "not YAML: expected ',' or '}', but got '{'; inside { } put ${env:NAME} in quotes"),
    ("x" * 1_100_000, None, "longer than 1048576 characters"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "line", "message"), NOT_TREES, ids=range(len(NOT_TREES)))
def test_what_is_no_tree_is_told_so(tmp_path: Path, text: str, line: int | None, message: str) -> None:
    assert problems_of(tmp_path, text) == [(line, "", message)]


@pytest.mark.parametrize("text", ["[" * 5000, "a: " * 5000, "a:\n" + "- " * 5000, "? " * 5000])
def test_deep_nesting_is_refused(tmp_path: Path, text: str) -> None:
    problems_of(tmp_path, text)


def test_aliases_of_aliases_are_bounded(tmp_path: Path) -> None:
    levels = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    levels += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 10)]
    assert problems_of(tmp_path, "\n".join(levels)) == [(None, "", "holds more than 20000 values")]


def test_keys_and_tags_of_other_kinds_are_refused(tmp_path: Path) -> None:
    text = "? [a, b]\n: 1\nprocessors: !!python/object:os.system {}\nservice: !!int x\nreceivers: !!set x\n"
    assert problems_of(tmp_path, text) == [
        (1, "", "a key must be a word"),
        (3, "processors", "the tag !!python/object:os.system is not known here"),
        (4, "service", "'x' is not of the type its tag says"),
        (5, "receivers", "the tag !!set is not known here"),
    ]


def test_an_unreadable_file_is_told_with_the_reason(tmp_path: Path) -> None:
    missing = tmp_path / "missing.yaml"
    with pytest.raises(ConfigError, match=r"missing\.yaml: cannot be read: No such file or directory"):
        load(missing, {})
    with pytest.raises(ConfigError, match="cannot be read: Is a directory"):
        load(tmp_path, {})
    (tmp_path / "latin").write_bytes(b"a: \xff\n")
    with pytest.raises(ConfigError, match="latin: not UTF-8 at byte 3"):
        load(tmp_path / "latin", {})


class TestReferences:
    """${env:NAME} in values."""

    def test_they_are_read_as_what_the_setting_is(self, tmp_path: Path) -> None:
        text = (
            "exporters:\n  otlp_grpc:\n    endpoint: ${env:HOST}:${env:PORT:-4317}\n    headers: {a: 'v-${env:PORT}'}\n"
            "    timeout: ${env:WAIT}\n    tls: {insecure: '${env:PLAIN}'}\n    sending_queue:\n"
            "      queue_size: ${env:SIZE}\n    retry_on_failure: {multiplier: '${env:TIMES:-1.25}'}\n"
        )
        environ = {"HOST": "backend", "PORT": "99", "WAIT": "2s", "PLAIN": "true", "SIZE": "12"}
        exporter = settings_of(tmp_path, text, environ).exporter
        assert isinstance(exporter, OtlpGrpcExporter)
        assert exporter.endpoint == "backend:99"
        assert exporter.headers == {"a": "v-99"}
        assert exporter.timeout_ns == 2_000_000_000
        assert exporter.sending_queue.queue_size == 12
        assert exporter.retry_on_failure.multiplier == 1.25

    def test_a_number_is_a_text_where_a_text_belongs(self, tmp_path: Path) -> None:
        text = "exporters:\n  otlp_grpc:\n    headers:\n      token: ${env:TOKEN}\n"
        exporter = settings_of(tmp_path, text, {"TOKEN": "12345"}).exporter
        assert isinstance(exporter, OtlpGrpcExporter)
        assert exporter.headers == {"token": "12345"}

    def test_two_dollars_are_one(self, tmp_path: Path) -> None:
        text = "exporters: {otlp_grpc: {headers: {a: 'x$$y$z', b: '$${env:A}'}}}"
        exporter = settings_of(tmp_path, text).exporter
        assert isinstance(exporter, OtlpGrpcExporter)
        assert exporter.headers == {"a": "x$y$z", "b": "${env:A}"}

    @pytest.mark.parametrize(
        ("reference", "message"),
        [
            (
                "${env:NOPE}",
                "the environment variable NOPE is not set; set it, or write a default, ${env:NOPE:-default}",
            ),
            ("${NOPE}", "${NOPE} cannot be expanded; write ${env:NOPE}"),
            ("${file:/etc/x}", "${file:/etc/x} cannot be expanded; only ${env:NAME} is known"),
            ("${env:}", "${env:} cannot be expanded; only ${env:NAME} is known"),
        ],
    )
    def test_what_cannot_be_expanded_is_told(self, tmp_path: Path, reference: str, message: str) -> None:
        text = f"processors:\n  ebpf:\n    stamp: {reference}\n"
        assert problems_of(tmp_path, text) == [(3, f"{EBPF}.stamp", message)]

    def test_a_bad_value_from_a_variable_is_told_at_its_line(self, tmp_path: Path) -> None:
        text = "exporters:\n  otlp_grpc:\n    sending_queue:\n      queue_size: ${env:SIZE}\n"
        assert problems_of(tmp_path, text, {"SIZE": "many"}) == [
            (4, f"{OTLP}.sending_queue.queue_size", "'many' is not a whole number")
        ]
