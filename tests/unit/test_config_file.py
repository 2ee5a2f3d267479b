"""A file that is wrong is told by line, key and nearest key; one that is right means what it says."""

import json
import socket
from pathlib import Path

import pytest

from enricher.config.load import load
from enricher.config.model import OtlpGrpcExporter, Settings, TerminalExporter
from enricher.config.problems import ConfigError

GRPC = "receivers.otlp.protocols.grpc"
EBPF = "processors.ebpf"
OTLP = "exporters.otlp_grpc"


def settings_of(tmp_path: Path, text: str, environ: dict[str, str] | None = None) -> Settings:
    file = tmp_path / "config.yaml"
    file.write_text(text)
    return load(file, environ or {})


def problems_of(tmp_path: Path, text: str, environ: dict[str, str] | None = None) -> list[tuple[int | None, str, str]]:
    with pytest.raises(ConfigError) as refused:
        settings_of(tmp_path, text, environ)
    return [(problem.line, problem.key, problem.message) for problem in refused.value.problems]


def test_no_file_and_no_environment_mean_the_defaults() -> None:
    settings = load(None, {})
    assert settings == Settings()
    assert settings.exporter == TerminalExporter()
    assert settings.grpc.port == 4317
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
  otlp: {protocols: {grpc: {endpoint: "[::1]:0", max_recv_msg_size_mib: 64}}}
processors:
  ebpf:
    blocked_threshold: 500us
    tail_window: 0
    retention: 1m30s
    stamp: all
    ring_size: 4096
    probes: {syscalls: on, go_sdk: off, processes: auto}
    select: {executables: [/opt/*], cgroups: [/shop], exclude: ["*/otelcol"]}
exporters:
  otlp_grpc:
    endpoint: backend:4317
    tls: {insecure: true}
    headers: {X-Tenant: "42"}
    compression: gzip
    timeout: 1.5s
    sending_queue: {enabled: true, queue_size: 7, num_consumers: 3}
    retry_on_failure:
      enabled: false
      initial_interval: 1s
      randomization_factor: 0
      multiplier: 2
      max_interval: 2s
      max_elapsed_time: 0s
service:
  pipelines: {traces: {receivers: [otlp], processors: [], exporters: [otlp_grpc]}}
  telemetry: {metrics: {address: "0.0.0.0:9999"}, logs: {level: debug}}
""",
    )
    assert settings.grpc.endpoint == "[::1]:0"
    assert settings.grpc.port == 0
    assert settings.grpc.max_recv_bytes == 64 << 20
    assert settings.ebpf is None, "the pipeline leaves the processor out"
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
    assert (exporter.sending_queue.queue_size, exporter.sending_queue.num_consumers) == (7, 3)
    retry = exporter.retry_on_failure
    assert (retry.enabled, retry.initial_interval_ns, retry.max_elapsed_time_ns) == (False, 1_000_000_000, 0)
    assert (retry.randomization_factor, retry.multiplier) == (0.0, 2.0)
    assert settings.service.telemetry.metrics.address == "0.0.0.0:9999"
    assert settings.service.telemetry.logs.level == "debug"
    assert Settings.from_json(settings.to_json()) == settings


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
    ("compression: gzip", f"{EBPF}.compression", "unknown key here, it belongs under exporters.otlp_grpc", None),
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


# One wrong setting each, always on line 3 of its file.
BAD_VALUES = [
    ("receivers: {otlp: {protocols: {\n\ngrpc: 5}}}", GRPC, "5 is not a mapping of keys to values"),
    ("receivers: {otlp: {protocols: {\n\nhttp: {}}}}", "receivers.otlp.protocols.http",
     "OTLP over HTTP is not available in this version; use grpc"),
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
    ("exporters: {otlp_grpc: {\n\nendpoint: 'http://a:1'}}", f"{OTLP}.endpoint",
     "'http://a:1' is a URL; write host:port alone"),
    ("exporters: {otlp_grpc: {\n\nendpoint: 'a:0'}}", f"{OTLP}.endpoint", "port 0 is outside 1 to 65535"),
    ("exporters: {otlp_grpc: {tls: {\n\ninsecure: false}}}", f"{OTLP}.tls.insecure",
     "TLS to the backend is not available in this version"),
    ("exporters: {otlp_grpc: {tls: {\n\ninsecure: 'no'}}}", f"{OTLP}.tls.insecure", "'no' is neither true nor false"),
    ("exporters: {otlp_grpc: {\n\nheaders: [a]}}", f"{OTLP}.headers", "a list is not a mapping of names to values"),
    ("exporters: {otlp_grpc: {\n\nheaders: {'a b': c}}}", f"{OTLP}.headers", "'a b' is no header name"),
    ("exporters: {otlp_grpc: {\n\nheaders: {Grpc-Timeout: c}}}", f"{OTLP}.headers",
     "Grpc-Timeout: names from grpc- on and binary ones (-bin) are gRPC's own"),
    ("exporters: {otlp_grpc: {\n\nheaders: {a: 5}}}", f"{OTLP}.headers",
     "the value of a is not a text; put it in quotes"),
    ("exporters: {otlp_grpc: {\n\nheaders: {a: sécret}}}", f"{OTLP}.headers",
     "the value of a has characters that are not printable ASCII"),
    ("exporters: {otlp_grpc: {\n\ncompression: zstd}}", f"{OTLP}.compression",
     "'zstd' is not known here; it is one of none, gzip"),
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
    ("service: {pipelines: {traces: {\n\nexporters: [otlp_http]}}}", "service.pipelines.traces.exporters[0]",
     "'otlp_http' is not known here; did you mean otlp_grpc?"),
    ("service: {pipelines: {traces: {\n\nexporters: []}}}", "service.pipelines.traces.exporters",
     "a pipeline needs one of the exporters"),
    ("service: {pipelines: {traces: {\n\nprocessors: [batch]}}}", "service.pipelines.traces.processors[0]",
     "'batch' is not known here; it is one of ebpf"),
    ("service: {pipelines: {traces: {\n\nreceivers: [otlp, otlp]}}}", "service.pipelines.traces.receivers",
     "2 receivers, but a pipeline has one in this version"),
    ("service: {\n\npipelines: 5}", "service.pipelines", "5 is not a mapping of keys to values"),
    ("service: {telemetry: {logs: {\n\nlevel: warning}}}", "service.telemetry.logs.level",
     "'warning' is not known here; did you mean warn?"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "key", "message"), BAD_VALUES)
def test_a_bad_value_is_told_with_line_and_key(tmp_path: Path, text: str, key: str, message: str) -> None:
    assert problems_of(tmp_path, text) == [(3, key, message)]


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


SECRET = "s3cr3t-value"


@pytest.mark.parametrize(
    "text",
    [
        f"exporters: {{otlp_grpc: {{headers: {{'a b': {SECRET}}}}}}}",
        f"exporters: {{otlp_grpc: {{headers: {{a-bin: {SECRET}}}}}}}",
        f"exporters: {{otlp_grpc: {{headers: {{a: '{SECRET}é'}}}}}}",
        f"exporters: {{otlp_grpc: {{headers: {{a: [{SECRET}]}}}}}}",
    ],
)
def test_no_message_shows_the_value_of_a_header(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigError) as refused:
        settings_of(tmp_path, text)
    assert SECRET not in str(refused.value)


def test_settings_do_not_show_headers_when_printed(tmp_path: Path) -> None:
    settings = settings_of(tmp_path, f"exporters: {{otlp_grpc: {{headers: {{a: {SECRET}}}}}}}")
    assert SECRET not in repr(settings)
    assert SECRET in settings.to_json(), "the children need it"


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
