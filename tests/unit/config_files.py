"""A configuration as a text, read."""

from pathlib import Path

import pytest

from enricher.config.load import load
from enricher.config.model import Settings
from enricher.config.problems import ConfigError


def settings_of(tmp_path: Path, text: str, environ: dict[str, str] | None = None) -> Settings:
    file = tmp_path / "config.yaml"
    file.write_text(text)
    return load(file, environ or {})


def problems_of(tmp_path: Path, text: str, environ: dict[str, str] | None = None) -> list[tuple[int | None, str, str]]:
    """Line, key and message of each."""
    with pytest.raises(ConfigError) as refused:
        settings_of(tmp_path, text, environ)
    return [(problem.line, problem.key, problem.message) for problem in refused.value.problems]
