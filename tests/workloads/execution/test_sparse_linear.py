"""Sparse layers against masked dense ones, and the index of their values."""

import pytest
import torch
from torch import Tensor, nn

from pruneyard.workloads.execution.modules import SparseLinear, SparsePointwiseConv2d
from pruneyard.workloads.masks import sparse_index
from pruneyard.workloads.masks.sparse_index import SparseIndex, copy_of, union

INPUTS, OUTPUTS = 37, 23


def masked_layer(density: float, *, bias: bool = True) -> tuple[nn.Linear, Tensor]:
    """Returns a float64 layer with zeros outside a random mask, and the mask."""
    generator = torch.Generator().manual_seed(3)
    layer = nn.Linear(INPUTS, OUTPUTS, bias=bias, dtype=torch.float64)
    mask = torch.rand((OUTPUTS, INPUTS), generator=generator) < density
    with torch.no_grad():
        layer.weight.copy_(torch.randn((OUTPUTS, INPUTS), generator=generator, dtype=torch.float64) * mask)
    return layer, mask


def sparse_twin(layer: nn.Linear, mask: Tensor) -> SparseLinear:
    """Returns a sparse layer with copies of the values and the bias."""
    index = SparseIndex.of_mask(mask)
    twin = nn.Linear(INPUTS, OUTPUTS, bias=layer.bias is not None, dtype=torch.float64)
    twin.load_state_dict(layer.state_dict())
    twin.weight = nn.Parameter(layer.weight.detach().flatten()[index.flat])
    return SparseLinear(twin, index)


@pytest.mark.parametrize("density", [0.0, 0.1, 1.0])
@pytest.mark.parametrize("bias", [True, False])
def test_outputs_and_gradients_are_those_of_the_masked_layer(density: float, bias: bool) -> None:
    layer, mask = masked_layer(density, bias=bias)
    sparse = sparse_twin(layer, mask)
    sparse.captured = []
    shape = (4, 5)  # tokens of images
    images = [torch.randn(*shape, INPUTS, dtype=torch.float64).requires_grad_()]
    images.append(images[0].detach().clone().requires_grad_())
    upstream = torch.randn(*shape, OUTPUTS, dtype=torch.float64)
    outputs = [one(image) for one, image in zip((layer, sparse), images, strict=True)]
    for output in outputs:
        output.backward(upstream)
    torch.testing.assert_close(outputs[1], outputs[0])
    torch.testing.assert_close(images[1].grad, images[0].grad)
    assert layer.weight.grad is not None
    assert sparse.weight.grad is not None
    torch.testing.assert_close(sparse.weight.grad, layer.weight.grad[mask])
    if bias:
        torch.testing.assert_close(sparse.bias.grad, layer.bias.grad)
    (captured,) = sparse.captured
    rows = torch.zeros(5, INPUTS, dtype=torch.float64)
    captured.add_rows(rows, 3, 8)
    torch.testing.assert_close(rows, layer.weight.grad[3:8])


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("bias", [True, False])
def test_a_pointwise_convolution_is_the_masked_one(stride: int, bias: bool) -> None:
    generator = torch.Generator().manual_seed(4)
    layer = nn.Conv2d(6, 9, kernel_size=1, stride=stride, bias=bias, dtype=torch.float64)
    mask = torch.rand(layer.weight.shape, generator=generator) < 0.3
    with torch.no_grad():
        layer.weight.mul_(mask)
    index = SparseIndex.of_mask(mask)
    assert index.matrix == (9, 6)
    assert torch.equal(index.mask(), mask)
    images = torch.randn(2, 6, 5, 7, generator=generator, dtype=torch.float64).requires_grad_()
    masked = layer(images)
    upstream = torch.randn(masked.shape, generator=generator, dtype=torch.float64)
    parameters = [layer.weight, *([layer.bias] if bias else [])]
    expected = torch.autograd.grad(masked, [images, *parameters], upstream)
    twin = nn.Conv2d(6, 9, kernel_size=1, stride=stride, bias=bias, dtype=torch.float64)
    twin.load_state_dict(layer.state_dict())
    twin.weight = nn.Parameter(layer.weight.detach().flatten()[index.flat])
    sparse = SparsePointwiseConv2d(twin, index)
    outputs = sparse(images)
    torch.testing.assert_close(outputs, masked)
    found = torch.autograd.grad(outputs, [images, *sparse.parameters()], upstream)
    torch.testing.assert_close(found[0], expected[0])
    torch.testing.assert_close(found[1], expected[1][mask])
    torch.testing.assert_close(found[2:], expected[2:])


