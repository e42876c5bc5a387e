"""Drop and grow with what CigL and MOON have around it: a random mask in every step, and an average at the end."""

from abc import ABC
from dataclasses import dataclass

from pruneyard.workloads.sparse.updater import DropAndGrow
from pruneyard.workloads.training.recipe import Recipe, fill_in
from pruneyard.workloads.training.weight_averaging import Averaging
from pruneyard.workloads.training.weight_dropout import WeightDropout


@dataclass(frozen=True, kw_only=True)
class DropoutAndAveraging(DropAndGrow, ABC):
    """Fills in the recipe's `weight_dropout` and `average`; the masks must stand still before the average begins."""

    random_drop: float = 0.01  # share of the active weights left out of a step, in [0, 1)
    scaled: bool = False  # what stays is divided by 1 - random_drop
    spare_last: bool = True  # the last layer keeps all its weights
    average_from: float = 0.8  # share of the budget from which samples are averaged; 1: none
    averages_per_epoch: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.random_drop < 1:
            raise ValueError(f"random_drop is {self.random_drop}; it must lie in [0, 1)")
        if self.averages_per_epoch < 1:
            raise ValueError(f"averages_per_epoch is {self.averages_per_epoch}; it must be 1 or more samples")
        if not self.schedule.until <= self.average_from <= 1:
            raise ValueError(
                f"average_from is {self.average_from}; it must lie in [{self.schedule.until}, 1], "
                "from schedule.until, where masks stand still, to the whole budget"
            )

    def complete(self, recipe: Recipe) -> Recipe:
        """With weight dropout and average as the method's fields have them; how many deviations are kept is the recipe's."""
        return fill_in(
            recipe,
            weight_dropout=WeightDropout(drop=self.random_drop, scaled=self.scaled, spare_last=self.spare_last),
            average=Averaging(
                begin=self.average_from,
                per_epoch=self.averages_per_epoch,
                deviations=recipe.average.deviations,
            ),
        )
