import math

import pytest
import torch
from torch import Tensor

from pruneyard.testing.cases import each_case
from pruneyard.testing.loss_evaluation import loss_of_logits
from pruneyard.workloads.objectives.cross_entropy import CrossEntropy


def logits_of(probabilities: list[list[float]]) -> Tensor:
    return torch.tensor(probabilities, dtype=torch.float64).log()


def loss(objective: CrossEntropy, probabilities: list[list[float]], labels: list[int]) -> float:
    return loss_of_logits(objective, logits_of(probabilities), labels)


def test_cross_entropy_is_the_mean_of_minus_log_of_the_labels_probability() -> None:
    rows = [[0.5, 0.25, 0.25], [0.1, 0.8, 0.1]]
    assert loss(CrossEntropy(), rows, [0, 1]) == pytest.approx(-(math.log(0.5) + math.log(0.8)) / 2)


def test_label_smoothing_shares_its_mass_over_all_classes_the_labels_included() -> None:
    """s = 0.3 over three classes: 0.8 for the label and 0.1 for each other."""
    expected = -(0.8 * math.log(0.5) + 0.1 * math.log(0.25) * 2)
    assert loss(CrossEntropy(label_smoothing=0.3), [[0.5, 0.25, 0.25]], [0]) == pytest.approx(expected)


@each_case("smoothing", [-0.1, 1.0, float("nan")])
def test_smoothing_outside_its_range_is_refused(smoothing: float) -> None:
    with pytest.raises(ValueError, match=r"^label_smoothing is"):
        CrossEntropy(label_smoothing=smoothing)