def test_an_index_is_worked_out_by_hand() -> None:
    mask = torch.tensor([[0, 1, 1], [0, 0, 0], [1, 1, 0]], dtype=torch.bool)
    index = SparseIndex.of_mask(mask)
    assert index.starts.tolist() == [0, 2, 2, 4]
    assert index.columns.tolist() == [1, 2, 0, 1]
    assert index.transposed_starts.tolist() == [0, 1, 3, 4]
    assert index.transposed_columns.tolist() == [2, 0, 2, 0]
    assert index.order.tolist() == [2, 0, 3, 1]
    assert index.flat.tolist() == [1, 2, 6, 7]
    assert index.num_active == 4
    assert index.numel() == 9
    assert torch.equal(index.mask(), mask)
    values = torch.tensor([5.0, 6.0, 7.0, 8.0])
    assert index.dense(values).tolist() == [[0, 5, 6], [0, 0, 0], [7, 8, 0]]
    again = SparseIndex.of_rows(index.starts, index.columns, index.shape)
    assert torch.equal(again.order, index.order)


def test_values_move_to_another_index_and_start_at_zero_where_it_grows() -> None:
    first = SparseIndex.of_flat(torch.tensor([1, 2, 6, 7]), (3, 3))
    second = SparseIndex.of_flat(torch.tensor([0, 2, 7, 8]), (3, 3))
    assert first.mover(second)(torch.tensor([5.0, 6.0, 7.0, 8.0])).tolist() == [0, 6, 8, 0]
    empty = SparseIndex.of_flat(torch.tensor([], dtype=torch.int64), (3, 3))
    assert empty.mover(second)(torch.tensor([])).tolist() == [0, 0, 0, 0]
    assert first.mover(empty)(torch.tensor([5.0, 6.0, 7.0, 8.0])).tolist() == []
    both = union(first, second)
    assert isinstance(both, SparseIndex)
    assert both.flat.tolist() == [0, 1, 2, 6, 7, 8]
    assert copy_of(first) is first
    mixed = union(first, second.mask())
    assert isinstance(mixed, Tensor)
    assert torch.equal(mixed, both.mask())


@pytest.mark.parametrize("block", [1, 5, 1000])  # entries that are compared at a time
@pytest.mark.parametrize("densities", [(0.3, 0.3), (0.0, 0.4), (0.02, 0.9)])
def test_indices_are_compared_in_blocks_of_rows(
    monkeypatch: pytest.MonkeyPatch, block: int, densities: tuple[float, float]
) -> None:
    monkeypatch.setattr(sparse_index, "BLOCK", block)
    generator = torch.Generator().manual_seed(1)
    weight, *shares = torch.rand((3, OUTPUTS, INPUTS), generator=generator)
    old, new = (share < density for share, density in zip(shares, densities, strict=True))
    first, second = SparseIndex.of_mask(old), SparseIndex.of_mask(new)
    assert torch.equal(first.mover(second)(weight[old]), (weight * old)[new])
    both = union(first, second)
    assert isinstance(both, SparseIndex)
    assert torch.equal(both.mask(), old | new)
    assert union(first, first) is first


def test_a_matrix_beyond_32_bits_is_refused() -> None:
    with pytest.raises(ValueError, match="exceeds the range of int32"):
        SparseIndex.of_flat(torch.tensor([0]), (1, 2**31))
