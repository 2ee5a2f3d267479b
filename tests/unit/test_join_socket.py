"""A server span over HTTP/1 names its connection: what its goroutine and those made by it waited for is the span's."""

from collections.abc import Iterator, Mapping
from dataclasses import replace

import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from enricher.evidence.records import Event, EventFlag, Peer, WaitKind
from enricher.join.methods.method import Match, Window
from enricher.join.methods.origin import Origins
from enricher.join.methods.socket import Socket
from tests.unit.evidence_log import FULL, MS, TGID, Log, going_on, inet, process, sender, wait
from tests.unit.span_requests import WINDOW, Sent, Value, request

GO_ONLY = EventFlag.PROCESS_HAS_GOROUTINES
SERVER = Span.SPAN_KIND_SERVER
CALLER, PORT = "10.0.0.9", 40123
HERE: Mapping[str, Value] = {
    "network.peer.address": CALLER,
    "network.peer.port": PORT,
    "network.protocol.version": "1.1",
}
A, B = (name * 8 for name in (b"a", b"b"))
HANDLER, CHILD, GRANDCHILD = 7, 17, 18


@pytest.fixture
def log() -> Iterator[Log]:
    """The handler's goroutine has read from the connection before, and was idle until 99.9 ms."""
    with Log() as made:
        made.write(process(flags=GO_ONLY), on_connection(20, 99.9))
        yield made


def on_connection(start_ms: float, end_ms: float, *, goid: int = HANDLER, address: str = CALLER) -> Event:
    return wait(start_ms, end_ms, goid=goid, fd=5, peer=inet(address, PORT))


def elsewhere(start_ms: float, end_ms: float, *, goid: int = HANDLER, parent_goid: int = 0) -> Event:
    return replace(wait(start_ms, end_ms, goid=goid, fd=6, peer=inet("10.0.0.1", 5432)), parent_goid=parent_goid)


def server(start_ms: float, end_ms: float, attributes: Mapping[str, Value] = HERE, span_id: bytes = A) -> Sent:
    return Sent(span_id, start_ms, end_ms, b"p" * 8, SERVER, attributes)


def matched(log: Log, *spans: Sent, window: Window = WINDOW) -> Match:
    method = Socket(log.index, Origins(log.index, ""))
    sent = request(*spans)
    method.saw(sent)
    return method.match(sent, range(len(spans)), window)


def blocked_ms(match: Match) -> dict[int, float]:
    return {evidence.ordinal: evidence.blocked_ns / MS for evidence in match.evidence}


@pytest.mark.parametrize(
    "attributes",
    [
        HERE,
        {"net.sock.peer.addr": CALLER, "net.sock.peer.port": PORT, "http.flavor": "1.1"},
        {"net.sock.peer.addr": CALLER, "net.sock.peer.port": PORT, "net.protocol.version": "1.0"},
        {**HERE, "network.peer.address": f"::ffff:{CALLER}"},
    ],
    ids=["new names", "old names", "names in between", "a mapped address"],
)
def test_the_wait_of_the_handlers_goroutine_is_the_spans(log: Log, attributes: Mapping[str, Value]) -> None:
    log.write(elsewhere(110, 140), watermark_ms=500)
    match = matched(log, server(100, 150, attributes))
    assert blocked_ms(match) == {0: 30}
    assert match.evidence[0].complete


def test_a_sleep_of_its_thread_is_too(log: Log) -> None:
    log.write(wait(110, 140, fd=8, wait_kind=WaitKind.KERNEL), watermark_ms=500)
    assert blocked_ms(matched(log, server(100, 150))) == {0: 30}


@pytest.mark.parametrize(
    ("attributes", "why"),
    [
        ({}, "does not name"),
        ({**HERE, "network.peer.port": str(PORT)}, "does not name"),
        ({"client.address": CALLER, "client.port": PORT, "http.flavor": "1.1"}, "does not name"),
        ({**HERE, "network.peer.port": PORT + 1}, "No single goroutine"),
        ({**HERE, "network.peer.address": "not an address"}, "is none"),
        ({**HERE, "network.protocol.version": "2"}, "HTTP/1"),
        ({**HERE, "http.flavor": "2.0"}, "HTTP/1"),
        ({**HERE, "rpc.system": "grpc"}, "HTTP/1"),
        ({key: value for key, value in HERE.items() if "protocol" not in key}, "HTTP/1"),
    ],
)
def test_without_a_connection_over_http1_there_is_no_match(log: Log, attributes: Mapping[str, Value], why: str) -> None:
    log.write(elsewhere(110, 140), watermark_ms=500)
    assert list(matched(log, server(100, 150, attributes)).unmatched) == [0]
    trial = Socket(log.index, Origins(log.index, "")).explain(request(server(100, 150, attributes)), 0, WINDOW)
    assert why in trial.why


def test_a_client_span_names_a_server(log: Log) -> None:
    log.write(elsewhere(110, 140), watermark_ms=500)
    assert list(matched(log, replace(server(100, 150), kind=Span.SPAN_KIND_CLIENT)).unmatched) == [0]


