"""The product with a weight that is stored as values and index, and its gradients: they touch stored values only.

Activations are transposed to `(features, rows)`, so that a stored value multiplies a contiguous run of numbers; the output is a
transposed view, which the next product transposes back without a copy. Products with the weight and with its transpose are
weighted sums of rows (torch's embedding bag, which FBGEMM computes on a CPU); the gradient of the stored values is a sampled
product. Every output is summed in a fixed order, so results are repeatable.
"""

import warnings
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from pruneyard.workloads.execution.captured import Captured, CapturedProduct
from pruneyard.workloads.masks.sparse_index import SparseIndex


def linear(
    inputs: Tensor, values: Tensor, bias: Tensor | None, *, index: SparseIndex, captured: list[Captured] | None
) -> Tensor:
    """Maps `(..., inputs)` to `(..., outputs)`, as `nn.functional.linear` does with the dense weight.

    captured: where the backward pass adds what the dense gradient of the weight is computed from; None: nowhere.
    """
    outputs, size = index.matrix
    columns = inputs.reshape(-1, size).t()
    return product(columns, values, bias, index=index, captured=captured).t().reshape(*inputs.shape[:-1], outputs)


def product(
    columns: Tensor, values: Tensor, bias: Tensor | None, *, index: SparseIndex, captured: list[Captured] | None
) -> Tensor:
    """Returns the product of the weight with `columns (inputs, rows)`, plus the bias: `(outputs, rows)`."""
    outputs: Tensor = _Product.apply(columns, values, bias, index, captured)
    return outputs


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, columns: Tensor, values: Tensor, bias: Tensor | None, index: SparseIndex, captured: list[Captured] | None
    ) -> Tensor:
        columns = columns.contiguous()
        outputs = _weighted_sums(columns, values, index.starts, index.columns)
        if bias is not None:
            outputs += bias[:, None]
        ctx.save_for_backward(columns, values)
        ctx.index, ctx.captured = index, captured
        return outputs

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        (columns, values), index = ctx.saved_tensors, ctx.index
        at_outputs = gradient.contiguous()
        if ctx.captured is not None:
            ctx.captured.append(CapturedProduct(columns=columns.detach(), at_outputs=at_outputs))
        at_inputs = at_values = at_bias = None
        if ctx.needs_input_grad[0]:
            at_inputs = _weighted_sums(
                at_outputs, values[index.order], index.transposed_starts, index.transposed_columns
            )
        if ctx.needs_input_grad[1]:
            at_values = sampled_product(at_outputs, columns, values, index)
        if ctx.needs_input_grad[2]:
            at_bias = at_outputs.sum(1)
        return at_inputs, at_values, at_bias, None, None


def sampled_product(left: Tensor, right: Tensor, values: Tensor, index: SparseIndex) -> Tensor:
    """Returns the stored entries of `left @ right.T`, `(num_active,)`: `left (outputs, rows)`, `right (inputs, rows)`."""
    if not index.num_active:
        return torch.zeros_like(values)
    _take_beta_warning()
    pattern = torch.sparse_csr_tensor(index.starts, index.columns, values, index.matrix, check_invariants=False)
    gradients: Tensor = torch.sparse.sampled_addmm(pattern, left, right.t(), beta=0.0).values()
    return gradients


@cache
def _take_beta_warning() -> None:
    """Makes torch give its warning about sparse tensors, of which it gives one per process, where nobody sees it."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Sparse .* tensor support is in beta", UserWarning)
        nothing = torch.tensor([], dtype=torch.int64)
        torch.sparse_csr_tensor(torch.tensor([0, 0]), nothing, torch.tensor([]), (1, 1), check_invariants=False)


def _weighted_sums(columns: Tensor, values: Tensor, starts: Tensor, places: Tensor) -> Tensor:
    """Returns the product of a sparse matrix in compressed rows with `columns`."""
    return nn.functional.embedding_bag(
        places, columns, starts, mode="sum", per_sample_weights=values, include_last_offset=True
    )
