"""Gradients of a network on real and synthetic images of a class, and distances between them.

Only weights with at least two dimensions are matched, row by row: rows are the filters of a convolution and the outputs of a
linear layer. Biases and the parameters of norms are not matched.
"""

from collections.abc import Sequence
from typing import Protocol
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.nn import functional

from pruneyard.workloads.distill.instance_norm import TwiceDifferentiable
from pruneyard.workloads.networks.second_derivatives import twice_differentiable_attention


class GradientFunctions(Protocol):
    """The two expensive functions of this module, `match_gradients` and `chunked_gradient`.

    The module itself is one implementation; the others are compiled or have reduced precision.
    """

    def match_gradients(
        self,
        network: nn.Module,
        parameters: Sequence[Tensor],
        images: Tensor,
        labels: Tensor,
        targets: Sequence[Tensor],
        *,
        distance: str,
    ) -> tuple[Tensor, Tensor]: ...

    def chunked_gradient(
        self, network: nn.Module, parameters: Sequence[Tensor], images: Tensor, labels: Tensor, *, chunk: int
    ) -> list[Tensor]: ...


CACHE_BYTES = 4 * 2**20
"""Size of the largest layer's outputs on one chunk. Measured as fastest: 8 images of ConvNet-3 at width 128."""

# Weak keys, so that the table keeps no network alive.
_ROWS_IN_CACHE: WeakKeyDictionary[nn.Module, int] = WeakKeyDictionary()
EPSILON = 1e-6  # in the cosine's denominator, as published


def matched_parameters(network: nn.Module, *, classifier: bool) -> list[nn.Parameter]:
    """Returns the weights with at least two dimensions, in module order; without linear layers unless `classifier`."""
    # Weights of convolutions have four dimensions, those of linear layers two.
    least = 2 if classifier else 3
    return [parameter for parameter in network.parameters() if parameter.ndim >= least]


def loss_gradient(
    network: nn.Module, parameters: Sequence[Tensor], images: Tensor, labels: Tensor, *, graph: bool = False
) -> list[Tensor]:
    """Returns the gradient of the mean cross-entropy; with `graph` it is differentiable by the images. Does not set `.grad`."""
    loss = functional.cross_entropy(network(images), labels)
    return list(torch.autograd.grad(loss, parameters, create_graph=graph))


def choose_chunk_size(network: nn.Module, images: Tensor, chunk: int | None = None) -> int:
    """Returns how many rows of a batch (B, C, H, W) to pass at once: `chunk`, by default as many as fit into a CPU's caches.

    The whole batch passes at once on a GPU, which small chunks would keep idle, and with batch norm, whose statistics are
    those of the whole batch.
    """
    has_batch_norm = any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in network.modules())
    if has_batch_norm or images.device.type != "cpu":
        return len(images)
    return _rows_in_cache(network, images[:1]) if chunk is None else chunk


