"""OpenTelemetry's environment variables name a backend and win over the file."""

from pathlib import Path

import pytest

from enricher.config.endpoints import Target
from enricher.config.load import load
from enricher.config.model import OtlpExporter, OtlpGrpcExporter, OtlpHttpExporter, TerminalExporter
from enricher.config.problems import ConfigError

ENDPOINT = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://backend:4317"}
OVER_HTTP = ENDPOINT | {"OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf"}


def exporter_of(environ: dict[str, str], path: Path | None = None) -> OtlpExporter:
    exporter = load(path, environ).exporter
    assert isinstance(exporter, OtlpExporter)
    return exporter


def problems_of(environ: dict[str, str], path: Path | None = None) -> list[tuple[str, str, str]]:
    with pytest.raises(ConfigError) as refused:
        load(path, environ)
    assert all(problem.line is None for problem in refused.value.problems)
    return [(problem.source, problem.key, problem.message) for problem in refused.value.problems]


def test_an_endpoint_makes_it_the_exporter() -> None:
    settings = load(None, ENDPOINT)
    assert settings.exporter == OtlpGrpcExporter(endpoint="http://backend:4317")
    assert settings.service.pipelines.traces.exporters == ("otlp_grpc",)
    assert settings.exporters.terminal is None


def test_every_variable_sets_its_field() -> None:
    exporter = exporter_of(
        ENDPOINT
        | {
            "OTEL_EXPORTER_OTLP_HEADERS": "api-key=a%20b%2Cc , X-Tenant = 7,,empty=",
            "OTEL_EXPORTER_OTLP_TIMEOUT": "1500",
            "OTEL_EXPORTER_OTLP_COMPRESSION": "gzip",
            "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc",
            "OTEL_EXPORTER_OTLP_CERTIFICATE": "/etc/ca.pem",
            "OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE": "/etc/c.pem",
            "OTEL_EXPORTER_OTLP_CLIENT_KEY": "/etc/k.pem",
            "OTEL_EXPORTER_OTLP_ENDPOINT": "https://backend:4317",
        }
    )
    assert isinstance(exporter, OtlpGrpcExporter)
    assert exporter.targets == (Target("backend:4317", plaintext=False),)
    assert (exporter.tls.ca_file, exporter.tls.cert_file, exporter.tls.key_file) == (
        "/etc/ca.pem",
        "/etc/c.pem",
        "/etc/k.pem",
    )
    assert exporter.headers == {"api-key": "a b,c", "x-tenant": "7", "empty": ""}
    assert exporter.timeout_ns == 1_500_000_000
    assert exporter.compression == "gzip"


@pytest.mark.parametrize(
    ("name", "general", "traces", "field", "value"),
    [
        ("ENDPOINT", "http://a:1", "http://b:2", "endpoint", "http://b:2"),
        ("HEADERS", "a=1,b=2", "c=3", "headers", {"c": "3"}),
        ("TIMEOUT", "1", "2", "timeout_ns", 2_000_000),
        ("COMPRESSION", "none", "gzip", "compression", "gzip"),
    ],
)
def test_the_variable_of_traces_wins(name: str, general: str, traces: str, field: str, value: object) -> None:
    environ = ENDPOINT | {f"OTEL_EXPORTER_OTLP_{name}": general, f"OTEL_EXPORTER_OTLP_TRACES_{name}": traces}
    assert getattr(exporter_of(environ), field) == value


def test_an_empty_variable_is_not_set() -> None:
    environ = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://a:1", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": " "}
    assert exporter_of(environ).endpoint == "http://a:1"
    assert load(None, {"OTEL_EXPORTER_OTLP_ENDPOINT": ""}).exporter == TerminalExporter()


