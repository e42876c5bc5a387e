"""Layers that skip zeros on a CPU: the same outputs as their dense twins up to the order of additions.

Two kernels multiply a sparse matrix (outputs, inputs) with a dense one (inputs, columns). `SparseProduct`
is torch's sparse matrix, computed by MKL where torch has it. `GatherProduct` is torch's embedding bag: each
output is a weighted sum of rows of the input, which FBGEMM computes with vectors as long as the CPU has; it wants
many columns.

Convolutions become such products by laying out what each output pixel sees (im2col), in pieces that stay in
the cache: for a large batch the layout of all of it would cost more than the product.

Legend: B images, C channels in, O channels out, K = kernel height x width, P output pixels of a piece.
"""

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor, nn

from pruneyard.workloads.deploy.compressed import block_size, bsr_tensor, csr, csr_tensor

PIECE_BYTES = 1 << 21  # of one im2col piece: 0.25 to 2 MiB were tried, and small pieces cost calls


class Product(Protocol):
    """A sparse matrix with a bias. `spare_rows` more rows stand below the columns it is given, for its own use."""

    spare_rows: int

    def __call__(self, columns: Tensor) -> Tensor:
        """(I + spare_rows, P) -> (O, P)."""
        ...

    def row(self, inputs: Tensor) -> Tensor:
        """One column alone, without spare rows: (I,) -> (O,)."""
        ...


class SparseProduct:
    """torch's sparse matrix, CSR or BSR."""

    spare_rows = 0

    def __init__(self, matrix: Tensor, bias: Tensor | None) -> None:
        self.matrix = matrix
        self.bias = torch.zeros(matrix.shape[0]) if bias is None else bias.detach()
        self.bias_column = self.bias[:, None]
        self.has_row_kernel = torch.backends.mkl.is_available()

    def __call__(self, columns: Tensor) -> Tensor:
        return torch.addmm(self.bias_column, self.matrix, columns)

    def row(self, inputs: Tensor) -> Tensor:
        if not self.has_row_kernel:
            return self(inputs[:, None])[:, 0]
        return torch.addmv(self.bias, self.matrix, inputs)


class GatherProduct:
    """Sums of weighted rows. The bias is the weight of a last row of ones."""

    spare_rows = 1

    def __init__(self, weight: Tensor, mask: Tensor, bias: Tensor | None) -> None:
        values = torch.zeros(len(mask)) if bias is None else bias.detach()
        matrix = torch.cat([weight.detach().reshape(len(mask), -1), values[:, None]], dim=1)
        kept = torch.cat([mask.reshape(len(mask), -1), torch.ones(len(mask), 1, dtype=torch.bool)], dim=1)
        self.starts, self.rows, self.factors = csr(matrix, kept)

    def __call__(self, columns: Tensor) -> Tensor:
        columns[-1] = 1.0
        return nn.functional.embedding_bag(
            self.rows,
            columns,
            self.starts,
            mode="sum",
            per_sample_weights=self.factors,
            include_last_offset=True,
        )

    def row(self, inputs: Tensor) -> Tensor:
        return self(torch.cat([inputs, inputs.new_ones(1)])[:, None])[:, 0]


class SparseLinear(nn.Module):
    """A linear layer by a sparse product."""

    def __init__(self, product: Product) -> None:
        super().__init__()
        self.product = product

    def forward(self, inputs: Tensor) -> Tensor:
        """(..., I) -> (..., O). The result of a batch lies in memory as its transpose, as the next one wants it."""
        size = inputs.shape[-1]
        if inputs.numel() == size:
            return self.product.row(inputs.reshape(size)).view(*inputs.shape[:-1], -1)
        flat = inputs if inputs.ndim == 2 else inputs.reshape(-1, size)
        columns = flat.t()
        if self.product.spare_rows:
            columns = flat.new_empty((size + self.product.spare_rows, len(flat)))
            columns[:size] = flat.t()
        outputs = self.product(columns).t()
        return outputs if inputs.ndim == 2 else outputs.reshape(*inputs.shape[:-1], -1)


