"""Rules that every optimizer must keep. Members are found by their files."""

import copy

import pytest
import torch
from torch import Tensor, nn

from pruneyard.testing.plug_in import build
from pruneyard.workloads.interfaces import OptimizerBuilder
from pruneyard.workloads.plugins import names

FAMILY = "optimizers"

pytestmark = pytest.mark.parametrize("name", names(FAMILY))


def builder_of(name: str) -> OptimizerBuilder:
    built: OptimizerBuilder = build(FAMILY, name)
    return built


def new_parameters() -> dict[str, nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    return {key: nn.Parameter(torch.randn(shape, generator=generator)) for key, shape in (("w", (4, 3)), ("b", (4,)))}


def quadratic(parameters: dict[str, nn.Parameter]) -> Tensor:
    """Returns a convex loss whose curvature differs between the parameters."""
    return (parameters["w"] ** 2).sum() + 3 * ((parameters["b"] - 1) ** 2).sum()


def step(optimizer: torch.optim.Optimizer, parameters: dict[str, nn.Parameter]) -> float:
    optimizer.zero_grad()
    loss = quadratic(parameters)
    loss.backward()
    optimizer.step()
    return float(loss.detach())


def test_it_trains_every_parameter_once_at_its_own_rate(name: str) -> None:
    parameters, optimizer = new_parameters(), builder_of(name)
    groups = optimizer.build(parameters.items()).param_groups
    assert sorted(id(parameter) for group in groups for parameter in group["params"]) == sorted(map(id, parameters.values()))
    assert {group["lr"] for group in groups} == {optimizer.lr}
    assert optimizer.lr > 0


def test_it_lowers_a_quadratic(name: str) -> None:
    parameters = new_parameters()
    optimizer = builder_of(name).build(parameters.items())
    losses = [step(optimizer, parameters) for _ in range(100)]
    assert losses[-1] < 0.99 * losses[0]


def test_its_state_comes_back_from_a_checkpoint_bit_for_bit(name: str) -> None:
    parameters = new_parameters()
    optimizer = builder_of(name).build(parameters.items())
    for _ in range(5):
        step(optimizer, parameters)
    saved, weights = copy.deepcopy(optimizer.state_dict()), {key: tensor.detach().clone() for key, tensor in parameters.items()}
    resumed_parameters = {key: nn.Parameter(tensor) for key, tensor in weights.items()}
    resumed = builder_of(name).build(resumed_parameters.items())
    resumed.load_state_dict(saved)
    for _ in range(5):
        step(optimizer, parameters)
        step(resumed, resumed_parameters)
    assert all(torch.equal(tensor, resumed_parameters[key]) for key, tensor in parameters.items())


def test_a_weight_at_zero_without_gradient_and_state_stays_at_zero(name: str) -> None:
    """Masks rely on it."""
    weight = nn.Parameter(torch.zeros(2, 2))
    optimizer = builder_of(name).build([("w", weight)])
    for _ in range(3):
        weight.grad = torch.zeros(2, 2)
        optimizer.step()
    assert not weight.any()


def test_a_rate_that_does_not_descend_is_refused(name: str) -> None:
    for lr in (0.0, -1.0, float("nan")):
        with pytest.raises(ValueError, match=r"^lr is"):
            build(FAMILY, name, lr=lr)
