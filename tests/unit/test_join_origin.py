"""Which process the spans of a resource come from; in doubt, none."""

from collections.abc import Iterator, Mapping
from dataclasses import replace

import pytest

from enricher._native import Request as ScannedRequest
from enricher.evidence.records import Event, EventFlag, ProcessIdentity
from enricher.join.methods.method import Request
from enricher.join.methods.origin import RESOURCES_KEPT, Origin, Origins
from tests.unit.evidence_log import FULL, MS, SPAN_ID, TGID, Log, loss, process, process_exit, sender, span_end
from tests.unit.span_requests import SERVICE, WINDOW, Sent, Value, request

OTHER = 43
CONTAINER = bytes(range(16, 32))
CONTAINER_ID = CONTAINER.hex() + "f" * 32
HOST = "machine"
UNPROBED = EventFlag(0)
A, B, C = (name * 8 for name in (b"a", b"b", b"c"))


@pytest.fixture
def log() -> Iterator[Log]:
    with Log() as made:
        yield made


def identified(
    inner_pid: int = TGID,
    container: bytes = bytes(16),
    *,
    tgid: int = TGID,
    flags: EventFlag = UNPROBED,
    since_ms: float = 0.001,
    start_ticks: int = 1,
) -> Event:
    identity = ProcessIdentity(inner_pid=inner_pid, container_id=container, start_ticks=start_ticks)
    return replace(process(since_ms, tgid=tgid, flags=flags), detail=identity.pack())


def of(log: Log, resource: Mapping[str, Value], peer: str = "ipv4:10.0.0.1:1") -> Origin:
    return Origins(log.index, HOST).of(request(Sent(A, 100, 150, resource=resource), peer=peer), 0)


def spans(*span_ids: bytes, start_ms: float = 100, end_ms: float = 150, peer: str = "ipv4:10.0.0.1:1") -> Request:
    return request(*(Sent(span_id, start_ms, end_ms) for span_id in span_ids), peer=peer)


def test_nothing_is_known_of_a_stranger(log: Log) -> None:
    log.write(identified(), watermark_ms=1)
    assert of(log, SERVICE).tgid is None


def test_the_connection_tells(log: Log) -> None:
    log.write(identified(), sender("127.0.0.1", 5555), watermark_ms=1)
    assert of(log, SERVICE, "ipv4:127.0.0.1:5555").tgid == TGID


@pytest.mark.parametrize(
    ("resource", "event"),
    [
        ({"process.pid": 7, "container.id": CONTAINER_ID}, identified(7, CONTAINER)),
        ({"process.pid": 7, "container.id": CONTAINER_ID.upper()}, identified(7, CONTAINER)),
        ({"process.pid": 7, "host.name": CONTAINER_ID[:12]}, identified(7, CONTAINER)),
        ({"process.pid": TGID, "host.name": HOST}, identified()),
    ],
)
def test_pid_and_place_tell(log: Log, resource: Mapping[str, Value], event: Event) -> None:
    log.write(event, watermark_ms=1)
    assert of(log, resource).tgid == TGID


@pytest.mark.parametrize(
    "resource",
    [
        {"process.pid": 7},
        {"process.pid": "7", "container.id": CONTAINER_ID},
        {"process.pid": 8, "container.id": CONTAINER_ID},
        {"process.pid": 7, "container.id": "0" + CONTAINER_ID[1:]},
        {"process.pid": 7, "container.id": CONTAINER_ID[:12]},
        {"process.pid": 7, "host.name": "elsewhere"},
        {"process.pid": 7, "host.name": HOST},
        {"process.pid": 7, "host.name": ""},
        {"container.id": CONTAINER_ID},
    ],
)
def test_a_pid_alone_or_of_another_place_tells_nothing(log: Log, resource: Mapping[str, Value]) -> None:
    log.write(identified(7, CONTAINER), watermark_ms=1)
    assert of(log, resource).tgid is None


def test_two_processes_of_one_pid_and_place_are_told_apart_by_nothing(log: Log) -> None:
    log.write(identified(7, CONTAINER), identified(7, CONTAINER, tgid=OTHER), watermark_ms=1)
    assert of(log, {"process.pid": 7, "container.id": CONTAINER_ID}).tgid is None


def test_a_resource_that_contradicts_the_connection_leaves_it_open(log: Log) -> None:
    log.write(identified(), identified(7, CONTAINER, tgid=OTHER), sender("127.0.0.1", 5555), watermark_ms=1)
    found = of(log, {"process.pid": 7, "container.id": CONTAINER_ID}, "ipv4:127.0.0.1:5555")
    assert (found.tgid, found.candidates) == (None, (TGID, OTHER))


def learned(log: Log, origins: Origins, span_id: bytes, tgid: int) -> None:
    log.write(span_end(150, span_id=span_id, tgid=tgid), watermark_ms=200)
    origins.learn(spans(span_id), [], WINDOW)


