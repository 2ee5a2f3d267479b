"""Silent senders hold no more than their own threads, and those not for long."""

from collections.abc import Iterator
from threading import Event, Lock

import grpc
import pytest

from enricher.otlp.grpcio_calls import CallThreads
from tests.e2e.testbed.processes import wait_until


class Call(grpc.ServicerContext):
    """A call whose message comes when it is told to. As in grpcio, a cancelled one raises where it is waited for."""

    def __init__(self) -> None:
        self._ready = Event()
        self._message: bytes | None = None
        self.cancelled = False

    def give(self, message: bytes | None) -> None:
        self._message = message
        self._ready.set()

    def cancel(self) -> None:
        self.cancelled = True
        self._ready.set()

    def messages(self) -> Iterator[bytes]:
        assert self._ready.wait(20)
        if self.cancelled:
            raise grpc.RpcError
        if self._message is not None:
            yield self._message

    def abort(self, code: grpc.StatusCode, details: str) -> None:
        raise ValueError(code)


for name in Call.__abstractmethods__:  # grpcio has a dozen more that no call here is asked for
    setattr(Call, name, None)
Call.__abstractmethods__ = frozenset()


class Bench:
    """Threads on a clock of the test's; what they have served."""

    def __init__(self, usual: int, most: int) -> None:
        self.now_s = 0.0
        self._lock = Lock()
        self.served: list[bytes] = []
        self.threads = CallThreads("test", usual=usual, most=most, message_timeout_s=10.0, clock_s=lambda: self.now_s)
        self.threads.start()

    def call(self) -> Call:
        call = Call()
        self.threads.submit(self._serve, call)
        return call

    def _serve(self, call: Call) -> None:
        message = self.threads.message(call.messages(), call)
        with self._lock:
            self.served.append(message)

    def wait_until_silent(self, number: int) -> None:
        wait_until(lambda: len(self.threads._waiting) == number, f"{number} calls to wait for their message")
        self.now_s += 1.0


@pytest.fixture
def bench() -> Iterator[Bench]:
    made = Bench(usual=2, most=6)
    yield made
    made.threads.shutdown()


def test_a_call_is_served_though_as_many_as_there_are_threads_say_nothing(bench: Bench) -> None:
    silent = [bench.call() for _ in range(2)]
    bench.wait_until_silent(2)
    bench.call().give(b"a")
    wait_until(lambda: bench.served == [b"a"], "the call behind them")
    assert not any(call.cancelled for call in silent)
    for call in silent:
        call.give(b"late")
    wait_until(lambda: bench.served == [b"a", b"late", b"late"], "what came late is served, too")


def test_a_message_that_does_not_come_is_not_waited_for_any_longer(bench: Bench) -> None:
    early = bench.call()
    bench.wait_until_silent(1)
    bench.now_s = 9.0
    late = bench.call()
    bench.wait_until_silent(2)
    bench.now_s = 10.0
    wait_until(lambda: early.cancelled, "the call to be cancelled")
    assert not late.cancelled
    bench.wait_until_silent(1)


def test_where_silent_calls_hold_every_thread_the_oldest_go_at_once(bench: Bench) -> None:
    silent = []
    for number in range(1, 7):
        silent.append(bench.call())
        bench.wait_until_silent(number)
    bench.now_s = 7.0
    bench.call().give(b"a")
    wait_until(lambda: bench.served == [b"a"], "the call behind them")
    cancelled = [call.cancelled for call in silent]
    assert any(cancelled)
    assert cancelled == sorted(cancelled, reverse=True), "the oldest first"
    for call in silent:
        call.give(None)


def test_of_any_number_of_silent_calls_one_that_speaks_is_served(bench: Bench) -> None:
    silent = [bench.call() for _ in range(100)]
    speaking = bench.call()
    speaking.give(b"a")

    def served() -> bool:
        bench.now_s += 1.0
        return bench.served == [b"a"]

    wait_until(served, "the call behind them")
    for call in silent:
        call.give(None)


def test_when_they_are_gone_there_are_as_few_threads_as_before(bench: Bench) -> None:
    silent = [bench.call() for _ in range(4)]
    bench.wait_until_silent(2)
    wait_until(lambda: len(bench.threads._waiting) == 4, "a thread for each")
    bench.now_s += 1.0
    wait_until(lambda: bench.threads._running == 6, "the usual number beside them")
    for call in silent:
        call.give(b"late")

    def few() -> bool:
        bench.call().give(b"a")
        return bench.threads._running == 2

    wait_until(few, "the surplus to end")


def test_a_call_without_a_message_is_ended(bench: Bench) -> None:
    call = Call()
    call.give(None)
    with pytest.raises(ValueError, match="INVALID_ARGUMENT"):
        bench.threads.message(call.messages(), call)
    assert bench.threads._waiting == {}


def test_what_a_call_raises_is_its_future_s_and_the_thread_lives(bench: Bench) -> None:
    futures = [bench.threads.submit(lambda: 1 // 0) for _ in range(10)]
    assert all(isinstance(future.exception(10), ZeroDivisionError) for future in futures)
    assert bench.threads.submit(lambda: 7).result(10) == 7
