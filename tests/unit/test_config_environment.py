"""OpenTelemetry's environment variables name a backend and win over the file."""

from pathlib import Path

import pytest

from enricher.config.load import load
from enricher.config.model import OtlpGrpcExporter, TerminalExporter
from enricher.config.problems import ConfigError

ENDPOINT = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://backend:4317"}


def exporter_of(environ: dict[str, str], path: Path | None = None) -> OtlpGrpcExporter:
    exporter = load(path, environ).exporter
    assert isinstance(exporter, OtlpGrpcExporter)
    return exporter


def problems_of(environ: dict[str, str], path: Path | None = None) -> list[tuple[str, str, str]]:
    with pytest.raises(ConfigError) as refused:
        load(path, environ)
    assert all(problem.line is None for problem in refused.value.problems)
    return [(problem.source, problem.key, problem.message) for problem in refused.value.problems]


def test_an_endpoint_makes_it_the_exporter() -> None:
    settings = load(None, ENDPOINT)
    assert settings.exporter == OtlpGrpcExporter(endpoint="backend:4317")
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
        }
    )
    assert exporter.headers == {"api-key": "a b,c", "x-tenant": "7", "empty": ""}
    assert exporter.timeout_ns == 1_500_000_000
    assert exporter.compression == "gzip"


@pytest.mark.parametrize(
    ("name", "general", "traces", "field", "value"),
    [
        ("ENDPOINT", "http://a:1", "http://b:2", "endpoint", "b:2"),
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
    assert exporter_of(environ).endpoint == "a:1"
    assert load(None, {"OTEL_EXPORTER_OTLP_ENDPOINT": ""}).exporter == TerminalExporter()


@pytest.mark.parametrize(
    ("text", "extra", "endpoint"),
    [
        ("http://backend:4317", {}, "backend:4317"),
        ("http://backend:4317/", {}, "backend:4317"),
        ("HTTP://[::1]:9", {}, "[::1]:9"),
        ("backend:4317", {"OTEL_EXPORTER_OTLP_INSECURE": "True"}, "backend:4317"),
        ("http://backend:4317", {"OTEL_EXPORTER_OTLP_INSECURE": "false"}, "backend:4317"),
        ("backend:4317", {"OTEL_EXPORTER_OTLP_INSECURE": "false", "OTEL_EXPORTER_OTLP_TRACES_INSECURE": "true"},
         "backend:4317"),
    ],
)  # fmt: skip
def test_endpoints_without_tls_are_taken(text: str, extra: dict[str, str], endpoint: str) -> None:
    assert exporter_of({"OTEL_EXPORTER_OTLP_ENDPOINT": text} | extra).endpoint == endpoint


NO_TLS = "TLS to the backend is not available in this version"


@pytest.mark.parametrize(
    ("variable", "value", "key", "message"),
    [
        ("ENDPOINT", "https://backend:4317", "endpoint", f"{NO_TLS}; use an http:// endpoint"),
        ("ENDPOINT", "backend:4317", "endpoint", f"{NO_TLS}; write http://backend:4317"),
        ("ENDPOINT", "unix:///run/x", "endpoint", "the scheme unix:// is not known; write http://host:port"),
        ("ENDPOINT", "http://a:4318/v1/traces", "endpoint",
         "/v1/traces is a path, which only OTLP over HTTP has; write http://host:4317, the gRPC port"),
        ("ENDPOINT", "http://backend", "endpoint",
         "'backend' names no port; write host:port, such as backend:4317"),
        ("ENDPOINT", "http://127.0.0.1:4317", "endpoint",
         "127.0.0.1:4317 is the receiver's own endpoint: spans would go round for ever; write the backend's"),
        ("HEADERS", "a=b,secret", "headers", "entry 2 is not name=value"),
        ("HEADERS", "=secret", "headers", "entry 1 is not name=value"),
        ("HEADERS", "a=%FFsecret", "headers", "the value of a has characters that are not printable ASCII"),
        ("TIMEOUT", "5s", "timeout", "'5s' is not a whole number of milliseconds"),
        ("TIMEOUT", "0", "timeout", "0ms is outside 1ms to 1h"),
        ("COMPRESSION", "zstd", "compression", "'zstd' is not known here; it is one of none, gzip"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("signal", ["", "TRACES_"])
def test_a_bad_variable_is_told_by_its_name(signal: str, variable: str, value: str, key: str, message: str) -> None:
    name = f"OTEL_EXPORTER_OTLP_{signal}{variable}"
    assert problems_of(ENDPOINT | {name: value}) == [(name, f"exporters.otlp_grpc.{key}", message)]


@pytest.mark.parametrize("protocol", ["http/protobuf", "http/json", "x"])
def test_another_protocol_is_refused_with_the_fix(protocol: str) -> None:
    (problem,) = problems_of(ENDPOINT | {"OTEL_EXPORTER_OTLP_PROTOCOL": protocol})
    assert problem == (
        "OTEL_EXPORTER_OTLP_PROTOCOL",
        "exporters.otlp_grpc",
        (
            f"'{protocol}' is not available in this version; set OTEL_EXPORTER_OTLP_PROTOCOL=grpc and the endpoint to "
            "the backend's gRPC port, usually 4317"
        ),
    )


def test_without_an_endpoint_the_others_name_no_backend() -> None:
    environ = {"OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf", "OTEL_EXPORTER_OTLP_HEADERS": "a=b"}
    assert load(None, environ).exporter == TerminalExporter()


class TestBesideAFile:
    def test_the_environment_wins_for_what_it_names(self, tmp_path: Path) -> None:
        file = tmp_path / "config.yaml"
        file.write_text("exporters:\n  otlp_grpc:\n    endpoint: file:1\n    timeout: 9s\n    headers: {a: b}\n")
        exporter = exporter_of(ENDPOINT | {"OTEL_EXPORTER_OTLP_HEADERS": "c=d"}, file)
        assert (exporter.endpoint, exporter.timeout_ns) == ("backend:4317", 9_000_000_000)
        assert exporter.headers == {"c": "d"}

    def test_it_names_the_exporter_where_the_file_names_none(self, tmp_path: Path) -> None:
        file = tmp_path / "config.yaml"
        file.write_text("processors: {ebpf: {stamp: all}}\n")
        assert exporter_of(ENDPOINT, file).endpoint == "backend:4317"
        file.write_text("service: {pipelines: {traces: {exporters: [otlp_grpc]}}}\n")
        assert exporter_of(ENDPOINT, file).endpoint == "backend:4317"

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

    def test_problems_of_file_and_environment_are_told_together(self, tmp_path: Path) -> None:
        file = tmp_path / "config.yaml"
        file.write_text("exporters:\n  otlp_grpc:\n    tmeout: 9s\n")
        with pytest.raises(ConfigError) as refused:
            load(file, ENDPOINT | {"OTEL_EXPORTER_OTLP_COMPRESSION": "x"})
        assert [(problem.source, problem.line) for problem in refused.value.problems] == [
            ("OTEL_EXPORTER_OTLP_COMPRESSION", None),
            (str(file), 3),
        ]
