"""Every span that was accepted is delivered or counted, whatever the backend does."""

import random
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import grpc
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse

from enricher._native import Queue
from enricher.config.model import OtlpGrpcExporter, RetryOnFailure
from enricher.otlp.delivery import Delivery, DeliverySettings
from enricher.otlp.sending.grpc import grpc_sender
from enricher.otlp.sending.grpcio import GrpcioSender
from enricher.otlp.transport import Failure, Sendable, Sender, Taken
from enricher.telemetry.metrics import Metrics
from tests.e2e.testbed.processes import free_port, wait_until
from tests.e2e.transport import Answer, Backend, accept, names, refuse, request
from tests.queue_entries import ready

MS = 1_000_000
S = 1_000_000_000
QUICK_RETRY = RetryOnFailure(initial_interval_ns=5 * MS, max_interval_ns=20 * MS)


class Line:
    """Queue and exporter, and the accounts: what was accepted is sent, dropped or in the queue, at any time."""

    transport = "native"

    def __init__(
        self,
        port: int,
        *,
        retry: RetryOnFailure = QUICK_RETRY,
        consumers: int = 1,
        max_batch_bytes: int = 1 << 20,
        on_forward: bool = False,
        **settings: object,
    ) -> None:
        self.metrics = Metrics()
        self.queue = Queue(10_000, 128 << 20, 64 << 20, answers_late=on_forward)
        configured = OtlpGrpcExporter(**{"endpoint": f"127.0.0.1:{port}", **settings})
        make = GrpcioSender if self.transport == "grpcio" else grpc_sender
        self.sender = make(configured, configured.targets[0])
        self.exporter = Delivery(
            DeliverySettings(
                timeout_ns=configured.timeout_ns,
                retry=retry,
                consumers=consumers,
                max_batch_bytes=max_batch_bytes,
                on_forward=on_forward,
            ),
            self.sender,
            self.queue,
            self.metrics,
            jitter=lambda: 0.5,
        )
        self.accepted = 0

    def accept(self, *bodies: bytes) -> None:
        """All of them are ready at once, so that one joined request can take them."""
        ready(self.queue, *bodies)
        self.accepted += sum(len(names(body)) for body in bodies)

    def accept_joined(self, *bodies: bytes) -> None:
        """As they come at one time: one entry of the queue."""
        for body in bodies:
            assert self.queue.offer(body, "ipv4:127.0.0.1:1")[0] == 0
        entries = self.queue.take_new(0, 1 << 20)
        assert [entry.requests for entry in entries] == [len(bodies)]
        self.queue.put(entries)
        self.accepted += sum(len(names(body)) for body in bodies)

    def sent(self) -> int:
        return self.metrics.exporter_sent_spans.total()

    def failed(self) -> dict[str, int]:
        return {reason: spans for reason, spans in self.metrics.exporter_send_failed_spans.values().items() if spans}

    def retries(self) -> dict[str, int]:
        return self.metrics.exporter_retries.values()

    def settled(self) -> None:
        """Wait until nothing is in the queue, and check the accounts."""
        wait_until(lambda: self.queue.statistics()["requests"] == 0, "the queue to be empty")
        assert self.sent() + sum(self.failed().values()) == self.accepted


