"""A constant sparse matrix whose product with a dense tensor supports higher-order gradients and `vmap`."""

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy import sparse
from torch import Tensor


@dataclass(frozen=True, eq=False)
class SparseConstant:
    """`matrix: (N, M)` in CSR, and its transpose, which gradients need."""

    matrix: Tensor
    flipped: Tensor

    @classmethod
    def of(cls, matrix: sparse.csr_array, *, device: torch.device, dtype: torch.dtype) -> "SparseConstant":
        """Creates the constant from a CSR matrix. Raises `ValueError` for damaged indices."""
        try:
            matrix.check_format(full_check=True)  # scipy transposes without validation
        except ValueError as error:
            raise ValueError(f"the indices of a sparse matrix are damaged: {error}") from error
        # The transpose is converted once here, because each gradient needs it.
        parts = (sparse.csr_array(matrix), sparse.csr_array(matrix.T))
        return cls(*(_tensor(part, device=device, dtype=dtype) for part in parts))

    @property
    def transposed(self) -> "SparseConstant":
        """The transpose; shares memory."""
        return SparseConstant(self.flipped, self.matrix)

    def __matmul__(self, dense: Tensor) -> Tensor:
        """Returns the product (N, K) with `dense: (M, K)`; also under `grad`, `vjp` and `vmap` of torch.func."""
        return _Product.apply(self, dense)  # type: ignore[no-any-return]


class _Product(torch.autograd.Function):
    """The product as an autograd function. It is linear in `dense`: gradients are products, and a batch adds columns."""

    @staticmethod
    def forward(constant: SparseConstant, dense: Tensor) -> Tensor:
        return constant.matrix @ dense

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[SparseConstant, Tensor], output: Tensor) -> None:
        ctx.constant, _ = inputs

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, Tensor]:
        # Through `@` again, so that the gradient can itself be differentiated.
        return None, ctx.constant.transposed @ gradient

    @staticmethod
    def vmap(
        info: Any, in_dims: tuple[None, int], constant: SparseConstant, dense: Tensor
    ) -> tuple[Tensor, int]:
        # (M, B, K): the batch becomes B K columns of a single product.
        columns = dense.movedim(in_dims[1], 1)
        # Through `@` and not `matrix @`, so that an outer transform of torch.func applies too.
        product = constant @ columns.reshape(len(columns), -1)
        return product.reshape(-1, *columns.shape[1:]), 1


def _tensor(matrix: sparse.csr_array, *, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Converts to a torch tensor without changing `matrix`, which trials on one machine share in read-only memory."""
    if not matrix.has_sorted_indices:
        matrix = matrix.sorted_indices()
    starts, columns = (torch.from_numpy(part.astype("int32")) for part in (matrix.indptr, matrix.indices))
    # Only a read-only array is copied; `from_numpy` would warn about it.
    values = torch.from_numpy(np.require(matrix.data, requirements="W")).to(dtype)
    with warnings.catch_warnings():
        beta = "Sparse .* tensor support is in beta"  # torch warns once per process
        warnings.filterwarnings("ignore", beta, UserWarning)
        try:
            found = torch.sparse_csr_tensor(starts, columns, values, matrix.shape, check_invariants=True)
        except RuntimeError as error:
            raise ValueError(f"the indices of a sparse matrix are damaged: {error}") from error
    return found.to(device)