@pytest.mark.parametrize(
    ("text", "insecure", "address", "plaintext"),
    [
        ("http://backend:4317", {}, "backend:4317", True),
        ("http://backend:4317/", {}, "backend:4317", True),
        ("HTTP://[::1]:9", {}, "[::1]:9", True),
        ("https://backend:4317", {}, "backend:4317", False),
        ("https://127.0.0.1:9", {"INSECURE": "true"}, "127.0.0.1:9", False),
        ("http://backend:4317", {"INSECURE": "false"}, "backend:4317", True),
        ("backend:4317", {}, "backend:4317", False),
        ("backend:4317", {"INSECURE": "True"}, "backend:4317", True),
        ("backend:4317", {"INSECURE": "false", "TRACES_INSECURE": "true"}, "backend:4317", True),
        ("127.0.0.1:9", {}, "127.0.0.1:9", True),
        ("127.0.0.1:9", {"INSECURE": "false"}, "127.0.0.1:9", False),
        ("unix:///run/backend.sock", {}, "unix:///run/backend.sock", True),
    ],
)
def test_with_grpc_the_scheme_says_whether_there_is_tls_and_then_insecure(
    text: str, insecure: dict[str, str], address: str, plaintext: bool
) -> None:
    environ = {"OTEL_EXPORTER_OTLP_ENDPOINT": text}
    environ |= {f"OTEL_EXPORTER_OTLP_{name}": value for name, value in insecure.items()}
    assert exporter_of(environ).targets == (Target(address, plaintext),)


@pytest.mark.parametrize("protocol", ["http/protobuf", "http/json"])
@pytest.mark.parametrize(
    ("variables", "url", "plaintext"),
    [
        ({"ENDPOINT": "http://a:4318"}, "http://a:4318/v1/traces", True),
        ({"ENDPOINT": "https://a/otlp/"}, "https://a/otlp/v1/traces", False),
        ({"ENDPOINT": "https://a:9", "TRACES_ENDPOINT": "http://b:8/in"}, "http://b:8/in", True),
        ({"TRACES_ENDPOINT": "http://b/"}, "http://b/", True),
        ({"ENDPOINT": "https://127.0.0.1:9", "INSECURE": "true"}, "https://127.0.0.1:9/v1/traces", False),
    ],
)
def test_with_http_the_path_is_added_to_the_general_endpoint_alone(
    protocol: str, variables: dict[str, str], url: str, plaintext: bool
) -> None:
    environ = {"OTEL_EXPORTER_OTLP_PROTOCOL": protocol}
    environ |= {f"OTEL_EXPORTER_OTLP_{name}": value for name, value in variables.items()}
    exporter = exporter_of(environ)
    assert isinstance(exporter, OtlpHttpExporter)
    assert exporter.targets == (Target(url, plaintext),)
    assert exporter.encoding == {"http/protobuf": "proto", "http/json": "json"}[protocol]


