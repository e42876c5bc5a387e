"""Move many weights seldom, to the end of the training, so that most weights are active at some time (ITOP).

Reference: Liu et al. 2021, Do We Actually Need Dense Over-Parameterization? (arXiv:2102.02887)

The operations are those of SET (`growth: random`) or RigL (`growth: gradient`); new are rare updates, so that grown
weights mature, a drop fraction of 0.5 and no early end. Published intervals on CIFAR at batch size 128 are 1500
steps for SET and 4000 for RigL; scale them with the number of steps. The optimizer steps at an update as well.
Here the update comes before that step, in published code after it.
"""

from dataclasses import dataclass, field

from pruneyard.workloads.sparse.update_schedule import LastingSchedule
from pruneyard.workloads.sparse.updater import SelectableGrowth

__all__ = ["ITOP"]


@dataclass(frozen=True, kw_only=True)
class ITOP(SelectableGrowth):
    """SET or RigL with exploration that lasts: `growth: random` is SET-ITOP, `gradient` RigL-ITOP."""

    drop_fraction: float = 0.5
    schedule: LastingSchedule = field(default_factory=lambda: LastingSchedule(every=4000))
