"""What every transport owes a sender, by the OTLP specification and by our own limits.

A transport takes part by a line in RECEIVERS.
"""

import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc

from enricher.otlp.grpcio_receiver import GrpcioReceiver
from enricher.otlp.transport import (
    EXPORT_METHOD,
    RETRY_DELAY_NS,
    Admit,
    AlreadyAnsweredError,
    CannotListenError,
    Limits,
    Outcome,
    RawRequest,
    Receiver,
    ServingStatus,
)
from enricher.telemetry.metrics import Metrics
from tests.e2e.testbed.processes import wait_until
from tests.e2e.transport import request, sender

MakeReceiver = Callable[[str, Admit, Limits, ServingStatus, Metrics], Receiver]
RECEIVERS: dict[str, MakeReceiver] = {"grpcio": GrpcioReceiver}
LIMITS = Limits(max_message_bytes=1 << 20)


@pytest.fixture(params=RECEIVERS)
def make_receiver(request: pytest.FixtureRequest) -> MakeReceiver:
    return RECEIVERS[request.param]


class Status:
    """A `ServingStatus` that is told what to say."""

    def __init__(self) -> None:
        self.services: dict[str, bool] = {"": True, "enricher.evidence": False}

    def serving(self, service: str) -> bool | None:
        return self.services.get(service)


class Running:
    def __init__(
        self, make: MakeReceiver, admit: Admit, limits: Limits = LIMITS, endpoint: str = "127.0.0.1:0"
    ) -> None:
        self.metrics = Metrics()
        self.status = Status()
        self.receiver = make(endpoint, admit, limits, self.status, self.metrics)
        self.receiver.start()
        self.port = self.receiver.port

    def outcomes(self) -> dict[str, int]:
        return self.metrics.receiver_requests.values()


@contextmanager
def running(make: MakeReceiver, admit: Admit, **rest: object) -> Iterator[Running]:
    started = Running(make, admit, **rest)
    try:
        yield started
    finally:
        started.receiver.stop(1.0)


def reply_all(outcome: Outcome, message: str = "") -> Admit:
    def admit(batch: Sequence[RawRequest]) -> None:
        for raw in batch:
            raw.reply(outcome, message)

    return admit


class Taking:
    """Accepts everything, and keeps it."""

    def __init__(self) -> None:
        self.requests: list[RawRequest] = []

    def __call__(self, batch: Sequence[RawRequest]) -> None:
        for raw in batch:
            self.requests.append(raw)
            raw.reply(Outcome.ACCEPTED)

    def bodies(self) -> list[bytes]:
        return [raw.body for raw in self.requests]


def failed(call: Callable[[], object]) -> grpc.Call:
    with pytest.raises(grpc.RpcError) as caught:
        call()
    return caught.value


def retry_info_of(call: grpc.Call) -> error_details_pb2.RetryInfo | None:
    for key, value in call.trailing_metadata():
        if key == "grpc-status-details-bin":
            status = status_pb2.Status.FromString(value)
            assert status.code == call.code().value[0]
            assert status.message == call.details()
            info = error_details_pb2.RetryInfo()
            assert status.details[0].Unpack(info)
            return info
    return None


def test_an_accepted_request_arrives_byte_for_byte_and_gets_an_empty_response(make_receiver: MakeReceiver) -> None:
    taking = Taking()
    body = request("a", "b") + b"\xfa\x07\x03xyz"  # an unknown field, too
    with running(make_receiver, taking) as started, sender(started.port) as export:
        assert export(body) == b""
    assert taking.bodies() == [body]
    assert started.outcomes() == {"accepted": 1}


def test_an_empty_request_is_a_request(make_receiver: MakeReceiver) -> None:
    taking = Taking()
    with running(make_receiver, taking) as started, sender(started.port) as export:
        assert export(b"") == b""
    assert taking.bodies() == [b""]


