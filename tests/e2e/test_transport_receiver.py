"""What every transport owes a sender, by the OTLP specification and by our own limits.

A transport takes part by its name in TRANSPORTS.
"""

import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from enricher.otlp.transport import EXPORT_METHOD, CannotListenError, Limits
from tests.e2e.receiving import LIMITS, TRANSPORTS, Running, Transport, failed, retry_info_of, running, silent
from tests.e2e.testbed.processes import wait_until
from tests.e2e.transport import request, sender

RETRY_DELAY_NS = 1_000_000_000
MOST_WATCHERS = {"native": 8, "grpcio": 8}  # one more is refused


@pytest.fixture(params=TRANSPORTS)
def transport(request: pytest.FixtureRequest) -> Transport:
    return request.param


def test_an_accepted_request_arrives_byte_for_byte_and_gets_an_empty_response(transport: Transport) -> None:
    body = request("a", "b") + b"\xfa\x07\x03xyz"  # an unknown field, too
    with running(transport) as started, sender(started.port) as export:
        assert export(body) == b""
    assert started.bodies() == [body]
    assert started.outcomes() == {"accepted": 1}


def test_an_empty_request_is_a_request(transport: Transport) -> None:
    with running(transport) as started, sender(started.port) as export:
        assert export(b"") == b""
    assert started.outcomes() == {"accepted": 1}


def test_what_is_no_request_is_refused_for_good(transport: Transport) -> None:
    with running(transport) as started, sender(started.port) as export:
        call = failed(lambda: export(b"\xff"))
    assert call.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "ExportTraceServiceRequest" in call.details()
    assert retry_info_of(call) is None
    assert started.outcomes() == {"malformed": 1}


def test_who_comes_when_the_queue_is_full_is_told_when_to_come_again(transport: Transport) -> None:
    with running(transport, max_requests=1) as started, sender(started.port) as export:
        export(request("a"))
        call = failed(lambda: export(request("b")))
        assert call.code() is grpc.StatusCode.UNAVAILABLE
        info = retry_info_of(call)
        assert info is not None
        assert info.retry_delay.ToNanoseconds() == RETRY_DELAY_NS
        assert started.outcomes() == {"accepted": 1, "busy": 1}
        started.queue.release(started.taken())
        assert export(request("b")) == b""


def test_who_comes_when_all_is_ending_is_told_so(transport: Transport) -> None:
    with running(transport) as started, sender(started.port) as export:
        started.queue.end_intake()
        call = failed(lambda: export(request("a")))
    assert call.code() is grpc.StatusCode.UNAVAILABLE
    assert retry_info_of(call) is None
    assert started.outcomes() == {"shutting_down": 1}


def test_a_request_larger_than_the_limit_is_refused_without_retry_info(transport: Transport) -> None:
    with running(transport) as started, sender(started.port) as export:
        fits, too_large = request("a", padding=(1 << 20) - 100), request("a", padding=1 << 20)
        export(fits)
        call = failed(lambda: export(too_large))
        export(fits)  # and the next one passes
    assert call.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert retry_info_of(call) is None
    assert started.bodies() == [fits, fits]


@pytest.mark.parametrize("compression", [grpc.Compression.Gzip, grpc.Compression.Deflate])
def test_a_compressed_request_arrives_as_it_was(transport: Transport, compression: grpc.Compression) -> None:
    body = request("a", padding=900_000)
    with running(transport) as started, sender(started.port, compression=compression) as export:
        export(body)
    assert started.bodies() == [body]


def test_the_limit_holds_after_decompression(transport: Transport) -> None:
    with running(transport) as started, sender(started.port, compression=grpc.Compression.Gzip) as export:
        call = failed(lambda: export(request("a", padding=2 << 20)))  # 2 KiB on the wire
    assert call.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert retry_info_of(call) is None
    assert started.bodies() == []


BOMB = """
import sys, resource
sys.path[:0] = {path!r}
from enricher.otlp.transport import Limits
from tests.e2e.receiving import Running

started = Running({transport!r}, limits=Limits(max_message_bytes=4 << 20))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(started.port, flush=True)
sys.stdin.readline()
started.receiver.stop(1.0)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before, flush=True)
"""


