"""RigL with weight dropout in every step and the mean of the last epochs' weights as the result (CigL).

Reference: Lei et al. 2023, Calibrating the Rigged Lottery: Making All Tickets Reliable (arXiv:2302.09369)

A step computes with the active weights except a random share `weight_dropout` of them, and uses the gradient at these weights;
mask updates use the stored weights and a gradient without dropout. From share `average_from` of the budget on, when masks do
not move any more, the weights that steps computed with are averaged once an epoch. The finished network is their mean, with
its own running statistics (batch norm).

The published share is 0.01 for CIFAR-10 at density 0.1 and 0.1 for CIFAR-100 at 0.2; the released code ignores
this and always drops 0.01, the default here. Algorithm 1 does not scale the other weights (`scaled: false`, the default), the
code does. The random mask does not count for the density. Momentum also changes a weight in a step that drops it. The last
layer, which no norm follows, has no dropout. If other layers have no norm either, the average of unscaled dropped-out weights
is smaller than the weights, and so are the logits, which alone lowers confidence: use `scaled: true` there.
With `weight_dropout: 0` and `average_from: 1` this is RigL; with only the first it is RigL with weight averaging (SWA), the
control for the effect of the random mask: `method: rigl` beside `average: {begin: 0.8}`.
"""

from dataclasses import dataclass

from pruneyard.workloads.sparse.dropout_and_averaging import DropoutAndAveraging
from pruneyard.workloads.sparse.methods.rigl import RigL

__all__ = ["CigL"]


@dataclass(frozen=True, kw_only=True)
class CigL(DropoutAndAveraging, RigL):
    """RigL with weight dropout and weight averaging."""
