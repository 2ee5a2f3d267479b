"""docs/configuration.md says what the model says."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from enricher.config.load import load
from enricher.config.model import Settings
from enricher.config.tree import plain, settings_of

PAGE = (Path(__file__).parents[2] / "docs" / "configuration.md").read_text()
# Of what is None by default, the page's file names these.
NAMED = {"exporters.otlp_grpc", "receivers.otlp.protocols.grpc", "receivers.otlp.protocols.http"}
TLS = "exporters.otlp_grpc.tls"
NOT_SHOWN = {
    "processors.sampling",
    f"{TLS}.server_name_override",
    f"{TLS}.insecure_skip_verify",
    f"{TLS}.reload_interval",
}


def documented() -> dict[tuple[str, str], str]:
    """(section, key): default, of every row of the tables under the headings of sections."""
    rows: dict[tuple[str, str], str] = {}
    section = ""
    for line in PAGE.splitlines():
        if line.startswith("## "):
            section = line.removeprefix("## ")
        elif row := re.match(r"\| `(\w+)` \| (?:`([^`]*)`|(needed)) \|", line):
            rows[section, row[1]] = row[2] or row[3]
    return rows


def defaults(model: type[Any] = Settings, section: str = "") -> dict[tuple[str, str], str]:
    """(section, key): default as it is written, of every key that holds a value."""
    found: dict[tuple[str, str], str] = {}
    needed = {setting.field: "/x" for setting in settings_of(model).values() if setting.needed}
    values = plain(model(**needed))
    for setting in settings_of(model).values():
        if setting.section is not None:
            found |= defaults(setting.section, f"{section}.{setting.key}".lstrip("."))
        else:
            found[section, setting.key] = "needed" if setting.needed else written(values[setting.key])
    return found


def written(value: object) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    return f"[{', '.join(value)}]" if isinstance(value, list) else str(value)


def test_every_key_is_documented_with_its_default() -> None:
    assert documented() == defaults()


def test_the_file_on_the_page_is_the_defaults_with_a_backend(tmp_path: Path) -> None:
    (text,) = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
    file = tmp_path / "config.yaml"
    file.write_text(text)
    minimal = tmp_path / "minimal.yaml"
    minimal.write_text("exporters: {otlp_grpc: }\n")
    assert load(file, {}) == load(minimal, {})
    for section, key in shown(Settings):
        assert re.search(rf"\b{key}:", text), f"{section}.{key} is not in the file on the page"


def shown(model: type[Any], section: str = "") -> Iterator[tuple[str, str]]:
    """Keys that the file shows: all but those of other exporters, of sampling, and of sections that are null."""
    for setting in settings_of(model).values():
        path = f"{section}.{setting.key}".lstrip(".")
        if (section == "exporters" and setting.key != "otlp_grpc") or path in NOT_SHOWN:
            continue
        yield section, setting.key
        if setting.section is not None and (not setting.nullable or path in NAMED):
            yield from shown(setting.section, path)


@pytest.mark.parametrize(
    "name",
    [
        "ENDPOINT",
        "PROTOCOL",
        "INSECURE",
        "CERTIFICATE",
        "CLIENT_CERTIFICATE",
        "CLIENT_KEY",
        "HEADERS",
        "TIMEOUT",
        "COMPRESSION",
    ],
)
def test_every_variable_is_documented(name: str) -> None:
    assert f"| `OTEL_EXPORTER_OTLP_{name}` |" in PAGE