@pytest.mark.parametrize(
    ("outcome", "code", "has_retry_info"),
    [
        (Outcome.MALFORMED, grpc.StatusCode.INVALID_ARGUMENT, False),
        (Outcome.TOO_LARGE, grpc.StatusCode.RESOURCE_EXHAUSTED, False),
        (Outcome.BUSY, grpc.StatusCode.UNAVAILABLE, True),
        (Outcome.SHUTTING_DOWN, grpc.StatusCode.UNAVAILABLE, False),
        (Outcome.FAILED, grpc.StatusCode.INTERNAL, False),
    ],
)
def test_every_refusal_has_the_status_of_the_specification(
    make_receiver: MakeReceiver, outcome: Outcome, code: grpc.StatusCode, has_retry_info: bool
) -> None:
    with running(make_receiver, reply_all(outcome)) as started, sender(started.port) as export:
        call = failed(lambda: export(request("a")))
    assert call.code() is code
    assert call.details()
    info = retry_info_of(call)
    assert (info is not None) is has_retry_info
    if info is not None:
        assert info.retry_delay.ToNanoseconds() == RETRY_DELAY_NS
    assert started.outcomes() == {outcome.value: 1}


def test_the_sender_reads_what_is_wrong(make_receiver: MakeReceiver) -> None:
    admit = reply_all(Outcome.MALFORMED, "span 3 ends in the middle")
    with running(make_receiver, admit) as started, sender(started.port) as export:
        assert failed(lambda: export(b"x")).details() == "span 3 ends in the middle"


def test_a_request_larger_than_the_limit_is_refused_without_retry_info(make_receiver: MakeReceiver) -> None:
    taking = Taking()
    with running(make_receiver, taking) as started, sender(started.port) as export:
        fits, too_large = request("a", padding=(1 << 20) - 100), request("a", padding=1 << 20)
        export(fits)
        call = failed(lambda: export(too_large))
        export(fits)  # and the next one passes
    assert call.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert retry_info_of(call) is None
    assert taking.bodies() == [fits, fits]


def test_a_compressed_request_arrives_as_it_was(make_receiver: MakeReceiver) -> None:
    taking = Taking()
    body = request("a", padding=100_000)
    with running(make_receiver, taking) as started, sender(started.port, compression=grpc.Compression.Gzip) as export:
        export(body)
    assert taking.bodies() == [body]


def test_the_limit_holds_after_decompression(make_receiver: MakeReceiver) -> None:
    taking = Taking()
    with running(make_receiver, taking) as started, sender(started.port, compression=grpc.Compression.Gzip) as export:
        call = failed(lambda: export(request("a", padding=2 << 20)))  # 2 KiB on the wire
    assert call.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert retry_info_of(call) is None
    assert taking.bodies() == []


BOMB = """
import sys, resource
sys.path[:0] = {path!r}
import grpc
from enricher.otlp.transport import Limits, Outcome
from enricher.telemetry.metrics import Metrics
from {module} import {name}
from tests.e2e.test_transport_receiver import Status, reply_all

limits = Limits(max_message_bytes=4 << 20)
receiver = {name}("127.0.0.1:0", reply_all(Outcome.ACCEPTED), limits, Status(), Metrics())
receiver.start()
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(receiver.port, flush=True)
sys.stdin.readline()
receiver.stop(1.0)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before, flush=True)
"""


