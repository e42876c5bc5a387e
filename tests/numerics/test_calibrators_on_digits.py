"""A small real network that is overconfident: calibrators change it in the published direction."""

import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.neural_network import MLPClassifier

from pruneyard.workloads.calibrate.calibrator import Floats, Labels
from pruneyard.workloads.metrics.classification import (
    expected_calibration_error,
    negative_log_likelihood,
    softmax,
)
from pruneyard.workloads.plugins import find


@pytest.fixture(scope="module")
def digits() -> tuple[Floats, Labels, Floats, Labels]:
    """Returns logits and labels of 800 calibration and 897 test rows, by a network that has interpolated 100 others."""
    images, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(labels))
    images, labels = images[order] / 16, labels[order]
    network = MLPClassifier((64,), alpha=0.0, learning_rate_init=1e-2, max_iter=150, tol=1e-9, random_state=0)
    with pytest.warns(UserWarning, match="Maximum iterations"):
        network.fit(images[:100], labels[:100])
    (inner, outer), (inner_bias, outer_bias) = network.coefs_, network.intercepts_
    logits = np.maximum(images @ inner + inner_bias, 0) @ outer + outer_bias
    return logits[100:900], labels[100:900], logits[900:], labels[900:]


@pytest.mark.slow
def test_temperature_lowers_calibration_error_and_nll_and_masks_raise_the_temperature(
    digits: tuple[Floats, Labels, Floats, Labels],
) -> None:
    logits, labels, new, new_labels = digits
    plain, masked = (
        find("calibrate.methods", name)().fit(logits, labels, seed=0)
        for name in ("temperature", "masked_temperature")
    )
    assert plain.numbers["temperature"] > 1.2
    assert masked.numbers["temperature"] > plain.numbers["temperature"]
    after = plain.log_probabilities(new)
    assert expected_calibration_error(np.exp(after), new_labels) < expected_calibration_error(
        softmax(new), new_labels
    )
    assert negative_log_likelihood(after, new_labels) < negative_log_likelihood(new, new_labels)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["beta", "dirichlet", "matrix", "platt", "vector"])
def test_maps_of_more_numbers_lower_the_nll_of_rows_that_were_not_fitted(
    name: str, digits: tuple[Floats, Labels, Floats, Labels]
) -> None:
    logits, labels, new, new_labels = digits
    fitted = find("calibrate.methods", name)().fit(logits, labels, seed=0)
    assert negative_log_likelihood(fitted.log_probabilities(new), new_labels) < negative_log_likelihood(
        new, new_labels
    )
