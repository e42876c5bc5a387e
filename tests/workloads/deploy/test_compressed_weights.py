"""CSR, BSR, constant fan-in and bit masks: stored values, omitted values, and exact restoration."""

import pytest
import torch

from pruneyard.testing.cases import each_case
from pruneyard.workloads.deploy.compressed import (
    block_size,
    bsr_tensor,
    csr,
    fan_in,
    pack_bits,
    pack_bsr,
    pack_csr,
    pack_fan_in,
    regular,
    unpack,
)

WEIGHT = torch.tensor([[0.0, 2.0, 0.0], [0.0, 0.0, 0.0], [3.0, 0.0, 0.0]])
MASK = torch.tensor([[False, True, True], [False, False, False], [True, False, False]])


def test_csr_of_an_example_by_hand_keeps_an_active_weight_that_is_zero() -> None:
    starts, columns, values = csr(WEIGHT, MASK)
    assert starts.tolist() == [0, 2, 2, 3]
    assert columns.tolist() == [1, 2, 0]
    assert values.tolist() == [2.0, 0.0, 3.0]


def blocks(size: int, rows: int, columns: int) -> torch.Tensor:
    """Returns a mask of whole blocks, the first of them active."""
    active = torch.rand(rows, columns, generator=torch.Generator().manual_seed(1)) < 0.4
    active[0, 0] = True
    return active.repeat_interleave(size, 0).repeat_interleave(size, 1)


def test_the_largest_block_that_fits_is_found() -> None:
    assert block_size(torch.eye(4).bool().repeat_interleave(8, 0).repeat_interleave(8, 1)) == 8
    assert block_size(torch.eye(8).bool()) is None
    assert block_size(torch.ones(7, 7, dtype=torch.bool)) is None
    assert block_size(torch.zeros(8, 8, dtype=torch.bool)) is None


@each_case("size", [2, 4, 16])
def test_bsr_stores_nothing_but_active_blocks(size: int) -> None:
    mask = blocks(size, 5, 7)
    weight = torch.randn(mask.shape, generator=torch.Generator().manual_seed(2)) * mask
    matrix = bsr_tensor(weight, mask, size)
    assert matrix.values().numel() == int(mask.sum())
    assert torch.equal(matrix.to_dense(), weight)


@each_case("shape", [(6, 4, 3, 3), (5, 13), (2, 40_000)])
@each_case("pack", [pack_csr, pack_bits])
def test_what_is_packed_comes_back_bit_for_bit(shape: tuple[int, ...], pack: object) -> None:
    generator = torch.Generator().manual_seed(3)
    mask = torch.rand(shape, generator=generator) < 0.2
    weight = torch.randn(shape, generator=generator) * mask
    packed = pack("layer.weight", weight, mask)  # type: ignore[operator]
    weights, masks = unpack(packed, {"layer.weight": weight.shape})
    assert torch.equal(weights["layer.weight"], weight)
    assert torch.equal(masks["layer.weight"], mask)
    assert sum(tensor.numel() for name, tensor in packed.items() if name.endswith(".values")) == int(
        mask.sum()
    )


def test_blocks_come_back_bit_for_bit() -> None:
    mask = blocks(4, 3, 6).reshape(12, 6, 2, 2)
    weight = torch.randn(mask.shape, generator=torch.Generator().manual_seed(4)) * mask
    weights, masks = unpack(pack_bsr("w", weight, mask, 4), {"w": weight.shape})
    assert torch.equal(weights["w"], weight)
    assert torch.equal(masks["w"], mask)


EQUAL_ROWS = torch.tensor([[False, True, True], [False, False, False], [True, False, True]])


def test_a_regular_index_by_hand_leaves_out_neurons_without_inputs() -> None:
    rows, columns, values = regular(torch.tensor([[0.0, 2.0, 0.0], [0.0, 0.0, 0.0], [3.0, 0.0, 4.0]]), EQUAL_ROWS)
    assert rows.tolist() == [0, 2]
    assert columns.tolist() == [[1, 2], [0, 2]]
    assert values.tolist() == [[2.0, 0.0], [3.0, 4.0]]


def test_only_masks_with_equally_many_inputs_of_all_neurons_that_have_any_are_regular() -> None:
    assert fan_in(EQUAL_ROWS) == 2
    assert fan_in(torch.ones(4, 3, 2, 2, dtype=torch.bool)) == 12
    assert fan_in(MASK) is None
    assert fan_in(torch.zeros(3, 3, dtype=torch.bool)) is None


@each_case("shape", [(6, 4, 3, 3), (5, 13), (2, 40_000)])
def test_a_regular_index_comes_back_bit_for_bit(shape: tuple[int, ...]) -> None:
    scores = torch.rand(shape[0], torch.Size(shape[1:]).numel(), generator=torch.Generator().manual_seed(3))
    mask = torch.zeros_like(scores).scatter_(1, scores.topk(4).indices, 1).bool().reshape(shape)
    mask[1] = False
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(4)) * mask
    packed = pack_fan_in("w", weight, mask)
    weights, masks = unpack(packed, {"w": weight.shape})
    assert torch.equal(weights["w"], weight)
    assert torch.equal(masks["w"], mask)
    assert packed["w.fan_values"].numel() == int(mask.sum())


@each_case(
    ("name", "value"),
    [
        ("w.fan_rows", torch.tensor([2, 0])),
        ("w.fan_rows", torch.tensor([0, 3])),
        ("w.fan_rows", torch.tensor([-1, 2])),
        ("w.fan_rows", torch.tensor([0])),
        ("w.fan_columns", torch.tensor([[1, 2], [0, 3]])),
        ("w.fan_columns", torch.tensor([1, 2, 0, 2])),
    ],
)
def test_a_regular_index_that_does_not_fit_the_weight_is_refused(name: str, value: torch.Tensor) -> None:
    packed = pack_fan_in("w", torch.ones(3, 3), EQUAL_ROWS) | {name: value}
    with pytest.raises(ValueError, match=r"damaged|differs in size"):
        unpack(packed, {"w": torch.Size((3, 3))})


@pytest.mark.parametrize(
    ("name", "value"),
    [("w.col", torch.tensor([1, 99, 0])), ("w.crow", torch.tensor([0, 2, 1, 3], dtype=torch.int32))],
)
def test_indices_outside_the_weight_are_refused(name: str, value: torch.Tensor) -> None:
    packed = pack_csr("w", WEIGHT, MASK) | {name: value}
    with pytest.raises(ValueError, match="damaged"):
        unpack(packed, {"w": WEIGHT.shape})


def test_a_tensor_that_the_model_lacks_is_refused() -> None:
    with pytest.raises(ValueError, match=r"other\.values"):
        unpack({"other.values": torch.ones(1)}, {"w": WEIGHT.shape})


def test_bits_that_do_not_count_the_values_are_refused() -> None:
    packed = pack_bits("w", WEIGHT, MASK)
    with pytest.raises(ValueError, match="active mask bits of a weight differs"):
        unpack(packed | {"w.values": torch.ones(2)}, {"w": WEIGHT.shape})
