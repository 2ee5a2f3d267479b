"""What is left of root after `drop`, in a process of its own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import os, sys
from enricher.privileges import can_read_as_dropped, drop, effective_capabilities
readable = can_read_as_dropped(["/"]), can_read_as_dropped(["/root/."])
drop()
status = dict(line.split(":\\t", 1) for line in open("/proc/self/status") if ":\\t" in line)
print(os.getuid(), os.getgroups(), effective_capabilities(), status["CapPrm"].strip(), status["NoNewPrivs"].strip())
try:
    os.setuid(0)
    print("root again")
except PermissionError:
    print("no way back", *readable)
"""

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root has something to give up")


def run(*before: str) -> list[str]:
    done = subprocess.run([*before, sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=False)
    assert not done.stderr, done.stderr
    return done.stdout.splitlines()


@needs_root
def test_root_becomes_a_user_of_its_own_without_capabilities_and_without_a_way_back() -> None:
    first, second = run()
    uid, *rest = first.split()
    assert int(uid) not in (0, 65534)
    assert rest == ["[]", "0", "0" * 16, "1"]
    assert second.startswith("no way back True")


@needs_root
def test_what_only_root_can_read_is_known_before() -> None:
    closed = Path("/root").stat().st_mode & 0o005 == 0
    assert run()[1] == f"no way back True {not closed}"


@needs_root
def test_a_root_that_may_not_change_its_user_keeps_no_capability_either() -> None:
    first, second = run("setpriv", "--bounding-set=-setuid", "--inh-caps=-all")
    assert first.split()[0] == "0"
    assert first.split()[2:] == ["0", "0" * 16, "1"]
    assert second.startswith("root again")  # which it is in name only
