"""The generated click log: its codes, its exact probabilities, and what a field without importance does."""

from itertools import combinations

import numpy as np
import pytest

from pruneyard.workloads.data.sources.clicks import LATENT, Clicks
from pruneyard.workloads.seeding import stream_seed

SMALL = Clicks(cardinalities=(30, 5, 8), importance=(0.5, 1.5, 0.0), num_train=4_000, num_test=500, seed=3)


def test_features_are_codes_that_normalising_leaves_as_they_are() -> None:
    data = SMALL.load()
    codes = data.train.images
    assert codes.dtype == np.float32
    assert (codes == np.rint(codes)).all()
    assert codes.min() == 0
    assert (codes.max(axis=0) < SMALL.cardinalities).all()
    assert (data.mean, data.std, data.pixels) == ((0.0,) * 3, (1.0,) * 3, False)


def test_probabilities_are_those_of_a_sum_over_pairs_of_fields() -> None:
    codes = SMALL.read().test.images[:20]
    drawn = [
        importance
        * np.random.default_rng(stream_seed(3, f"clicks/effects/{field}")).standard_normal((size, 1 + LATENT))
        for field, (size, importance) in enumerate(zip(SMALL.cardinalities, SMALL.importance, strict=True))
    ]
    for row, found in zip(codes.astype(int), SMALL.probabilities(codes), strict=True):
        own = [table[code] for table, code in zip(drawn, row, strict=True)]
        odds = SMALL.bias + sum(each[0] for each in own)
        odds += sum(float(one[1:] @ other[1:]) / LATENT**0.5 for one, other in combinations(own, 2))
        assert found[1] == pytest.approx(1 / (1 + np.exp(-odds)))
        assert found.sum() == pytest.approx(1)


def test_labels_follow_the_probabilities() -> None:
    train = SMALL.read().train
    clicked = SMALL.probabilities(train.images)[:, 1]
    sd = np.sqrt((clicked * (1 - clicked)).sum())
    assert abs(train.labels.sum() - clicked.sum()) < 4 * sd
    likely = clicked > np.median(clicked)
    assert train.labels[likely].mean() > train.labels[~likely].mean()


def test_a_field_without_importance_changes_no_probability() -> None:
    codes = SMALL.read().test.images[:50]
    other = codes.copy()
    other[:, 2] = 0
    assert np.array_equal(SMALL.probabilities(codes), SMALL.probabilities(other))
    other[:, 1] = 0
    assert not np.array_equal(SMALL.probabilities(codes), SMALL.probabilities(other))


def test_popularity_falls_with_the_rank_as_a_power() -> None:
    codes = Clicks(cardinalities=(4,), importance=(1.0,), num_train=20_000).read().train.images
    shares = np.bincount(codes[:, 0].astype(int), minlength=4) / len(codes)
    expected = np.array([1, 1 / 2, 1 / 3, 1 / 4]) / (25 / 12)
    assert np.abs(shares - expected).max() < 4 * 0.5 / np.sqrt(len(codes))


def test_more_rows_begin_with_the_same_events() -> None:
    fewer, more = (Clicks(num_train=num).read().train for num in (50, 80))
    assert np.array_equal(more.images[:50], fewer.images)
    assert np.array_equal(more.labels[:50], fewer.labels)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"cardinalities": ()}, "cardinalities is"),
        ({"cardinalities": (3, 0), "importance": (1.0, 1.0)}, "cardinalities is"),
        ({"importance": (1.0,)}, "importance is"),
        ({"popularity": -1.0}, "popularity is"),
        ({"bias": float("nan")}, "bias is"),
        ({"num_train": 0}, "num_train is"),
    ],
)
def test_settings_outside_their_range_are_refused(fields: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Clicks(**fields)  # type: ignore[arg-type]
