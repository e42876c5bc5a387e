"""Batch norm with sums over ranks against torch's own; here one process plays all ranks."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pruneyard.testing.cases import each_case
from pruneyard.workloads.networks.synchronised_norms import synchronised_norms
from pruneyard.workloads.ranks import SINGLE_RANK, Ranks, Share, SingleRank


@dataclass(frozen=True)
class Twins(SingleRank):
    """One of two ranks, where the other one has the same rows."""

    size: int = 2

    def all_reduce_sum(self, part: Tensor) -> Tensor:
        """Returns twice its own part."""
        return 2 * part.detach()


def passed(norm: nn.Module, rows: Tensor, ranks: Ranks) -> Sequence[Tensor]:
    """Returns outputs, and gradients of a mean over rows by inputs and parameters. A single process gets the rows twice."""
    times = 1 if ranks.size == 2 else 2
    inputs = torch.cat([rows] * times).requires_grad_()
    with synchronised_norms(norm, ranks=ranks, share=Share(0, len(rows), 2 * len(rows))):
        outputs = norm(inputs)
    weights = torch.linspace(-1, 1, rows.numel()).view_as(rows)
    (outputs.sin() * torch.cat([weights] * times)).mean().backward()
    assert inputs.grad is not None
    gradients = [p.grad for p in norm.parameters() if p.grad is not None]
    return outputs[: len(rows)], times * inputs.grad[: len(rows)], *gradients


@each_case("affine", [True, False])
@each_case(("kind", "shape"), [(nn.BatchNorm1d, (6, 3)), (nn.BatchNorm2d, (6, 3, 4, 5))])
def test_outputs_gradients_and_running_statistics_are_those_of_the_whole_batch(
    kind: type[nn.Module], shape: tuple[int, ...], affine: bool
) -> None:
    torch.manual_seed(0)
    whole, shared = kind(3, affine=affine), kind(3, affine=affine)
    for _ in range(2):  # running statistics move on from where they stood
        rows = 3 + 2 * torch.randn(shape)
        theirs, ours = passed(whole, rows, SINGLE_RANK), passed(shared, rows, Twins())
        assert len(ours) == len(theirs) == (4 if affine else 2)
        for one, other in zip(ours, theirs, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)
    for (name, expected), found in zip(whole.named_buffers(), shared.buffers(), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6, msg=name)


def test_it_can_be_differentiated_twice() -> None:
    """Against the second derivative that torch finds for the plain norm."""
    torch.manual_seed(0)
    rows = torch.randn(5, 3, dtype=torch.float64)
    curvatures = []
    for batch, ranks in ((torch.cat([rows, rows]), SINGLE_RANK), (rows, Twins())):
        norm = nn.BatchNorm1d(3).double()
        weight = torch.ones(3, dtype=torch.float64, requires_grad=True)
        with synchronised_norms(norm, ranks=ranks, share=Share(0, 5, 10)):
            loss = norm(batch * weight + batch.square()).pow(3).mean()
        (slope,) = torch.autograd.grad(loss, weight, create_graph=True)
        curvatures.append(torch.autograd.grad(slope.square().sum(), weight)[0])
    torch.testing.assert_close(*curvatures, rtol=1e-8, atol=1e-10)


def test_in_evaluation_mode_and_after_the_block_the_norm_is_as_ever() -> None:
    torch.manual_seed(0)
    norm, rows = nn.BatchNorm2d(3), torch.randn(4, 3, 2, 2)
    norm.eval()
    with synchronised_norms(norm, ranks=Twins(), share=Share(0, 4, 8)):
        torch.testing.assert_close(norm(rows), rows / (1 + norm.eps) ** 0.5)
    assert "forward" not in vars(norm)
    with synchronised_norms(norm, ranks=SINGLE_RANK, share=Share.whole(4)):
        assert "forward" not in vars(norm)
