"""Instance norm with a closed-form second derivative that needs few passes over the images.

PyTorch differentiates the gradient of a group norm through some thirty elementwise operations. Here, for each plane of M pixels
with x^ = (x - mean) / s, the gradient by x for an upstream gradient g is

    B(g) = w / s * (g - mean(g) - x^ mean(g x^)).

The gradients of B(g) for an upstream gradient v, with a = mean(v x^), c = mean(g x^) and k = mean(v g) - mean(v) mean(g) - a c,
are

    by g: B(v);    by x: -w / s^2 * (c (v - mean(v)) + a (g - mean(g)) + (k - 2 a c) x^).

Derived from the definition of the norm (Ulyanov, Vedaldi and Lempitsky 2016, Instance Normalization, arXiv:1607.08022).
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional
from torch.overrides import TorchFunctionMode


class TwiceDifferentiable(TorchFunctionMode):
    """A context that replaces every affine group norm with one group per channel, on (B, C, H, W), by `instance_norm`.

    Scale and shift of the norm are constants in this context: they get no gradient.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is functional.group_norm:
            images, groups, weight, bias, eps = _bind_arguments(*args, **kwargs)
            if weight is not None and bias is not None and images.ndim == 4 and images.shape[1] == groups:
                return instance_norm(images, weight.detach(), bias.detach(), eps)
        return func(*args, **kwargs)


def _bind_arguments(
    images: Tensor,
    num_groups: int,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> tuple[Tensor, int, Tensor | None, Tensor | None, float]:
    """Returns the arguments of `functional.group_norm` in order, however they were passed."""
    return images, num_groups, weight, bias, eps


def instance_norm(images: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """Normalises each channel of each image (B, C, H, W); differentiable twice by the images."""
    normed: Tensor = _InstanceNorm.apply(images.contiguous(), weight, bias, eps)
    return normed


class _InstanceNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, images: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
        num, channels, height, width = images.shape
        normed, mean, scale = torch.native_group_norm(
            images, weight, bias, num, channels, height * width, channels, eps
        )
        ctx.save_for_backward(images, weight, mean, scale)
        return normed

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> Any:
        images, weight, mean, scale = ctx.saved_tensors
        return _InstanceNormGradient.apply(images, upstream[0], weight, mean, scale), None, None, None


class _InstanceNormGradient(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, images: Tensor, upstream: Tensor, weight: Tensor, mean: Tensor, scale: Tensor
    ) -> Tensor:
        num, channels, height, width = images.shape
        upstream = upstream.contiguous()
        ctx.save_for_backward(images, upstream, weight, mean, scale)
        gradient: Tensor = torch.ops.aten.native_group_norm_backward(
            upstream,
            images,
            mean,
            scale,
            weight,
            num,
            channels,
            height * width,
            channels,
            # By the images only: scale and shift are constants here.
            [True, False, False],
        )[0]
        return gradient

    @staticmethod
    # A third derivative would be wrong, since these formulas are not recorded; this raises instead.
    @once_differentiable
    def backward(ctx: Any, *upstream: Tensor) -> Any:
        """Computes the formulas of the module's docstring, with the same names; `scale` is 1 / s, and x^ is never stored."""
        (v,), (x, g, weight, mean, scale) = upstream, ctx.saved_tensors
        mean, scale = (statistic.view(x.shape[:2]) for statistic in (mean, scale))
        num_pixels = x.shape[2] * x.shape[3]
        mean_v, mean_g = v.mean((2, 3)), g.mean((2, 3))
        # mean(v x^) = (mean(v x) - mean(v) mean(x)) / s, and likewise for g: x^ itself would be one more tensor as large as x.
        a = (_plane_dots(v, x) / num_pixels - mean_v * mean) * scale
        c = (_plane_dots(g, x) / num_pixels - mean_g * mean) * scale
        k = _plane_dots(v, g) / num_pixels - mean_v * mean_g - a * c
        first = weight * scale
        # New tensors, so they are changed in place: the aim is few passes over the images.
        by_g = _weighted_sum(first, v, -first * a * scale, x).add_(_expand(first * (a * scale * mean - mean_v)))
        second, x_factor = -first * scale, -first * scale * (k - 2 * a * c) * scale
        by_x = _weighted_sum(second * c, v, second * a, g).addcmul_(x, _expand(x_factor))
        by_x.sub_(_expand(second * (c * mean_v + a * mean_g) + x_factor * mean))
        return by_x, by_g, None, None, None


def _weighted_sum(first: Tensor, one: Tensor, second: Tensor, other: Tensor) -> Tensor:
    """Returns first * one + second * other, with factors (B, C) per plane."""
    return torch.mul(one, _expand(first)).addcmul_(other, _expand(second))


def _plane_dots(one: Tensor, other: Tensor) -> Tensor:
    """Returns the sums (B, C) of products over the pixels of each plane."""
    products: Tensor = torch.linalg.vecdot(one.flatten(2), other.flatten(2))
    return products


def _expand(per_plane: Tensor) -> Tensor:
    return per_plane[:, :, None, None]
