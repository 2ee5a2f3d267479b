"""Several backends: the first that can be had gets the spans, and the preferred one gets them back."""

from collections.abc import Sequence

import pytest

from enricher.otlp.sending.fail_over import RETURN_AFTER_NS, FailOver
from enricher.otlp.transport import Failure, Sendable, StatusCode, Taken

AWAY = Failure(StatusCode.UNAVAILABLE, "away")


class Scripted:
    """A sender that answers what it is told to, and remembers that it was asked."""

    def __init__(self, destination: str, asked: list[str]) -> None:
        self.destination = destination
        self.answer: Taken | Failure = Taken()
        self.closed = False
        self._asked = asked

    def send(self, bodies: Sequence[Sendable], timeout_ns: int) -> Taken | Failure:
        self._asked.append(self.destination)
        return self.answer

    def close(self) -> None:
        self.closed = True


class Three:
    def __init__(self) -> None:
        self.now_ns = 0
        self._asked: list[str] = []
        self.a, self.b, self.c = (Scripted(name, self._asked) for name in "abc")
        self.fail_over = FailOver([self.a, self.b, self.c], clock_ns=lambda: self.now_ns)

    def send(self) -> tuple[Taken | Failure, str]:
        """The answer, and who was asked for it."""
        self._asked.clear()
        return self.fail_over.send([], 1), "".join(self._asked)

    def series(self) -> dict[str, dict[str, float]]:
        return {series.name: dict(series.values) for series in self.fail_over.series()}


def test_as_long_as_the_first_can_be_had_no_other_is_asked() -> None:
    three = Three()
    assert three.send() == (Taken(), "a")
    assert three.series() == {
        "exporter_endpoint_in_use": {"a": 1, "b": 0, "c": 0},
        "exporter_fail_overs": {"": 0},
    }


@pytest.mark.parametrize("code", [StatusCode.UNAVAILABLE, StatusCode.DEADLINE_EXCEEDED])
def test_when_one_cannot_be_had_the_next_is_asked_at_once_and_stays_in_use(code: StatusCode) -> None:
    three = Three()
    three.a.answer = Failure(code, "away")
    three.b.answer = AWAY
    assert three.send() == (Taken(), "abc")
    assert three.send() == (Taken(), "c")
    assert three.fail_over.destination == "c"
    assert three.series() == {
        "exporter_endpoint_in_use": {"a": 0, "b": 0, "c": 1},
        "exporter_fail_overs": {"": 1},
    }


@pytest.mark.parametrize(
    "code", [code for code in StatusCode if code not in {StatusCode.UNAVAILABLE, StatusCode.DEADLINE_EXCEEDED}]
)
def test_what_one_refuses_is_refused(code: StatusCode) -> None:
    three = Three()
    three.a.answer = Failure(code, "no")
    assert three.send() == (three.a.answer, "a")


def test_when_none_can_be_had_each_is_asked_once_and_the_last_answer_stands() -> None:
    three = Three()
    three.a.answer = three.b.answer = AWAY
    three.c.answer = Failure(StatusCode.UNAVAILABLE, "last", 5)
    assert three.send() == (three.c.answer, "abc")
    assert three.fail_over.destination == "a"


def test_from_the_last_one_it_goes_on_with_the_first() -> None:
    three = Three()
    three.a.answer = three.b.answer = AWAY
    three.send()
    three.a.answer, three.c.answer = Taken(), AWAY
    assert three.send() == (Taken(), "ca")
    assert three.fail_over.destination == "a"


def test_one_request_now_and_then_looks_whether_the_first_is_back() -> None:
    three = Three()
    three.a.answer = AWAY
    three.send()
    three.now_ns = RETURN_AFTER_NS - 1
    assert three.send() == (Taken(), "b")
    three.now_ns = RETURN_AFTER_NS
    assert three.send() == (Taken(), "ab"), "still away: this request goes on to the next"
    assert three.send() == (Taken(), "b"), "and only this one has looked"
    three.now_ns = 2 * RETURN_AFTER_NS
    three.a.answer = Taken()
    assert three.send() == (Taken(), "a")
    assert three.send() == (Taken(), "a")
    assert three.series()["exporter_fail_overs"] == {"": 2}


def test_what_began_before_the_return_does_not_undo_it() -> None:
    three = Three()
    three.a.answer = AWAY
    three.send()
    three.now_ns = RETURN_AFTER_NS

    def back_meanwhile(bodies: Sequence[Sendable], timeout_ns: int) -> Taken | Failure:
        three.a.answer = Taken()
        three.now_ns = 2 * RETURN_AFTER_NS
        three.b.send = type(three.b).send.__get__(three.b)  # type: ignore[method-assign]
        three.fail_over.send([], 1)  # another thread's, to the first
        return Taken()

    three.b.send = back_meanwhile  # type: ignore[method-assign]
    three.fail_over.send([], 1)
    assert three.fail_over.destination == "a"


def test_a_close_closes_all() -> None:
    three = Three()
    three.fail_over.close()
    assert three.a.closed
    assert three.b.closed
    assert three.c.closed
