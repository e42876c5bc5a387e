"""Products with the Hessian of the mean loss, restricted to the active weights; its trace and its largest eigenvalue."""

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional

from pruneyard.workloads.data.batches import DeviceSplit
from pruneyard.workloads.networks.second_derivatives import twice_differentiable_attention
from pruneyard.workloads.probe.probe import BATCH_SIZE
from pruneyard.workloads.seeding import stream


@dataclass(frozen=True, kw_only=True)
class MeanLoss:
    """The mean cross-entropy on some rows as a function of the parameters, in evaluation mode.

    masks: by parameter name; directions are zero where they are False.
    """

    network: nn.Module
    rows: DeviceSplit
    masks: Mapping[str, Tensor]
    num_classes: int

    @property
    def parameters(self) -> dict[str, Tensor]:
        """The parameters by name, detached."""
        return {name: parameter.detach() for name, parameter in self.network.named_parameters()}

    @torch.no_grad()
    def value(self, moved: Mapping[str, Tensor]) -> float:
        """Returns the loss at other parameters, in nats."""
        batches = self.rows.batches(BATCH_SIZE)
        return sum(float(self._sum(moved, images, labels)) for images, labels in batches) / len(self.rows)

    def gradient(self) -> list[Tensor]:
        """Returns the gradient by active weight; zero elsewhere."""
        return self._summed(lambda gradients, leaves: gradients, needs_graph=False)

    def hessian_product(self, direction: list[Tensor]) -> list[Tensor]:
        """Returns the product with a direction, by parameter; of active weights alone."""

        def product(gradients: list[Tensor], leaves: list[Tensor]) -> list[Tensor]:
            inner = sum((gradient * part).sum() for gradient, part in zip(gradients, direction, strict=True))
            found = torch.autograd.grad(inner, leaves, allow_unused=True)  # type: ignore[arg-type]
            return [torch.zeros_like(leaf) if part is None else part for part, leaf in zip(found, leaves, strict=True)]

        return self._summed(product, needs_graph=True)

    def random_direction(self, seed: int, number: int, *, signs: bool) -> list[Tensor]:
        """Returns random signs, or normal numbers, on the active weights; a function of seed and number."""
        generator = stream(seed, "curvature", number)
        drawn = []
        for name, parameter in self.parameters.items():
            normal = torch.randn(parameter.shape, generator=generator).to(parameter.device)
            drawn.append(self._masked(name, normal.sign() if signs else normal))
        return drawn

    def _masked(self, name: str, tensor: Tensor) -> Tensor:
        return tensor * self.masks[name].to(tensor.device) if name in self.masks else tensor

    def _sum(self, parameters: Mapping[str, Tensor], images: Tensor, labels: Tensor) -> Tensor:
        logits = functional_call(self.network, dict(parameters), (images,))[:, : self.num_classes]
        return functional.cross_entropy(logits, labels, reduction="sum")

    def _summed(
        self, function: Callable[[list[Tensor], list[Tensor]], list[Tensor]], *, needs_graph: bool
    ) -> list[Tensor]:
        """Returns the mean over rows of a function of gradient and parameters, masked."""
        leaves = {name: parameter.clone().requires_grad_() for name, parameter in self.parameters.items()}
        total = [torch.zeros_like(leaf) for leaf in leaves.values()]
        for images, labels in self.rows.batches(BATCH_SIZE):
            with twice_differentiable_attention() if needs_graph else nullcontext():
                loss = self._sum(leaves, images, labels)
            gradients = torch.autograd.grad(loss, list(leaves.values()), create_graph=needs_graph)
            for place, part in enumerate(function(list(gradients), list(leaves.values()))):
                total[place] += part.detach()
        return [self._masked(name, part / len(self.rows)) for name, part in zip(leaves, total, strict=True)]


def inner(one: list[Tensor], other: list[Tensor]) -> float:
    """Returns the inner product of two directions."""
    return sum(float((left * right).sum()) for left, right in zip(one, other, strict=True))


def trace_samples(loss: MeanLoss, num: int, *, seed: int) -> list[float]:
    """Returns `num` unbiased samples of the trace, each v'Hv for random signs v.

    Reference: Hutchinson 1990, A Stochastic Estimator of the Trace of the Influence Matrix (Communications in Statistics 19).
    """
    directions = (loss.random_direction(seed, number, signs=True) for number in range(num))
    return [inner(direction, loss.hessian_product(direction)) for direction in directions]


def largest_eigenvalue(loss: MeanLoss, *, num_iterations: int, seed: int) -> float:
    """Returns the eigenvalue of the largest magnitude: a Rayleigh quotient after `num_iterations` steps of power iteration."""
    direction, value = loss.random_direction(seed, -1, signs=False), 0.0
    for _ in range(num_iterations):
        norm = inner(direction, direction) ** 0.5
        if norm == 0:
            return 0.0
        direction = [part / norm for part in direction]
        product = loss.hessian_product(direction)
        value, direction = inner(direction, product), product
    return value
