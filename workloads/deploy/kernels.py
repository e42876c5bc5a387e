"""Layers that skip zeros on a CPU; their outputs equal those of dense layers up to the order of additions.

Three kernels multiply a sparse matrix (outputs, inputs) with a dense one (inputs, columns). `SparseProduct` is torch's sparse
matrix, computed by MKL if torch has it. `GatherProduct` is torch's embedding bag: each output is a weighted sum of rows of the
input, which FBGEMM computes with the widest vector instructions of the CPU; it is efficient for many columns.
`ConstantFanInProduct` is the same for a regular index, without copying the columns.

Convolutions become such products by im2col, which copies the inputs of each output pixel to a column. This is done in pieces
that fit into the cache: for a large batch, im2col of all images would cost more than the product.

Legend: B images, C channels in, O channels out, K = kernel height x width, P output pixels of a piece.
"""

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor, nn

from pruneyard.workloads.deploy.compressed import block_size, bsr_tensor, csr, csr_tensor, regular

PIECE_BYTES = 1 << 21  # of one im2col piece; 0.25 to 2 MiB were tried, and small pieces need more calls


class Product(Protocol):
    """The product with a sparse matrix, plus a bias. The caller adds `spare_rows` rows below the columns, for internal use."""

    spare_rows: int

    def __call__(self, columns: Tensor) -> Tensor:
        """Maps columns (I + spare_rows, P) to outputs (O, P)."""
        ...

    def row(self, inputs: Tensor) -> Tensor:
        """Maps a single column (I,) without spare rows to outputs (O,)."""
        ...


class SparseProduct:
    """A product with torch's sparse matrix, CSR or BSR."""

    spare_rows = 0

    def __init__(self, matrix: Tensor, bias: Tensor | None) -> None:
        self.matrix = matrix
        self.bias = torch.zeros(matrix.shape[0]) if bias is None else bias.detach()
        self.bias_column = self.bias[:, None]
        # Without MKL, torch has no product of a CSR matrix with a vector.
        self.has_row_kernel = torch.backends.mkl.is_available()

    def __call__(self, columns: Tensor) -> Tensor:
        return torch.addmm(self.bias_column, self.matrix, columns)

    def row(self, inputs: Tensor) -> Tensor:
        if not self.has_row_kernel:
            return self(inputs[:, None])[:, 0]
        return torch.addmv(self.bias, self.matrix, inputs)


class GatherProduct:
    """A product by weighted sums of rows. The bias is the weight of an additional last row of ones."""

    spare_rows = 1

    def __init__(self, weight: Tensor, mask: Tensor, bias: Tensor | None) -> None:
        values = torch.zeros(len(mask)) if bias is None else bias.detach()
        matrix = torch.cat([weight.detach().reshape(len(mask), -1), values[:, None]], dim=1)
        # Every bias is stored, even a zero, so no row of the matrix is empty.
        kept = torch.cat([mask.reshape(len(mask), -1), torch.ones(len(mask), 1, dtype=torch.bool)], dim=1)
        self.starts, self.rows, self.factors = csr(matrix, kept)

    def __call__(self, columns: Tensor) -> Tensor:
        # Written in place: the caller reserves this row (`spare_rows`) to avoid a copy of all columns.
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


class ConstantFanInProduct:
    """A product by weighted sums of equally many rows; outputs without inputs are their bias."""

    spare_rows = 0

    def __init__(self, weight: Tensor, mask: Tensor, bias: Tensor | None) -> None:
        live, columns, self.values = regular(weight.detach(), mask)
        self.bias = torch.zeros(len(mask)) if bias is None else bias.detach()
        self.live = None if len(live) == len(mask) else live.long()
        self.columns, self.factors = columns.flatten(), self.values.flatten()
        self.starts = torch.arange(0, columns.numel() + 1, columns.shape[1], dtype=torch.int32)

    def __call__(self, columns: Tensor) -> Tensor:
        sums = nn.functional.embedding_bag(
            self.columns,
            columns.contiguous(),
            self.starts,
            mode="sum",
            per_sample_weights=self.factors,
            include_last_offset=True,
        )
        if self.live is None:
            return sums.add_(self.bias[:, None])
        return self.bias[:, None].repeat(1, columns.shape[1]).index_add_(0, self.live, sums)

    def row(self, inputs: Tensor) -> Tensor:
        sums = inputs.index_select(0, self.columns).view_as(self.values).mul_(self.values).sum(1)
        return sums.add_(self.bias) if self.live is None else self.bias.index_add(0, self.live, sums)


class SparseLinear(nn.Module):
    """A linear layer that is computed by a sparse product."""

    def __init__(self, product: Product) -> None:
        super().__init__()
        self.product = product

    def forward(self, inputs: Tensor) -> Tensor:
        """Maps (..., I) to (..., O). The result of a batch is a transposed view, which the next sparse layer transposes back."""
        size = inputs.shape[-1]
        # A single row needs no transposition and no spare row.
        if inputs.numel() == size:
            return self.product.row(inputs.reshape(size)).view(*inputs.shape[:-1], -1)
        flat = inputs if inputs.ndim == 2 else inputs.reshape(-1, size)
        columns = flat.t()
        if self.product.spare_rows:
            # The transposed view has no room for spare rows, so it is copied into a larger matrix.
            columns = flat.new_empty((size + self.product.spare_rows, len(flat)))
            columns[:size] = flat.t()
        outputs = self.product(columns).t()
        return outputs if inputs.ndim == 2 else outputs.reshape(*inputs.shape[:-1], -1)