def test_a_decompression_bomb_costs_a_few_times_the_limit_and_not_what_it_unpacks_to(
    transport: Transport, tmp_path: Path
) -> None:
    script = tmp_path / "bomb.py"
    script.write_text(BOMB.format(path=sys.path, transport=transport))
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
def test_other_methods_are_unimplemented(transport: Transport, method: str) -> None:
    with running(transport) as started, grpc.insecure_channel(f"127.0.0.1:{started.port}") as channel:
        call = failed(lambda: channel.unary_unary(method)(b""))
    assert call.code() is grpc.StatusCode.UNIMPLEMENTED


def test_metadata_beyond_the_limit_are_refused(transport: Transport) -> None:
    with running(transport) as started, sender(started.port) as export:
        large = (("x-large", "x" * (LIMITS.max_metadata_bytes + 1)),)
        # The native transport answers as HTTP does (431), which gRPC has no code for. Neither is to be tried again.
        refusals = {grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.UNKNOWN}
        assert failed(lambda: export(request("a"), metadata=large)).code() in refusals
        assert export(request("b"), metadata=(("x-large", "x" * 8000),)) == b""
    assert started.bodies() == [request("b")]


def test_an_answer_may_come_later_and_from_another_thread(transport: Transport) -> None:
    with running(transport, answers_late=True) as started, sender(started.port) as export:
        accepted, refused = export.future(request("a")), export.future(request("b"))
        for entry in started.arrived(2):
            if entry.body == request("a"):
                entry.answer()
            else:
                entry.answer(14, "later", 1_500_000_000)
        assert accepted.result(10) == b""
        call = failed(lambda: refused.result(10))
    assert (call.code(), call.details()) == (grpc.StatusCode.UNAVAILABLE, "later")
    info = retry_info_of(call)
    assert info is not None
    assert info.retry_delay.ToNanoseconds() == 1_500_000_000


def test_the_sender_is_known(transport: Transport) -> None:
    with running(transport) as started, sender(started.port) as export:
        export(request("a"))
    [(ordinal, peer)] = started.taken()[0].peers
    family, host, port = peer.split(":")
    assert (ordinal, family, host) == (0, "ipv4", "127.0.0.1")
    assert 0 < int(port) < 65536


def test_an_ipv6_sender_is_written_with_brackets(transport: Transport) -> None:
    if not Path("/proc/net/if_inet6").exists():
        pytest.skip("this kernel has no IPv6")
    with (
        running(transport, endpoint="[::1]:0") as started,
        grpc.insecure_channel(f"[::1]:{started.port}") as channel,
    ):
        channel.unary_unary(EXPORT_METHOD)(request("a"))
    assert started.taken()[0].peers[0][1].startswith("ipv6:[::1]:")


def test_of_many_senders_at_once_every_request_arrives_once(transport: Transport) -> None:
    def send(first: int) -> None:
        with sender(started.port) as export:
            for number in range(first, first + 50):
                export(request(str(number)))

    with running(transport) as started, ThreadPoolExecutor(8) as pool:
        list(pool.map(send, range(0, 400, 50)))
    assert sorted(started.bodies()) == sorted(request(str(number)) for number in range(400))


def test_senders_that_say_nothing_hold_up_nobody(transport: Transport) -> None:
    limits = Limits(max_handler_threads=8)
    with (
        running(transport, limits=limits) as started,
        silent(started.port, calls=limits.max_handler_threads + 20) as calls,
        sender(started.port) as export,
    ):
        if transport == "grpcio":
            wait_until(lambda: any(call.done() for call in calls), "one to be given up, as all threads wait")
        export(request("a"), timeout=10)
    assert started.bodies() == [request("a")]


def test_a_message_that_does_not_come_ends_its_call(transport: Transport) -> None:
    limits = Limits(message_timeout_ns=300_000_000)
    with running(transport, limits=limits) as started, silent(started.port, calls=1) as (call,):
        assert failed(lambda: call.result(10)).code() is grpc.StatusCode.CANCELLED  # to be tried again, by OTLP


@pytest.mark.parametrize("messages", [0, 2])
def test_a_call_without_its_one_message_is_told_so(transport: Transport, messages: int) -> None:
    if (transport, messages) == ("grpcio", 2):
        pytest.skip("grpcio takes the first message of a call, and does not look for another")
    with running(transport) as started, grpc.insecure_channel(f"127.0.0.1:{started.port}") as channel:
        call = channel.stream_unary(EXPORT_METHOD, None, None)
        code = failed(lambda: call(iter([request("a")] * messages))).code()
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert started.bodies() == []


