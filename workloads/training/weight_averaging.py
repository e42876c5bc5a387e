"""Averages of the weights of a training's last part: which steps give a sample, the mean of the samples, their moments.

Reference: Izmailov et al. 2018, Averaging Weights Leads to Wider Optima and Better Generalization (SWA, arXiv:1803.05407).
"""

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from pruneyard.workloads.fields import LATER
from pruneyard.workloads.interfaces import Tensors
from pruneyard.workloads.training.swag_moments import Swag


@dataclass(frozen=True, kw_only=True)
class Averaging:
    """The finished network is the mean of samples from share `begin` of the budget on; neutral by default.

    Samples are taken `per_epoch` times an epoch, evenly spaced and at its end, and after the last step. Evaluations
    from the first sample on are of the mean, with running statistics (batch norm) computed anew over the training rows.
    With `deviations` the samples' moments are left beside the network, for networks to be drawn from them (SWAG): two
    float64 numbers a weight, and a float32 one for each of the last so many samples. They change nothing of the network.
    """

    begin: float = 1.0  # share of the budget; 1: nothing is averaged
    per_epoch: int = 1
    deviations: int = field(default=0, metadata=LATER)  # 20 are usual; 0: no moments are kept

    def __post_init__(self) -> None:
        if not 0 <= self.begin <= 1:
            raise ValueError(f"begin is {self.begin}; it must lie in [0, 1], a share of the budget")
        if self.per_epoch < 1:
            raise ValueError(f"per_epoch is {self.per_epoch}; it must be 1 or more samples")
        if self.deviations < 0 or self.deviations == 1:
            raise ValueError(f"deviations is {self.deviations}; it must be 0, or 2 or more")

    def start(self) -> "Mean":
        """The mean of no samples."""
        return Mean(moments=Swag(rank=self.deviations) if self.deviations else None)

    def first(self, num_steps: int) -> int:
        """Steps that are done when samples begin; no sample is taken at that moment itself."""
        return num_steps if self.begin == 1 else min(round(self.begin * num_steps), num_steps - 1)

    def num_samples(self, *, num_steps: int, steps_per_epoch: int) -> int:
        """How many a whole training takes."""
        told = {"num_steps": num_steps, "steps_per_epoch": steps_per_epoch}
        return sum(self.is_due(done, **told) for done in range(1, num_steps + 1))

    def is_due(self, num_done: int, *, num_steps: int, steps_per_epoch: int) -> bool:
        """Whether the weights after `num_done` steps are a sample."""
        if num_done <= self.first(num_steps):
            return False
        place = (num_done - 1) % steps_per_epoch + 1  # 1 ... steps_per_epoch
        per_epoch = min(self.per_epoch, steps_per_epoch)
        crossed = place * per_epoch // steps_per_epoch > (place - 1) * per_epoch // steps_per_epoch
        return crossed or num_done == num_steps


@dataclass(frozen=True)
class Mean:
    """The arithmetic mean of `num` samples, by parameter name, and their moments where these are kept."""

    num: int = 0
    tensors: Tensors = field(default_factory=dict)
    moments: Swag | None = None

    def with_sample(self, sample: Tensors) -> "Mean":
        """The mean of one sample more; both are left as they were."""
        moments = None if self.moments is None else self.moments.with_sample(sample)
        if not self.num:
            return Mean(1, {name: tensor.clone() for name, tensor in sample.items()}, moments)
        weight = 1 / (self.num + 1)
        means: list[Tensor] = [self.tensors[name] for name in sample]
        moved = torch._foreach_lerp(means, list(sample.values()), weight)
        return Mean(self.num + 1, dict(zip(sample, moved, strict=True)), moments)

    @property
    def moment_tensors(self) -> Tensors:
        """Of the moments, under names of their own; none where none are kept."""
        return {} if self.moments is None else self.moments.tensors()

    def restored(self, num: int, tensors: Tensors, moments: Tensors) -> "Mean":
        """What left these tensors; keeps as many deviations as this one."""
        kept = None if self.moments is None else Swag.of_tensors(moments, rank=self.moments.rank)
        return replace(self, num=num, tensors=tensors, moments=kept)
