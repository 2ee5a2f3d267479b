"""Tokens, headers and passwords are shown by nothing: no message, no listing, no log."""

from pathlib import Path

import pytest

from enricher.config.load import load
from enricher.config.problems import ConfigError
from enricher.config.tree import plain
from tests.unit.config_files import settings_of

SECRET = "s3cr3t-value"


AUTH = "receivers: {otlp: {protocols: {grpc: {auth: %s}}}}"


@pytest.mark.parametrize(
    "text",
    [
        f"exporters: {{otlp_grpc: {{headers: {{'a b': {SECRET}}}}}}}",
        f"exporters: {{otlp_grpc: {{headers: {{a-bin: {SECRET}}}}}}}",
        f"exporters: {{otlp_grpc: {{headers: {{a: '{SECRET}é'}}}}}}",
        f"exporters: {{otlp_grpc: {{headers: {{a: [{SECRET}]}}}}}}",
        f"exporters: {{otlp_grpc: {{headers: 'a={SECRET}'}}}}",
        f"exporters: {{otlp_http: {{headers: 'a={SECRET}'}}}}",
        f"exporters: {{otlp_http: {{headers: [{SECRET}]}}}}",
        f"exporters: {{otlp_grpc: {{endpoint: 'user:{SECRET}@backend:4317'}}}}",
        f"exporters: {{otlp_grpc: {{endpoint: 'https://user:{SECRET}@backend:4317'}}}}",
        f"exporters: {{otlp_http: {{endpoint: 'https://user:{SECRET}@backend:4317'}}}}",
        f"exporters: {{otlp_http: {{fail_over: ['https://user:{SECRET}@backend:4317']}}}}",
        f"service: {{telemetry: {{metrics: {{otlp: {{endpoint: 'http://{SECRET}@m:1'}}}}}}}}",
        f"service: {{telemetry: {{metrics: {{otlp: {SECRET}}}}}}}",
        AUTH % f"{{bearer_token: '{SECRET} '}}",
        AUTH % f"{{bearer_token: [{SECRET}]}}",
        AUTH % f"{{bearer_token: {{{SECRET}: 1, {SECRET}x: 2}}}}",
        AUTH % f"{{bearer_token: {SECRET}, bearer_token_file: /t}}",
        AUTH % SECRET,
        f"service: {{control: {{auth: {SECRET}}}}}",
    ],
)
def test_no_message_shows_a_secret(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigError) as refused:
        settings_of(tmp_path, text)
    assert SECRET not in str(refused.value)


@pytest.mark.parametrize("name", ["ENDPOINT", "TRACES_ENDPOINT"])
@pytest.mark.parametrize("protocol", ["grpc", "http/protobuf"])
def test_no_message_shows_a_secret_of_the_environment(name: str, protocol: str) -> None:
    with pytest.raises(ConfigError) as refused:
        load(
            None,
            {
                f"OTEL_EXPORTER_OTLP_{name}": f"http://user:{SECRET}@a:1",
                "OTEL_EXPORTER_OTLP_PROTOCOL": protocol,
            },
        )
    assert SECRET not in str(refused.value)


SECRETIVE = f"""
receivers: {{otlp: {{protocols: {{grpc: {{auth: {{bearer_token: {SECRET}}}}}, http: }}}}}}
exporters:
  otlp_grpc: {{headers: {{a: {SECRET}}}}}
  otlp_http: {{headers: {{b: {SECRET}}}}}
service:
  control: {{auth: {{bearer_token: {SECRET}}}}}
  pipelines: {{traces: {{exporters: [otlp_grpc]}}}}
  telemetry: {{metrics: {{otlp: {{endpoint: "m:1", headers: {{c: {SECRET}}}}}}}}}
"""


def test_settings_do_not_show_secrets_when_printed(tmp_path: Path) -> None:
    settings = settings_of(tmp_path, SECRETIVE)
    assert SECRET not in repr(settings)
    assert settings.to_json().count(SECRET) == 5, "the children need it"


def test_a_listing_has_masks_in_their_place_and_leaves_the_rest(tmp_path: Path) -> None:
    settings = settings_of(tmp_path, SECRETIVE)
    listed = str(plain(settings, mask=True))
    assert SECRET not in listed
    assert listed == str(plain(settings)).replace(SECRET, "****")
    assert "'bearer_token': None" in str(plain(settings_of(tmp_path, AUTH % "{bearer_token_file: /t}"), mask=True))