def test_more_calls_than_can_wait_for_a_thread_are_asked_to_come_again() -> None:
    """Of grpcio alone: the native transport has no thread for a call."""
    limits = Limits(max_backlog=8)
    with running("grpcio", limits=limits, answers_late=True) as started, sender(started.port) as export:
        futures = [export.future(request(str(n))) for n in range(limits.handler_threads)]
        started.arrived(len(futures))
        futures += [export.future(request("more")) for _ in range(limits.max_backlog + 10)]
        wait_until(lambda: sum(future.done() for future in futures) == 10, "the surplus to be answered")
        for call in [future for future in futures if future.done()]:
            assert call.code() is grpc.StatusCode.UNAVAILABLE
            assert retry_info_of(call) is not None
            futures.remove(call)
        answered = 0
        while answered < 12:
            answered += sum(entry.answer() is None for entry in started.arrived(answered + 1)[answered:])
        assert [future.result(10) for future in futures] == [b""] * 12
    assert started.outcomes() == {"accepted": 12, "busy": 10}


def test_a_request_that_is_held_for_long_takes_no_stream_of_its_connection(transport: Transport) -> None:
    limits = Limits(max_concurrent_streams=4)
    with running(transport, limits=limits) as started, sender(started.port) as export:
        for number in range(20):
            export(request(str(number)), timeout=10)
    assert len(started.taken()) == 20


def test_a_sender_that_gives_up_frees_its_stream() -> None:
    """Of the native transport alone: with grpcio its thread waits for the answer."""
    limits = Limits(max_concurrent_streams=4)
    with running("native", limits=limits, answers_late=True) as started, sender(started.port) as export:
        futures = [export.future(request("a")) for _ in range(limits.max_concurrent_streams)]
        started.arrived(len(futures))
        for future in futures:
            future.cancel()
        last = export.future(request("b"), timeout=20)
        for entry in started.arrived(len(futures) + 1):
            entry.answer()  # for most of them too late, and no error
        assert last.result(20) == b""


def test_a_sender_that_breaks_off_is_counted_as_gone() -> None:
    """Of the native transport alone: grpcio ends the call before anybody hears of it."""
    with running("native") as started:
        with silent(started.port, calls=3) as calls:
            wait_until(lambda: started.receiver.statistics()["grpc_requests"] == 3, "the calls to be there")
            for call in calls:
                call.cancel()
        wait_until(lambda: started.outcomes() == {"abandoned": 3}, "the calls to be over")


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
def test_a_name_with_an_address_where_another_program_listens_is_not_had_by_half(
    transport: Transport, address: str
) -> None:
    if ":" in address and not Path("/proc/net/if_inet6").exists():
        pytest.skip("this kernel has no IPv6")
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.create_server((address, 0), family=family) as other:
        endpoint = f"localhost:{other.getsockname()[1]}"
        with pytest.raises(CannotListenError, match="taken by another program"):
            Running(transport, endpoint=endpoint)


@pytest.mark.parametrize("host", ["a..b", "x" * 70])
def test_a_host_nobody_can_look_up_is_told_as_such(transport: Transport, host: str) -> None:
    with pytest.raises(CannotListenError, match="no host"):
        Running(transport, endpoint=f"{host}:4317")


def test_two_receivers_on_one_port_do_not_share_it(transport: Transport) -> None:
    with running(transport) as first:
        endpoint = f"127.0.0.1:{first.port}"
        with pytest.raises(CannotListenError) as caught:
            Running(transport, endpoint=endpoint)
    assert caught.value.endpoint == endpoint
    assert caught.value.code == "cannot_listen"
    assert f"port {first.port} is taken" in str(caught.value)
    assert "receivers.otlp.protocols.grpc.endpoint" in caught.value.fix


def test_an_address_of_another_machine_is_told_as_such(transport: Transport) -> None:
    with pytest.raises(CannotListenError, match=r"192\.0\.2\.1:4317: Cannot assign requested address"):
        Running(transport, endpoint="192.0.2.1:4317")


