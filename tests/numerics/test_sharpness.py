"""SAM on quadratics, where the gradient at any point is known."""

from contextlib import nullcontext

import pytest
import torch
from torch import Tensor, nn

from pruneyard.testing.cases import each_case
from pruneyard.testing.loss_evaluation import single_process_backward
from pruneyard.workloads.gradients.sam import SAM
from pruneyard.workloads.interfaces import RuleState, Tensors
from pruneyard.workloads.training.backward import NetworkTensors, StepBatch


class Point(nn.Module):
    """A weight vector and a bias; the loss is 0.5 w^T H w + 0.5 c b^2."""

    def __init__(self, weight: list[float], bias: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(weight, dtype=torch.float64))
        self.bias = nn.Parameter(torch.tensor(bias, dtype=torch.float64))


def batch_at(
    point: Point, curvature: Tensor, *, bias_curvature: float, masks: Tensors, work: list[float]
) -> StepBatch:
    def loss_fn(images: Tensor, labels: Tensor, step: int) -> tuple[Tensor, Tensors]:
        w, b = point.weight, point.bias
        return 0.5 * w @ curvature @ w + 0.5 * bias_curvature * b**2, {}

    network_tensors = NetworkTensors.of(point)
    return StepBatch(
        network_tensors=network_tensors,
        backward=single_process_backward(network_tensors, 1),
        loss_fn=loss_fn,
        step_weights=lambda step: nullcontext(),
        step=0,
        images=torch.zeros(1),
        labels=torch.zeros(1),
        count=work.append,
        flops_per_row=3.0,
        forward_flops_per_row=1.0,
        optimizer=torch.optim.SGD(point.parameters(), lr=0.1),
        masks=masks,
    )


def asked(rule: SAM, batch: StepBatch) -> tuple[float, Tensors]:
    gradient, state = rule.gradient(RuleState(), batch)
    assert state == RuleState()
    return float(gradient.loss), gradient.corrected


def test_on_a_quadratic_the_gradient_is_that_of_the_weights_moved_uphill() -> None:
    """H diag(1, 3), w = (4, 1): Hw = (4, 3) of norm 5; rho 0.5 moves w by (0.4, 0.3), and H (4.4, 1.3) = (4.4, 3.9)."""
    work: list[float] = []
    point = Point([4.0, 1.0], 0.0)
    batch = batch_at(
        point,
        torch.diag(torch.tensor([1.0, 3.0], dtype=torch.float64)),
        bias_curvature=1.0,
        masks={},
        work=work,
    )
    loss, corrected = asked(SAM(rho=0.5), batch)
    assert corrected["weight"].tolist() == pytest.approx([4.4, 3.9], rel=1e-12)
    assert loss == 0.5 * (16 + 3)  # at the weights as they stand
    assert point.weight.tolist() == [4.0, 1.0]
    assert batch.own_gradient()["weight"].tolist() == [4.0, 3.0]  # what growth by gradient sees
    assert work == [3.0]  # one gradient beyond the step's own


def test_biases_take_part_in_the_norm() -> None:
    """H = 1, w = (2, 0); b = 1 of curvature 1.5: g = (2, 0; 1.5) of norm 2.5, and rho 0.5 moves by (0.4, 0; 0.3)."""
    batch = batch_at(
        Point([2.0, 0.0], 1.0), torch.eye(2, dtype=torch.float64), bias_curvature=1.5, masks={}, work=[]
    )
    _, corrected = asked(SAM(rho=0.5), batch)
    assert corrected["weight"].tolist() == pytest.approx([2.4, 0.0], rel=1e-12)
    assert float(corrected["bias"]) == pytest.approx(1.5 * 1.3, rel=1e-12)


def test_only_active_weights_are_moved_and_counted_in_the_norm() -> None:
    """w = (4, 3, 0) under H with an entry that couples the masked weight to the first: g = (4, 3, 8), of which (4, 3)
    counts. Moved by (0.4, 0.3, 0) the gradient is (4.4, 3.3, 8.8), dense: masks come after."""
    curvature = torch.tensor([[1.0, 0, 2], [0, 1, 0], [2, 0, 1]], dtype=torch.float64)
    masks = {"weight": torch.tensor([True, True, False])}
    batch = batch_at(Point([4.0, 3.0, 0.0], 0.0), curvature, bias_curvature=1.0, masks=masks, work=[])
    _, corrected = asked(SAM(rho=0.5), batch)
    assert corrected["weight"].tolist() == pytest.approx([4.4, 3.3, 8.8], rel=1e-12)


def test_at_a_minimum_nothing_is_divided_by_zero() -> None:
    batch = batch_at(
        Point([0.0, 0.0], 0.0), torch.eye(2, dtype=torch.float64), bias_curvature=1.0, masks={}, work=[]
    )
    _, corrected = asked(SAM(rho=0.5), batch)
    assert corrected["weight"].tolist() == [0.0, 0.0]


@each_case("rho", [-0.1, float("inf"), float("nan")])
def test_a_radius_that_is_none_is_refused(rho: float) -> None:
    with pytest.raises(ValueError, match=r"^rho is"):
        SAM(rho=rho)
