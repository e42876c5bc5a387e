"""Move many weights in rare updates up to the end of the training, so that most are active at some time (ITOP).

Reference: Liu et al. 2021, Do We Actually Need Dense Over-Parameterization? (arXiv:2102.02887)

The operations are those of SET (`growth: random`) or RigL (`growth: gradient`); new are rare updates, so that grown weights
have time to train, a drop fraction of 0.5, and updates up to the end. Published intervals on CIFAR at batch size 128 are 1500
steps for SET and 4000 for RigL; scale them with the number of steps. The optimizer also steps at an update. Here the update
comes before that step, in published code after it.
"""

from dataclasses import dataclass, field

from pruneyard.workloads.sparse.update_schedule import LastingSchedule
from pruneyard.workloads.sparse.updater import SelectableGrowth

__all__ = ["ITOP"]


@dataclass(frozen=True, kw_only=True)
class ITOP(SelectableGrowth):
    """SET or RigL with rare updates up to the end: `growth: random` is SET-ITOP, `gradient` RigL-ITOP."""

    drop_fraction: float = 0.5
    schedule: LastingSchedule = field(default_factory=lambda: LastingSchedule(every=4000))
