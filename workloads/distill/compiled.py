"""The gradients of `matching` as compiled functions: faster after about a minute of compilation, equal up to rounding.

torch.compile cannot differentiate twice through a compiled region. So each function is compiled as a whole, and torch.func
computes the gradients inside it.
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
def compile_gradients(model: ModelBuilder, image_shape: tuple[int, ...], num_classes: int) -> "CompiledGradients":
    """Returns compiled gradients for a model; they are cached for the life of the process, as compilation is slow.

    Raises `ValueError` for a network with running statistics.
    """
    # Only the architecture is used: every call passes the weights.
    with torch.device("meta"):
        network = model.build(image_shape=image_shape, num_classes=num_classes)
    if any(True for _ in network.buffers()):
        raise ValueError(
            f"compile is true, but {model} has running statistics; only networks without them can be compiled"
        )
    return CompiledGradients(network)


class CompiledGradients:
    """Replaces the functions of the same names in `matching`, for networks of one architecture."""

    def __init__(self, architecture: nn.Module) -> None:
        """architecture: a network on the meta device; each call passes weights."""
        self._architecture = architecture
        self._compiled_match = torch.compile(self._match, dynamic=False)
        self._compiled_sum_gradient = torch.compile(self._sum_gradient, dynamic=False)

    def match_gradients(
        self,
        network: nn.Module,
        parameters: Sequence[Tensor],
        images: Tensor,
        labels: Tensor,
        targets: Sequence[Tensor],
        *,
        distance: str,
    ) -> tuple[Tensor, Tensor]:
        """See `matching.match_gradients`."""
        chosen, rest = _split_weights(network, parameters)
        gradient, loss = self._compiled_match(chosen, rest, images.detach(), labels, list(targets), distance)
        return loss, gradient

    def chunked_gradient(
        self, network: nn.Module, parameters: Sequence[Tensor], images: Tensor, labels: Tensor, *, chunk: int
    ) -> list[Tensor]:
        """See `matching.chunked_gradient`. A smaller last chunk is not compiled, because its shape would need a compilation."""
        chosen, rest = _split_weights(network, parameters)
        whole = len(images) // chunk * chunk
        if whole < len(images):
            # The function returns a mean over the remaining images, the compiled one a sum.
            share = (len(images) - whole) / len(images)
            remainder = matching.chunked_gradient(network, parameters, images[whole:], labels[whole:], chunk=chunk)
            total = list(torch._foreach_mul(remainder, share))
        else:
            total = [torch.zeros_like(tensor) for tensor in chosen.values()]
        for part, targets in zip(images[:whole].split(chunk), labels[:whole].split(chunk), strict=True):
            gradient = self._compiled_sum_gradient(chosen, rest, part, targets)
            total = list(torch._foreach_add(total, list(gradient.values()), alpha=1 / len(images)))
        return total

    def _loss(self, chosen: Weights, rest: Weights, images: Tensor, labels: Tensor, reduction: str) -> Tensor:
        outputs = functional_call(self._architecture, {**rest, **chosen}, (images,))
        return functional.cross_entropy(outputs, labels, reduction=reduction)

    def _sum_gradient(self, chosen: Weights, rest: Weights, images: Tensor, labels: Tensor) -> Weights:
        gradient: Weights = grad(self._loss)(chosen, rest, images, labels, "sum")
        return gradient

    def _match(
        self, chosen: Weights, rest: Weights, images: Tensor, labels: Tensor, targets: list[Tensor], distance: str
    ) -> tuple[Tensor, Tensor]:
        # torch.func instead of torch.autograd: see the module docstring.
        def distance_of(inputs: Tensor) -> Tensor:
            gradient = grad(self._loss)(chosen, rest, inputs, labels, "mean")
            return matching.DISTANCES[distance](list(gradient.values()), targets)

        # torch.func returns the gradient first, contrary to the order of its name.
        gradient_and_distance: tuple[Tensor, Tensor] = grad_and_value(distance_of)(images)
        return gradient_and_distance


def _split_weights(network: nn.Module, parameters: Sequence[Tensor]) -> tuple[Weights, Weights]:
    """Returns the weights of the network by name: those to differentiate by, in the order of `parameters`, and the others."""
    names = {id(parameter): name for name, parameter in network.named_parameters()}
    chosen = {names[id(parameter)]: parameter.detach() for parameter in parameters}
    rest = {name: parameter.detach() for name, parameter in network.named_parameters() if name not in chosen}
    return chosen, rest
