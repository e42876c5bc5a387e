"""Instance norm whose gradient can be differentiated once more by formulas of its own, in few passes over the images.

PyTorch differentiates the gradient of a group norm through some thirty elementwise operations. Here each plane of M pixels, with
x^ = (x - mean) / s, has as gradient by x of an upstream g

    B(g) = w / s * (g - mean(g) - x^ mean(g x^)),

and for an upstream v of that, with a = mean(v x^), c = mean(g x^) and k = mean(v g) - mean(v) mean(g) - a c,

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
    """In the block every affine group norm with a group per channel, on (B, C, H, W), is one of these; its scale and shift are
    constants there, which no gradient reaches.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = kwargs or {}
        if func is functional.group_norm:
            images, groups, weight, bias, eps = _arguments(*args, **given)
            if weight is not None and bias is not None and images.ndim == 4 and images.shape[1] == groups:
                return instance_norm(images, weight.detach(), bias.detach(), eps)
        return func(*args, **given)


def _arguments(
    images: Tensor,
    num_groups: int,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> tuple[Tensor, int, Tensor | None, Tensor | None, float]:
    """Those of `functional.group_norm`."""
    return images, num_groups, weight, bias, eps


def instance_norm(images: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """Of (B, C, H, W), differentiable twice by the images."""
    normed: Tensor = _Norm.apply(images.contiguous(), weight, bias, eps)
    return normed


class _Norm(torch.autograd.Function):
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
        return _Gradient.apply(images, upstream[0], weight, mean, scale), None, None, None


class _Gradient(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, images: Tensor, upstream: Tensor, weight: Tensor, mean: Tensor, scale: Tensor
    ) -> Tensor:
        num, channels, height, width = images.shape
        upstream = upstream.contiguous()
        ctx.save_for_backward(images, upstream, weight, mean, scale)
        found: Tensor = torch.ops.aten.native_group_norm_backward(
            upstream,
            images,
            mean,
            scale,
            weight,
            num,
            channels,
            height * width,
            channels,
            [True, False, False],
        )[0]
        return found

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *upstream: Tensor) -> Any:
        """Names as in the formulas above, `scale` being 1 / s; x^ is never written out."""
        (v,), (x, g, weight, mean, scale) = upstream, ctx.saved_tensors
        mean, scale = (of_plane.view(x.shape[:2]) for of_plane in (mean, scale))
        num_pixels = x.shape[2] * x.shape[3]
        mean_v, mean_g = v.mean((2, 3)), g.mean((2, 3))
        a = (_dots(v, x) / num_pixels - mean_v * mean) * scale
        c = (_dots(g, x) / num_pixels - mean_g * mean) * scale
        k = _dots(v, g) / num_pixels - mean_v * mean_g - a * c
        first = weight * scale
        by_g = _planes(first, v, -first * a * scale, x).add_(_wide(first * (a * scale * mean - mean_v)))
        second, of_x = -first * scale, -first * scale * (k - 2 * a * c) * scale
        by_x = _planes(second * c, v, second * a, g).addcmul_(x, _wide(of_x))
        by_x.sub_(_wide(second * (c * mean_v + a * mean_g) + of_x * mean))
        return by_x, by_g, None, None, None


def _planes(first: Tensor, one: Tensor, second: Tensor, other: Tensor) -> Tensor:
    """first * one + second * other, the factors (B, C) belonging to planes."""
    return torch.mul(one, _wide(first)).addcmul_(other, _wide(second))


def _dots(one: Tensor, other: Tensor) -> Tensor:
    """(B, C): sums of products over the pixels of each plane."""
    products: Tensor = torch.linalg.vecdot(one.flatten(2), other.flatten(2))
    return products


def _wide(of_planes: Tensor) -> Tensor:
    return of_planes[:, :, None, None]
