"""How large requests are joined follows what the backend takes, and forgets it."""

from enricher.otlp.join_size import FLOOR_BYTES, GROW_AFTER, JoinSize

MIB = 1 << 20


def test_half_of_what_was_refused_is_tried_next() -> None:
    size = JoinSize(MIB)
    size.too_large(300_000)
    assert size.bytes == 150_000
    size.too_large(800_000)  # of another thread, sent before
    assert size.bytes == 150_000


def test_however_often_it_is_refused_a_useful_size_is_left() -> None:
    size = JoinSize(MIB)
    for _ in range(50):
        size.too_large(size.bytes)
    assert size.bytes == FLOOR_BYTES


def test_what_is_taken_makes_it_grow_back() -> None:
    size = JoinSize(MIB)
    size.too_large(MIB // 2)
    for _ in range(GROW_AFTER - 1):
        size.taken()
    assert size.bytes == MIB // 4
    size.taken()
    assert size.bytes == MIB // 2
    for _ in range(5 * GROW_AFTER):
        size.taken()
    assert size.bytes == MIB


def test_a_size_chosen_below_the_floor_stays_as_it_is() -> None:
    size = JoinSize(1000)
    size.too_large(900)
    assert size.bytes == 1000
