"""The weights that were active in some step, as an index and as packed bits."""

import pytest
import torch
from torch import Tensor

from pruneyard.workloads.masks import explored
from pruneyard.workloads.masks.explored import PackedMask, with_mask
from pruneyard.workloads.masks.sparse_index import SparseIndex, dense_mask

SHAPE = (7, 9)  # the last byte holds seven entries


def masks(density: float) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.rand(SHAPE, generator=generator) < density for _ in range(5)]


@pytest.mark.parametrize("density", [0.0, 0.02, 0.2, 0.6])
@pytest.mark.parametrize("rows", [1, 3, 100])
def test_packed_bits_and_indices_explore_what_masks_do(monkeypatch: pytest.MonkeyPatch, density: float, rows: int) -> None:
    monkeypatch.setattr(explored, "ROWS_AT_A_TIME", rows)
    first, *others = masks(density)
    expected, found = first, SparseIndex.of_mask(first)
    for mask in others:
        expected, found = expected | mask, with_mask(found, SparseIndex.of_mask(mask))
        own = found.mask() if isinstance(found, PackedMask) else dense_mask(found)
        assert torch.equal(own, expected)
        assert (found.numel(), dense_mask(own).sum()) == (63, expected.sum())
        if isinstance(found, PackedMask):
            assert found.num_active == expected.sum()
    assert isinstance(found, PackedMask) == (4 * int(expected.sum()) > 63 / 8)


def test_a_layer_that_becomes_dense_again_explores_as_a_mask() -> None:
    one, other = masks(0.3)[:2]
    assert torch.equal(dense_mask(with_mask(PackedMask.of_index(SparseIndex.of_mask(one)), other)), one | other)
