"""Slots in shared memory."""

from concurrent.futures import Future

import numpy as np
import pytest

from pipeline.features.slots import Slots, slot_arrays


def test_slots_are_taken_in_a_circle_and_all_or_none() -> None:
    slots = Slots(6)
    assert slots.take(4) == [0, 1, 2, 3]
    assert slots.take(3) == []
    slots.give_back([2, 0])
    assert slots.take(3) == [4, 5, 0]
    slots.give_back([1, 0])
    assert slots.take(3) == [1, 2, 0]
    slots.give_back([5])
    assert slots.take(1) == [5]


def test_a_batch_gives_its_slots_back_when_it_is_done() -> None:
    slots, first, second = Slots(4), Future[None](), Future[None]()
    slots.give_back_after(first, slots.take(2))
    slots.give_back_after(second, slots.take(2))
    second.set_result(None)  # batches are done in their order
    assert slots.take(1) == []
    first.set_result(None)
    assert slots.take(4) == [0, 1, 2, 3]


@pytest.mark.parametrize("use", [lambda slots: slots.take(1), Slots.wait, Slots.wait_for_all])
def test_what_went_wrong_with_a_batch_is_raised(use) -> None:
    slots, failed = Slots(4), Future[None]()
    failed.set_exception(RuntimeError("the disk is full"))
    slots.give_back_after(failed, slots.take(2))
    with pytest.raises(RuntimeError, match="the disk is full"):
        use(slots)


def test_neighbours_make_a_batch_without_a_copy() -> None:
    slots = Slots(6)
    slots.pixels[:] = np.arange(6, dtype=np.uint8)[:, None, None, None]
    assert np.shares_memory(slots.batch([1, 2, 3], 3), slots.pixels)
    for places, size, expected in [([3, 1, 2], 3, [3, 1, 2]), ([4, 5], 3, [4, 5, 0]), ([1, 2, 4], 3, [1, 2, 4])]:
        batch = slots.batch(places, size)
        assert batch.shape == (size, 224, 224, 3)
        assert batch[:, 7, 7, 1].tolist() == expected
        assert not np.shares_memory(batch, slots.pixels)
    assert np.shares_memory(slot_arrays(slots.memory)[0], slots.pixels)
