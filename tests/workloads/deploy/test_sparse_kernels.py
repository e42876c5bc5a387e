"""Sparse kernels against the dense layers that they replace."""

import pytest
import torch
from torch import nn

from pruneyard.testing.cases import each_case
from pruneyard.workloads.deploy import kernels
from pruneyard.workloads.deploy.kernels import (
    Kernel,
    constant_fan_in_kernel,
    csr_kernel,
    gather_kernel,
    why_dense,
)

KERNELS = [csr_kernel, gather_kernel, constant_fan_in_kernel]


def masked(layer: nn.Linear | nn.Conv2d, density: float, kernel: Kernel) -> torch.Tensor:
    """Applies a random mask to the layer and returns it; for constant fan-in one that leaves the first output without inputs."""
    scores = torch.rand(len(layer.weight), layer.weight[0].numel())
    mask = scores < density
    if kernel is constant_fan_in_kernel:
        mask = scores <= scores.kthvalue(max(1, round(density * scores.shape[1])), dim=1, keepdim=True).values
        mask[0] = False
    mask = mask.reshape(layer.weight.shape)
    layer.weight.data[~mask] = 0
    return mask


@pytest.fixture(autouse=True)
def _same_numbers() -> None:
    torch.manual_seed(0)


@each_case("kernel", KERNELS)
@each_case("shape", [(1, 20), (7, 20), (20,), (2, 3, 20)])
@each_case("bias", [True, False])
def test_a_linear_layer_gives_what_its_dense_twin_gives(
    kernel: Kernel, shape: tuple[int, ...], bias: bool
) -> None:
    layer = nn.Linear(20, 9, bias=bias)
    sparse = kernel(layer, masked(layer, 0.2, kernel))
    inputs = torch.randn(shape)
    torch.testing.assert_close(sparse(inputs), layer(inputs).detach())


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize(
    "options",
    [
        {"kernel_size": 3, "padding": 1},
        {"kernel_size": 3, "padding": 1, "stride": 2, "bias": False},
        {"kernel_size": 1},
        {"kernel_size": 1, "stride": 2},
        {"kernel_size": (5, 2), "padding": (2, 0), "stride": (1, 3)},
        {"kernel_size": 3, "padding": 2, "dilation": (2, 1)},
    ],
    ids=str,
)
@pytest.mark.parametrize("piece_bytes", [1, 2_000, 1 << 21])
def test_a_convolution_gives_what_its_dense_twin_gives_in_pieces_of_any_size(
    kernel: Kernel, options: dict[str, object], piece_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kernels, "PIECE_BYTES", piece_bytes)
    layer = nn.Conv2d(4, 6, **options)  # type: ignore[arg-type]
    sparse = kernel(layer, masked(layer, 0.3, kernel))
    for images in (torch.randn(3, 4, 11, 8), torch.randn(2, 8, 6, 4).permute(0, 3, 1, 2)):
        torch.testing.assert_close(sparse(images), layer(images).detach(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kernel", KERNELS)
def test_outputs_without_any_weight_are_their_bias(kernel: Kernel) -> None:
    layer = nn.Linear(5, 3)
    mask = torch.zeros(3, 5, dtype=torch.bool)
    mask[1, 2] = True
    layer.weight.data[~mask] = 0
    outputs = kernel(layer, mask)(torch.randn(4, 5))
    torch.testing.assert_close(outputs[:, [0, 2]], layer.bias[[0, 2]].detach().expand(4, 2))


@each_case(
    ("layer", "message"),
    [
        (nn.Conv2d(4, 4, 3, groups=2), "2 groups"),
        (nn.Conv2d(4, 4, 3, padding_mode="reflect", padding=1), "reflect"),
        (nn.Conv2d(4, 4, 3, padding="same"), "same"),
        (nn.ConvTranspose2d(4, 4, 3), "ConvTranspose2d"),
        (nn.Conv1d(4, 4, 3), "Conv1d"),
    ],
)
def test_a_layer_without_a_sparse_kernel_says_why(layer: nn.Module, message: str) -> None:
    mask = torch.zeros(layer.weight.shape, dtype=torch.bool)  # type: ignore[arg-type]
    assert message in why_dense(layer, mask)


def test_a_layer_without_zeros_stays_dense() -> None:
    assert "no mask" in why_dense(nn.Linear(2, 2), None)
    assert "no zeros" in why_dense(nn.Linear(2, 2), torch.ones(2, 2, dtype=torch.bool))
    assert why_dense(nn.Linear(2, 2), torch.eye(2).bool()) == ""
