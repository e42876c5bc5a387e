"""Gradient matching: gradients of a network on real and synthetic images of a class, and distances between them.

Weights are compared with at least two dimensions: by rows, which are the filters of a convolution and the outputs of a linear
layer. Biases and norms have no part in it.
"""

from collections.abc import Sequence
from typing import Protocol
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.nn import functional

from pruneyard.workloads.distill.instance_norm import TwiceDifferentiable


class Ways(Protocol):
    """The two functions of this module that take time, as `matched` and `chunked_gradient`; compiled, or this module itself."""

    def matched(
        self,
        network: nn.Module,
        parameters: Sequence[Tensor],
        images: Tensor,
        labels: Tensor,
        wanted: Sequence[Tensor],
        *,
        by: str,
    ) -> tuple[Tensor, Tensor]: ...

    def chunked_gradient(
        self, network: nn.Module, parameters: Sequence[Tensor], images: Tensor, labels: Tensor, *, chunk: int
    ) -> list[Tensor]: ...


CACHE_BYTES = (
    4 * 2**20
)  # for the largest layer's outputs on a piece: measured, 8 images of ConvNet-3 at width 128
_ROWS_IN_CACHE: WeakKeyDictionary[nn.Module, int] = WeakKeyDictionary()
EPSILON = 1e-6  # in the cosine's denominator, as published


def matched_parameters(network: nn.Module, *, classifier: bool) -> list[nn.Parameter]:
    """Weights of two dimensions and more, in module order; without the linear layers unless `classifier`."""
    least = 2 if classifier else 3
    return [parameter for parameter in network.parameters() if parameter.ndim >= least]


def loss_gradient(
    network: nn.Module, parameters: Sequence[Tensor], images: Tensor, labels: Tensor, *, graph: bool = False
) -> list[Tensor]:
    """Of the mean cross-entropy; with `graph` it can itself be differentiated by the images. No `.grad` is touched."""
    loss = functional.cross_entropy(network(images), labels)
    return list(torch.autograd.grad(loss, parameters, create_graph=graph))


def chunk_of(network: nn.Module, images: Tensor, chunk: int | None = None) -> int:
    """In what pieces a batch (B, C, H, W) may pass: of `chunk` rows, by default as many as a CPU's caches hold.

    Whole on a GPU, which small pieces keep idle, and where batch norm looks at all of it.
    """
    looks_at_all = any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in network.modules())
    if looks_at_all or images.device.type != "cpu":
        return len(images)
    return _rows_in_cache(network, images[:1]) if chunk is None else chunk


def _rows_in_cache(network: nn.Module, image: Tensor) -> int:
    """Found out once for a network, by its largest output on one image."""
    if network not in _ROWS_IN_CACHE:
        sizes: list[int] = [image.numel() * image.element_size()]
        handles = [
            module.register_forward_hook(
                lambda module, inputs, output: sizes.append(output.numel() * output.element_size())
            )
            for module in network.modules()
        ]
        training = network.training
        try:
            with torch.no_grad():
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
    """`loss_gradient` in pieces of `chunk` rows: equal up to summation order, and faster on a CPU's caches.

    labels: classes (B,) or probabilities (B, K).
    """
    total: list[Tensor] = []
    for part, targets in zip(images.split(chunk), labels.split(chunk), strict=True):
        loss = functional.cross_entropy(network(part), targets, reduction="sum") / len(labels)
        gradient = torch.autograd.grad(loss, parameters)
        total = list(torch._foreach_add(total, gradient)) if total else list(gradient)
    return total


def matched(
    network: nn.Module,
    parameters: Sequence[Tensor],
    images: Tensor,
    labels: Tensor,
    wanted: Sequence[Tensor],
    *,
    by: str,
) -> tuple[Tensor, Tensor]:
    """The distance `by` from the gradients `wanted`, and its gradient by the images as the network sees them.

    On a CPU many images pass in pieces that its caches hold: the gradient by `parameters` is a sum over images, so that of the
    distance by this sum leads on to each piece by itself. `parameters` have at least two dimensions.
    """
    chunk = chunk_of(network, images)
    pieces = images.detach().split(len(images) if len(images) < 2 * chunk else chunk)
    leaves = [piece.clone().requires_grad_() for piece in pieces]
    found: list[Sequence[Tensor]] = []
    with TwiceDifferentiable():
        for leaf, targets in zip(leaves, labels.split(len(leaves[0])), strict=True):
            loss = functional.cross_entropy(network(leaf), targets, reduction="sum") / len(labels)
            found.append(torch.autograd.grad(loss, parameters, create_graph=True))
    total = [torch.stack([part.detach() for part in parts]).sum(0) for parts in zip(*found, strict=True)]
    total = [gradient.requires_grad_() for gradient in total]
    distance = DISTANCES[by](total, wanted)
    upstream = torch.autograd.grad(distance, total)
    by_piece = [torch.autograd.grad(part, leaf, upstream)[0] for part, leaf in zip(found, leaves, strict=True)]
    return distance.detach(), torch.cat(by_piece)


def cosine_distance(synthetic: Sequence[Tensor], real: Sequence[Tensor]) -> Tensor:
    """Sum over layers and rows of 1 - cosine. Reference: Zhao, Mopuri and Bilen 2021 (DC, arXiv:2006.05929)."""
    return torch.stack(
        [_cosine_distance(s.flatten(1), r.flatten(1)) for s, r in zip(synthetic, real, strict=True)]
    ).sum()


def _cosine_distance(synthetic: Tensor, real: Tensor) -> Tensor:
    products = (synthetic * real).sum(1)
    cosines: Tensor = products / (synthetic.norm(dim=1) * real.norm(dim=1) + EPSILON)
    return (1 - cosines).sum()


def squared_distance(synthetic: Sequence[Tensor], real: Sequence[Tensor]) -> Tensor:
    """Sum over layers and entries of squared differences."""
    return torch.stack([(s - r).square().sum() for s, r in zip(synthetic, real, strict=True)]).sum()


def absolute_distance(synthetic: Sequence[Tensor], real: Sequence[Tensor]) -> Tensor:
    """Sum over layers and entries of absolute differences."""
    return torch.stack([(s - r).abs().sum() for s, r in zip(synthetic, real, strict=True)]).sum()


DISTANCES = {"cosine": cosine_distance, "squared": squared_distance, "absolute": absolute_distance}
