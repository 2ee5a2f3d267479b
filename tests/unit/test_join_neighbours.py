"""Spans that share something: whether one thing at a time went on there, among those that are remembered."""

from enricher.join.blocked import KernelSpan
from enricher.join.methods.neighbours import SHARED_KEPT, SPANS_KEPT, Neighbours


def span(number: int, parent: int, start_ns: int, end_ns: int) -> KernelSpan:
    return KernelSpan(number.to_bytes(8, "big"), parent.to_bytes(8, "big"), start_ns, end_ns)


def test_a_chain_is_each_the_parent_of_the_next() -> None:
    neighbours: Neighbours[str] = Neighbours()
    for number in range(1, 5):
        neighbours.add("here", span(number, number - 1, 10 * number, 100))
    assert neighbours.are_one_chain("here", 50, 60)
    neighbours.add("here", span(9, 2, 55, 58))
    assert not neighbours.are_one_chain("here", 50, 60)
    assert neighbours.are_one_chain("here", 60, 70)


def test_nobody_is_no_chain() -> None:
    neighbours: Neighbours[str] = Neighbours()
    neighbours.add("here", span(1, 0, 10, 20))
    assert not neighbours.are_one_chain("there", 10, 20)
    assert not neighbours.are_one_chain("here", 20, 30)


def test_of_what_many_share_the_oldest_go() -> None:
    neighbours: Neighbours[str] = Neighbours()
    neighbours.add("here", span(1, 0, 10, 20))
    for number in range(2, SPANS_KEPT + 1):
        neighbours.add("here", span(number, 0, 30, 40))
    assert neighbours.are_one_chain("here", 10, 20)
    neighbours.add("here", span(SPANS_KEPT + 1, 0, 30, 40))
    assert not neighbours.are_one_chain("here", 10, 20)


def test_of_many_that_are_shared_the_longest_unused_go() -> None:
    neighbours: Neighbours[int] = Neighbours()
    for shared in range(SHARED_KEPT):
        neighbours.add(shared, span(1, 0, 10, 20))
    neighbours.add(0, span(2, 0, 50, 60))
    neighbours.add(SHARED_KEPT, span(1, 0, 10, 20))
    assert neighbours.are_one_chain(0, 10, 20)
    assert not neighbours.are_one_chain(1, 10, 20)