class SparseConv2d(nn.Module):
    """A convolution that is computed by a sparse product, piece by piece."""

    def __init__(self, layer: nn.Conv2d, product: Product) -> None:
        super().__init__()
        assert not isinstance(layer.padding, str)
        self.product, self.num_outputs = product, layer.out_channels
        self.kernel, self.stride, self.dilation = layer.kernel_size, layer.stride, layer.dilation
        # `functional.pad` counts from the last dimension: left, right, top, bottom.
        self.padding = (layer.padding[1],) * 2 + (layer.padding[0],) * 2

    def forward(self, images: Tensor) -> Tensor:
        """Maps images (B, C, H, W) to (B, O, H', W')."""
        windows = self._windows(images)
        channels, kernel_height, kernel_width, num_images, height, width = windows.shape
        num_rows = channels * kernel_height * kernel_width
        outputs = images.new_empty((num_images, self.num_outputs, height, width))
        # Of one line of output pixels in float32.
        row_bytes = 4 * num_rows * width
        per_piece = max(1, PIECE_BYTES // (row_bytes * height))  # images per piece; a large image is split into lines
        lines = height if row_bytes * height <= PIECE_BYTES else max(1, PIECE_BYTES // row_bytes)
        for first in range(0, num_images, per_piece):
            last = min(first + per_piece, num_images)
            for top in range(0, height, lines):
                piece = windows[:, :, :, first:last, top : top + lines]
                columns = images.new_empty((num_rows + self.product.spare_rows, piece[0, 0, 0].numel()))
                # One copy from the strided view straight into place; the spare rows below stay for the product.
                columns[:num_rows].view(piece.shape).copy_(piece)
                result = self.product(columns).view(self.num_outputs, last - first, -1, width)
                outputs[first:last, :, top : top + lines] = result.transpose(0, 1)
        return outputs

    def _windows(self, images: Tensor) -> Tensor:
        """Returns the inputs of output pixels, (C, kernel height, kernel width, B, H', W'), as a view of the padded images."""
        padded = nn.functional.pad(images, self.padding) if any(self.padding) else images
        spans = [d * (k - 1) for d, k in zip(self.dilation, self.kernel, strict=True)]
        # Number of windows along each axis, as torch computes the output size of a convolution.
        sizes = [(n - e - 1) // s + 1 for n, e, s in zip(padded.shape[2:], spans, self.stride, strict=True)]
        # Strides are read from the tensor, so the view is also right for `channels_last` images.
        image, channel, line, pixel = padded.stride()
        size = (padded.shape[1], *self.kernel, len(padded), *sizes)
        strides = (channel, self.dilation[0] * line, self.dilation[1] * pixel)
        return padded.as_strided(size, (*strides, image, self.stride[0] * line, self.stride[1] * pixel))


Kernel = Callable[[nn.Module, Tensor], nn.Module]
"""Returns the sparse counterpart of a layer with a mask."""


def csr_kernel(layer: nn.Module, mask: Tensor) -> nn.Module:
    """Returns the layer with a product by torch's CSR matrix."""
    weight, bias = _parameters(layer)
    return _with_product(layer, SparseProduct(csr_tensor(weight, mask), bias))


def gather_kernel(layer: nn.Module, mask: Tensor) -> nn.Module:
    """Returns the layer with a product by weighted sums of rows."""
    weight, bias = _parameters(layer)
    return _with_product(layer, GatherProduct(weight, mask, bias))


def bsr_kernel(layer: nn.Module, mask: Tensor) -> nn.Module:
    """Returns the layer with a product by torch's BSR matrix; the mask must consist of blocks."""
    weight, bias = _parameters(layer)
    size = block_size(mask)
    assert size is not None, "the mask has no blocks"
    return _with_product(layer, SparseProduct(bsr_tensor(weight, mask, size), bias))


def constant_fan_in_kernel(layer: nn.Module, mask: Tensor) -> nn.Module:
    """Returns the layer with a product by a regular index; all neurons with inputs must have equally many."""
    weight, bias = _parameters(layer)
    return _with_product(layer, ConstantFanInProduct(weight, mask, bias))


def why_dense(layer: nn.Module, mask: Tensor | None) -> str:
    """Returns why a layer with this mask stays dense; empty if a sparse kernel can replace it."""
    if mask is None:
        return "it has no mask"
    if bool(mask.all()):
        return "its mask has no zeros"
    return why_no_kernel(layer)


def why_no_kernel(layer: nn.Module) -> str:
    """Returns why no sparse kernel computes a layer; empty if there is one."""
    if isinstance(layer, nn.Linear):
        return ""
    if not isinstance(layer, nn.Conv2d):
        return f"{type(layer).__name__} has no sparse kernel"
    if layer.groups != 1:
        return f"it is a convolution with {layer.groups} groups"
    if layer.padding_mode != "zeros" or isinstance(layer.padding, str):
        return f"its padding is {layer.padding_mode if layer.padding_mode != 'zeros' else layer.padding}"
    return ""


def _parameters(layer: nn.Module) -> tuple[Tensor, Tensor | None]:
    assert isinstance(layer, (nn.Linear, nn.Conv2d))
    return layer.weight.detach(), layer.bias


def _with_product(layer: nn.Module, product: Product) -> nn.Module:
    if isinstance(layer, nn.Linear):
        return SparseLinear(product)
    assert isinstance(layer, nn.Conv2d)
    return SparseConv2d(layer, product)
