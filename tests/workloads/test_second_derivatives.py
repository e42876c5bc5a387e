"""Networks with attention where gradients are differentiated again: matching of gradients and paths, GraSP, curvature."""

from collections.abc import Sequence

import pytest
import torch
from distilling import context, images, states
from torch import Tensor, nn
from torch.nn import functional

from pruneyard.testing.cases import each_case
from pruneyard.workloads.distill.distiller import Distiller
from pruneyard.workloads.distill.matching import match_gradients
from pruneyard.workloads.distill.methods.dm import DM
from pruneyard.workloads.distill.methods.idc import IDC
from pruneyard.workloads.distill.methods.mtt import MTT
from pruneyard.workloads.distill.network_training import NetworkTraining
from pruneyard.workloads.models.vit_tiny import ViTTiny
from pruneyard.workloads.networks.second_derivatives import twice_differentiable_attention
from pruneyard.workloads.probe.hessian import MeanLoss, inner
from pruneyard.workloads.sparse.methods.grasp import removal_effects

SMALL = ViTTiny(width=8, depth=1, heads=2)


class Attention(nn.Module):
    """One layer of attention over the rows of an image."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.classifier = nn.Linear(8, 10)

    def forward(self, pixels: Tensor) -> Tensor:
        rows = pixels.flatten(1, 2)
        found: Tensor = self.classifier(self.attention(rows, rows, rows, need_weights=False)[0].mean(1))
        return found


def attention() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Attention().double()


def pixels(num: int) -> Tensor:
    return torch.rand(num, 1, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def test_the_gradient_of_a_matching_distance_is_that_of_finite_differences() -> None:
    network, real, labels = attention(), pixels(4), torch.zeros(4, dtype=torch.int64)
    weights = [weight for weight in network.parameters() if weight.ndim > 1]

    def gradients(rows: Tensor) -> Sequence[Tensor]:
        return torch.autograd.grad(functional.cross_entropy(network(rows), labels[: len(rows)]), weights)

    def distance(rows: Tensor) -> Tensor:
        value, gradient = match_gradients(network, weights, rows, labels[: len(rows)], targets, distance="squared")
        found.append(gradient)
        return value

    targets = gradients(real)
    found: list[Tensor] = []
    start, step = pixels(1) * 0.5, torch.zeros(1, 1, 8, 8, dtype=torch.float64)
    step[0, 0, 2, 3] = 1e-5
    slope = (distance(start + step) - distance(start - step)) / 2e-5
    distance(start)
    assert float(found[-1][0, 0, 2, 3]) == pytest.approx(float(slope), rel=1e-4)


@each_case(
    "method",
    [
        DM(ipc=1, iterations=1, real_batch=8),
        IDC(ipc=1, iterations=2, steps=2, real_batch=4, network=NetworkTraining(num_images=8)),
        MTT(ipc=1, iterations=1, experts=1, expert_epochs=1, steps=2, max_start_epoch=1),
    ],
)
def test_sets_are_distilled_in_a_network_with_attention(method: Distiller) -> None:
    first, *_, last = states(method, context(model=SMALL))
    assert images(last).isfinite().all()
    assert not torch.equal(images(first), images(last))


def test_effects_of_removal_and_products_with_the_hessian() -> None:
    """The matrix is symmetric: u'Hv is v'Hu."""
    network = attention()
    with twice_differentiable_attention():
        loss = functional.cross_entropy(network(pixels(4)), torch.arange(4))
    effects = removal_effects(loss, dict(network.named_parameters()))
    assert effects["attention.in_proj_weight"].abs().max() > 0
    mean = MeanLoss(network=network.float(), rows=context().real.split, masks={}, num_classes=10)
    one, other = (mean.random_direction(0, number, signs=True) for number in range(2))
    left, right = inner(one, mean.hessian_product(other)), inner(other, mean.hessian_product(one))
    assert left == pytest.approx(right, rel=1e-3)
    assert left != 0
