"""Who has which slot, and whose the losses are that stand in it."""

from array import array

from enricher.evidence.records import SLOTS
from enricher.observer.slots import SHARED_SLOT, Slots


class Counted:
    """The map of losses as the kernel would have it, and the slots over it."""

    def __init__(self) -> None:
        self._losses = array("Q", [0] * SLOTS)
        self.slots = Slots(memoryview(self._losses))

    def lose(self, slot: int, count: int = 1) -> None:
        self._losses[slot] += count


def test_each_process_has_a_slot_of_its_own_and_keeps_it() -> None:
    slots = Counted().slots
    taken = [slots.take(tgid) for tgid in range(100, 110)]
    assert len(set(taken)) == 10
    assert SHARED_SLOT not in taken
    assert [slots.take(tgid) for tgid in range(100, 110)] == taken


def test_what_is_lost_is_told_once_and_of_whom() -> None:
    counted = Counted()
    one, two = counted.slots.take(100), counted.slots.take(200)
    assert counted.slots.newly_lost() == {}
    counted.lose(one, 3)
    counted.lose(two)
    counted.lose(SHARED_SLOT, 7)
    assert counted.slots.newly_lost() == {0: 7, 100: 3, 200: 1}
    assert counted.slots.newly_lost() == {}
    counted.lose(two, 2)
    assert counted.slots.newly_lost() == {200: 2}


def test_what_was_lost_before_is_not_told() -> None:
    losses = array("Q", [5] * SLOTS)
    assert Slots(memoryview(losses)).newly_lost() == {}


def test_what_a_process_lost_at_its_end_is_its_own() -> None:
    counted = Counted()
    slot = counted.slots.take(100)
    counted.lose(slot)
    counted.slots.give_back(100)
    assert counted.slots.newly_lost() == {100: 1}


def test_the_next_process_is_not_blamed_even_if_no_other_slot_is_left() -> None:
    counted = Counted()
    slots = counted.slots
    for tgid in range(1, SLOTS):
        slots.take(tgid)
    counted.lose(slot := slots.take(500))
    slots.give_back(500)
    assert slots.take(5000) == SHARED_SLOT
    assert slots.newly_lost() == {500: 1}
    assert slots.take(6000) == slot
    assert slots.newly_lost() == {}
    counted.lose(slot)
    assert slots.newly_lost() == {6000: 1}


def test_when_all_are_taken_the_rest_share_one_whose_losses_are_anybodys() -> None:
    counted = Counted()
    for tgid in range(1, SLOTS):
        assert counted.slots.take(tgid) != SHARED_SLOT
    assert counted.slots.take(5000) == SHARED_SLOT
    counted.lose(SHARED_SLOT)
    assert counted.slots.newly_lost() == {0: 1}


def test_giving_back_what_one_has_not_got_is_no_error() -> None:
    slots = Counted().slots
    slots.give_back(100)
    slots.take(100)
    slots.give_back(100)
    slots.give_back(100)
    slots.newly_lost()
    taken = [slots.take(tgid) for tgid in range(1, SLOTS)]
    assert sorted(taken) == list(range(1, SLOTS))


def test_a_slot_rests_for_as_long_as_there_are_others() -> None:
    slots = Counted().slots
    slot = slots.take(100)
    slots.give_back(100)
    slots.newly_lost()
    assert slot not in [slots.take(tgid) for tgid in range(200, 300)]
