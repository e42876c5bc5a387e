import numpy as np
import pytest
import torch
from scipy import sparse

from pruneyard.testing.cases import each_case
from pruneyard.workloads.nodes.sparse_constant import SparseConstant


def constant() -> SparseConstant:
    matrix = sparse.random_array((7, 5), density=0.4, rng=np.random.default_rng(0), format="csr")
    return SparseConstant.of(matrix, device=torch.device("cpu"), dtype=torch.float64)


def drawn(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def test_the_product_is_that_of_the_dense_matrix() -> None:
    dense = drawn(5, 3)
    assert torch.allclose(constant() @ dense, constant().matrix.to_dense() @ dense, atol=1e-14)
    assert torch.equal(constant().transposed.matrix.to_dense(), constant().matrix.to_dense().T)


def test_it_can_be_differentiated_twice() -> None:
    dense = drawn(5, 3).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: (constant() @ x) ** 3, (dense,))
    assert torch.autograd.gradgradcheck(lambda x: (constant() @ x) ** 3, (dense,))


def test_a_batch_of_products_is_the_products_one_by_one() -> None:
    matrix, batch = constant(), drawn(4, 5, 3)
    for dim, given in ((0, batch), (2, batch.permute(1, 2, 0))):
        found = torch.func.vmap(lambda x: matrix @ x, in_dims=dim)(given)
        assert torch.allclose(found, torch.stack([matrix @ x for x in batch]), atol=1e-14)


@each_case(
    ("starts", "columns", "message"),
    [
        ([0, 1, 2, 3], [0, 9, 2], "indices must be < 3"),
        ([0, 1, 2, 3], [0, -1, 2], "indices must be >= 0"),
        ([0, 2, 1, 3], [0, 1, 2], "indptr must be a non-decreasing sequence"),
        ([0, 2, 2, 3], [0, 0, 2], "distinct"),
    ],
)
def test_damaged_indices_are_refused_before_anything_is_written_by_them(
    starts: list[int], columns: list[int], message: str
) -> None:
    """Scipy transposes without checks: for a column of 9 it writes outside of the memory for three."""
    damaged = sparse.csr_array(np.eye(3))
    damaged.indptr[:], damaged.indices[:] = starts, columns
    with pytest.raises(ValueError, match=f"indices of a sparse matrix are damaged: .*{message}"):
        SparseConstant.of(damaged, device=torch.device("cpu"), dtype=torch.float32)
