"""The gradients of `matching` as compiled functions: faster after a minute or so of compilation, equal up to rounding.

torch.compile cannot differentiate twice through a region that it has compiled. So each function is compiled as a whole, with
the gradients taken by torch.func inside it.
"""

from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, grad_and_value
from torch.nn import functional

from pruneyard.workloads.distill import matching
from pruneyard.workloads.networks.builder import ModelBuilder

Weights = dict[str, Tensor]


@lru_cache(maxsize=8)
def compiled(model: ModelBuilder, image_shape: tuple[int, int, int], num_classes: int) -> "Compiled":
    """Kept for the life of the process, as compilation is slow. Raises `ValueError` for a network with running statistics."""
    with torch.device("meta"):
        network = model.build(image_shape=image_shape, num_classes=num_classes)
    if any(True for _ in network.buffers()):
        raise ValueError(
            f"compile is true; a network with running statistics cannot be compiled, and {model} has them"
        )
    return Compiled(network)


class Compiled:
    """Stands in for the functions of the same names in `matching`, for networks of one architecture."""

    def __init__(self, architecture: nn.Module) -> None:
        """architecture: without storage; weights come with each call."""
        self._architecture = architecture
        self._matched = torch.compile(self._matching, dynamic=False)
        self._piece = torch.compile(self._sum_gradient, dynamic=False)

    def matched(
        self,
        network: nn.Module,
        parameters: Sequence[Tensor],
        images: Tensor,
        labels: Tensor,
        wanted: Sequence[Tensor],
        *,
        by: str,
    ) -> tuple[Tensor, Tensor]:
        """See `matching.matched`."""
        chosen, rest = _told_apart(network, parameters)
        gradient, loss = self._matched(chosen, rest, images.detach(), labels, list(wanted), by)
        return loss, gradient

    def chunked_gradient(
        self, network: nn.Module, parameters: Sequence[Tensor], images: Tensor, labels: Tensor, *, chunk: int
    ) -> list[Tensor]:
        """See `matching.chunked_gradient`. A last piece that is smaller is not worth a compilation of its own."""
        chosen, rest = _told_apart(network, parameters)
        whole = len(images) // chunk * chunk
        if whole < len(images):
            share = (len(images) - whole) / len(images)
            left = matching.chunked_gradient(network, parameters, images[whole:], labels[whole:], chunk=chunk)
            total = list(torch._foreach_mul(left, share))
        else:
            total = [torch.zeros_like(tensor) for tensor in chosen.values()]
        for part, targets in zip(images[:whole].split(chunk), labels[:whole].split(chunk), strict=True):
            found = self._piece(chosen, rest, part, targets)
            total = list(torch._foreach_add(total, list(found.values()), alpha=1 / len(images)))
        return total

    def _loss(self, chosen: Weights, rest: Weights, images: Tensor, labels: Tensor, reduction: str) -> Tensor:
        outputs = functional_call(self._architecture, {**rest, **chosen}, (images,))
        return functional.cross_entropy(outputs, labels, reduction=reduction)

    def _sum_gradient(self, chosen: Weights, rest: Weights, images: Tensor, labels: Tensor) -> Weights:
        gradient: Weights = grad(self._loss)(chosen, rest, images, labels, "sum")
        return gradient

    def _matching(
        self, chosen: Weights, rest: Weights, images: Tensor, labels: Tensor, wanted: list[Tensor], by: str
    ) -> tuple[Tensor, Tensor]:
        def distance(of: Tensor) -> Tensor:
            found = grad(self._loss)(chosen, rest, of, labels, "mean")
            return matching.DISTANCES[by](list(found.values()), wanted)

        both: tuple[Tensor, Tensor] = grad_and_value(distance)(images)
        return both


def _told_apart(network: nn.Module, parameters: Sequence[Tensor]) -> tuple[Weights, Weights]:
    """Weights of the network by name: those to differentiate by, in their order, and the others."""
    names = {id(parameter): name for name, parameter in network.named_parameters()}
    chosen = {names[id(parameter)]: parameter.detach() for parameter in parameters}
    rest = {name: parameter.detach() for name, parameter in network.named_parameters() if name not in chosen}
    return chosen, rest
