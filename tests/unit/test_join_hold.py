"""A request waits for the watermark, and for nothing else."""

from enricher.join.hold import CLOCK_SLACK_NS, Held, Hold, Known

MS = 1_000_000


def held(name: str, ends_ns: int, arrived_ns: int = 0) -> Held[str]:
    return Held(name, arrived_ns=arrived_ns, ends_ns=ends_ns)


def due(
    hold: Hold[str], *, watermark_ns: int = 0, going_on_ns: int = 0, live: bool = True, now_ns: int = 0
) -> list[str]:
    return [one.item for one in hold.due(Known(watermark_ns, going_on_ns, live), now_ns)]


def test_a_request_is_due_once_the_watermark_has_passed_the_end_of_its_last_span() -> None:
    hold: Hold[str] = Hold(tail_ns=300 * MS, patience_ns=1000 * MS)
    hold.add(held("a", ends_ns=100 * MS, arrived_ns=110 * MS))
    assert due(hold, watermark_ns=100 * MS) == []
    assert due(hold, watermark_ns=100 * MS + CLOCK_SLACK_NS) == ["a"]
    assert len(hold) == 0


def test_a_request_whose_evidence_is_already_complete_is_not_held() -> None:
    hold: Hold[str] = Hold(tail_ns=300 * MS, patience_ns=1000 * MS)
    hold.add(held("old", ends_ns=10 * MS))
    hold.add(held("new", ends_ns=900 * MS, arrived_ns=905 * MS))
    assert due(hold, watermark_ns=500 * MS) == ["old"]
    assert len(hold) == 1


def test_an_open_tail_waits_for_the_waits_that_are_going_on_and_not_for_the_watermark() -> None:
    hold: Hold[str] = Hold(tail_ns=300 * MS, patience_ns=1000 * MS)
    one = held("a", ends_ns=100 * MS, arrived_ns=110 * MS)
    one.open_until_ns = 400 * MS
    hold.add(one)
    assert due(hold, watermark_ns=500 * MS, going_on_ns=399 * MS) == []
    assert due(hold, watermark_ns=500 * MS, going_on_ns=400 * MS) == ["a"]


def test_nothing_is_held_when_nobody_watches() -> None:
    hold: Hold[str] = Hold(tail_ns=300 * MS, patience_ns=1000 * MS)
    hold.add(held("a", ends_ns=100 * MS, arrived_ns=110 * MS))
    assert due(hold) == []
    assert due(hold, live=False) == ["a"]


def test_spans_from_the_future_wait_for_the_time_at_which_they_came() -> None:
    hold: Hold[str] = Hold(tail_ns=300 * MS, patience_ns=1000 * MS)
    hold.add(held("a", ends_ns=10**18, arrived_ns=5 * MS))
    assert due(hold, watermark_ns=5 * MS - 1) == []
    assert due(hold, watermark_ns=5 * MS) == ["a"]


def test_a_tail_in_the_future_waits_for_the_tail_of_what_has_just_ended() -> None:
    hold: Hold[str] = Hold(tail_ns=300 * MS, patience_ns=1000 * MS)
    one = held("a", ends_ns=5 * MS, arrived_ns=5 * MS)
    one.open_until_ns = 10**18
    hold.add(one)
    assert due(hold, watermark_ns=900 * MS, going_on_ns=304 * MS) == []
    assert due(hold, watermark_ns=900 * MS, going_on_ns=305 * MS) == ["a"]


def test_evidence_that_is_late_is_waited_for_only_so_long() -> None:
    hold: Hold[str] = Hold(tail_ns=300 * MS, patience_ns=1000 * MS)
    one, other = held("ended", ends_ns=2 * MS, arrived_ns=5 * MS), held("open", ends_ns=2 * MS, arrived_ns=5 * MS)
    other.open_until_ns = 300 * MS
    hold.add(one)
    hold.add(other)
    assert due(hold, now_ns=1003 * MS) == []
    assert due(hold, now_ns=1005 * MS) == ["ended"]
    assert due(hold, now_ns=1299 * MS) == []
    assert due(hold, now_ns=1300 * MS) == ["open"]
    assert hold.longest_ns == 1300 * MS


def test_one_put_back_while_others_are_taken_out_is_looked_at_the_next_time_only() -> None:
    hold: Hold[str] = Hold(tail_ns=300 * MS, patience_ns=1000 * MS)
    hold.add(held("a", ends_ns=0))
    taken = []
    for one in hold.due(Known(500 * MS, 0, live=True), 0):
        taken.append(one.item)
        hold.add(one)
    assert taken == ["a"]
    assert len(hold) == 1
