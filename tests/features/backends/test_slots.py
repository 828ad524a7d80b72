"""Slots in shared memory."""

import threading

import numpy as np

from pipeline.features.backends.slots import Slots, slot_arrays


def test_slots_are_taken_round_robin_and_all_or_none() -> None:
    slots = Slots(6)
    assert slots.take(4) == [0, 1, 2, 3]
    assert slots.take(3) == []
    slots.give_back([2, 0])
    assert slots.take(3) == [4, 5, 0]
    slots.give_back([1, 0])
    assert slots.take(3) == [1, 2, 0]
    slots.give_back([5])
    assert slots.take(1) == [5]


def test_slots_are_waited_for() -> None:
    slots = Slots(4)
    slots.take(4)
    for delay, slot in ((0.05, 1), (0.1, 2)):
        threading.Timer(delay, slots.give_back, [[slot]]).start()
    slots.wait_for(2)
    assert slots.take(2) == [1, 2]


def test_adjacent_slots_form_a_batch_without_a_copy() -> None:
    slots = Slots(6)
    slots.pixels[:] = np.arange(6, dtype=np.uint8)[:, None, None, None]
    assert np.shares_memory(slots.batch([1, 2, 3], 3), slots.pixels)
    for places, size, expected in [([3, 1, 2], 3, [3, 1, 2]), ([4, 5], 3, [4, 5, 0]), ([1, 2, 4], 3, [1, 2, 4])]:
        batch = slots.batch(places, size)
        assert batch.shape == (size, 224, 224, 3)
        assert batch[:, 7, 7, 1].tolist() == expected
        assert not np.shares_memory(batch, slots.pixels)
    assert np.shares_memory(slot_arrays(slots.memory)[0], slots.pixels)
