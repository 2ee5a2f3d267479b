"""What depends on how a release of Go counts: the older way and the newer one, each on a running program."""

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from enricher.evidence.records import EventFlag, ProbeCounter, ProbeProgram
from enricher.observer.probe_set import Probe

from .conftest import Kernel
from .test_waits import Blocker

LoadProbes = Callable[..., Kernel]


@pytest.fixture(scope="module", params=["go1.21.0", "local"])
def released_program(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`local` is the Go that builds everything here, 1.26 or newer."""
    built = tmp_path_factory.mktemp(str(request.param)) / "blocker"
    source = Path(__file__).parent / "programs" / "blocker"
    environment = os.environ | {"CGO_ENABLED": "0", "GOTOOLCHAIN": str(request.param)}
    subprocess.run([os.environ.get("GO", "go"), "build", "-o", built, "."], cwd=source, check=True, env=environment)
    return built


def test_one_wait_is_told_and_one_with_a_sleep_behind_it_is_not(
    released_program: Path, tmp_path: Path, load_probes: LoadProbes
) -> None:
    kernel = load_probes(Probe.SYSCALLS)
    running = Blocker(released_program, tmp_path / "lock", kernel, EventFlag.PROCESS_HAS_GOROUTINES)
    assert running.waits_of(running.say("socket_read"))
    assert running.waits_of(running.say("socket_write"))
    assert running.waits_of(running.say("late_retry")) == []
    readings = kernel.probes.counters.readings()
    running.close()
    assert readings[ProbeProgram.SYS_EXIT, ProbeCounter.UNKNOWN_END] == 1
