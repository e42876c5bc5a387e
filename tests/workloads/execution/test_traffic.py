"""How many bytes of gradients a step averages over ranks, stored sparse and masked."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from pruneyard.workloads.data.batches import DeviceSplit
from pruneyard.workloads.data.dataset import Split
from pruneyard.workloads.execution.layers import Execution
from pruneyard.workloads.gradients.plain import Plain
from pruneyard.workloads.models.mlp import Mlp
from pruneyard.workloads.ranks import Share, SingleRank
from pruneyard.workloads.sparse.methods.rigl import RigL
from pruneyard.workloads.sparse.update_schedule import UpdateSchedule
from pruneyard.workloads.training.recipe import Budget, Recipe
from pruneyard.workloads.training.state import Training

WEIGHTS, BIASES, LOSS = 784 * 1024 + 1024 * 1024 + 1024 * 10, 1024 + 1024 + 10, 1


@dataclass(frozen=True)
class CountingRank(SingleRank):
    """The first of two ranks, whose other one has no rows: it counts the numbers that `DistributedRanks` sends as float32."""

    size: int = 2
    sent: list[int] = field(default_factory=list)

    def average(
        self,
        loss: Tensor,
        memory: Mapping[str, Tensor],
        *,
        share: Share,
        parameters: Iterable[nn.Parameter] = (),
        statistics: Sequence[Tensor] = (),
    ) -> tuple[Tensor, Mapping[str, Tensor]]:
        """Counts gradients and loss; there are no statistics and no memory."""
        assert not memory
        assert not statistics
        self.sent.append(loss.numel() + sum(each.grad.numel() for each in parameters if each.grad is not None))
        return loss, memory

    def all_reduce_sum(self, part: Tensor) -> Tensor:
        """Counts the tensor."""
        self.sent.append(part.numel())
        return part.clone()


def sent_by_step(execution: Execution, *, updates: bool) -> int:
    """Returns how many bytes one step of RigL at density 0.02 sends."""
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (16, 1, 28, 28), dtype=np.uint8)
    rows = DeviceSplit(Split.from_arrays(images, np.arange(16) % 10), mean=(0.5,), std=(0.3,))
    ranks = CountingRank()
    training = Training.start(
        Mlp(width=1024),
        recipe=Recipe(budget=Budget(steps=100, batch_size=8)),
        method=RigL(density=0.02, distribution="uniform", schedule=UpdateSchedule(every=10)),
        seed=0,
        rows=rows,
        num_classes=10,
        ranks=ranks,
        execution=execution,
    )
    training.step = 10 if updates else 11
    assert training.is_due() == updates
    batch = rows.batch(torch.arange(8), training.recipe.augment, torch.Generator())
    training.differentiate(*batch, rule=Plain())
    if updates:
        training.updated_masks()
    return 4 * sum(ranks.sent)


@pytest.mark.parametrize(
    ("execution", "updates", "numbers"),
    [
        ("masked", False, WEIGHTS + BIASES + LOSS),
        ("masked", True, WEIGHTS + BIASES + LOSS),
        ("sparse", False, round(0.02 * WEIGHTS) + BIASES + LOSS),
        ("sparse", True, round(0.02 * WEIGHTS) + BIASES + LOSS + WEIGHTS),
    ],
)
def test_a_step_sends_active_weights_and_an_update_by_gradient_all_of_them_once(
    execution: Execution, updates: bool, numbers: int
) -> None:
    assert sent_by_step(execution, updates=updates) == 4 * numbers
