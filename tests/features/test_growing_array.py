"""Arrays that grow."""

import numpy as np

from pipeline.features.growing_array import GrowingArray


def test_rows_are_added_and_rarely_copied() -> None:
    array, buffers = GrowingArray(np.arange(3)), set()
    for number in range(3, 200):
        array.add(np.array([number]))
        buffers.add(array.rows.ctypes.data)
    assert array.rows.tolist() == list(range(200))
    assert len(buffers) < 9


def test_a_row_can_be_set() -> None:
    array = GrowingArray(np.zeros(2, bool))
    array.add(np.ones(1, bool))
    array.rows[[0]] = True
    assert array.rows.tolist() == [True, False, True]
