"""Whole lines of OTLP JSON, whatever happens to the disk, the process or the file."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from enricher._native import json_to_protobuf
from enricher.config.model import FileExporter, Rotation
from enricher.otlp.sending import file
from enricher.otlp.sending.file import FileSender
from enricher.otlp.transport import CannotSendError, Failure, StatusCode, Taken
from tests.e2e.transport import names, request


@dataclass(frozen=True, slots=True)
class Body:
    body: bytes


def sender(path: Path, *, max_megabytes: int = 1, max_backups: int = 2) -> FileSender:
    rotation = Rotation(max_megabytes=max_megabytes, max_backups=max_backups)
    return FileSender(FileExporter(path=str(path), rotation=rotation))


def send(made: FileSender, *bodies: bytes) -> Taken | Failure:
    return made.send([Body(body) for body in bodies], 1)


def read(path: Path) -> list[list[str]]:
    """The names of the spans of each line."""
    content = path.read_bytes()
    assert content.endswith(b"\n")
    return [names(json_to_protobuf(line, 1 << 30)) for line in content.splitlines()]


def test_each_request_is_a_line_and_nothing_is_lost_of_it(tmp_path: Path) -> None:
    path = tmp_path / "traces.json"
    bodies = [request("a", "b", padding=3), request("c\nd")]
    assert send(sender(path), *bodies) == Taken()
    assert send(sender(path), bodies[0]) == Taken()
    lines = path.read_bytes().splitlines()
    assert [json_to_protobuf(line, 1 << 30) for line in lines] == [*bodies, bodies[0]]
    assert json.loads(lines[0])["resourceSpans"][0]["scopeSpans"][0]["spans"][0]["name"] == "a"
    assert path.stat().st_mode & 0o777 == 0o640 & ~_umask()


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_a_full_file_is_put_aside_and_only_so_many_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "traces.json"
    (tmp_path / "traces-of-others.json").write_text("stay")
    made = sender(path)
    for number in range(8):
        assert send(made, request(str(number), padding=600_000)) == Taken()
    backups = sorted(tmp_path.glob("traces-2*.json"))
    assert [read(backup) for backup in backups] == [[["5"]], [["6"]]]
    assert read(path) == [["7"]]
    assert (tmp_path / "traces-of-others.json").read_text() == "stay"


def test_what_is_larger_than_a_file_may_be_has_one_of_its_own(tmp_path: Path) -> None:
    path = tmp_path / "traces.json"
    made = sender(path, max_backups=10)
    for name, padding in (("a", 0), ("b", 2_000_000), ("c", 0)):
        assert send(made, request(name, padding=padding)) == Taken()
    assert [read(each) for each in [*sorted(tmp_path.glob("traces-*")), path]] == [[["a"]], [["b"]], [["c"]]]


@pytest.mark.parametrize("left_over", [b"{", b'{"resourceSpans":[{"x', b'{"resourceSpans"' + bytes(200_000)])
@pytest.mark.parametrize("before", [b"", b'{"resourceSpans":[]}\n'])
def test_what_a_killed_process_has_left_of_a_line_is_cut_off(tmp_path: Path, left_over: bytes, before: bytes) -> None:
    path = tmp_path / "traces.json"
    path.write_bytes(before + left_over)
    assert send(sender(path), request("a")) == Taken()
    assert read(path)[-1] == ["a"]
    assert path.read_bytes().startswith(before)
    assert len(read(path)) == (2 if before else 1)


def test_what_somebody_else_wrote_is_left_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "notes"
    path.write_bytes(b"one\ntwo")
    assert send(sender(path), request("a")) == Taken()
    assert path.read_bytes().splitlines()[:2] == [b"one", b"two"]
    assert names(json_to_protobuf(path.read_bytes().splitlines()[2], 1 << 30)) == ["a"]


SMALL_DISK = """
import resource, signal, sys
from dataclasses import dataclass
from pathlib import Path
from enricher.config.model import FileExporter
from enricher.otlp.sending.file import FileSender
from enricher.otlp.transport import Failure, StatusCode, Taken

@dataclass
class Body:
    body: bytes

path, body = Path(sys.argv[1]), bytes.fromhex(sys.argv[2])
# As a full disk: what is written beyond is cut short first, and an error then.
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, resource.RLIM_INFINITY))
sender = FileSender(FileExporter(path=str(path)))
answers = [sender.send([Body(body)], 1) for _ in range(5)]
assert answers[0] == Taken(), answers
assert isinstance(answers[-1], Failure) and answers[-1].code is StatusCode.UNAVAILABLE, answers
taken = answers.count(Taken())
assert path.read_bytes().count(b"\\n") == taken and path.read_bytes().endswith(b"\\n")
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
assert sender.send([Body(body)], 1) == Taken()
print(taken + 1)
"""


def test_a_full_disk_leaves_no_half_line_and_is_worth_another_try(tmp_path: Path) -> None:
    path = tmp_path / "traces.json"
    body = request("a", padding=3_000)
    done = subprocess.run(
        [sys.executable, "-c", SMALL_DISK, str(path), body.hex()], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert len(read(path)) == int(done.stdout)


def test_several_processes_write_whole_lines_into_one_file_and_its_successors(tmp_path: Path) -> None:
    path = tmp_path / "traces.json"
    script = (
        "import sys; from pathlib import Path; from tests.unit.test_sending_file import *\n"
        "made = sender(Path(sys.argv[1]), max_backups=1000)\n"
        "for n in range(40): assert send(made, request(f'{sys.argv[2]}-{n}', padding=50_000)) == Taken()"
    )
    running = [subprocess.Popen([sys.executable, "-c", script, str(path), str(process)]) for process in range(3)]
    assert [process.wait(60) for process in running] == [0, 0, 0]
    written = [name for each in tmp_path.iterdir() for line in read(each) for name in line]
    assert sorted(written) == sorted(f"{process}-{n}" for process in range(3) for n in range(40))
    assert len(list(tmp_path.iterdir())) > 3


def test_a_body_that_is_no_request_is_refused_for_good(tmp_path: Path) -> None:
    answer = send(sender(tmp_path / "traces.json"), b"\xff")
    assert isinstance(answer, Failure)
    assert answer.code is StatusCode.INVALID_ARGUMENT


def test_a_file_that_cannot_be_opened_is_told_at_the_start(tmp_path: Path) -> None:
    made = sender(tmp_path / "none" / "traces.json")
    with pytest.raises(CannotSendError, match=r"none/traces\.json: No such file"):
        made.check()
    assert send(made, request("a")) == Failure(StatusCode.UNAVAILABLE, "No such file or directory")


def test_a_file_that_is_replaced_all_the_time_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file, "_is_at", lambda fd, path: False)
    answer = send(sender(tmp_path / "traces.json"), request("a"))
    assert isinstance(answer, Failure)
    assert answer.code is StatusCode.UNAVAILABLE
