"""Logs: fields as they were given, one line an event, and nothing that steers a terminal."""

import io
import json
import logging
from collections.abc import Iterator
from typing import ClassVar

import pytest

from enricher.errors import EnricherError
from enricher.telemetry.logs import FirstTimes, configure, get_logger


class Refused(EnricherError):
    code: ClassVar[str] = "refused"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def _restore() -> Iterator[None]:
    root, ours = logging.getLogger(), logging.getLogger("enricher")
    before = (root.handlers[:], root.level, ours.level, logging.raiseExceptions)
    yield
    root.handlers[:], root.level, ours.level, logging.raiseExceptions = before
    logging.captureWarnings(capture=False)


def lines(stream: io.StringIO) -> list[dict[str, object]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_a_line_is_an_object_with_the_event_and_its_fields() -> None:
    stream = io.StringIO()
    configure("observer", stream=stream)
    get_logger(pid=7).bind(object="spans").warning("100% refused", path=b"x", error=Refused("no", fix="do it"))
    (line,) = lines(stream)
    assert str(line.pop("time")).endswith("+00:00")
    assert line == {
        "level": "warn",
        "process": "observer",
        "event": "100% refused",
        "pid": 7,
        "object": "spans",
        "path": "b'x'",
        "error": "no",
        "error_type": "Refused",
        "code": "refused",
        "fix": "do it",
    }


def test_a_field_does_not_replace_what_every_line_has() -> None:
    stream = io.StringIO()
    configure("pipeline", stream=stream)
    get_logger().info("x", process="forged", level="forged")
    (line,) = lines(stream)
    assert (line["process"], line["level"]) == ("pipeline", "info")
    assert list(line)[:4] == ["time", "level", "process", "event"]


@pytest.mark.parametrize(
    ("level", "heard"),
    [
        ("debug", ["debug", "info", "warn", "error"]),
        ("info", ["info", "warn", "error"]),
        ("warn", ["warn", "error"]),
        ("error", ["error"]),
    ],
)
def test_the_level_is_the_least_that_is_heard(level: str, heard: list[str]) -> None:
    stream = io.StringIO()
    configure("supervisor", level, stream)  # type: ignore[arg-type]
    log = get_logger()
    for say in (log.debug, log.info, log.warning, log.error):
        say("x")
    assert [line["level"] for line in lines(stream)] == heard


def test_an_unforeseen_exception_comes_with_its_traceback_on_the_same_line() -> None:
    stream = io.StringIO()
    configure("supervisor", stream=stream)
    try:
        raise KeyError("gone")  # noqa: TRY301
    except KeyError as error:
        get_logger().exception("failed", error=error)
    (line,) = lines(stream)
    assert (line["error"], line["error_type"]) == ("'gone'", "KeyError")
    assert str(line["traceback"]).startswith("Traceback")


def test_other_packages_are_heard_from_warnings_on() -> None:
    stream = io.StringIO()
    configure("pipeline", "debug", stream)
    logging.getLogger("grpc._server").info("chatter")
    logging.getLogger("grpc._server").warning("port %d", 4317)
    (line,) = lines(stream)
    assert (line["event"], line["logger"]) == ("port 4317", "grpc._server")


def test_a_second_call_replaces_the_first() -> None:
    first, second = io.StringIO(), io.StringIO()
    configure("pipeline", stream=first)
    configure("pipeline", stream=second)
    get_logger().info("x")
    assert (len(lines(first)), len(lines(second))) == (0, 1)


def test_on_a_terminal_what_programs_chose_cannot_steer_it() -> None:
    stream = Terminal()
    configure("observer", stream=stream)
    get_logger().info("watched", path="/bin/\x1b[2J\nfake")
    assert stream.getvalue().count("\n") == 1
    assert "\x1b[2J" not in stream.getvalue()
    assert '"/bin/\\u001b[2J\\nfake"' in stream.getvalue()


def test_a_closed_stream_is_no_error() -> None:
    stream = io.StringIO()
    configure("observer", stream=stream)
    stream.close()
    get_logger().info("x")


def test_only_the_first_time_is_told() -> None:
    first_time = FirstTimes()
    assert [first_time(key) for key in ("a", "a", "b", ("a",), "b")] == [True, False, True, True, False]


def test_the_memory_of_first_times_is_bounded() -> None:
    first_time = FirstTimes(capacity=2)
    assert [first_time(key) for key in (1, 2, 3, 3, 1)] == [True, True, True, False, True]
