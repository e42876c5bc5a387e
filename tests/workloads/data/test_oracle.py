"""Generated data with known class probabilities, which are those that labels are sampled from."""

import math

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from pruneyard.testing.cases import each_case
from pruneyard.workloads.data.sources.oracle import BACKGROUND_STD, GREY, PIXEL_STD, Oracle
from pruneyard.workloads.metrics.classification import (
    classwise_calibration_errors,
    expected_calibration_error,
    noise_floor,
    true_calibration_error,
)

HARD = Oracle(num_classes=5, dimensions=3, label_noise=0.2, imbalance_ratio=0.1, num_train=100, num_test=40_000)


def test_the_same_seed_draws_the_same_rows_and_another_others() -> None:
    assert Oracle().load().fingerprint == Oracle().load().fingerprint
    assert len({Oracle(seed=seed).load().fingerprint for seed in range(4)}) == 4
    data = Oracle().load()
    assert data.test.images[0].tolist() != data.train.images[0].tolist()


def test_a_larger_set_begins_with_the_smaller_one() -> None:
    small, large = (Oracle(num_test=num).load().test for num in (50, 80))
    assert (large.images[:50] == small.images).all()
    assert (large.labels[:50] == small.labels).all()


def test_labels_are_drawn_from_the_probabilities() -> None:
    """Per class and tenth of its probability, label shares lie within chance of the mean probability; so does the ECE."""
    test = HARD.read().test
    truth = HARD.probabilities(test.images)
    assert truth.sum(axis=1) == pytest.approx(1, abs=1e-12)
    for label in range(5):
        tenth = np.minimum((truth[:, label] * 10).astype(int), 9)
        for members in (tenth == b for b in np.unique(tenth)):
            p = truth[members, label]
            spread = math.sqrt((p * (1 - p)).sum())
            assert abs((test.labels[members] == label).sum() - p.sum()) < 4.5 * spread + 1e-9
    assert expected_calibration_error(truth, test.labels) < noise_floor(truth).quantile(0.99)
    assert classwise_calibration_errors(truth, test.labels).max() < 0.01


def test_the_truth_has_no_true_error_and_powers_of_it_have() -> None:
    truth = HARD.probabilities(HARD.read().test.images)
    sharp = truth**2 / (truth**2).sum(axis=1, keepdims=True)
    for level in ("individual", "binned", "kernel"):
        assert true_calibration_error(truth, truth, level=level) == pytest.approx(0, abs=1e-12)
        assert true_calibration_error(sharp, truth, level=level) > 0.05


def test_label_noise_and_the_rare_class_are_as_frequent_as_asked() -> None:
    test = HARD.read().test
    truth = HARD.probabilities(test.images)
    assert truth.min() >= 0.2 / 5
    expected = 0.8 * np.array([1, 1, 1, 1, 0.1]) / 4.1 + 0.2 / 5
    found = np.bincount(test.labels, minlength=5) / len(test)
    assert np.abs(found - expected).max() < 0.02  # sampling and what rounding moves


def test_probabilities_are_bayes_rule_of_the_mixture() -> None:
    oracle = Oracle(num_classes=3, dimensions=2, modes=2, imbalance_ratio=0.5, label_noise=0.1, shape=(2, 3, 4), num_test=20)
    images = oracle.read().test.images
    means, scale = oracle._means(), PIXEL_STD * math.sqrt(24 / (2 + 2.5**2))
    constant = 1 / math.sqrt(12)  # the lowest cosines are the means of the two channels
    for image, found in zip(images, oracle.probabilities(images), strict=True):
        place = [float((image[c] - GREY).sum()) * constant / scale for c in range(2)]
        weight = [
            prior * sum(math.exp(-sum((a - b) ** 2 for a, b in zip(place, mean, strict=True)) / 2) for mean in of_class)
            for prior, of_class in zip((0.4, 0.4, 0.2), means, strict=True)
        ]
        assert found == pytest.approx([0.9 * w / sum(weight) + 0.1 / 3 for w in weight], rel=1e-9)


def test_images_have_the_given_contrast_and_shape() -> None:
    data = Oracle(shape=(3, 16, 16), num_train=400, num_test=300).load()
    assert data.image_shape == (3, 16, 16)
    assert data.num_classes == 4
    assert [len(split) for split in (data.train, data.val, data.calib, data.test)] == [320, 40, 40, 300]
    assert data.test.images.std() == pytest.approx(math.hypot(PIXEL_STD, BACKGROUND_STD), rel=0.1)
    assert ((data.test.images == 0) | (data.test.images == 255)).mean() < 0.02


def test_a_model_of_the_right_family_comes_nearer_to_the_truth_with_more_rows() -> None:
    oracle = Oracle(modes=1, num_train=8000, num_test=4000)
    rows = oracle.read()
    truth, errors = oracle.probabilities(rows.test.images), []
    for num in (100, 8000):
        train = rows.train.images[:num].reshape(num, -1) / 255
        model = LogisticRegression(C=100.0, max_iter=2000).fit(train, rows.train.labels[:num])
        predicted = model.predict_proba(rows.test.images.reshape(len(truth), -1) / 255)
        errors.append(true_calibration_error(predicted, truth))
    assert errors[1] < errors[0] / 3
    assert errors[1] < 0.05


@each_case(
    ("fields", "message"),
    [
        ({"shape": (0, 4, 4)}, r"^shape is \[0, 4, 4\]"),
        ({"dimensions": 65}, r"^dimensions is 65; it must lie in 1 ... 64"),
        ({"num_classes": 1}, "^num_classes is 1; it must be at least 2"),
        ({"modes": 0}, "^modes is 0"),
        ({"num_test": 0}, "^num_test is 0"),
        ({"separation": -1.0}, "^separation is -1"),
        ({"label_noise": 1.1}, "^label_noise is 1.1"),
        ({"imbalance_ratio": 0.0}, "^imbalance_ratio is 0"),
        ({"val_fraction": 1.0}, "^val_fraction"),
    ],
)
def test_what_cannot_be_drawn_is_refused(fields: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Oracle(**fields)  # type: ignore[arg-type]


def test_images_of_another_shape_have_no_probabilities() -> None:
    with pytest.raises(ValueError, match="must be \\(1, 8, 8\\)"):
        Oracle().probabilities(np.zeros((2, 1, 9, 8), dtype=np.uint8))
