"""Inputs of metrics and calibrators: rows in any order, tensors of any kind, and no probabilities in place of logits."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from pruneyard.workloads.calibrate.methods.temperature import Temperature
from pruneyard.workloads.metrics.classification import (
    adaptive_calibration_error,
    all_metrics,
    assess_calibration,
    standard_metrics,
)


def test_adaptive_ece_does_not_depend_on_the_order_of_tied_rows() -> None:
    """Confidences 0.6, 0.8 and 1: with the right rows first it was 0.2526, where rows in random order give about 0.03."""
    generator = np.random.default_rng(0)
    confidence = generator.choice([0.6, 0.8, 1.0], 900)
    correct = generator.random(900) < confidence
    p = np.column_stack([confidence, 1 - confidence])
    labels = np.where(correct, 0, 1)
    found = set()
    for order in (np.arange(900), np.argsort(correct), np.argsort(~correct), generator.permutation(900)):
        found.add(round(adaptive_calibration_error(p[order], labels[order]), 12))
    assert len(found) == 1
    groups = [abs(correct[confidence == value].mean() - value) for value in (0.6, 0.8, 1.0)]
    assert found.pop() <= max(groups) + 1e-9


def test_tied_rows_that_two_bins_share_count_with_their_mean_outcome_by_hand() -> None:
    """Four rows at 0.75, half of them right, in two bins: each bin has accuracy 1/2, whichever rows come first."""
    p = np.tile([0.75, 0.25], (4, 1))
    assert adaptive_calibration_error(p, np.array([0, 0, 1, 1]), num_bins=2) == pytest.approx(0.25)
    assert adaptive_calibration_error(p, np.array([0, 1, 0, 1]), num_bins=2) == pytest.approx(0.25)


@pytest.mark.parametrize("metrics", [standard_metrics, all_metrics, assess_calibration])
def test_probabilities_in_the_place_of_logits_are_refused(metrics: Callable[..., Any]) -> None:
    p = np.random.default_rng(0).dirichlet(np.ones(4), 50)
    labels = np.arange(50) % 4
    with pytest.raises(ValueError, match="these are probabilities; give logarithms"):
        metrics(p, labels)
    metrics(np.log(p), labels)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_tensors_of_any_precision_and_with_gradients_are_taken(dtype: torch.dtype) -> None:
    logits = torch.randn(60, 3, generator=torch.Generator().manual_seed(0)).to(dtype).requires_grad_()
    labels = torch.arange(60) % 3
    plain = logits.detach().double().numpy()
    assert all_metrics(logits, labels) == all_metrics(plain, labels.numpy())
    assert Temperature().fit(logits, labels, seed=0).numbers == Temperature().fit(plain, labels.numpy(), seed=0).numbers
