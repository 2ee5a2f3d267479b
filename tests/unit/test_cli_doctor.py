"""The doctor: what is missing, what that costs, how to mend it, and an exit status for scripts."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from enricher.cli import doctor, go_processes, ports
from enricher.cli.go_processes import WatchedProcess
from enricher.config.model import Select
from enricher.golang.binary import GoBinary, Reason, ReasonCode, UnreadableBinary
from enricher.observer.host import CAP_BPF, CAP_PERFMON, CAP_SYS_ADMIN, CAP_SYS_PTRACE, Answer, Check
from enricher.observer.inspection import SDK_MODULE as SDK

ROOT = Path(__file__).parents[2]


def need(answer: Answer, detail: str = "as found") -> Check:
    return Check("a need", answer, detail, "something is lost", "do something")


def told(*needs: Check, processes: tuple[WatchedProcess, ...] = ()) -> str:
    return "\n".join(doctor.report(doctor.Diagnosis(needs, processes)))


def test_a_need_that_is_met_takes_one_line() -> None:
    text = told(need(Answer.YES))
    assert "something is lost" not in text
    assert "This host has all that is needed." in text


@pytest.mark.parametrize("answer", [Answer.NO, Answer.UNKNOWN])
def test_any_other_comes_with_its_cost_and_fix(answer: Answer) -> None:
    text = told(need(answer))
    assert "without it: something is lost" in text
    assert "to mend it: do something" in text


def test_long_words_of_the_kernel_are_wrapped_to_80_columns() -> None:
    text = told(need(Answer.NO, detail="permission denied " * 40))
    assert max(map(len, text.splitlines())) <= 90  # with the colour of the answer


@pytest.mark.parametrize(
    ("answers", "status"),
    [
        ([Answer.YES], 0),
        ([Answer.YES, Answer.NO, Answer.UNKNOWN], 1),
        ([Answer.YES, Answer.UNKNOWN], 3),
    ],
)
def test_the_status_is_that_of_the_worst_answer(answers: list[Answer], status: int) -> None:
    diagnosis = doctor.Diagnosis(tuple(need(answer) for answer in answers), ())
    assert doctor.EXIT_STATUS[diagnosis.answer] == status


def test_a_probe_that_does_not_load_is_a_no_with_the_kernel_s_reason() -> None:
    checks = list(doctor.probes([("waits.bpf.o", True, ""), ("spans.bpf.o", False, "R1 is no pointer")]))
    assert [check.answer for check in checks] == [Answer.YES, Answer.NO]
    assert checks[1].detail == "R1 is no pointer"
    assert "no exact match" in checks[1].cost


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server


class TestPorts:
    def test_a_free_one_is_a_yes_and_is_left_free(self, listener: socket.socket) -> None:
        number = listener.getsockname()[1]
        listener.close()
        for _ in range(2):
            assert ports.port("p", f"127.0.0.1:{number}", "cost").answer is Answer.YES

    def test_a_held_one_names_the_holder(self, listener: socket.socket) -> None:
        check = ports.port("p", f"127.0.0.1:{listener.getsockname()[1]}", "cost")
        assert check.answer is Answer.NO
        assert f"is held by process {os.getpid()} (" in check.detail
        assert check.fix == "stop that process, or write another endpoint"

    def test_one_held_by_a_running_enricher_is_a_yes(self) -> None:
        code = (
            "import socket, sys\n"
            "server = socket.create_server(('127.0.0.1', 0))\n"
            "print(server.getsockname()[1], flush=True)\n"
            "sys.stdin.read()"
        )
        holder = subprocess.Popen(
            [sys.executable, "-c", code, "enricher.pipeline"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        with holder:
            assert holder.stdin is not None
            assert holder.stdout is not None
            number = int(holder.stdout.readline())
            check = ports.port("p", f"127.0.0.1:{number}", "cost")
            holder.stdin.close()
        assert check.answer is Answer.YES
        assert check.detail == f"127.0.0.1:{number} is held by the enricher that is running"

    def test_an_address_of_another_host_is_a_no(self) -> None:
        check = ports.port("p", "192.0.2.1:4317", "cost")  # TEST-NET-1, RFC 5737
        assert check.answer is Answer.NO
        assert check.detail == "192.0.2.1:4317 cannot be bound: Cannot assign requested address"

    def test_a_name_that_does_not_exist_is_a_no(self) -> None:
        check = ports.port("p", "no-such-host.invalid:4317", "cost")  # RFC 2606
        assert check.answer is Answer.NO
        assert "no-such-host.invalid cannot be resolved" in check.detail


def binary(modules: dict[str, str], *, exact: bool = False, reason: str = "") -> GoBinary:
    point: Any = object() if exact else None
    reasons = (Reason(ReasonCode.SDK_VERSION_UNKNOWN, reason),) if reason else ()
    return GoBinary("/x", "1.26.8", "shop", modules, "amd64", None, None, point, None, None, (), reasons)


class TestProcesses:
    def describe(self, found: go_processes.Found, select: Select | None = None) -> WatchedProcess | None:
        return go_processes.described(7, "/opt/shop", "/shop.slice", found, select or Select())

    def test_a_known_sdk_is_exact(self) -> None:
        process = self.describe(binary({SDK: "v1.47.0"}, exact=True))
        assert process == WatchedProcess(7, "/opt/shop", "1.26.8", "v1.47.0", watched=True, exact=True, reasons=())
        assert "exact    7 /opt/shop (Go 1.26.8, SDK v1.47.0)" in _plain(told(processes=(process,)))

    def test_what_a_known_one_lacks_is_told_too(self) -> None:
        lack = "calls by net/http are not tied to connections: the layout of go1.26.8 was not measured"
        process = self.describe(binary({SDK: "v1.47.0"}, exact=True, reason=lack))
        assert process is not None
        assert process.exact
        text = _plain(told(processes=(process,)))
        assert "exact    7 /opt/shop (Go 1.26.8, SDK v1.47.0)\n           calls by net/http are not tied" in text

    def test_an_unknown_one_is_inexact_and_says_why(self) -> None:
        process = self.describe(binary({SDK: "v9.0.0"}, reason="SDK v9.0.0 is newer than the layouts known"))
        assert process is not None
        assert (process.watched, process.exact) == (True, False)
        text = _plain(told(processes=(process,)))
        assert "inexact  7 /opt/shop (Go 1.26.8, SDK v9.0.0)\n           SDK v9.0.0 is newer" in text

    def test_what_is_excluded_is_not_watched_and_says_so(self) -> None:
        process = self.describe(binary({SDK: "v1.47.0"}, exact=True), Select(exclude=("/opt/*",)))
        assert process is not None
        assert (process.watched, process.exact) == (False, False)
        assert process.reasons == ("not watched: excluded by the configuration",)

    def test_what_is_selected_is_told_also_if_it_is_not_go(self) -> None:
        process = self.describe(None, Select(cgroups=("/shop.slice",)))
        assert process is not None
        assert (process.watched, process.exact, process.go_version) == (True, False, "")

    @pytest.mark.parametrize("found", [None, binary({})])
    def test_other_programs_are_not_listed(self, found: GoBinary | None) -> None:
        assert self.describe(found) is None

    def test_an_unreadable_binary_is_told(self) -> None:
        process = self.describe(UnreadableBinary("/opt/shop", "its headers lie"))
        assert process is not None
        assert not process.exact
        assert "its headers lie" in process.reasons[0]


def _plain(text: str) -> str:
    import click

    return click.unstyle(text)


# Drops the capabilities argv[1] and runs argv[2:]; exec takes from root what is not in the bounding set. In vain, and
# without harm, where there was none to drop.
WITHOUT = """
import ctypes, os, sys
for capability in sys.argv[1].split():
    ctypes.CDLL(None).prctl(24, int(capability), 0, 0, 0)  # PR_CAPBSET_DROP