def test_the_wait_for_the_request_is_not_the_spans_but_that_for_its_body_is(log: Log) -> None:
    log.write(on_connection(101, 121), on_connection(160, 260), watermark_ms=500)
    # The span began by its own clock before the read that brought its request was over.
    match = matched(log, server(98.5, 150))
    assert blocked_ms(match) == {0: 20}


def test_goroutines_made_for_the_request_wait_for_it(log: Log) -> None:
    log.write(
        elsewhere(105, 125, goid=CHILD, parent_goid=HANDLER),
        elsewhere(115, 135, goid=GRANDCHILD, parent_goid=CHILD),
        elsewhere(105, 145, goid=99, parent_goid=98),
        watermark_ms=500,
    )
    assert blocked_ms(matched(log, server(100, 150))) == {0: 30}


def test_what_looks_out_for_the_end_of_the_connection_does_not(log: Log) -> None:
    look_out = replace(on_connection(101, 149, goid=CHILD), parent_goid=HANDLER)
    log.write(look_out, watermark_ms=500)
    match = matched(log, server(100, 150))
    assert (match.matched, blocked_ms(match)) == (1, {})


@pytest.mark.parametrize(
    "other",
    [
        elsewhere(60, 80, goid=CHILD, parent_goid=HANDLER),
        elsewhere(145, 180, goid=CHILD, parent_goid=HANDLER),
        elsewhere(200, 230, goid=CHILD, parent_goid=HANDLER),
        replace(going_on(148, 400, goid=CHILD), parent_goid=HANDLER),
    ],
    ids=["before", "across its end", "after", "still"],
)
def test_a_child_that_also_waits_outside_the_span_is_in_the_background(log: Log, other: Event) -> None:
    log.write(elsewhere(110, 140, goid=CHILD, parent_goid=HANDLER), other, watermark_ms=500)
    assert blocked_ms(matched(log, server(100, 150))) == {}


def test_whether_a_child_still_waits_is_waited_for(log: Log) -> None:
    log.write(elsewhere(110, 140, goid=CHILD, parent_goid=HANDLER), watermark_ms=500, going_on_ms=120)
    window = replace(WINDOW, settled_ns=120 * MS)
    assert matched(log, server(100, 150), window=window).open_until_ns == 151 * MS


def test_the_flush_of_the_response_after_the_end_is_left_off(log: Log) -> None:
    log.write(replace(elsewhere(151.5, 180), flags=EventFlag.WAIT_FOR_WRITE), watermark_ms=500)
    assert blocked_ms(matched(log, server(100, 150))) == {}


def test_each_request_on_a_connection_has_its_own_waits(log: Log) -> None:
    log.write(elsewhere(110, 140), on_connection(150.2, 199.9), elsewhere(210, 215), watermark_ms=500)
    match = matched(log, server(100, 150), server(200, 250, span_id=B))
    assert blocked_ms(match) == {0: 30, 1: 5}


def test_two_requests_at_once_on_what_looks_like_one_connection_get_nothing(log: Log) -> None:
    log.write(elsewhere(110, 140), watermark_ms=500)
    match = matched(log, server(100, 150), server(120, 160, span_id=B))
    assert list(match.unmatched) == [0, 1]


def test_a_server_span_inside_another_of_the_same_request_is_none_of_these(log: Log) -> None:
    log.write(elsewhere(110, 140), watermark_ms=500)
    inner = Sent(B, 105, 145, A, SERVER, HERE)
    assert blocked_ms(matched(log, server(100, 150), inner)) == {0: 30, 1: 30}


def test_an_address_that_two_processes_read_from_is_nobodys(log: Log) -> None:
    log.write(process(tgid=43, flags=GO_ONLY), replace(on_connection(30, 60), tgid=43))
    log.write(elsewhere(110, 140), watermark_ms=500)
    assert blocked_ms(matched(log, server(100, 150))) == {}


def test_a_connection_of_another_process_than_the_senders_is_not_believed(log: Log) -> None:
    log.write(process(tgid=43, flags=GO_ONLY), sender("127.0.0.1", 5555, tgid=43))
    log.write(elsewhere(110, 140), watermark_ms=500)
    assert blocked_ms(matched(log, server(100, 150))) == {}


def test_a_wait_under_another_spans_label_is_that_ones(log: Log) -> None:
    log.write(replace(elsewhere(110, 140), detail=Peer(label=B).pack()), watermark_ms=500)
    assert blocked_ms(matched(log, server(100, 150))) == {}


def test_without_processes_whose_span_ends_are_not_seen_nothing_is_asked() -> None:
    with Log() as log:
        log.write(process(flags=FULL), on_connection(20, 99.9), elsewhere(110, 140), watermark_ms=500)
        assert list(matched(log, server(100, 150)).unmatched) == [0]


def test_the_identity_is_told(log: Log) -> None:
    log.write(elsewhere(110, 140), watermark_ms=500)
    method = Socket(log.index, Origins(log.index, ""))
    sent = request(server(100, 150))
    method.saw(sent)
    trial = method.explain(sent, 0, WINDOW)
    assert trial.matched
    assert trial.identity == {
        "tgid": TGID,
        "goid": HANDLER,
        "peer": f"{CALLER}:{PORT}",
        "start_ns": 100 * MS,
        "end_ns": 150 * MS,
    }
