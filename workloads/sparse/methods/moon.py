"""Sparse training with an "unknown" output, a loss that uses it, and averaged weights of the last fifth (MOON).

Reference: Lei et al. 2024, Embracing Unknown Step by Step: Towards Reliable Sparse Training in Real World (arXiv:2403.20047)

Rebuilt from the released code, without access to the text of the paper. The loss is `objectives.unknown_aware`, whose table is
`loss` here. Confidence is the largest probability over the known classes, not renormalised: probability of "unknown" is missing
from it. Masks move as RigL's (`growth: gradient`) or SET's (`random`).

As in the released code, every step drops a random 0.01 of the active weights (the mask of CigL; `weight_dropout: 0` disables
it) and averaging begins at 0.8 of the budget. Two details follow the intention, not the released code: the drop fraction
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
    """RigL or SET with the unknown-aware loss, weight dropout and weight averaging."""

    averages_per_epoch: int = 10
    loss: UnknownAware = UnknownAware()

    @property
    def replaces_step(self) -> bool:  # type: ignore[override]  # a class attribute elsewhere; here it depends on a field
        """True if an update replaces the optimizer's step: as in RigL yes, as in SET no."""
        return self.growth == "gradient"

    def complete(self, recipe: Recipe) -> Recipe:
        """Returns the recipe with objective, weight dropout and averaging from the fields of the method."""
        return fill_in(super().complete(recipe), objective=self.loss)