def test_a_decompression_bomb_costs_a_few_times_the_limit_and_not_what_it_unpacks_to(
    make_receiver: MakeReceiver, tmp_path: Path
) -> None:
    script = tmp_path / "bomb.py"
    assert isinstance(make_receiver, type)
    script.write_text(BOMB.format(path=sys.path, module=make_receiver.__module__, name=make_receiver.__name__))
    with subprocess.Popen(
        [sys.executable, str(script)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout
        with sender(int(child.stdout.readline()), compression=grpc.Compression.Gzip) as export:
            bomb = bytes(256 << 20)  # 256 KiB on the wire, below the limit
            assert failed(lambda: export(bomb)).code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        grown_kib = int(child.communicate("\n", timeout=30)[0])
    assert grown_kib < 32 << 10


@pytest.mark.parametrize(
    "method",
    [
        "/opentelemetry.proto.collector.trace.v1.TraceService/Import",
        "/opentelemetry.proto.collector.metrics.v1.MetricsService/Export",
        "/grpc.health.v1.Health/Nothing",
    ],
)
def test_other_methods_are_unimplemented(make_receiver: MakeReceiver, method: str) -> None:
    with (
        running(make_receiver, Taking()) as started,
        grpc.insecure_channel(f"127.0.0.1:{started.port}") as channel,
    ):
        call = failed(lambda: channel.unary_unary(method)(b""))
    assert call.code() is grpc.StatusCode.UNIMPLEMENTED


def test_metadata_beyond_the_limit_are_refused(make_receiver: MakeReceiver) -> None:
    taking = Taking()
    with running(make_receiver, taking) as started, sender(started.port) as export:
        large = (("x-large", "x" * (LIMITS.max_metadata_bytes + 1)),)
        assert failed(lambda: export(request("a"), metadata=large)).code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert export(request("b"), metadata=(("x-large", "x" * 8000),)) == b""
    assert taking.bodies() == [request("b")]


def test_an_answer_may_come_later_and_from_another_thread(make_receiver: MakeReceiver) -> None:
    held: list[RawRequest] = []
    with running(make_receiver, held.extend) as started, sender(started.port) as export:
        future = export.future(request("a"))
        raw = wait_until(lambda: held and held[0], "the request")
        assert not future.done()
        raw.reply(Outcome.ACCEPTED)
        assert future.result(10) == b""
    assert started.outcomes() == {"accepted": 1}


@pytest.mark.parametrize("again", list(Outcome))
def test_a_second_answer_is_an_error_and_the_first_one_stands(make_receiver: MakeReceiver, again: Outcome) -> None:
    raised: list[AlreadyAnsweredError] = []

    def admit(batch: Sequence[RawRequest]) -> None:
        batch[0].reply(Outcome.ACCEPTED)
        try:
            batch[0].reply(again)
        except AlreadyAnsweredError as error:
            raised.append(error)

    with running(make_receiver, admit) as started, sender(started.port) as export:
        assert export(request("a")) == b""
    assert [(error.first, error.second) for error in raised] == [(Outcome.ACCEPTED, again)]


def test_of_many_threads_that_answer_at_once_exactly_one_does(make_receiver: MakeReceiver) -> None:
    held: list[RawRequest] = []
    barrier = threading.Barrier(8)

    def answer(raw: RawRequest) -> bool:
        barrier.wait(10)
        try:
            raw.reply(Outcome.ACCEPTED)
        except AlreadyAnsweredError:
            return False
        return True

    with running(make_receiver, held.extend) as started, sender(started.port) as export, ThreadPoolExecutor(8) as pool:
        future = export.future(request("a"))
        raw = wait_until(lambda: held and held[0], "the request")
        assert sum(pool.map(answer, [raw] * 8)) == 1
        assert future.result(10) == b""


def test_a_fault_in_admission_is_an_internal_error_and_the_receiver_lives(
    make_receiver: MakeReceiver, caplog: pytest.LogCaptureFixture
) -> None:
    def admit(batch: Sequence[RawRequest]) -> None:
        if batch[0].body == b"":
            raise ZeroDivisionError
        batch[0].reply(Outcome.ACCEPTED)

    with running(make_receiver, admit) as started, sender(started.port) as export:
        for _ in range(3):
            assert failed(lambda: export(b"")).code() is grpc.StatusCode.INTERNAL
        assert export(request("a")) == b""
    assert started.outcomes() == {"failed": 3, "accepted": 1}
    assert caplog.text.count("Traceback") == 1  # told once, not three times


def test_a_fault_after_the_answer_does_not_change_it(make_receiver: MakeReceiver) -> None:
    def admit(batch: Sequence[RawRequest]) -> None:
        batch[0].reply(Outcome.ACCEPTED)
        raise ZeroDivisionError

    with running(make_receiver, admit) as started, sender(started.port) as export:
        assert export(request("a")) == b""


def test_the_sender_is_known_also_after_the_answer(make_receiver: MakeReceiver) -> None:
    taking = Taking()
    before: list[str] = []

    def admit(batch: Sequence[RawRequest]) -> None:
        before.append(batch[0].peer())
        taking(batch)

    with running(make_receiver, admit) as started, sender(started.port) as export:
        export(request("a"))
        after = taking.requests[0].peer()
    family, host, port = after.split(":")
    assert (family, host) == ("ipv4", "127.0.0.1")
    assert 0 < int(port) < 65536
    assert before == [after]
    assert taking.requests[0].peer() == after  # and when its connection has gone


def test_an_ipv6_sender_is_written_with_brackets(make_receiver: MakeReceiver) -> None:
    if not Path("/proc/net/if_inet6").exists():
        pytest.skip("this kernel has no IPv6")
    taking = Taking()
    with (
        running(make_receiver, taking, endpoint="[::1]:0") as started,
        grpc.insecure_channel(f"[::1]:{started.port}") as channel,
    ):
        channel.unary_unary(EXPORT_METHOD)(b"")
    assert taking.requests[0].peer().startswith("ipv6:[::1]:")


def test_requests_are_admitted_side_by_side(make_receiver: MakeReceiver) -> None:
    together = threading.Barrier(LIMITS.handler_threads)

    def admit(batch: Sequence[RawRequest]) -> None:
        together.wait(10)  # breaks unless all of them are inside at once
        batch[0].reply(Outcome.ACCEPTED)

    with running(make_receiver, admit) as started, sender(started.port) as export:
        futures = [export.future(request(str(n))) for n in range(LIMITS.handler_threads)]
        assert [future.result(20) for future in futures] == [b""] * LIMITS.handler_threads


def test_of_many_senders_at_once_every_request_arrives_once(make_receiver: MakeReceiver) -> None:
    taking = Taking()

    def send(first: int) -> None:
        with sender(started.port) as export:
            for number in range(first, first + 50):
                export(request(str(number)))

    with running(make_receiver, taking) as started, ThreadPoolExecutor(8) as pool:
        list(pool.map(send, range(0, 400, 50)))
    assert sorted(taking.bodies()) == sorted(request(str(number)) for number in range(400))


@contextmanager
def silent(port: int, method: str = EXPORT_METHOD, *, calls: int) -> Iterator[list[grpc.Future]]:
    """Calls whose message does not come, on a connection of their own."""
    over = threading.Event()

    def nothing() -> Iterator[bytes]:
        over.wait(60)
        yield from ()

    with grpc.insecure_channel(f"127.0.0.1:{port}", options=(("grpc.use_local_subchannel_pool", 1),)) as channel:
        call = channel.stream_unary(method, None, None)
        futures = [call.future(nothing()) for _ in range(calls)]
        try:
            yield futures
        finally:
            over.set()


def test_senders_that_say_nothing_hold_up_nobody(make_receiver: MakeReceiver) -> None:
    taking = Taking()
    limits = Limits(max_handler_threads=8)
    with (
        running(make_receiver, taking, limits=limits) as started,
        silent(started.port, calls=limits.max_handler_threads + 20) as calls,
        sender(started.port) as export,
    ):
        wait_until(lambda: any(call.done() for call in calls), "one to be given up, as all threads wait")
        export(request("a"), timeout=10)
    assert taking.bodies() == [request("a")]


def test_a_message_that_does_not_come_ends_its_call(make_receiver: MakeReceiver) -> None:
    limits = Limits(message_timeout_ns=300_000_000)
    with running(make_receiver, Taking(), limits=limits) as started, silent(started.port, calls=1) as (call,):
        assert failed(lambda: call.result(10)).code() is grpc.StatusCode.CANCELLED  # to be tried again, by OTLP


def test_a_call_without_a_message_is_told_so(make_receiver: MakeReceiver) -> None:
    with (
        running(make_receiver, Taking()) as started,
        grpc.insecure_channel(f"127.0.0.1:{started.port}") as channel,
    ):
        call = channel.stream_unary(EXPORT_METHOD, None, None)
        assert failed(lambda: call(iter(()))).code() is grpc.StatusCode.INVALID_ARGUMENT


def test_more_calls_than_can_wait_are_asked_to_come_again(make_receiver: MakeReceiver) -> None:
    leave = threading.Event()
    inside = threading.Semaphore(0)

    def admit(batch: Sequence[RawRequest]) -> None:
        inside.release()
        leave.wait(30)
        batch[0].reply(Outcome.ACCEPTED)

    limits = Limits(max_backlog=8)
    with running(make_receiver, admit, limits=limits) as started, sender(started.port) as export:
        futures = [export.future(request(str(n))) for n in range(limits.handler_threads)]
        for _ in futures:
            assert inside.acquire(timeout=10)
        futures += [export.future(request("more")) for _ in range(limits.max_backlog + 10)]
        wait_until(lambda: sum(future.done() for future in futures) == 10, "the surplus to be answered")
        for call in [future for future in futures if future.done()]:
            assert call.code() is grpc.StatusCode.UNAVAILABLE
            assert retry_info_of(call) is not None
            futures.remove(call)
        leave.set()
        assert [future.result(10) for future in futures] == [b""] * 12
    assert started.outcomes() == {"accepted": 12, "busy": 10}


def test_a_request_that_is_held_for_long_takes_no_stream_of_its_connection(make_receiver: MakeReceiver) -> None:
    taking = Taking()  # which holds every request
    limits = Limits(max_concurrent_streams=4)
    with running(make_receiver, taking, limits=limits) as started, sender(started.port) as export:
        for number in range(20):
            export(request(str(number)), timeout=10)
    assert len(taking.requests) == 20


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
def test_a_name_with_an_address_where_another_program_listens_is_not_had_by_half(
    make_receiver: MakeReceiver, address: str
) -> None:
    if ":" in address and not Path("/proc/net/if_inet6").exists():
        pytest.skip("this kernel has no IPv6")
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.create_server((address, 0), family=family) as other:
        endpoint = f"localhost:{other.getsockname()[1]}"
        with pytest.raises(CannotListenError, match="taken by another program"):
            Running(make_receiver, Taking(), endpoint=endpoint)


@pytest.mark.parametrize("host", ["a..b", "x" * 70])
def test_a_host_nobody_can_look_up_is_told_as_such(make_receiver: MakeReceiver, host: str) -> None:
    with pytest.raises(CannotListenError, match="no host name"):
        Running(make_receiver, Taking(), endpoint=f"{host}:4317")


def test_a_sender_that_gives_up_frees_its_thread(make_receiver: MakeReceiver) -> None:
    held: list[RawRequest] = []

    def admit(batch: Sequence[RawRequest]) -> None:
        if batch[0].body == b"":
            held.extend(batch)
        else:
            batch[0].reply(Outcome.ACCEPTED)

    with running(make_receiver, admit) as started, sender(started.port) as export:
        futures = [export.future(b"") for _ in range(LIMITS.handler_threads)]
        wait_until(lambda: len(held) == LIMITS.handler_threads, "every thread to be held")
        for future in futures:
            future.cancel()
        assert export(request("a"), timeout=20) == b""
        abandoned = {"abandoned": LIMITS.handler_threads, "accepted": 1}
        wait_until(lambda: started.outcomes() == abandoned, "every thread to be free")
        for raw in held:
            raw.reply(Outcome.ACCEPTED)  # too late, and no error
    assert started.outcomes() == abandoned


def test_two_receivers_on_one_port_do_not_share_it(make_receiver: MakeReceiver) -> None:
    with running(make_receiver, Taking()) as first:
        endpoint = f"127.0.0.1:{first.port}"
        with pytest.raises(CannotListenError) as caught:
            Running(make_receiver, Taking(), endpoint=endpoint)
    assert caught.value.endpoint == endpoint
    assert caught.value.code == "cannot_listen"
    assert f"port {first.port} is taken" in str(caught.value)
    assert "receivers.otlp.protocols.grpc.endpoint" in caught.value.fix


def test_an_address_of_another_machine_is_told_as_such(make_receiver: MakeReceiver) -> None:
    with pytest.raises(CannotListenError, match=r"192\.0\.2\.1:4317: Cannot assign requested address"):
        Running(make_receiver, Taking(), endpoint="192.0.2.1:4317")


def test_a_stop_lets_what_is_under_way_end_and_takes_nothing_new(make_receiver: MakeReceiver) -> None:
    held: list[RawRequest] = []
    started = Running(make_receiver, held.extend)
    with sender(started.port) as export:
        future = export.future(request("a"))
        raw = wait_until(lambda: held and held[0], "the request")
        stopping = threading.Thread(target=started.receiver.stop, args=(20.0,))
        stopping.start()
        wait_until(
            lambda: failed(lambda: export(request("b"), timeout=5)).code() is grpc.StatusCode.UNAVAILABLE,
            "new requests to be refused",
        )
        raw.reply(Outcome.ACCEPTED)
        assert future.result(10) == b""
        stopping.join(20)
        assert not stopping.is_alive()
    assert len(held) == 1


def test_a_stop_cuts_off_what_is_not_answered_in_time(make_receiver: MakeReceiver) -> None:
    held: list[RawRequest] = []
    started = Running(make_receiver, held.extend)
    with sender(started.port) as export:
        future = export.future(request("a"))
        wait_until(lambda: held, "the request")
        started.receiver.stop(0.05)
        assert failed(lambda: future.result(10)).code() in {grpc.StatusCode.CANCELLED, grpc.StatusCode.UNAVAILABLE}


@contextmanager
def health(port: int) -> Iterator[health_pb2_grpc.HealthStub]:
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield health_pb2_grpc.HealthStub(channel)


def asked(service: str) -> health_pb2.HealthCheckRequest:
    return health_pb2.HealthCheckRequest(service=service)


def test_health_is_asked_anew_with_every_check(make_receiver: MakeReceiver) -> None:
    with running(make_receiver, Taking()) as started, health(started.port) as stub:
        assert stub.Check(asked("")).status == health_pb2.HealthCheckResponse.SERVING
        assert stub.Check(asked("enricher.evidence")).status == health_pb2.HealthCheckResponse.NOT_SERVING
        started.status.services["enricher.evidence"] = True
        assert stub.Check(asked("enricher.evidence")).status == health_pb2.HealthCheckResponse.SERVING
        assert failed(lambda: stub.Check(asked("nobody"))).code() is grpc.StatusCode.NOT_FOUND


def test_a_check_that_cannot_be_read_is_told_so_and_not_logged(
    make_receiver: MakeReceiver, caplog: pytest.LogCaptureFixture
) -> None:
    with (
        running(make_receiver, Taking()) as started,
        grpc.insecure_channel(f"127.0.0.1:{started.port}") as channel,
    ):
        for kind, method in ((channel.unary_unary, "Check"), (channel.unary_stream, "Watch")):
            call = kind(f"/grpc.health.v1.Health/{method}", None, None)
            code = failed(lambda call=call: list(call(b"\xff", timeout=10))).code()
            assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert caplog.text == ""


@pytest.mark.parametrize("method", ["Check", "Watch"])
def test_health_is_told_though_many_ask_for_it_and_say_nothing(make_receiver: MakeReceiver, method: str) -> None:
    with (
        running(make_receiver, Taking()) as started,
        silent(started.port, f"/grpc.health.v1.Health/{method}", calls=60),
        health(started.port) as stub,
    ):
        assert stub.Check(asked(""), timeout=10).status == health_pb2.HealthCheckResponse.SERVING


def test_a_watcher_hears_of_changes_and_of_the_end(make_receiver: MakeReceiver) -> None:
    started = Running(make_receiver, Taking())
    with health(started.port) as stub:
        answers = stub.Watch(asked(""), timeout=20)
        heard = [next(answers).status]
        started.status.services[""] = False
        heard.append(next(answers).status)
        started.status.services[""] = True
        heard.append(next(answers).status)
        started.status.services[""] = False
        started.receiver.stop(10.0)
        heard += [answer.status for answer in answers]
    serving, not_serving = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING
    assert heard == [serving, not_serving, serving, not_serving]


def test_a_service_nobody_knows_can_be_watched_until_it_is_known(make_receiver: MakeReceiver) -> None:
    with running(make_receiver, Taking()) as started, health(started.port) as stub:
        answers = stub.Watch(asked("later"), timeout=20)
        assert next(answers).status == health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
        started.status.services["later"] = True
        assert next(answers).status == health_pb2.HealthCheckResponse.SERVING
        answers.cancel()


def test_however_many_watch_spans_still_get_in(make_receiver: MakeReceiver) -> None:
    taking = Taking()
    with running(make_receiver, taking) as started, health(started.port) as stub:
        watchers = [stub.Watch(asked(""), timeout=30) for _ in range(8)]
        for watcher in watchers:
            next(watcher)
        surplus = failed(lambda: next(stub.Watch(asked(""), timeout=30)))
        assert surplus.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        with sender(started.port) as export:
            export(request("a"), timeout=10)
        for watcher in watchers:
            watcher.cancel()
        # The places of those that left are free again.
        wait_until(lambda: _can_watch(stub), "a place for a watcher")
    assert taking.bodies() == [request("a")]


def _can_watch(stub: health_pb2_grpc.HealthStub) -> bool:
    watcher = stub.Watch(asked(""), timeout=10)
    try:
        next(watcher)
    except grpc.RpcError:
        return False
    watcher.cancel()
    return True


def _descriptors() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def test_no_descriptor_and_no_thread_is_left_behind(make_receiver: MakeReceiver) -> None:
    def once() -> None:
        with running(make_receiver, Taking()) as started, sender(started.port) as export:
            export(request("a"))

    once()  # grpc's own threads and descriptors, made once
    threads, descriptors = threading.active_count(), _descriptors()
    for _ in range(5):
        once()
    wait_until(lambda: threading.active_count() <= threads, "threads to end")
    wait_until(lambda: _descriptors() <= descriptors + 2, "descriptors to be closed")
