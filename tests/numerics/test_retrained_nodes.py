"""The jackknife's estimates against networks that are trained on without a node."""

import pytest
import torch
from small_graphs import PenalizedNetwork, fitted_logistic_regression
from torch import Tensor

from pruneyard.workloads.nodes.jackknife import Jackknife
from pruneyard.workloads.nodes.leave_one_out import compare_with_retrained
from pruneyard.workloads.nodes.objectives.weighted import Weighted


def compared(network: PenalizedNetwork, shifts: Tensor) -> tuple[float, float]:
    found = compare_with_retrained(
        lambda vector: network.flat.logits(vector).softmax(1)[:, 1],
        lambda vector: network.contributions(network.logits(vector)),
        network.vector,
        shifts,
        l2=network.l2,
        steps=100,
        between=lambda: None,
    )
    return found["loo_slope"], found["loo_correlation"]


@pytest.mark.slow
def test_estimates_of_a_logistic_regression_are_those_of_retraining_and_half_of_them_half() -> None:
    network = fitted_logistic_regression(Weighted(ratio=3), num_train=50, l2=0.3)
    shifts = Jackknife(damping=1e-12).shifts(network.logits, network.contributions, network.vector, l2=network.l2)[:1]
    slope, correlation = compared(network, shifts)
    assert abs(slope - 1) < 0.05
    assert correlation > 0.99
    halved, _ = compared(network, shifts / 2)
    assert abs(halved - slope / 2) < 0.02
    assert compared(network, torch.zeros_like(shifts))[0] == 0
