from typing import Any

import pytest
import torch
from torch import nn

from pruneyard.workloads.optimizers.adamw import AdamW
from pruneyard.workloads.optimizers.sgd import SGD
from pruneyard.workloads.plugins import find, names


def stepped(optimizer: Any, gradients: list[float], start: float = 1.0) -> float:
    """Returns one weight of a 1x1 matrix after a step for each gradient."""
    weight = nn.Parameter(torch.tensor([[start]], dtype=torch.float64))
    built = optimizer.build([("w", weight)])
    for gradient in gradients:
        weight.grad = torch.tensor([[gradient]], dtype=torch.float64)
        built.step()
    return weight.item()


def test_sgd_by_hand() -> None:
    plain = SGD(lr=0.1, momentum=0.0, weight_decay=0.0)
    assert stepped(plain, [2.0]) == pytest.approx(1 - 0.1 * 2)
    heavy = SGD(lr=0.1, momentum=0.5, weight_decay=0.0)
    assert stepped(heavy, [2.0, 2.0]) == pytest.approx(1 - 0.1 * 2 - 0.1 * (0.5 * 2 + 2))
    ahead = SGD(lr=0.1, momentum=0.5, weight_decay=0.0, nesterov=True)
    assert stepped(ahead, [2.0]) == pytest.approx(1 - 0.1 * (2 + 0.5 * 2))
    decayed = SGD(lr=0.1, momentum=0.0, weight_decay=0.5)
    assert stepped(decayed, [2.0]) == pytest.approx(1 - 0.1 * (2 + 0.5 * 1))


def test_adamw_by_hand() -> None:
    """The first step of Adam has length lr for any gradient; decay acts on the weight alone."""
    plain = AdamW(lr=0.1, weight_decay=0.0, epsilon=1e-12)
    assert stepped(plain, [5.0]) == pytest.approx(0.9)
    decayed = AdamW(lr=0.1, weight_decay=0.5, epsilon=1e-12)
    assert stepped(decayed, [5.0]) == pytest.approx(1 * (1 - 0.1 * 0.5) - 0.1)


@pytest.mark.parametrize("name", names("optimizers"))
def test_vectors_are_decayed_only_if_asked_for(name: str) -> None:
    for decay_bias_and_norm, expected in ((True, True), (False, False)):
        bias = nn.Parameter(torch.ones(3))
        matrix = nn.Parameter(torch.ones(3, 3))
        optimizer = find("optimizers", name)(lr=0.1, weight_decay=0.5, decay_bias_and_norm=decay_bias_and_norm)
        built = optimizer.build([("b", bias), ("w", matrix)])
        bias.grad, matrix.grad = torch.zeros(3), torch.zeros(3, 3)
        built.step()
        assert bool((matrix < 1).all())
        assert bool((bias < 1).all()) == expected


def test_nesterov_needs_momentum() -> None:
    with pytest.raises(ValueError, match=r"^nesterov is true"):
        SGD(momentum=0.0, nesterov=True)
