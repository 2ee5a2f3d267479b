"""Fixtures of several files."""

import pytest

from tests.unit.golang_builds import Build, builder


@pytest.fixture(scope="session")
def build(tmp_path_factory: pytest.TempPathFactory) -> Build:
    """Builds a variant of a Go program once per session."""
    return builder(tmp_path_factory.mktemp("go"))
