"""Sparse training with an "unknown" output, a loss that uses it, and the mean of the last fifth as the result.

Reference: Lei et al. 2024, Embracing Unknown Step by Step: Towards Reliable Sparse Training in Real World (arXiv:2403.20047)

Rebuilt from the released code; the paper's text was not at hand. The loss is `objectives.unknown_aware`, whose table is
`loss` here. Confidence is the largest probability over the known classes, not scaled up: what goes to "unknown" is missing
from it. Masks move as RigL's (`growth: gradient`) or SET's (`random`).

As in the released code a random 0.01 of the active weights is left out of every step (CigL's mask; `random_drop: 0`
is without) and the average begins at 0.8 of the budget. Two things are as meant there, not as released: the drop fraction
decays over the steps of the schedule, where the code mistakes 70 epochs for 70 steps; and ten samples an epoch, evenly
spaced, are averaged, where the code takes every step of each epoch's first tenth.
"""

from dataclasses import dataclass

from pruneyard.workloads.objectives.unknown_aware import UnknownAware
from pruneyard.workloads.sparse.dropout_and_averaging import DropoutAndAveraging
from pruneyard.workloads.sparse.updater import SelectableGrowth
from pruneyard.workloads.training.recipe import Recipe, fill_in

__all__ = ["MOON"]


@dataclass(frozen=True, kw_only=True)
class MOON(DropoutAndAveraging, SelectableGrowth):
    """RigL or SET under the unknown-aware loss, thinned out and averaged."""

    averages_per_epoch: int = 10
    loss: UnknownAware = UnknownAware()

    @property
    def replaces_step(self) -> bool:  # type: ignore[override]  # of the class elsewhere, of a field here
        """As the host does: RigL's update takes the step's place, SET's does not."""
        return self.growth == "gradient"

    def complete(self, recipe: Recipe) -> Recipe:
        """With objective, weight dropout and average as the method's fields have them."""
        return fill_in(super().complete(recipe), objective=self.loss)