@pytest.mark.parametrize(
    ("variable", "value", "key", "message"),
    [
        ("ENDPOINT", "ftp://a:1", "endpoint",
         "the scheme ftp:// is not known; write http://host:port or https://host:port"),
        ("ENDPOINT", "unix:x", "endpoint",
         "'unix:x' is not unix:// and an absolute path, such as unix:///run/enricher.sock"),
        ("ENDPOINT", "http://a:4318/v1/traces", "endpoint",
         "/v1/traces is a path, which OTLP over gRPC has not; write http://a:4318, or use otlp_http"),
        ("ENDPOINT", "http://backend", "endpoint",
         "'backend' names no port; write host:port, such as backend:4317"),
        ("ENDPOINT", "http://127.0.0.1:4317", "endpoint",
         "http://127.0.0.1:4317 is the receiver's own endpoint: spans would go round for ever; write the backend's"),
        ("HEADERS", "a=b,secret", "headers", "entry 2 is not name=value"),
        ("HEADERS", "=secret", "headers", "entry 1 is not name=value"),
        ("HEADERS", "a=%FFsecret", "headers", "the value of a has characters that are not printable ASCII"),
        ("TIMEOUT", "5s", "timeout", "'5s' is not a whole number of milliseconds"),
        ("TIMEOUT", "0", "timeout", "0ms is outside 1ms to 1h"),
        ("COMPRESSION", "snappy", "compression", "'snappy' is not known here; it is one of none, gzip, zstd"),
        ("CERTIFICATE", "/etc/ca", "tls.ca_file",
         "this is for TLS, which http://backend:4317 does without as things stand; write https://"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("signal", ["", "TRACES_"])
def test_a_bad_variable_is_told_by_its_name(signal: str, variable: str, value: str, key: str, message: str) -> None:
    name = f"OTEL_EXPORTER_OTLP_{signal}{variable}"
    assert problems_of(ENDPOINT | {name: value}) == [(name, f"exporters.otlp_grpc.{key}", message)]


def test_a_certificate_without_its_key_is_told() -> None:
    environ = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": "https://a:1",
        "OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE": "/c",
        "OTEL_EXPORTER_OTLP_INSECURE": "no",  # of no account: there is a scheme
    }
    ((_, key, message),) = problems_of(environ)
    assert (key, message) == (
        "exporters.otlp_grpc.tls.key_file",
        "this is needed: a certificate and its key go together",
    )


def test_insecure_is_true_or_false() -> None:
    environ = {"OTEL_EXPORTER_OTLP_ENDPOINT": "a:1", "OTEL_EXPORTER_OTLP_INSECURE": "yes"}
    assert problems_of(environ) == [
        ("OTEL_EXPORTER_OTLP_INSECURE", "exporters.otlp_grpc.tls.insecure", "'yes' is neither true nor false")
    ]


def test_an_unknown_protocol_is_refused_with_those_known() -> None:
    assert problems_of(ENDPOINT | {"OTEL_EXPORTER_OTLP_PROTOCOL": "x"}) == [
        (
            "OTEL_EXPORTER_OTLP_PROTOCOL",
            "exporters.otlp_grpc",
            "'x' is not known here; it is one of grpc, http/protobuf, http/json",
        )
    ]


def test_with_http_an_endpoint_has_a_scheme() -> None:
    ((_, _, message),) = problems_of(OVER_HTTP | {"OTEL_EXPORTER_OTLP_ENDPOINT": "a:4318"})
    assert message == "'a:4318' is not a URL; write http://a:4318 or https://a:4318"


def test_without_an_endpoint_the_others_name_no_backend() -> None:
    environ = {"OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf", "OTEL_EXPORTER_OTLP_HEADERS": "a=b"}
    assert load(None, environ).exporter == TerminalExporter()


class TestBesideAFile:
    def test_the_environment_wins_for_what_it_names(self, tmp_path: Path) -> None:
        file = tmp_path / "config.yaml"
        file.write_text("exporters:\n  otlp_grpc:\n    endpoint: file:1\n    timeout: 9s\n    headers: {a: b}\n")
        exporter = exporter_of(ENDPOINT | {"OTEL_EXPORTER_OTLP_HEADERS": "c=d"}, file)
        assert (exporter.endpoint, exporter.timeout_ns) == ("http://backend:4317", 9_000_000_000)
        assert exporter.headers == {"c": "d"}

    def test_it_names_the_exporter_where_the_file_names_none(self, tmp_path: Path) -> None:
        file = tmp_path / "config.yaml"
        file.write_text("processors: {ebpf: {stamp: all}}\n")
        assert exporter_of(ENDPOINT, file).endpoint == "http://backend:4317"
        file.write_text("service: {pipelines: {traces: {exporters: [otlp_grpc]}}}\n")
        assert exporter_of(ENDPOINT, file).endpoint == "http://backend:4317"

    @pytest.mark.parametrize(
        "text", ["exporters: {terminal: {}}\n", "service: {pipelines: {traces: {exporters: [terminal]}}}\n"]
    )
    def test_a_file_that_asks_for_the_terminal_gets_it(self, tmp_path: Path, text: str) -> None:
        file = tmp_path / "config.yaml"
        file.write_text(text)
        assert load(file, ENDPOINT | {"OTEL_EXPORTER_OTLP_TIMEOUT": "never"}).exporter == TerminalExporter()

    def test_a_protocol_of_others_does_not_refuse_an_endpoint_of_the_file(self, tmp_path: Path) -> None:
        file = tmp_path / "config.yaml"
        file.write_text("exporters: {otlp_grpc: {endpoint: 'file:1'}}\n")
        assert exporter_of({"OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf"}, file).endpoint == "file:1"

    def test_a_protocol_that_the_file_has_not_is_refused(self, tmp_path: Path) -> None:
        file = tmp_path / "config.yaml"
        file.write_text("exporters: {otlp_grpc: {endpoint: 'file:1'}}\n")
        ((_, key, message),) = problems_of(OVER_HTTP, file)
        assert key == "exporters.otlp_grpc"
        assert message == (
            "'http/protobuf' asks for otlp_http, but the file has otlp_grpc; unset it, or change the file"
        )

    def test_a_file_that_names_an_exporter_has_chosen_the_protocol(self, tmp_path: Path) -> None:
        file = tmp_path / "config.yaml"
        for text in ("exporters: {otlp_http: }\n", "service: {pipelines: {traces: {exporters: [otlp_http]}}}\n"):
            file.write_text(text)
            assert exporter_of(ENDPOINT, file).targets == (Target("http://backend:4317/v1/traces", plaintext=True),)

    def test_of_two_exporters_it_speaks_of_the_one_in_the_pipeline(self, tmp_path: Path) -> None:
        file = tmp_path / "config.yaml"
        both = "exporters: {otlp_grpc: , otlp_http: }\nservice: {pipelines: {traces: {exporters: [otlp_http]}}}\n"
        file.write_text(both)
        settings = load(file, ENDPOINT)
        assert settings.exporters.otlp_grpc == OtlpGrpcExporter()
        assert settings.exporters.otlp_http == OtlpHttpExporter(endpoint="http://backend:4317")

    def test_its_endpoint_wins_over_all_that_the_file_says_of_the_endpoint(self, tmp_path: Path) -> None:
        file = tmp_path / "config.yaml"
        file.write_text("exporters: {otlp_http: {traces_endpoint: 'http://file/x'}}\n")
        assert exporter_of(ENDPOINT, file).targets[0].address == "http://backend:4317/v1/traces"
        file.write_text("exporters: {otlp_grpc: {endpoint: 'file:1', tls: {insecure: true}}}\n")
        tls = {"OTEL_EXPORTER_OTLP_ENDPOINT": "https://backend:1"}
        assert exporter_of(tls, file).targets == (Target("backend:1", plaintext=False),)
        plain = {"OTEL_EXPORTER_OTLP_ENDPOINT": "backend:1"}
        assert exporter_of(plain, file).targets == (Target("backend:1", plaintext=True),)

    def test_insecure_says_nothing_of_an_endpoint_of_the_file_with_a_scheme(self, tmp_path: Path) -> None:
        file = tmp_path / "config.yaml"
        file.write_text("exporters: {otlp_grpc: {endpoint: 'https://file:1'}}\n")
        assert not exporter_of({"OTEL_EXPORTER_OTLP_INSECURE": "true"}, file).plaintext

    def test_problems_of_file_and_environment_are_told_together(self, tmp_path: Path) -> None:
        file = tmp_path / "config.yaml"
        file.write_text("exporters:\n  otlp_grpc:\n    tmeout: 9s\n")
        with pytest.raises(ConfigError) as refused:
            load(file, ENDPOINT | {"OTEL_EXPORTER_OTLP_COMPRESSION": "x"})
        assert [(problem.source, problem.line) for problem in refused.value.problems] == [
            ("OTEL_EXPORTER_OTLP_COMPRESSION", None),
            (str(file), 3),
        ]