def _rows_in_cache(network: nn.Module, image: Tensor) -> int:
    """Returns how many images fit into the cache, by the largest output of a layer on one image; measured once per network."""
    if network not in _ROWS_IN_CACHE:
        sizes: list[int] = [image.numel() * image.element_size()]

        def record(module: nn.Module, inputs: object, output: object) -> None:
            # Attention returns its weights beside its output, or None in their place.
            parts = output if isinstance(output, tuple | list) else [output]
            sizes.extend(part.numel() * part.element_size() for part in parts if isinstance(part, Tensor))

        handles = [module.register_forward_hook(record) for module in network.modules()]
        training = network.training
        try:
            with torch.no_grad():
                # In eval mode, so that the pass updates no buffer.
                network.eval()(image)
        finally:
            network.train(training)
            for handle in handles:
                handle.remove()
        _ROWS_IN_CACHE[network] = max(1, CACHE_BYTES // max(sizes))
    return _ROWS_IN_CACHE[network]


def chunked_gradient(
    network: nn.Module, parameters: Sequence[Tensor], images: Tensor, labels: Tensor, *, chunk: int
) -> list[Tensor]:
    """Returns `loss_gradient`, computed in chunks of `chunk` rows: equal up to summation order, and faster on a CPU.

    labels: classes (B,) or probabilities (B, K).
    """
    total: list[Tensor] = []
    for part, targets in zip(images.split(chunk), labels.split(chunk), strict=True):
        # Divided by the whole batch, not by the chunk, whose size may differ: the parts then add up to the mean.
        loss = functional.cross_entropy(network(part), targets, reduction="sum") / len(labels)
        gradient = torch.autograd.grad(loss, parameters)
        total = list(torch._foreach_add(total, gradient)) if total else list(gradient)
    return total


def match_gradients(
    network: nn.Module,
    parameters: Sequence[Tensor],
    images: Tensor,
    labels: Tensor,
    targets: Sequence[Tensor],
    *,
    distance: str,
) -> tuple[Tensor, Tensor]:
    """Returns the distance of the gradients to `targets`, and the gradient of that distance by the images.

    On a CPU many images pass in chunks that fit into its caches. This is possible because the gradient by `parameters` is a sum
    over images: the gradient of the distance by this sum is propagated to each chunk separately. `parameters` have at least
    two dimensions. distance: a key of `DISTANCES`.
    """
    chunk = choose_chunk_size(network, images)
    chunks = images.detach().split(len(images) if len(images) < 2 * chunk else chunk)
    leaves = [part.clone().requires_grad_() for part in chunks]
    chunk_gradients: list[Sequence[Tensor]] = []
    with TwiceDifferentiable(), twice_differentiable_attention():
        for leaf, chunk_labels in zip(leaves, labels.split(len(leaves[0])), strict=True):
            loss = functional.cross_entropy(network(leaf), chunk_labels, reduction="sum") / len(labels)
            chunk_gradients.append(torch.autograd.grad(loss, parameters, create_graph=True))
    total = [torch.stack([part.detach() for part in parts]).sum(0) for parts in zip(*chunk_gradients, strict=True)]
    # The graph ends here: the distance is differentiated by the sum, and the result is passed on to one chunk after another.
    total = [gradient.requires_grad_() for gradient in total]
    value = DISTANCES[distance](total, targets)
    upstream = torch.autograd.grad(value, total)
    image_gradients = [
        torch.autograd.grad(gradients, leaf, upstream)[0] for gradients, leaf in zip(chunk_gradients, leaves, strict=True)
    ]
    return value.detach(), torch.cat(image_gradients)


def cosine_distance(synthetic: Sequence[Tensor], real: Sequence[Tensor]) -> Tensor:
    """Returns the sum over layers and rows of 1 - cosine. Reference: Zhao, Mopuri and Bilen 2021 (DC, arXiv:2006.05929)."""
    return torch.stack(
        [_layer_cosine_distance(s.flatten(1), r.flatten(1)) for s, r in zip(synthetic, real, strict=True)]
    ).sum()


def _layer_cosine_distance(synthetic: Tensor, real: Tensor) -> Tensor:
    products = (synthetic * real).sum(1)
    cosines: Tensor = products / (synthetic.norm(dim=1) * real.norm(dim=1) + EPSILON)
    return (1 - cosines).sum()


def squared_distance(synthetic: Sequence[Tensor], real: Sequence[Tensor]) -> Tensor:
    """Returns the sum over layers and entries of squared differences."""
    return torch.stack([(s - r).square().sum() for s, r in zip(synthetic, real, strict=True)]).sum()


def absolute_distance(synthetic: Sequence[Tensor], real: Sequence[Tensor]) -> Tensor:
    """Returns the sum over layers and entries of absolute differences."""
    return torch.stack([(s - r).abs().sum() for s, r in zip(synthetic, real, strict=True)]).sum()


DISTANCES = {"cosine": cosine_distance, "squared": squared_distance, "absolute": absolute_distance}
