"""The training recipe: the spec tables that every training job has."""

from dataclasses import dataclass, field, fields, replace
from typing import Annotated, Literal

from pruneyard.workloads.data.batches import Augmentation, Sampler
from pruneyard.workloads.fields import NEUTRAL_BY_DEFAULT, NOT_IDENTITY
from pruneyard.workloads.gradients.plain import Plain
from pruneyard.workloads.interfaces import GradientRule, Objective, OptimizerBuilder, RateSchedule
from pruneyard.workloads.objectives.cross_entropy import CrossEntropy
from pruneyard.workloads.optimizers.sgd import SGD
from pruneyard.workloads.plugins import Plugin
from pruneyard.workloads.schedules.cosine import Cosine
from pruneyard.workloads.training.initial_weights import AT_RANDOM, InitialWeights
from pruneyard.workloads.training.weight_averaging import Averaging
from pruneyard.workloads.training.weight_dropout import WeightDropout


@dataclass(frozen=True, kw_only=True)
class Budget:
    """The length of a training, in epochs or in steps, its batch size, and its numerics.

    An epoch consists of the whole batches of one shuffle; the remaining rows are left out of that epoch, others out of the
    next. A data set smaller than one batch is one batch.

    batch_norm: with several workers, whether batch norm uses the rows of all workers, as one worker would, or only its own.
    """

    epochs: int | None = None
    steps: int | None = None
    batch_size: int = 128  # over all workers
    evaluate_every: int = field(default=1, metadata=NOT_IDENTITY)  # epochs; 0: only at the end
    checkpoint_every_s: float = field(default=30.0, metadata=NOT_IDENTITY)  # 0: after every step
    precision: Literal["float32", "bfloat16", "float16"] = "float32"  # below float32: autocast, weights stay float32
    channels_last: bool = False
    compile: bool = False
    batch_norm: Literal["synchronised", "local"] = field(default="synchronised", metadata=NEUTRAL_BY_DEFAULT)

    def __post_init__(self) -> None:
        if self.epochs is None and self.steps is None:
            raise ValueError("epochs is missing, and so is steps; give one of them")
        if self.epochs is not None and self.steps is not None:
            raise ValueError(
                f"epochs is {self.epochs} and steps is {self.steps}; give only one of them"
            )
        for name in ("epochs", "steps", "batch_size"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} is {value}; it must be 1 or more")
        for name in ("evaluate_every", "checkpoint_every_s"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be 0 or more")

    def steps_per_epoch(self, num_rows: int) -> int:
        """Returns the number of whole batches in one shuffle of `num_rows`, at least 1."""
        return max(1, num_rows // self.batch_size)

    def num_steps(self, num_rows: int) -> int:
        """Returns the number of optimizer steps of the whole budget."""
        return self.steps if self.steps is not None else (self.epochs or 0) * self.steps_per_epoch(num_rows)

    def evaluation_interval(self, num_rows: int) -> int:
        """Returns the steps between two evaluations, at most those of the whole budget."""
        num_steps = self.num_steps(num_rows)
        return min(self.evaluate_every * self.steps_per_epoch(num_rows) or num_steps, num_steps)


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """The plug-ins and tables of a training; each default is the neutral or the usual choice.

    initial: the weights to start from, by default random ones.
    prunable: patterns of the names of the weights that are pruned, see `pruneyard.workloads.masks.choice`; by default all.
    """

    budget: Budget
    objective: Annotated[Objective, Plugin("objectives")] = CrossEntropy()
    gradient: Annotated[GradientRule, Plugin("gradients")] = Plain()
    optimizer: Annotated[OptimizerBuilder, Plugin("optimizers")] = SGD()
    schedule: Annotated[RateSchedule, Plugin("schedules")] = Cosine()
    augment: Augmentation = Augmentation()
    weight_dropout: WeightDropout = field(default=WeightDropout(), metadata=NEUTRAL_BY_DEFAULT)
    average: Averaging = field(default=Averaging(), metadata=NEUTRAL_BY_DEFAULT)
    initial: InitialWeights = field(default=AT_RANDOM, metadata=NEUTRAL_BY_DEFAULT)
    prunable: tuple[str, ...] = field(default=(), metadata=NEUTRAL_BY_DEFAULT)
    sampler: Sampler = field(default="shuffle", metadata=NEUTRAL_BY_DEFAULT)  # weighted: every class equally often


def fill_in(recipe: Recipe, **set_fields: object) -> Recipe:
    """Returns the recipe with the fields that a method sets.

    Raises `ValueError`, which names the field, if one holds neither its default nor the value that the method sets.
    """
    defaults = {f.name: f.default for f in fields(Recipe)}
    for name, value in set_fields.items():
        found = getattr(recipe, name)
        if found not in (defaults[name], value):
            raise ValueError(f"{name} is {found}, but the method sets it to {value}; leave it out, or choose another method")
    return replace(recipe, **set_fields)  # type: ignore[arg-type]
