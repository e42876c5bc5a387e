"""Drop and grow with weight dropout in every step and weight averaging at the end, as CigL and MOON share them."""

from abc import ABC
from dataclasses import dataclass, field

from pruneyard.workloads.fields import renamed
from pruneyard.workloads.sparse.updater import DropAndGrow
from pruneyard.workloads.training.recipe import Recipe, fill_in
from pruneyard.workloads.training.weight_averaging import Averaging
from pruneyard.workloads.training.weight_dropout import WeightDropout


@dataclass(frozen=True, kw_only=True)
class DropoutAndAveraging(DropAndGrow, ABC):
    """A drop-and-grow method that sets the recipe's `weight_dropout` and `average`; masks must stop before averaging begins."""

    # share of the active weights dropped in a step, in [0, 1)
    weight_dropout: float = field(default=0.01, metadata=renamed("random_drop"))
    scaled: bool = False  # divide the other weights by 1 - weight_dropout
    exclude_last: bool = field(default=True, metadata=renamed("spare_last"))  # drop nothing in the last layer
    average_from: float = 0.8  # share of the budget after which weights are averaged; 1: never
    averages_per_epoch: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.weight_dropout < 1:
            raise ValueError(f"weight_dropout is {self.weight_dropout}; it must lie in [0, 1)")
        if self.averages_per_epoch < 1:
            raise ValueError(f"averages_per_epoch is {self.averages_per_epoch}; it must be 1 or more samples")
        if not self.schedule.until <= self.average_from <= 1:
            raise ValueError(
                f"average_from is {self.average_from}; it must lie in [{self.schedule.until}, 1], "
                "from schedule.until, where masks stop moving, to the whole budget"
            )

    def complete(self, recipe: Recipe) -> Recipe:
        """Returns the recipe with weight dropout and averaging from the fields of the method; `average.swag_rank` stays."""
        return fill_in(
            recipe,
            weight_dropout=WeightDropout(drop=self.weight_dropout, scaled=self.scaled, exclude_last=self.exclude_last),
            average=Averaging(
                begin=self.average_from,
                per_epoch=self.averages_per_epoch,
                swag_rank=recipe.average.swag_rank,
            ),
        )
