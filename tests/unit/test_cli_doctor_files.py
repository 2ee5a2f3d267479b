"""The doctor looks at the files that the configuration names as the pipeline's user, and at Unix sockets."""

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from enricher.cli import doctor, files, ports
from enricher.observer.host import Answer
from enricher.privileges import dropped_user
from tests.unit.config_files import settings_of

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root becomes another user")
USER = dropped_user()


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    """A directory that everyone may enter, as the pipeline's user is another one."""
    entered = [directory for directory in (tmp_path, *tmp_path.parents) if not directory.stat().st_mode & 0o001]
    modes = {directory: directory.stat().st_mode for directory in entered}
    for directory in entered:
        directory.chmod(modes[directory] | 0o011)
    yield tmp_path
    for directory in entered:
        directory.chmod(modes[directory])


def made(path: Path, mode: int) -> Path:
    path.write_text("x")
    path.chmod(mode)
    return path


def looked(place: Path, text: str) -> list[tuple[str, Answer, str, str]]:
    found = files.checks(settings_of(place, text))
    return [(check.name, check.answer, check.detail, check.fix) for check in found]


KEY = "receivers.otlp.protocols.grpc.auth.bearer_token_file"
AUTH = "receivers: {otlp: {protocols: {grpc: {auth: {bearer_token_file: %s}}}}}"


def test_a_file_that_can_be_read_is_a_yes(place: Path) -> None:
    token = made(place / "token", 0o644)
    assert looked(place, AUTH % token) == [
        ("bearer_token_file", Answer.YES, f"{KEY}: {token} can be used by the pipeline", "")
    ]


@pytest.mark.parametrize(("name", "wrong"), [("none", "does not exist"), (".", "is not a file")])
def test_one_that_is_not_there_is_a_no(place: Path, name: str, wrong: str) -> None:
    ((_, answer, detail, fix),) = looked(place, AUTH % (place / name))
    assert (answer, detail) == (Answer.NO, f"{KEY}: {place / name} {wrong}")
    assert fix


@as_root
def test_one_that_only_root_can_read_is_a_no_with_whom_to_let_read_it(place: Path) -> None:
    token = made(place / "token", 0o600)
    ((_, answer, detail, fix),) = looked(place, AUTH % token)
    assert (answer, detail) == (Answer.NO, f"{KEY}: {token} cannot be read by user {USER}")
    assert USER in fix


@as_root
def test_one_in_a_directory_that_only_root_can_enter_is_a_no(place: Path) -> None:
    closed = place / "closed"
    closed.mkdir(0o700)
    token = made(closed / "token", 0o644)
    ((_, answer, detail, _),) = looked(place, AUTH % token)
    assert answer is Answer.NO
    assert detail == f"{KEY}: {token} cannot be looked at by user {USER}: Permission denied"


@as_root
def test_a_file_to_write_needs_its_directory(place: Path) -> None:
    place.chmod(0o755)
    text = f"exporters: {{file: {{path: {place}/spans.jsonl}}}}"
    ((name, answer, detail, fix),) = looked(place, text)
    assert (name, answer) == ("path", Answer.NO)
    assert detail == f"exporters.file.path: {place}/spans.jsonl cannot be made by user {USER}"
    assert USER in fix
    place.chmod(0o777)
    ((_, answer, _, _),) = looked(place, text)
    assert answer is Answer.YES
    made(place / "spans.jsonl", 0o600)
    ((_, answer, detail, _),) = looked(place, text)
    assert (answer, detail.rpartition("jsonl ")[2]) == (Answer.NO, f"cannot be written to by user {USER}")


def test_a_directory_to_keep_the_queue_in_has_to_be_there(place: Path) -> None:
    text = f"exporters: {{otlp_grpc: {{sending_queue: {{storage: {{directory: {place}/queue}}}}}}}}"
    ((name, answer, _, fix),) = looked(place, text)
    assert (name, answer, fix) == ("directory", Answer.NO, f"make it: mkdir -p {place}/queue")
    (place / "queue").mkdir(0o700)
    ((_, answer, _, _),) = looked(place, text)
    assert answer is Answer.YES


def test_files_of_components_that_take_no_part_are_not_looked_at(place: Path) -> None:
    text = "exporters: {terminal: , file: {path: /nowhere/x}}\nservice: {pipelines: {traces: {exporters: [terminal]}}}"
    assert looked(place, text) == []


def test_the_effective_user_is_the_same_afterwards(place: Path) -> None:
    before = os.geteuid(), os.getegid(), os.getgroups()
    looked(place, AUTH % made(place / "token", 0o600))
    assert (os.geteuid(), os.getegid(), os.getgroups()) == before


class TestUnixSockets:
    def test_a_path_in_a_directory_is_a_yes(self, tmp_path: Path) -> None:
        check = ports.endpoint("a", f"unix://{tmp_path}/s", "cost")
        assert (check.name, check.answer, check.detail) == ("a socket", Answer.YES, f"{tmp_path}/s can be made")

    def test_without_its_directory_it_is_a_no(self, tmp_path: Path) -> None:
        check = ports.endpoint("a", f"unix://{tmp_path}/none/s", "cost")
        assert (check.answer, check.fix) == (Answer.NO, f"make it: mkdir -p {tmp_path}/none")

    def test_one_that_is_listened_at_names_the_holder(self, tmp_path: Path) -> None:
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(str(tmp_path / "s"))
            server.listen()
            check = ports.endpoint("a", f"unix://{tmp_path}/s", "cost")
        assert check.answer is Answer.NO
        assert f"is held by process {os.getpid()} (" in check.detail
        # What it has left behind is nobody's.
        assert ports.endpoint("a", f"unix://{tmp_path}/s", "cost").answer is Answer.YES

    def test_another_file_in_its_place_is_a_no(self, tmp_path: Path) -> None:
        (tmp_path / "s").write_text("precious")
        check = ports.endpoint("a", f"unix://{tmp_path}/s", "cost")
        assert (check.answer, check.fix) == (Answer.NO, "remove what is there, or write another endpoint")


def test_every_endpoint_that_is_listened_at_is_looked_at(tmp_path: Path) -> None:
    text = (
        "receivers: {otlp: {protocols: {grpc: {endpoint: '127.0.0.1:0'}, http: {endpoint: '127.0.0.1:0'}}}}\n"
        f"service: {{control: {{endpoint: 'unix://{tmp_path}/c'}}, telemetry: {{metrics: {{address: '127.0.0.1:0'}}}}}}"
    )
    checks = list(doctor.listeners(settings_of(tmp_path, text)))
    names = ["gRPC receiver's port", "HTTP receiver's port", "metrics' port", "control's socket"]
    assert [check.name for check in checks] == names
    assert all(check.answer is Answer.YES for check in checks)