def test_a_stop_lets_what_is_under_way_end_and_takes_nothing_new(transport: Transport) -> None:
    started = Running(transport, answers_late=True)
    with sender(started.port) as export:
        future = export.future(request("a"))
        [entry] = started.arrived()
        stopping = threading.Thread(target=started.receiver.stop, args=(20.0,))
        stopping.start()
        wait_until(
            lambda: failed(lambda: export(request("b"), timeout=0.5)).code() is grpc.StatusCode.UNAVAILABLE,
            "new requests to be refused",
        )
        accepted = len(started.taken())  # with those that were before the stop
        entry.answer()
        assert future.result(10) == b""
        stopping.join(20)
        assert not stopping.is_alive()
    assert len(started.taken()) == accepted


def test_a_stop_cuts_off_what_is_not_answered_in_time(transport: Transport) -> None:
    started = Running(transport, answers_late=True)
    with sender(started.port) as export:
        future = export.future(request("a"))
        [entry] = started.arrived()
        started.receiver.stop(0.05)
        assert failed(lambda: future.result(10)).code() in {grpc.StatusCode.CANCELLED, grpc.StatusCode.UNAVAILABLE}
    entry.answer()


@contextmanager
def health(port: int) -> Iterator[health_pb2_grpc.HealthStub]:
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield health_pb2_grpc.HealthStub(channel)


def asked(service: str) -> health_pb2.HealthCheckRequest:
    return health_pb2.HealthCheckRequest(service=service)


def test_a_check_tells_how_it_is_now(transport: Transport) -> None:
    serving = health_pb2.HealthCheckResponse.SERVING
    with running(transport) as started, health(started.port) as stub:
        assert stub.Check(asked("")).status == serving
        assert stub.Check(asked("enricher.evidence")).status == health_pb2.HealthCheckResponse.NOT_SERVING
        started.status.services["enricher.evidence"] = True
        wait_until(lambda: stub.Check(asked("enricher.evidence")).status == serving, "the change to be told")
        assert failed(lambda: stub.Check(asked("nobody"))).code() is grpc.StatusCode.NOT_FOUND


def test_a_check_that_cannot_be_read_is_told_so_and_not_logged(
    transport: Transport, caplog: pytest.LogCaptureFixture
) -> None:
    with running(transport) as started, grpc.insecure_channel(f"127.0.0.1:{started.port}") as channel:
        for kind, method in ((channel.unary_unary, "Check"), (channel.unary_stream, "Watch")):
            call = kind(f"/grpc.health.v1.Health/{method}", None, None)
            code = failed(lambda call=call: list(call(b"\xff", timeout=10))).code()
            assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert caplog.text == ""


@pytest.mark.parametrize("method", ["Check", "Watch"])
def test_health_is_told_though_many_ask_for_it_and_say_nothing(transport: Transport, method: str) -> None:
    with (
        running(transport) as started,
        silent(started.port, f"/grpc.health.v1.Health/{method}", calls=60),
        health(started.port) as stub,
    ):
        assert stub.Check(asked(""), timeout=10).status == health_pb2.HealthCheckResponse.SERVING


def test_a_watcher_hears_of_changes_and_of_the_end(transport: Transport) -> None:
    started = Running(transport)
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


def test_a_service_nobody_knows_can_be_watched_until_it_is_known(transport: Transport) -> None:
    with running(transport) as started, health(started.port) as stub:
        answers = stub.Watch(asked("later"), timeout=20)
        assert next(answers).status == health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
        started.status.services["later"] = True
        assert next(answers).status == health_pb2.HealthCheckResponse.SERVING
        answers.cancel()


def test_however_many_watch_spans_still_get_in(transport: Transport) -> None:
    with running(transport) as started, health(started.port) as stub:
        watchers = [stub.Watch(asked(""), timeout=30) for _ in range(MOST_WATCHERS[transport])]
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
        assert started.bodies() == [request("a")]


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


def test_no_descriptor_and_no_thread_is_left_behind(transport: Transport) -> None:
    def once() -> None:
        with running(transport) as started, sender(started.port) as export:
            export(request("a"))

    once()  # grpc's own threads and descriptors, made once
    threads, descriptors = threading.active_count(), _descriptors()
    for _ in range(5):
        once()
    wait_until(lambda: threading.active_count() <= threads, "threads to end")
    wait_until(lambda: _descriptors() <= descriptors + 2, "descriptors to be closed")