os.execv(sys.argv[2], sys.argv[2:])
"""


def run_doctor(*arguments: str, without: tuple[int, ...] = ()) -> subprocess.CompletedProcess[str]:
    """The real command, without some capabilities."""
    doctor_command = [sys.executable, "-m", "enricher.cli.main", "doctor", *arguments]
    return subprocess.run(
        [sys.executable, "-c", WITHOUT, " ".join(map(str, without)), *doctor_command],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_the_status_and_the_text_agree_with_the_json() -> None:
    tree = json.loads(run_doctor("--json").stdout)
    result = run_doctor()
    assert result.stderr == ""
    status = {"yes": 0, "no": 1, "unknown": 3}
    assert result.returncode == status[tree["answer"]]
    for found in tree["needs"]:
        assert set(found) == {"name", "answer", "detail", "cost", "fix"}
        assert f"{found['answer']:<9}{found['name']}" in result.stdout
    assert max(map(len, result.stdout.split("Programs watched")[0].splitlines())) <= 80
    assert "\x1b" not in result.stdout, "colours are for terminals"


def test_without_privileges_it_says_so_and_is_status_1() -> None:
    result = run_doctor("--json", without=(CAP_BPF, CAP_PERFMON, CAP_SYS_ADMIN, CAP_SYS_PTRACE))
    assert result.returncode == 1
    needs = {found["name"]: found for found in json.loads(result.stdout)["needs"]}
    for name in ("privilege: probes", "privilege: processes", "privilege: uprobes", "load waits", "load spans"):
        assert needs[name]["answer"] == "no", name
        assert needs[name]["fix"]
