"""How a network is trained, as data: the tables of a spec that every training job has."""

from dataclasses import dataclass, field, fields, replace
from typing import Annotated, Literal

from pruneyard.workloads.data.batches import Augmentation
from pruneyard.workloads.fields import NEUTRAL_BY_DEFAULT, NOT_IDENTITY
from pruneyard.workloads.gradients.plain import Plain
from pruneyard.workloads.interfaces import GradientRule, Objective, OptimizerBuilder, RateSchedule
from pruneyard.workloads.objectives.cross_entropy import CrossEntropy
from pruneyard.workloads.optimizers.sgd import SGD
from pruneyard.workloads.plugins import Plugin
from pruneyard.workloads.schedules.cosine import Cosine
from pruneyard.workloads.training.weight_averaging import Averaging
from pruneyard.workloads.training.weight_dropout import WeightDropout


@dataclass(frozen=True, kw_only=True)
class Budget:
    """How long to train, in epochs or in steps, and with what numerics.

    An epoch is every whole batch of one shuffle: the rows left over sit out that epoch, others in the next. A set
    smaller than one batch is one batch.

    batch_norm: among several workers, whether one normalises by the rows of all, as a single one would, or by its own.
    """

    epochs: int | None = None
    steps: int | None = None
    batch_size: int = 128  # over all workers
    evaluate_every: int = field(default=1, metadata=NOT_IDENTITY)  # epochs; 0: at the end only
    checkpoint_every_s: float = field(default=30.0, metadata=NOT_IDENTITY)  # 0: after every step
    precision: Literal["float32", "bfloat16", "float16"] = "float32"  # below: autocast, weights stay float32
    channels_last: bool = False
    compile: bool = False
    batch_norm: Literal["synchronised", "local"] = field(default="synchronised", metadata=NEUTRAL_BY_DEFAULT)

    def __post_init__(self) -> None:
        if self.epochs is None and self.steps is None:
            raise ValueError("epochs is missing, and so is steps; it must be given where steps is not")
        if self.epochs is not None and self.steps is not None:
            raise ValueError(
                f"epochs is {self.epochs} beside steps {self.steps}; it must be left out, or steps must"
            )
        for name in ("epochs", "steps", "batch_size"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} is {value}; it must be 1 or more")
        for name in ("evaluate_every", "checkpoint_every_s"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be 0 or more")

    def steps_per_epoch(self, num_rows: int) -> int:
        """Whole batches in one shuffle of `num_rows`."""
        return max(1, num_rows // self.batch_size)

    def num_steps(self, num_rows: int) -> int:
        """Optimizer steps of the whole budget."""
        return self.steps if self.steps is not None else (self.epochs or 0) * self.steps_per_epoch(num_rows)

    def evaluation_interval(self, num_rows: int) -> int:
        """Steps between two evaluations, at most those of the whole budget."""
        num_steps = self.num_steps(num_rows)
        return min(self.evaluate_every * self.steps_per_epoch(num_rows) or num_steps, num_steps)


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """The plug-ins and tables of a training, each with its neutral or usual default."""

    budget: Budget
    objective: Annotated[Objective, Plugin("objectives")] = CrossEntropy()
    gradient: Annotated[GradientRule, Plugin("gradients")] = Plain()
    optimizer: Annotated[OptimizerBuilder, Plugin("optimizers")] = SGD()
    schedule: Annotated[RateSchedule, Plugin("schedules")] = Cosine()
    augment: Augmentation = Augmentation()
    weight_dropout: WeightDropout = field(default=WeightDropout(), metadata=NEUTRAL_BY_DEFAULT)
    average: Averaging = field(default=Averaging(), metadata=NEUTRAL_BY_DEFAULT)


def completed(recipe: Recipe, **slots: object) -> Recipe:
    """The recipe with these fields filled in, for a method that brings them.

    Raises `ValueError`, naming the field, where one holds neither its default nor what the method brings.
    """
    defaults = {f.name: f.default for f in fields(Recipe)}
    for name, brought in slots.items():
        found = getattr(recipe, name)
        if found not in (defaults[name], brought):
            raise ValueError(f"{name} is {found}, but the method brings {brought}; leave it out, or choose a method without one")
    return replace(recipe, **slots)  # type: ignore[arg-type]
