"""A sparse matrix that is no parameter, and its product with what is: differentiable any number of times, and batched."""

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy import sparse
from torch import Tensor


@dataclass(frozen=True, eq=False)
class SparseConstant:
    """`matrix: (N, M)` in CSR and its transpose, kept because gradients need it."""

    matrix: Tensor
    flipped: Tensor

    @classmethod
    def of(cls, matrix: sparse.csr_array, *, device: torch.device, dtype: torch.dtype) -> "SparseConstant":
        """Of a matrix in CSR. Raises `ValueError` where its indices are damaged."""
        try:
            matrix.check_format(full_check=True)  # scipy transposes without looking
        except ValueError as error:
            raise ValueError(f"the indices of a sparse matrix are damaged: {error}") from error
        parts = (sparse.csr_array(matrix), sparse.csr_array(matrix.T))
        return cls(*(_tensor(part, device=device, dtype=dtype) for part in parts))

    @property
    def transposed(self) -> "SparseConstant":
        """Shares its memory."""
        return SparseConstant(self.flipped, self.matrix)

    def __matmul__(self, dense: Tensor) -> Tensor:
        """(N, K), of `dense: (M, K)`; under torch.func's `grad`, `vjp` and `vmap` too."""
        return _Product.apply(self, dense)  # type: ignore[no-any-return]


class _Product(torch.autograd.Function):
    """Linear in `dense`: its derivatives are products themselves, and a batch is more columns."""

    @staticmethod
    def forward(constant: SparseConstant, dense: Tensor) -> Tensor:
        return constant.matrix @ dense

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[SparseConstant, Tensor], output: Tensor) -> None:
        ctx.constant, _ = inputs

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, Tensor]:
        return None, ctx.constant.transposed @ gradient

    @staticmethod
    def vmap(
        info: Any, in_dims: tuple[None, int], constant: SparseConstant, dense: Tensor
    ) -> tuple[Tensor, int]:
        columns = dense.movedim(in_dims[1], 1)
        product = constant @ columns.reshape(len(columns), -1)
        return product.reshape(-1, *columns.shape[1:]), 1


def _tensor(matrix: sparse.csr_array, *, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Leaves `matrix` as it is: trials of one machine share it, in memory that cannot be written."""
    if not matrix.has_sorted_indices:
        matrix = matrix.sorted_indices()
    starts, columns = (torch.from_numpy(part.astype("int32")) for part in (matrix.indptr, matrix.indices))
    values = torch.from_numpy(np.require(matrix.data, requirements="W")).to(dtype)
    with warnings.catch_warnings():
        beta = "Sparse .* tensor support is in beta"  # said once by torch
        warnings.filterwarnings("ignore", beta, UserWarning)
        try:
            found = torch.sparse_csr_tensor(starts, columns, values, matrix.shape, check_invariants=True)
        except RuntimeError as error:
            raise ValueError(f"the indices of a sparse matrix are damaged: {error}") from error
    return found.to(device)