class SparseConv2d(nn.Module):
    """A convolution by a sparse product, piece by piece."""

    def __init__(self, layer: nn.Conv2d, product: Product) -> None:
        super().__init__()
        assert not isinstance(layer.padding, str)
        self.product, self.num_outputs = product, layer.out_channels
        self.kernel, self.stride, self.dilation = layer.kernel_size, layer.stride, layer.dilation
        self.padding = (layer.padding[1],) * 2 + (layer.padding[0],) * 2

    def forward(self, images: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, O, H', W')."""
        windows = self._windows(images)
        channels, high, wide, num_images, height, width = windows.shape
        num_rows = channels * high * wide
        outputs = images.new_empty((num_images, self.num_outputs, height, width))
        row_bytes = 4 * num_rows * width
        per_piece = max(1, PIECE_BYTES // (row_bytes * height))  # whole images, or else
        lines = height if row_bytes * height <= PIECE_BYTES else max(1, PIECE_BYTES // row_bytes)
        for first in range(0, num_images, per_piece):
            last = min(first + per_piece, num_images)
            for top in range(0, height, lines):
                piece = windows[:, :, :, first:last, top : top + lines]
                columns = images.new_empty((num_rows + self.product.spare_rows, piece[0, 0, 0].numel()))
                columns[:num_rows].view(piece.shape).copy_(piece)
                found = self.product(columns).view(self.num_outputs, last - first, -1, width)
                outputs[first:last, :, top : top + lines] = found.transpose(0, 1)
        return outputs

    def _windows(self, images: Tensor) -> Tensor:
        """What output pixels see, (C, kernel height, kernel width, B, H', W'), as a view of the padded images."""
        padded = nn.functional.pad(images, self.padding) if any(self.padding) else images
        spans = [d * (k - 1) for d, k in zip(self.dilation, self.kernel, strict=True)]
        sizes = [(n - e - 1) // s + 1 for n, e, s in zip(padded.shape[2:], spans, self.stride, strict=True)]
        image, channel, line, pixel = padded.stride()
        size = (padded.shape[1], *self.kernel, len(padded), *sizes)
        strides = (channel, self.dilation[0] * line, self.dilation[1] * pixel)
        return padded.as_strided(size, (*strides, image, self.stride[0] * line, self.stride[1] * pixel))


Kernel = Callable[[nn.Module, Tensor], nn.Module]
"""Makes the sparse twin of a layer under a mask."""


def csr_kernel(layer: nn.Module, mask: Tensor) -> nn.Module:
    """The layer by torch's CSR matrix."""
    weight, bias = _parameters(layer)
    return _around(layer, SparseProduct(csr_tensor(weight, mask), bias))


def gather_kernel(layer: nn.Module, mask: Tensor) -> nn.Module:
    """The layer by weighted sums of rows."""
    weight, bias = _parameters(layer)
    return _around(layer, GatherProduct(weight, mask, bias))


def bsr_kernel(layer: nn.Module, mask: Tensor) -> nn.Module:
    """The layer by torch's BSR matrix; the mask must consist of blocks."""
    weight, bias = _parameters(layer)
    size = block_size(mask)
    assert size is not None, "the mask has no blocks"
    return _around(layer, SparseProduct(bsr_tensor(weight, mask, size), bias))


def why_dense(layer: nn.Module, mask: Tensor | None) -> str:
    """Why a layer has no sparse kernel here; empty where it has."""
    if mask is None:
        return "it has no mask"
    if bool(mask.all()):
        return "its mask has no zeros"
    if isinstance(layer, nn.Linear):
        return ""
    if not isinstance(layer, nn.Conv2d):
        return f"{type(layer).__name__} has no sparse kernel"
    if layer.groups != 1:
        return f"it is a convolution in {layer.groups} groups"
    if layer.padding_mode != "zeros" or isinstance(layer.padding, str):
        return f"its padding is {layer.padding_mode if layer.padding_mode != 'zeros' else layer.padding}"
    return ""


def _parameters(layer: nn.Module) -> tuple[Tensor, Tensor | None]:
    assert isinstance(layer, (nn.Linear, nn.Conv2d))
    return layer.weight.detach(), layer.bias


def _around(layer: nn.Module, product: Product) -> nn.Module:
    if isinstance(layer, nn.Linear):
        return SparseLinear(product)
    assert isinstance(layer, nn.Conv2d)
    return SparseConv2d(layer, product)