def test_a_resource_is_learned_from_a_span_that_was_tied(log: Log) -> None:
    log.write(identified(flags=FULL))
    origins = Origins(log.index, HOST)
    learned(log, origins, A, TGID)
    assert origins.of(spans(B), 0).tgid == TGID
    assert origins.of(request(Sent(B, 100, 150, resource={"service.name": "other"})), 0).tgid is None


def test_replicas_send_one_resource_and_only_the_connection_tells_them_apart(log: Log) -> None:
    log.write(identified(flags=FULL), identified(tgid=OTHER), sender("127.0.0.1", 5555, tgid=OTHER))
    origins = Origins(log.index, HOST)
    learned(log, origins, A, TGID)
    log.write(watermark_ms=5000)
    learned_again = request(Sent(B, 100, 150))
    log.write(span_end(150, span_id=B, tgid=OTHER), watermark_ms=5001)
    origins.learn(learned_again, [], WINDOW)
    assert origins.of(spans(C), 0) == Origin(None, "Several processes send this resource.", (TGID, OTHER))
    assert origins.of(spans(C, peer="ipv4:127.0.0.1:5555"), 0).tgid == OTHER


def test_another_process_under_the_same_pid_is_not_the_one_that_was_learned(log: Log) -> None:
    log.write(identified(flags=FULL))
    origins = Origins(log.index, HOST)
    learned(log, origins, A, TGID)
    log.write(process_exit(300), identified(flags=FULL, since_ms=400, start_ticks=35), watermark_ms=500)
    assert origins.of(spans(B), 0).tgid is None


def test_the_same_process_watched_anew_is(log: Log) -> None:
    log.write(identified(flags=FULL))
    origins = Origins(log.index, HOST)
    learned(log, origins, A, TGID)
    log.write(identified(flags=FULL, since_ms=400), watermark_ms=500)
    assert origins.of(spans(B), 0).tgid == TGID


def test_a_process_that_ended_long_ago_is_forgotten() -> None:
    with Log(retention_ns=1000 * MS) as log:
        log.write(identified(flags=FULL))
        origins = Origins(log.index, HOST)
        learned(log, origins, A, TGID)
        log.write(process_exit(300), watermark_ms=5000)
        assert origins.of(spans(B), 0).tgid is None


def test_of_many_resources_the_longest_unused_go(log: Log) -> None:
    log.write(identified(flags=FULL))
    origins = Origins(log.index, HOST)
    learned(log, origins, A, TGID)
    for number in range(RESOURCES_KEPT):
        origins.of(request(Sent(B, 100, 150, resource={"service.name": f"service {number}"})), 0)
    assert origins.of(spans(C), 0).tgid is None


def missed(log: Log, sent: Request) -> list[int]:
    origins = Origins(log.index, HOST)
    learned(log, origins, SPAN_ID, TGID)
    return list(origins.missed(sent, range(sent.scanned.span_count)))


def test_a_span_that_overlaps_a_loss_of_its_process_was_perhaps_missed(log: Log) -> None:
    log.write(identified(flags=FULL), loss(140, 160, tgid=TGID))
    assert missed(log, spans(A)) == [0]
    assert missed(log, spans(A, start_ms=161, end_ms=170)) == []


def test_a_loss_of_anybody_is_one_of_each(log: Log) -> None:
    log.write(identified(flags=FULL), loss(140, 160))
    assert missed(log, spans(A, B)) == [0, 1]


def test_a_loss_of_another_process_is_none_of_this(log: Log) -> None:
    log.write(identified(flags=FULL), loss(140, 160, tgid=OTHER))
    assert missed(log, spans(A)) == []


def test_a_resource_that_nobody_watched_sent_misses_nothing(log: Log) -> None:
    log.write(identified(flags=FULL), loss(140, 160))
    assert missed(log, request(Sent(A, 100, 150, resource={"service.name": "far away"}))) == []


def test_a_process_that_ran_before_it_was_watched_was_missed_then(log: Log) -> None:
    log.write(identified(flags=FULL, since_ms=120, start_ticks=5))
    assert missed(log, spans(A)) == [0]


def test_a_process_that_started_later_than_the_span_is_another(log: Log) -> None:
    log.write(identified(flags=FULL, since_ms=120, start_ticks=11))
    assert missed(log, spans(A)) == []


def test_spans_of_a_resource_are_found_together() -> None:
    resources = [{"service.name": name} for name in ("one", "two", "three")]
    sent = request(*(Sent(A, 0, 1, resource=resource) for resource in resources for _ in range(3)))
    assert list(sent.by_origin) == [range(3), range(3, 6), range(6, 9)]
    assert list(request().by_origin) == []


def test_equal_resources_of_joined_requests_are_one_origin_if_they_have_one_sender() -> None:
    one = request(Sent(A, 100, 150), Sent(B, 100, 150)).scanned.body
    first, second = "ipv4:10.0.0.1:1", "ipv4:10.0.0.2:1"
    joined = Request(ScannedRequest.scan(one * 3), ((0, first), (2, second), (4, first)))
    assert [list(ordinals) for ordinals in joined.by_origin] == [[0, 1, 4, 5], [2, 3]]
    assert [joined.peer(ordinal) for ordinal in range(6)] == [first, first, second, second, first, first]
