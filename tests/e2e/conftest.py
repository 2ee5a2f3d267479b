"""Nothing here is simulated: the kernel, the Go programs and the collector are real."""

from pathlib import Path

import pytest

from tests.e2e.testbed import build


@pytest.fixture(scope="session")
def programs() -> Path:
    """The Go programs, built; named so that building is not counted as some test's own time."""
    build.collector()
    return build.programs()
