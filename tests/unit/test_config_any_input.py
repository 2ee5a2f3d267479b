"""Whatever a file or the environment holds, it is settings or a ConfigError, never another exception."""

import contextlib
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from enricher.config import environment
from enricher.config.durations import parse, render
from enricher.config.endpoints import Endpoint, Url, is_plaintext, split_url, without_scheme
from enricher.config.load import load
from enricher.config.model import (
    BearerAuth,
    Control,
    DebugExporter,
    Exporters,
    FileExporter,
    GrpcReceiver,
    HttpReceiver,
    Metrics,
    MetricsPush,
    OtlpExporter,
    OtlpGrpcExporter,
    OtlpHttpExporter,
    OtlpReceiver,
    Pipelines,
    Protocols,
    Receivers,
    SendingQueue,
    ServerTls,
    Service,
    Settings,
    Storage,
    Telemetry,
    Traces,
)
from enricher.config.problems import ConfigError, Problem
from enricher.config.reload import changed_parts
from enricher.config.tree import all_keys, plain
from enricher.config.values import Rejected, split_endpoint
from enricher.config.yaml_file import read

OTHERS = {"auto", "on", "1s", "a:1", "http://a:1", "unix:///x", "grpcio", "on_forward", "otlp/2", "${env:A}"}
WORDS = sorted({key for _, key in all_keys(Settings)} | OTHERS)
scalars = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8), st.sampled_from(WORDS), st.binary()
)
trees = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(WORDS), inner, max_size=4),
    max_leaves=12,
)
GUARDED = GrpcReceiver(tls=ServerTls(cert_file="/c", key_file="/k"), auth=BearerAuth(bearer_token="t"))
SHAPE = plain(
    Settings(
        receivers=Receivers(otlp=OtlpReceiver(protocols=Protocols(grpc=GUARDED, http=HttpReceiver()))),
        service=Service(
            pipelines=Pipelines(traces=Traces(exporters=("otlp_http",))),
            control=Control(),
            telemetry=Telemetry(metrics=Metrics(otlp=MetricsPush(endpoint="a:1"))),
        ),
        exporters=Exporters(
            otlp_grpc=OtlpGrpcExporter(sending_queue=SendingQueue(storage=Storage(directory="/x"))),
            otlp_http=OtlpHttpExporter(),
            debug=DebugExporter(),
            file=FileExporter(path="/x"),
        ),
    )
)


def grafted(tree: object, path: list[int], graft: object) -> object:
    """`tree` with something else at the place that `path` leads to."""
    if not path or not isinstance(tree, dict) or not tree:
        return graft
    key = list(tree)[path[0] % len(tree)]
    return {**tree, key: grafted(tree[key], path[1:], graft)}


def settings_or_none(file: Path, text: str, environ: dict[str, str]) -> Settings | None:
    file.write_text(text, encoding="utf-8", errors="surrogatepass")
    with contextlib.suppress(ConfigError):
        return load(file, environ)
    return None


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text(max_size=200), st.text(max_size=5))
def test_any_text(tmp_path: Path, text: str, value: str) -> None:
    settings_or_none(tmp_path / "c", text, {"A": value})


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.integers(0, 5), max_size=6), trees, st.text(max_size=5))
def test_any_tree_in_the_place_of_any_setting(tmp_path: Path, path: list[int], graft: object, value: str) -> None:
    text = yaml.safe_dump(grafted(SHAPE, path, graft))
    found = settings_or_none(tmp_path / "c", text, {"A": value})
    if found is not None:
        assert Settings.from_json(found.to_json()) == found
        assert changed_parts(found, found) == frozenset()


VARIABLES = [
    "ENDPOINT",
    "TRACES_ENDPOINT",
    "PROTOCOL",
    "INSECURE",
    "CERTIFICATE",
    "CLIENT_CERTIFICATE",
    "CLIENT_KEY",
    "HEADERS",
    "TIMEOUT",
    "COMPRESSION",
]
USUAL = [
    "http://a:1",
    "https://a/b",
    "a:1",
    "unix:///x",
    "grpc",
    "http/json",
    "http/protobuf",
    "a=b",
    "9",
    "true",
    "/x",
]
FILES = ["", "exporters: {otlp_grpc: }", "exporters: {otlp_http: {tls: 5}}", "exporters: {otlp_http: {tls: }}", "a: 1"]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.dictionaries(st.sampled_from(VARIABLES), st.text(max_size=30) | st.sampled_from(USUAL)), st.sampled_from(FILES)
)
def test_any_environment(tmp_path: Path, variables: dict[str, str], text: str) -> None:
    environ = {f"OTEL_EXPORTER_OTLP_{name}": value for name, value in variables.items()}
    found = settings_or_none(tmp_path / "c", text, environ)
    if isinstance(found and found.exporter, OtlpExporter):
        assert found.exporter.targets


@given(st.text())
def test_a_text_is_a_duration_or_a_value_error(text: str) -> None:
    with contextlib.suppress(ValueError):
        assert parse(render(parse(text))) == parse(text)


@given(st.text(min_size=1), st.sampled_from(environment.EXPORTERS))
def test_headers_never_show_their_values(text: str, exporter: str) -> None:
    problems: list[Problem] = []
    secret = "".join(character for character in text if character not in ",=")
    environ = {"OTEL_EXPORTER_OTLP_HEADERS": f"name=value,S3CR3T{secret}"}
    list(environment.overrides(environ, exporter, {}, problems))
    assert problems
    assert "S3CR3T" not in str(problems)


@pytest.mark.parametrize("text", ["a: 1\r\nb: 2\r\n", "\ufeffa: 1\n", "a: 1 # no newline"])
def test_usual_variations_of_files_are_read(text: str) -> None:
    assert read(text, "c", {}).tree["a"] == 1


PARTS = ("http", "https", "://", "a", "[::1]", "[", "]", "127.0.0.1", ":", "80", "/", "x", "@", "?", "#", "%", " ", "é")
pieces = st.lists(st.sampled_from(PARTS), max_size=6).map("".join)


@given(st.sampled_from(["", "http://", "HTTPS://a"]), pieces)
def test_a_url_that_is_taken_is_what_other_readers_take_it_for(start: str, rest: str) -> None:
    with contextlib.suppress(Rejected):
        url = Url().read(start + rest)
        other = urlsplit(url)
        assert split_url(url) == (other.hostname, other.port or {"http": 80, "https": 443}[other.scheme])
        assert (other.username, other.query, other.fragment) == (None, "", "")


@given(st.sampled_from(["", "http://", "a:"]), pieces, st.sampled_from([None, True, False]))
def test_an_endpoint_that_is_taken_can_be_connected_to(start: str, rest: str, insecure: bool | None) -> None:
    with contextlib.suppress(Rejected):
        endpoint = Endpoint(unix=True, scheme=True).read(start + rest)
        host, port = split_endpoint(without_scheme(endpoint))
        assert host
        assert 1 <= port <= 65535
        assert is_plaintext(endpoint, insecure) in {True, False}