@pytest.fixture(autouse=True, params=["native", "grpcio"])
def transport(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Each test runs on both."""
    monkeypatch.setattr(Line, "transport", request.param)
    return str(request.param)


@contextmanager
def line(port: int, *bodies: bytes, **settings: object) -> Iterator[Line]:
    made = Line(port, **settings)
    made.accept(*bodies)
    made.exporter.start()
    try:
        yield made
    finally:
        made.exporter.stop(0.0)
    assert made.sent() + sum(made.failed().values()) == made.accepted


@contextmanager
def quiet_backend(*script: Answer, then: Answer = accept, **settings: object) -> Iterator[Backend]:
    with Backend(script, then, **settings) as backend:
        yield backend


ALWAYS_RETRIED = {
    grpc.StatusCode.CANCELLED,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.ABORTED,
    grpc.StatusCode.OUT_OF_RANGE,
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DATA_LOSS,
}
CODES = [code for code in grpc.StatusCode if code is not grpc.StatusCode.OK]


@pytest.mark.parametrize("with_retry_info", [False, True], ids=["plain", "retry_info"])
@pytest.mark.parametrize("code", CODES, ids=lambda code: code.name)
def test_each_status_is_retried_or_dropped_as_the_specification_has_it(
    code: grpc.StatusCode, with_retry_info: bool
) -> None:
    retried = code in ALWAYS_RETRIED or (code is grpc.StatusCode.RESOURCE_EXHAUSTED and with_retry_info)
    answer = refuse(code, retry_after_ns=1 * MS if with_retry_info else None)
    with quiet_backend(answer) as backend, line(backend.port, request("a", "b")) as made:
        made.settled()
        if retried:
            assert (made.sent(), made.failed()) == (2, {})
            assert made.retries() == {code.name.lower(): 1}
            assert backend.seen == [request("a", "b")] * 2
        else:
            assert (made.sent(), made.failed()) == (0, {code.name.lower(): 2})
            assert made.retries() == {}
            assert backend.seen == [request("a", "b")]


def test_what_the_backend_asks_to_wait_is_waited() -> None:
    waited: list[float] = []
    answer = refuse(grpc.StatusCode.UNAVAILABLE, retry_after_ns=70 * MS)
    with quiet_backend(answer) as backend:
        made = Line(backend.port)
        wait = made.exporter._over.wait
        made.exporter._over.wait = lambda timeout: waited.append(timeout) or wait(0)  # type: ignore[method-assign]
        made.accept(request("a"))
        made.exporter.start()
        made.settled()
        made.exporter.stop(0.0)
    assert waited == [0.07]


def test_it_is_given_up_after_the_longest_time_and_counted() -> None:
    retry = RetryOnFailure(initial_interval_ns=1 * MS, max_interval_ns=10 * MS, max_elapsed_time_ns=50 * MS)
    with (
        quiet_backend(then=refuse(grpc.StatusCode.UNAVAILABLE)) as backend,
        line(backend.port, request("a"), retry=retry) as made,
    ):
        made.settled()
        assert made.failed() == {"unavailable": 1}
        assert len(backend.seen) > 2


def test_switched_off_nothing_is_retried() -> None:
    with (
        quiet_backend(refuse(grpc.StatusCode.UNAVAILABLE)) as backend,
        line(backend.port, request("a"), retry=RetryOnFailure(enabled=False)) as made,
    ):
        made.settled()
        assert made.failed() == {"unavailable": 1}
        assert len(backend.seen) == 1


def test_what_is_ready_is_joined_up_to_the_size_and_in_order() -> None:
    bodies = [request(str(number), padding=1000) for number in range(10)]
    size = len(bodies[0])
    with quiet_backend() as backend, line(backend.port, *bodies, max_batch_bytes=4 * size + 1) as made:
        made.settled()
        assert [len(names(body)) for body in backend.taken] == [4, 4, 2]
        assert backend.names() == [str(number) for number in range(10)]


def test_one_request_goes_out_byte_for_byte() -> None:
    body = request("a") + b"\xfa\x07\x03xyz"  # an unknown field, too
    with quiet_backend() as backend, line(backend.port, body) as made:
        made.settled()
        assert backend.taken == [body]


def partly(rejected: int, message: str = "") -> Answer:
    def answer(body: bytes, context: grpc.ServicerContext) -> bytes:
        response = ExportTraceServiceResponse()
        response.partial_success.rejected_spans = rejected
        response.partial_success.error_message = message
        return response.SerializeToString()

    return answer


def test_a_partial_success_is_counted_and_never_sent_again(caplog: pytest.LogCaptureFixture) -> None:
    with quiet_backend(partly(2, "names too long")) as backend, line(backend.port, request("a", "b", "c")) as made:
        made.settled()
        assert (made.sent(), made.failed()) == (1, {"rejected": 2})
        assert len(backend.seen) == 1
    assert "the backend did not take every span" in caplog.text


@pytest.mark.parametrize(("rejected", "counted"), [(-1, 0), (99, 3)])
def test_a_backend_that_cannot_count_does_not_spoil_the_accounts(rejected: int, counted: int) -> None:
    with quiet_backend(partly(rejected)) as backend, line(backend.port, request("a", "b", "c")) as made:
        made.settled()
        assert made.sent() == 3 - counted


@pytest.mark.parametrize("answer", [b"", b"\n\x00", b"\xff\xff"], ids=["empty", "as_collectors_do", "unreadable"])
def test_a_status_of_ok_means_sent_whatever_the_response_holds(answer: bytes) -> None:
    with quiet_backend(lambda body, context: answer) as backend, line(backend.port, request("a")) as made:
        made.settled()
        assert (made.sent(), made.failed()) == (1, {})


def test_a_joined_request_that_is_too_large_for_the_backend_is_sent_in_its_parts() -> None:
    bodies = [request(str(number), padding=30_000) for number in range(10)]
    with quiet_backend(max_message_bytes=100_000) as backend, line(backend.port, *bodies) as made:
        made.settled()
        assert (made.sent(), made.failed()) == (10, {})
        assert b"".join(backend.taken) == b"".join(bodies)


def test_after_that_less_is_joined() -> None:
    small = [request(str(number), padding=30_000) for number in range(10, 21)]
    with quiet_backend(max_message_bytes=100_000) as backend, line(backend.port, *small[:6]) as made:
        made.settled()
        made.accept(*small[6:])
        made.settled()
        assert (made.sent(), made.failed()) == (11, {})
        assert [len(names(body)) for body in backend.taken] == [3, 3, 3, 2], "not halved again, which would be 2, 3"


def refuse_with(code: grpc.StatusCode, poison: str) -> Answer:
    """What has a span of the name `poison`."""

    def answer(body: bytes, context: grpc.ServicerContext) -> bytes:
        return refuse(code)(body, context) if poison in names(body) else b""

    return answer


@pytest.mark.parametrize("code", [grpc.StatusCode.INTERNAL, grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.UNKNOWN])
def test_a_request_the_backend_cannot_take_costs_no_other_its_spans(code: grpc.StatusCode) -> None:
    bodies = [request("poison" if number == 37 else str(number)) for number in range(100)]
    with quiet_backend(then=refuse_with(code, "poison")) as backend, line(backend.port, *bodies) as made:
        made.settled()
        assert (made.sent(), made.failed()) == (99, {code.name.lower(): 1})
        assert backend.names() == [str(number) for number in range(100) if number != 37]
        assert len(backend.seen) <= 1 + 2 * 7, "two for each halving"
        made.accept(request("a"), request("b"))
        made.settled()
        assert backend.taken[-1] == request("a") + request("b"), "and joining goes on"


def test_nor_does_one_that_came_joined_with_others() -> None:
    bodies = [request("poison", "tainted") if number == 37 else request(str(number)) for number in range(64)]
    with quiet_backend(then=refuse_with(grpc.StatusCode.INTERNAL, "poison")) as backend, line(backend.port) as made:
        made.accept_joined(*bodies)
        made.settled()
        assert (made.sent(), made.failed()) == (63, {"internal": 2})
        assert backend.names() == [str(number) for number in range(64) if number != 37]
        assert len(backend.seen) <= 1 + 2 * 7


def test_one_request_of_a_sender_is_not_taken_apart() -> None:
    body = request("poison") + request("b")
    with quiet_backend(then=refuse_with(grpc.StatusCode.INTERNAL, "poison")) as backend, line(backend.port) as made:
        made.accept(body)
        made.settled()
        assert (made.failed(), len(backend.seen)) == ({"internal": 2}, 1)


@pytest.mark.parametrize(
    "code", [grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.UNIMPLEMENTED]
)
def test_a_refusal_that_would_meet_any_request_is_not_asked_for_again(code: grpc.StatusCode) -> None:
    with quiet_backend(then=refuse(code)) as backend, line(backend.port, request("a"), request("b")) as made:
        made.settled()
        assert made.failed() == {code.name.lower(): 2}
        assert len(backend.seen) == 1


def test_an_answer_larger_than_we_take_is_an_answer() -> None:
    with quiet_backend(then=lambda body, context: bytes(5 << 20)) as backend:
        with line(backend.port, request("a"), request("b")) as made:
            made.settled()
            assert (made.sent(), made.failed()) == (2, {})
        assert backend.names() == ["a", "b"]


def test_a_proxy_of_the_environment_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{free_port()}")
    monkeypatch.delenv("no_proxy", raising=False)
    with quiet_backend() as backend, line(backend.port, request("a"), retry=RetryOnFailure(enabled=False)) as made:
        made.settled()
        assert made.sent() == 1


def test_a_part_that_is_too_large_by_itself_is_dropped_alone() -> None:
    bodies = [request("a", padding=30_000), request("b", "c", padding=200_000), request("d", padding=30_000)]
    with quiet_backend(max_message_bytes=100_000) as backend, line(backend.port, *bodies) as made:
        made.settled()
        assert (made.sent(), made.failed()) == (2, {"resource_exhausted": 2})
        assert backend.names() == ["a", "d"]


def test_a_quota_is_no_question_of_size_and_joining_goes_on() -> None:
    exhausted = refuse(grpc.StatusCode.RESOURCE_EXHAUSTED)
    with (
        quiet_backend(exhausted, exhausted, exhausted) as backend,
        line(backend.port, request("a"), request("b")) as made,
    ):
        made.settled()
        assert made.failed() == {"resource_exhausted": 2}
        made.accept(request("c"), request("d"))
        made.settled()
        assert backend.taken == [request("c") + request("d")]


def test_a_part_that_fails_for_a_while_is_retried_as_any_request() -> None:
    exhausted, away = refuse(grpc.StatusCode.RESOURCE_EXHAUSTED), refuse(grpc.StatusCode.UNAVAILABLE)
    with quiet_backend(exhausted, away) as backend, line(backend.port, request("a"), request("b")) as made:
        made.settled()
        assert (made.sent(), made.failed()) == (2, {})
        assert backend.names() == ["a", "b"]


def test_a_backend_that_was_never_there_gets_everything_once_it_comes() -> None:
    port = free_port()
    with line(port, *(request(str(n)) for n in range(50)), consumers=2, max_batch_bytes=64) as made:
        wait_until(lambda: made.retries().get("unavailable", 0) > 2, "failed tries")
        with Backend(port=port) as backend:
            made.settled()
            assert (made.sent(), made.failed()) == (50, {})
            assert sorted(backend.names()) == sorted(str(n) for n in range(50))


def test_a_backend_that_restarts_under_load_loses_nothing() -> None:
    total = 400
    port = free_port()
    backends = [Backend(port=port).__enter__()]
    halfway, again = threading.Event(), threading.Event()

    def produce() -> None:
        for number in range(total):
            made.accept(request(str(number)))
            if number == total // 2:
                halfway.set()
                again.wait(20)

    with line(port, consumers=4, max_batch_bytes=64) as made:
        producer = threading.Thread(target=produce)
        producer.start()
        assert halfway.wait(20)
        backends[0].stop()
        again.set()
        wait_until(lambda: made.retries().get("unavailable", 0) > 0, "a try that fails")
        backends.append(Backend(port=port).__enter__())
        producer.join(20)
        made.settled()
        assert (made.sent(), made.failed()) == (total, {})
    backends[1].stop()
    # At least once: what was under way when the backend went may have come twice.
    assert {name for backend in backends for name in backend.names()} == {str(number) for number in range(total)}


def test_a_request_under_way_survives_the_end_of_its_backend() -> None:
    entered, leave = threading.Event(), threading.Event()

    def hang(body: bytes, context: grpc.ServicerContext) -> bytes:
        entered.set()
        leave.wait(20)
        return b""

    port = free_port()
    first = Backend([hang], port=port).__enter__()
    with line(port, request("a")) as made:
        assert entered.wait(10)
        leave_later = threading.Timer(0.0, leave.set)
        stopping = threading.Thread(target=first.stop)
        stopping.start()
        wait_until(made.retries, "the call to be cut off")
        leave_later.start()
        stopping.join(20)
        with Backend(port=port) as second:
            made.settled()
            assert second.names() == ["a"]


def test_a_backend_that_does_not_answer_is_given_up_after_the_timeout_and_asked_again() -> None:
    leave = threading.Event()

    def hang(body: bytes, context: grpc.ServicerContext) -> bytes:
        leave.wait(20)
        return b""

    with quiet_backend(hang) as backend, line(backend.port, request("a"), timeout_ns=100 * MS) as made:
        made.settled()
        leave.set()
        assert made.retries() == {"deadline_exceeded": 1}
        assert made.sent() == 1


def test_a_slow_request_does_not_hold_up_the_others() -> None:
    leave = threading.Event()

    def slow(body: bytes, context: grpc.ServicerContext) -> bytes:
        leave.wait(20)
        return b""

    with quiet_backend(slow) as backend, line(backend.port, request("a"), consumers=2, max_batch_bytes=1) as made:
        wait_until(lambda: backend.seen, "the slow one")
        made.accept(request("b"), request("c"))
        wait_until(lambda: backend.names() == ["b", "c"], "the others")
        leave.set()
        made.settled()


def test_headers_and_our_name_go_with_every_request() -> None:
    headers = {"x-tenant": "blue", "authorization": "Bearer abc"}
    with quiet_backend() as backend, line(backend.port, request("a"), headers=headers) as made:
        made.settled()
        assert backend.metadata.items() >= headers.items()
        assert backend.metadata["user-agent"].split()[0] == "enricher"


def test_gzip_is_used_where_it_is_asked_for() -> None:
    body = request("a", padding=50_000)
    with quiet_backend() as backend, line(backend.port, body, compression="gzip") as made:
        made.settled()
        assert backend.taken == [body]
    # And this one can unpack nothing: that it refuses shows that it was given something packed.
    with quiet_backend(compression=False) as backend:
        with line(backend.port, body, compression="gzip") as made:
            made.settled()
            assert made.failed() == {"unimplemented": 1}
        with line(backend.port, body) as made:
            made.settled()
            assert made.sent() == 1


def test_a_stop_delivers_what_is_in_the_queue() -> None:
    with quiet_backend() as backend:
        made = Line(backend.port, max_batch_bytes=1)
        made.accept(*(request(str(number)) for number in range(100)))
        made.exporter.start()
        made.exporter.stop(20.0)
        assert (made.sent(), made.failed()) == (100, {})
        assert made.queue.statistics()["requests"] == 0
        assert not made.exporter.alive


def test_a_stop_counts_what_it_could_not_deliver_in_time() -> None:
    retry = RetryOnFailure(initial_interval_ns=60 * S, max_interval_ns=60 * S)
    made = Line(free_port(), consumers=2, max_batch_bytes=1, retry=retry)
    made.accept(*(request(str(number)) for number in range(10)))
    made.exporter.start()
    made.exporter.stop(0.05)
    assert (made.sent(), made.failed()) == (0, {"shutdown": 10})
    assert made.queue.statistics()["requests"] == 0


def test_a_stop_cuts_off_a_backend_that_does_not_answer() -> None:
    leave, entered = threading.Event(), threading.Event()

    def hang(body: bytes, context: grpc.ServicerContext) -> bytes:
        entered.set()
        leave.wait(20)
        return b""

    with quiet_backend(hang) as backend:
        made = Line(backend.port, timeout_ns=3600 * S)
        made.accept(request("a"))
        made.exporter.start()
        assert entered.wait(10)
        made.exporter.stop(0.05)
        leave.set()
    assert made.failed() == {"shutdown": 1}


class BrokenOnce:
    """A sender with a fault, once."""

    def __init__(self, sender: Sender) -> None:
        self._sender = sender
        self.destination = sender.destination
        self.close = sender.close
        self._broken = True

    def send(self, bodies: Sequence[Sendable], timeout_ns: int) -> Taken | Failure:
        if self._broken:
            self._broken = False
            raise ZeroDivisionError
        return self._sender.send(bodies, timeout_ns)


def test_a_fault_of_our_own_costs_one_request_and_no_thread(caplog: pytest.LogCaptureFixture) -> None:
    with quiet_backend() as backend:
        made = Line(backend.port, max_batch_bytes=1)
        made.exporter._sender = BrokenOnce(made.sender)
        made.accept(request("a"), request("b"))
        made.exporter.start()
        made.settled()
        assert made.exporter.alive
        made.exporter.stop(1.0)
    assert (made.sent(), made.failed()) == (1, {"fault": 1})
    assert "ZeroDivisionError" in caplog.text


def test_trouble_is_told_once_and_so_is_its_end(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", logger="enricher")
    away = refuse(grpc.StatusCode.UNAVAILABLE)
    with quiet_backend(away, away, away) as backend, line(backend.port, request("a")) as made:
        made.settled()
    assert caplog.text.count("trying again") == 1
    assert caplog.text.count("the backend takes spans again") == 1


def test_a_backend_that_fails_most_of_the_time_costs_no_span() -> None:
    chance = random.Random(7)
    kinds = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.ABORTED, grpc.StatusCode.DEADLINE_EXCEEDED)

    def mostly_failing(body: bytes, context: grpc.ServicerContext) -> bytes:
        if chance.random() < 0.7:
            return refuse(chance.choice(kinds), retry_after_ns=chance.choice((None, 1 * MS)))(body, context)
        return b""

    total = 300
    retry = RetryOnFailure(initial_interval_ns=1 * MS, max_interval_ns=5 * MS)
    with (
        quiet_backend(then=mostly_failing) as backend,
        line(backend.port, consumers=4, max_batch_bytes=1, retry=retry) as made,
    ):
        made.accept(*(request(str(number)) for number in range(total)))
        made.settled()
        assert (made.sent(), made.failed()) == (total, {})
        assert sorted(backend.names()) == sorted(str(number) for number in range(total)), "each of them once"
        assert sum(made.retries().values()) > total


class Waiting:
    """Senders that are answered when the backend has answered."""

    def __init__(self, made: Line) -> None:
        self._made = made
        self._threads: list[threading.Thread] = []
        self.answers: dict[str, tuple[int, str, int | None]] = {}

    def send(self, name: str) -> None:
        """Returns when it is in the queue, ready to be sent."""

        def offer() -> None:
            self.answers[name] = self._made.queue.offer(request(name), "ipv4:127.0.0.1:1")

        self._threads.append(threading.Thread(target=offer))
        self._threads[-1].start()
        [entry] = self._made.queue.take_new(10, 0)
        self._made.queue.put([entry])
        self._made.accepted += 1

    def wait(self) -> dict[str, tuple[int, str, int | None]]:
        for thread in self._threads:
            thread.join(10)
        return self.answers


@contextmanager
def waiting(then: Answer, *sent: str) -> Iterator[tuple[Line, Backend, Waiting]]:
    """What was `sent` goes out joined."""
    with quiet_backend(then=then) as backend:
        made = Line(backend.port, on_forward=True)
        senders = Waiting(made)
        for name in sent:
            senders.send(name)
        made.exporter.start()
        try:
            yield made, backend, senders
        finally:
            made.exporter.stop(0.0)
    assert made.sent() + sum(made.failed().values()) == made.accepted


def test_with_on_forward_the_answer_of_the_backend_is_the_senders() -> None:
    with waiting(accept, "a", "b") as (made, backend, senders):
        assert senders.wait() == {"a": (0, "", None), "b": (0, "", None)}
        assert backend.taken == [request("a") + request("b")]
        assert made.sent() == 2


@pytest.mark.parametrize("retry_after_ns", [None, 7 * S])
@pytest.mark.parametrize("code", CODES, ids=lambda code: code.name)
def test_with_on_forward_a_refusal_is_the_senders_to_deal_with(
    code: grpc.StatusCode, retry_after_ns: int | None
) -> None:
    with waiting(refuse(code, retry_after_ns=retry_after_ns), "a") as (made, backend, senders):
        assert senders.wait() == {"a": (code.value[0], f"refused with {code.name}", retry_after_ns)}
        made.settled()
        assert made.failed() == {code.name.lower(): 1}
        assert len(backend.seen) == 1, "it is not sent again from here"
        assert made.retries() == {}


def test_with_on_forward_one_bad_request_fails_no_other() -> None:
    every = [str(number) for number in range(9)] + ["poison"]
    with waiting(refuse_with(grpc.StatusCode.INTERNAL, "poison"), *every) as (_, backend, senders):
        answers = senders.wait()
        assert answers.pop("poison")[0] == grpc.StatusCode.INTERNAL.value[0]
        assert set(answers.values()) == {(0, "", None)}
        assert backend.names() == every[:-1]


def test_with_on_forward_a_stop_answers_all_that_wait() -> None:
    entered, leave = threading.Event(), threading.Event()

    def hang(body: bytes, context: grpc.ServicerContext) -> bytes:
        entered.set()
        leave.wait(20)
        return b""

    with waiting(hang, "a") as (made, _, senders):
        assert entered.wait(10)
        senders.send("b")
        made.exporter.stop(0.0)
        leave.set()
        later = (grpc.StatusCode.UNAVAILABLE.value[0], "shutting down", None)
        assert senders.wait() == {"a": later, "b": later}
