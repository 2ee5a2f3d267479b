"""The bound covers a request from its admission until it is sent or dropped."""

from threading import Thread

from hypothesis import given
from hypothesis import strategies as st

from enricher.otlp.queue import BoundedQueue, QueueStatistics, Reservation


def reserved(queue: BoundedQueue, body: bytes, spans: int = 1) -> Reservation:
    reservation = queue.reserve(body, spans)
    assert reservation is not None
    return reservation


def test_a_place_is_taken_from_admission_until_release_wherever_the_request_is() -> None:
    queue = BoundedQueue(max_requests=1)
    held = reserved(queue, b"abc", spans=2)
    assert queue.reserve(b"d", 1) is None  # held by the join
    queue.put([held])
    assert queue.reserve(b"d", 1) is None  # ready
    taken = queue.take(100)
    assert taken == [held]
    assert queue.reserve(b"d", 1) is None  # being sent, or in retry
    queue.release(taken)
    assert queue.reserve(b"d", 1) is not None


def test_bytes_are_bounded_like_requests() -> None:
    queue = BoundedQueue(max_requests=100, max_bytes=10)
    first = reserved(queue, b"123456")
    assert queue.reserve(b"12345", 1) is None
    reserved(queue, b"1234")
    queue.release([first])
    assert queue.reserve(b"123456", 1) is not None


def test_an_empty_queue_takes_a_request_larger_than_the_bound() -> None:
    queue = BoundedQueue(max_requests=100, max_bytes=10)
    reserved(queue, bytes(11))
    assert queue.reserve(b"", 1) is None


def test_a_body_that_has_grown_is_counted_with_its_new_size_and_leaves_nothing_behind() -> None:
    queue = BoundedQueue(max_requests=100, max_bytes=10)
    reservation = reserved(queue, b"1234")
    reservation.body = b"12345678"
    queue.put([reservation])
    assert queue.statistics().bytes == 8
    assert queue.reserve(b"123", 1) is None
    queue.release(queue.take(100))
    assert queue.statistics() == QueueStatistics(requests=0, bytes=0, spans=0, ready=0, capacity=100)


def test_what_is_given_up_before_it_was_put_frees_its_place_though_its_body_was_replaced() -> None:
    queue = BoundedQueue(max_requests=1)
    reservation = reserved(queue, b"1234")
    reservation.body = b"1234567"
    queue.release([reservation])
    assert queue.statistics().bytes == 0


def test_the_oldest_are_taken_as_many_as_fit_but_always_one() -> None:
    queue = BoundedQueue(max_requests=100)
    queue.put([reserved(queue, bytes(size)) for size in (50, 4, 4, 4)])
    assert [[len(r.body) for r in queue.take(10)] for _ in range(3)] == [[50], [4, 4], [4]]


def test_a_closed_queue_gives_what_is_left_and_then_nothing() -> None:
    queue = BoundedQueue(max_requests=100)
    queue.put([reserved(queue, b"a"), reserved(queue, b"b")])
    queue.close()
    assert not queue.finished
    assert len(queue.take(1)) == 1
    assert len(queue.take(1)) == 1
    assert queue.finished
    assert queue.take(1) == []


def test_closing_wakes_every_taker() -> None:
    queue = BoundedQueue(max_requests=100)
    got: list[list[Reservation]] = []
    takers = [Thread(target=lambda: got.append(queue.take(1))) for _ in range(3)]
    for taker in takers:
        taker.start()
    queue.close()
    for taker in takers:
        taker.join(10)
    assert got == [[], [], []]


def test_taking_gives_up_after_its_time() -> None:
    assert BoundedQueue(max_requests=1).take(1, timeout_s=0.0) == []


def test_many_threads_lose_and_double_nothing() -> None:
    queue = BoundedQueue(max_requests=10_000)
    taken: list[int] = []

    def produce(first: int) -> None:
        for number in range(first, first + 1000):
            queue.put([reserved(queue, number.to_bytes(4, "big"), spans=number)])

    def consume() -> None:
        while batch := queue.take(64):
            taken.extend(reservation.spans for reservation in batch)
            queue.release(batch)

    consumers = [Thread(target=consume) for _ in range(4)]
    producers = [Thread(target=produce, args=(first,)) for first in range(0, 4000, 1000)]
    for thread in (*consumers, *producers):
        thread.start()
    for thread in producers:
        thread.join(30)
    queue.close()
    for thread in consumers:
        thread.join(30)
    assert sorted(taken) == list(range(4000))
    assert queue.statistics() == QueueStatistics(requests=0, bytes=0, spans=0, ready=0, capacity=10_000)


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(0, 5), st.booleans()), max_size=60))
def test_in_any_order_of_steps_the_bounds_hold_and_the_counts_are_of_what_is_there(
    steps: list[tuple[int, int, bool]],
) -> None:
    queue = BoundedQueue(max_requests=5, max_bytes=60)
    there: list[Reservation] = []
    for size, spans, release in steps:
        if release and there:
            queue.release([there.pop(size % len(there))])
        elif (reservation := queue.reserve(bytes(size), spans)) is not None:
            there.append(reservation)
        now = queue.statistics()
        assert now.requests == len(there) <= 5
        assert now.bytes == sum(len(r.body) for r in there) <= 60
        assert now.spans == sum(r.spans for r in there)
