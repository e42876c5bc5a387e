"""Class proportions of splits, and the sampled rows."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pruneyard.testing.cases import each_case
from pruneyard.workloads.data.stratify import apportion, sample_rows


@each_case(
    ("available", "total", "leave", "expected"),
    [
        ([10, 10], 4, 0, [2, 2]),
        ([10, 20, 30], 6, 0, [1, 2, 3]),
        ([5, 5, 5], 4, 0, [2, 1, 1]),  # the row left over goes to the first of equal remainders
        ([100, 3], 10, 1, [9, 1]),  # a small class still gives one row
        ([97, 1, 1, 1], 10, 0, [7, 1, 1, 1]),  # ... at the cost of the large one
        ([4, 4], 7, 0, [4, 3]),
        ([6, 0, 6], 4, 1, [2, 0, 2]),  # an absent class gives none
    ],
)
def test_apportion_gives_each_class_its_share(
    available: list[int], total: int, leave: int, expected: list[int]
) -> None:
    assert apportion(np.array(available), total, leave=leave).tolist() == expected


@given(st.lists(st.integers(2, 400), min_size=1, max_size=30), st.floats(0, 1))
def test_apportion_is_exact_and_within_one_row_of_every_share(sizes: list[int], fraction: float) -> None:
    available = np.array(sizes)
    smallest, largest = len(sizes), int(available.sum()) - len(sizes)
    total = smallest + round(fraction * (largest - smallest))
    counts = apportion(available, total, leave=1)
    share = np.clip(available * total / available.sum(), 1, available - 1)
    assert counts.sum() == total
    assert counts.min() >= 1
    assert (available - counts).min() >= 1
    if share.sum() == pytest.approx(total):  # no class was lifted to one row or held back
        assert np.abs(counts - share).max() < 1


def test_draw_takes_the_asked_number_of_each_class_and_every_row_can_be_drawn() -> None:
    labels = np.array([2, 0, 0, 2, 1, 0, 2, 2], dtype=np.int64)
    times_drawn = np.zeros(len(labels), dtype=np.int64)
    generator = np.random.default_rng(0)
    for _ in range(300):
        chosen = sample_rows(labels, np.array([1, 0, 2]), generator)
        assert np.bincount(labels[chosen], minlength=3).tolist() == [1, 0, 2]
        times_drawn += chosen
    assert times_drawn[labels == 0] == pytest.approx([100] * 3, abs=40)  # 5 standard deviations of 8.2
    assert times_drawn[labels == 2] == pytest.approx([150] * 4, abs=45)
    assert times_drawn[labels == 1].sum() == 0
