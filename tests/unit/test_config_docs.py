"""docs/configuration.md says what the model says."""

import re
from pathlib import Path

import pytest

from enricher.config.load import load
from enricher.config.model import Exporters, OtlpGrpcExporter, Settings, TerminalExporter
from enricher.config.tree import all_keys, plain

PAGE = (Path(__file__).parents[2] / "docs" / "configuration.md").read_text()
MODEL = Settings(exporters=Exporters(otlp_grpc=OtlpGrpcExporter(), terminal=TerminalExporter()))


def documented() -> dict[tuple[str, str], str]:
    """(section, key): default, of every row of the tables under the headings of sections."""
    rows: dict[tuple[str, str], str] = {}
    section = ""
    for line in PAGE.splitlines():
        if line.startswith("## "):
            section = line.removeprefix("## ")
        elif row := re.match(r"\| `(\w+)` \| `([^`]*)` \|", line):
            rows[section, row[1]] = row[2]
    return rows


def defaults() -> dict[tuple[str, str], str]:
    """(section, key): default as it is written, of every key that holds a value."""
    found: dict[tuple[str, str], str] = {}
    for section, key in all_keys(Settings):
        value: object = plain(MODEL)
        for part in (*filter(None, section.split(".")), key):
            assert isinstance(value, dict)
            value = value[part]
        if not isinstance(value, dict) or key == "headers":
            found[section, key] = written(value)
    return found


def written(value: object) -> str:
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
    for section, key in all_keys(Settings):
        if (section, key) != ("exporters", "terminal"):
            assert re.search(rf"\b{key}:", text), f"{section}.{key} is not in the file on the page"


@pytest.mark.parametrize("name", ["ENDPOINT", "HEADERS", "TIMEOUT", "COMPRESSION", "INSECURE", "PROTOCOL"])
def test_every_variable_is_documented(name: str) -> None:
    assert f"`OTEL_EXPORTER_OTLP_{name}`" in PAGE
