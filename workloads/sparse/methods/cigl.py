"""RigL with a second, random mask drawn for every step, and the mean of the last epochs' weights as the result.

Reference: Lei et al. 2023, Calibrating the Rigged Lottery: Making All Tickets Reliable (arXiv:2302.09369)

A step computes with the active weights but for a random share `random_drop` of them, and moves by the gradient there;
masks move by the stored weights and by a gradient with nothing left out. From share `average_from` of the budget on, when
masks stand still, the weights as steps computed with them are averaged once an epoch, and the mean, with running
statistics (batch norm) of its own, is the network.

The published share is 0.01 for CIFAR-10 at density 0.1 and 0.1 for CIFAR-100 at 0.2; the released code reads none of
that and leaves out 0.01 always, the default here. Algorithm 1 does not scale what stays (`scaled: false`, the default), the
code does. The random mask is no part of density. Momentum moves a weight also where a step leaves it out. The last layer,
which no norm follows, is spared. Where other layers have no norm either, an average of unscaled thinned weights is smaller
than the weights and so are the logits, which alone lowers confidence: use `scaled: true` there.
With `random_drop: 0` and `average_from: 1` this is RigL; with the first alone, RigL under weight averaging (SWA), the
control for what the random mask is worth: `method: rigl` beside `average: {begin: 0.8}`.
"""

from dataclasses import dataclass

from pruneyard.workloads.sparse.dropout_and_averaging import DropoutAndAveraging
from pruneyard.workloads.sparse.methods.rigl import RigL

__all__ = ["CigL"]


@dataclass(frozen=True, kw_only=True)
class CigL(DropoutAndAveraging, RigL):
    """RigL, thinned out at random in every step and averaged at the end."""
