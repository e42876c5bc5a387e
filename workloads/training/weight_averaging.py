"""Weight averaging over the last part of a training: which steps give a sample, the mean of the samples, their moments.

Reference: Izmailov et al. 2018, Averaging Weights Leads to Wider Optima and Better Generalization (SWA, arXiv:1803.05407).
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from pruneyard.workloads.fields import NEUTRAL_BY_DEFAULT, renamed
from pruneyard.workloads.interfaces import Tensors
from pruneyard.workloads.training.swag_moments import SwagMoments


@dataclass(frozen=True, kw_only=True)
class Averaging:
    """Averages weight samples from share `begin` of the budget on into the finished network; by default it averages none.

    Samples are taken `per_epoch` times an epoch, evenly spaced and at its end, and after the last step. From the first sample
    on, evaluations use the mean, with running statistics (batch norm) recomputed over the training rows. With `swag_rank`
    the moments of the samples are stored with the network, so that networks can be sampled from them (SWAG): two float64
    numbers a weight, and one float32 number for each of the last `swag_rank` samples. They do not change the network.
    """

    begin: float = 1.0  # share of the budget; 1: no averaging
    per_epoch: int = 1  # samples
    swag_rank: int = field(default=0, metadata=renamed("deviations", NEUTRAL_BY_DEFAULT))  # 20 is usual; 0: no moments are kept

    def __post_init__(self) -> None:
        if not 0 <= self.begin <= 1:
            raise ValueError(f"begin is {self.begin}; it must lie in [0, 1], a share of the budget")
        if self.per_epoch < 1:
            raise ValueError(f"per_epoch is {self.per_epoch}; it must be 1 or more samples")
        if self.swag_rank < 0 or self.swag_rank == 1:
            raise ValueError(f"swag_rank is {self.swag_rank}; it must be 0, or 2 or more")

    def start(self) -> "WeightMean":
        """Returns the mean of no samples."""
        return WeightMean(moments=SwagMoments(rank=self.swag_rank) if self.swag_rank else None)

    def first(self, num_steps: int) -> int:
        """Returns the number of steps after which sampling begins; no sample is taken after exactly this step."""
        return num_steps if self.begin == 1 else min(round(self.begin * num_steps), num_steps - 1)

    def num_samples(self, *, num_steps: int, steps_per_epoch: int) -> int:
        """Returns the number of samples in a whole training."""
        lengths = {"num_steps": num_steps, "steps_per_epoch": steps_per_epoch}
        return sum(self.is_due(done, **lengths) for done in range(1, num_steps + 1))

    def is_due(self, num_done: int, *, num_steps: int, steps_per_epoch: int) -> bool:
        """Returns whether the weights after `num_done` steps are a sample."""
        if num_done <= self.first(num_steps):
            return False
        position = (num_done - 1) % steps_per_epoch + 1  # 1 ... steps_per_epoch
        per_epoch = min(self.per_epoch, steps_per_epoch)
        crossed = position * per_epoch // steps_per_epoch > (position - 1) * per_epoch // steps_per_epoch
        return crossed or num_done == num_steps


@dataclass(frozen=True)
class WeightMean:
    """The arithmetic mean of `num` weight samples, by parameter name, and their moments if these are kept.

    squares: sum over the samples of the squared distance from their mean, a scalar; None if a sample was taken without it.
    """

    num: int = 0
    tensors: Tensors = field(default_factory=dict)
    moments: SwagMoments | None = None
    squares: Tensor | None = None

    def with_sample(self, sample: Tensors) -> "WeightMean":
        """Returns the mean with one more sample; writes into neither."""
        moments = None if self.moments is None else self.moments.with_sample(sample)
        if not self.num:
            first = {name: tensor.clone() for name, tensor in sample.items()}
            return WeightMean(1, first, moments, torch.zeros((), device=next(iter(first.values())).device))
        weight = 1 / (self.num + 1)
        current: list[Tensor] = [self.tensors[name] for name in sample]
        squares = None
        if self.squares is not None:  # Welford's update of the sum of squares
            squares = self.squares + _squared_norm(torch._foreach_sub(current, list(sample.values()))) * self.num * weight
        updated = torch._foreach_lerp(current, list(sample.values()), weight)
        return WeightMean(self.num + 1, dict(zip(sample, updated, strict=True)), moments, squares)

    @property
    def spread(self) -> float | None:
        """Returns the root mean squared distance of the samples from their mean, divided by the norm of the mean.

        None for fewer than two samples, and for those of which an earlier version of pruneyard took some.
        """
        if self.num < 2 or self.squares is None:
            return None
        in_order = [self.tensors[name] for name in sorted(self.tensors)]  # a checkpoint keeps no order, and sums depend on it
        norm = _squared_norm(in_order).clamp(min=torch.finfo(torch.float32).tiny)
        return float((self.squares / self.num / norm).sqrt())

    @property
    def moment_tensors(self) -> Tensors:
        """The moments as named tensors for a file; empty if none are kept."""
        return {} if self.moments is None else self.moments.tensors()

    def restored(self, num: int, tensors: Tensors, moments: Tensors, squares: Tensor | None) -> "WeightMean":
        """Returns the mean that a checkpoint stored in these tensors; it keeps as many deviations as this one."""
        kept = None if self.moments is None else SwagMoments.of_tensors(moments, rank=self.moments.rank)
        return replace(self, num=num, tensors=tensors, moments=kept, squares=squares)


def _squared_norm(tensors: Sequence[Tensor]) -> Tensor:
    """Returns the squared norm of all entries, a scalar in float32."""
    return torch.stack([norm.float().square() for norm in torch._foreach_norm(list(tensors))]).sum()
