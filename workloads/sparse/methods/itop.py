"""Move many weights seldom, to the end of the training, so that most weights are active at some time (ITOP).

Reference: Liu et al. 2021, Do We Actually Need Dense Over-Parameterization? (arXiv:2102.02887)

The operations are those of SET (`growth: random`) or RigL (`growth: gradient`); new are rare updates, so that grown
weights mature, a drop fraction of 0.5 and no early end. Published intervals on CIFAR at batch size 128 are 1500
steps for SET and 4000 for RigL; scale them with the number of steps. The optimizer steps at an update as well.
Here the update comes before that step, in published code after it.
"""

from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from workloads.sparse.schedules import LastingSchedule
from workloads.sparse.updater import DropAndGrow, Moment, SparseState

__all__ = ["ITOP"]


@dataclass(frozen=True, kw_only=True)
class ITOP(DropAndGrow):
    """SET or RigL with exploration that lasts."""

    drop_fraction: float = 0.5
    schedule: LastingSchedule = field(default_factory=lambda: LastingSchedule(every=4000))
    growth: Literal["random", "gradient"] = "gradient"  # random: SET-ITOP; gradient: RigL-ITOP

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.growth not in ("random", "gradient"):
            raise ValueError(f"growth is {self.growth!r}; it must be random or gradient")

    @property
    def grows_by_gradient(self) -> bool:  # type: ignore[override]  # of the class elsewhere, of a field here
        """Only where growth says so."""
        return self.growth == "gradient"

    def grow_scores(self, name: str, state: SparseState, moment: Moment) -> Tensor:
        """Magnitude of the dense gradient, or zeros: then all candidates tie, and ties are broken at random."""
        return (
            moment.gradients[name].abs()
            if self.growth == "gradient"
            else torch.zeros_like(moment.weights[name])
        )
