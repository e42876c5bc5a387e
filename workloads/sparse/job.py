"""A job of kind `sparse`: train one network on one data set under one sparse-training method."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Annotated, ClassVar

import numpy as np
import torch

from pruneyard.workloads.data.dataset import Dataset, Source
from pruneyard.workloads.execution.layers import Execution
from pruneyard.workloads.fields import NEUTRAL_BY_DEFAULT, SET_BY_RESOURCES, renamed
from pruneyard.workloads.interfaces import InputKind
from pruneyard.workloads.losses.class_weights import check_fits_classes
from pruneyard.workloads.masks.choice import check_prunable, choose_prunable
from pruneyard.workloads.masks.masks import prunable_weights
from pruneyard.workloads.networks.builder import ModelBuilder, has_random_layers
from pruneyard.workloads.networks.digest import network_digest
from pruneyard.workloads.networks.flops import macs_of
from pruneyard.workloads.networks.output_check import checked_network
from pruneyard.workloads.networks.parameter_groups import check_patterns
from pruneyard.workloads.plugins import Plugin, Settings, name_of
from pruneyard.workloads.seeding import global_stream, stream
from pruneyard.workloads.sparse.iso_flop import widened
from pruneyard.workloads.sparse.narrow import Narrow
from pruneyard.workloads.sparse.uncovered import uncovered_parts
from pruneyard.workloads.training.execution_check import check_execution, staying_masked
from pruneyard.workloads.training.loop import train
from pruneyard.workloads.training.mask_updater import CountsWeights, MaskUpdater
from pruneyard.workloads.training.ood_evaluation import ood_splits
from pruneyard.workloads.training.recipe import Recipe
from pruneyard.workloads.training.robustness import NOT_ATTACKED, RobustAccuracy
from pruneyard.workloads.training.segment import WHOLE, Segment
from pruneyard.workloads.training.step_time import seconds_per_step
from pruneyard.workloads.workload import Context, Progress

__all__ = ["SparseJob"]


@dataclass(frozen=True, kw_only=True)
class SparseJob(Recipe):
    """A sparse training: all settings that can change a number of the trained network.

    ood: data sets on whose test rows the out-of-distribution detection of the finished network is measured.
    robust: the attacks on the finished network, on test rows.
    segment: the part of the training that this job runs, by default all of it.
    execution: how layers with masks are computed: `masked`, by dense kernels on weights with zeros; `sparse`, on the active
        weights alone, which saves time and memory where few are active; `auto`, whichever is faster when measured, by layer.
        Results agree up to rounding. See `pruneyard.workloads.execution`.
    widen: whether the model is widened until its FLOPs at the method's density are those of the dense model, see
        `pruneyard.workloads.sparse.iso_flop`.
    narrow: the channels that are removed from the network before it is trained, see `pruneyard.workloads.sparse.narrow`.
    workers: the number of workers if it changes results by more than rounding; else 1 for any number.
    """

    data: Annotated[Source, Plugin("data.sources")]
    model: Annotated[ModelBuilder, Plugin("models")]
    method: Annotated[MaskUpdater, Plugin("sparse.methods")]
    ood: tuple[Annotated[Source, Plugin("data.sources")], ...] = field(
        default=(), metadata=renamed("unknowns", NEUTRAL_BY_DEFAULT)
    )
    robust: RobustAccuracy = field(default=NOT_ATTACKED, metadata=NEUTRAL_BY_DEFAULT)
    segment: Segment = field(default=WHOLE, metadata=NEUTRAL_BY_DEFAULT)
    execution: Execution = field(default="masked", metadata=NEUTRAL_BY_DEFAULT)
    widen: bool = field(default=False, metadata=NEUTRAL_BY_DEFAULT)
    narrow: Narrow = field(default=Narrow(), metadata=NEUTRAL_BY_DEFAULT)
    seed: int = 0
    workers: int = field(default=1, metadata=SET_BY_RESOURCES)
    runs_on_ranks: ClassVar[bool] = True
    leaves: ClassVar[tuple[str, ...]] = ("network", "checkpoint", "predictions")
    examples: ClassVar[tuple[Settings, ...]] = (
        {
            "data": {"name": "digits", "max_train": 100, "max_test": 50},
            "model": {"name": "mlp", "width": 8, "depth": 1},
            "method": {"name": "set", "density": 0.5, "schedule": {"every": 1}},
            "budget": {"epochs": 3, "batch_size": 32},
        },
    )

    def __post_init__(self) -> None:
        for index, source in enumerate(self.ood):
            if source == self.data:
                raise ValueError(f"ood[{index}] is the data trained on; it must be another set")
            if source in self.ood[:index]:
                raise ValueError(f"ood[{index}] is already in the list; each set may be there only once")

    @property
    def density(self) -> float:
        """The target density of the network, for the `runs` table."""
        return self.method.target_density

    @property
    def depends_on_num_workers(self) -> bool:
        """True if several workers give other results than one: through random layers, or a loss or norm over each rank's rows."""
        recipe = self.method.complete(self)
        return recipe.objective.is_batch_level or self.budget.batch_norm == "local" or has_random_layers(self.model)

    def model_for(self, image_shape: tuple[int, ...], num_classes: int) -> ModelBuilder:
        """Returns the model that is trained, before channels are removed. Raises `ValueError` if it cannot be widened."""
        if not self.widen:
            return self.model
        num_outputs = num_classes + self.method.complete(self).objective.num_extra
        return widened(self.model, self.method, image_shape=image_shape, num_outputs=num_outputs, prunable=self.prunable)

    def computed_tables(self, data: Dataset) -> dict[str, str]:
        """Returns tables that matter by what they compute alone, as digests: trainings equal in these and all others are equal.

        The schedule is read as its factor at each step, the model as the initial network with all of its attributes. The model of
        a network that has no digest, or whose width depends on other tables, is compared by its fields.
        """
        recipe = self.method.complete(self)
        num_steps = self.budget.num_steps(len(data.train))
        factors = [recipe.schedule.factor(step, num_steps) for step in range(num_steps)]
        tables = {"schedule": hashlib.sha256(np.array(factors).tobytes()).hexdigest()}
        if self.widen or self.narrow != Narrow():
            return tables
        with global_stream(self.seed, "init"):
            network = self.model.build(image_shape=data.image_shape, num_classes=data.num_classes + recipe.objective.num_extra)
        digest = network_digest(network)
        # With its name, since classes of two files may have one name.
        return tables if digest is None else {**tables, "model": f"{name_of(self.model)} {digest}"}

    def run(self, context: Context) -> Iterator[Progress]:
        """Trains the network and yields progress, resuming from the newest intact checkpoint of the context if there is one."""
        data = context.load_data(self.data)
        ood = ood_splits(self.ood, [context.load_data(source) for source in self.ood], known=data)
        recipe, model = self.narrow.applied(
            self,
            self.model_for(data.image_shape, data.num_classes),
            image_shape=data.image_shape,
            num_outputs=data.num_classes + self.method.complete(self).objective.num_extra,
            seed=self.seed,
        )
        yield from train(
            recipe,
            model=model,
            method=self.method,
            data=data,
            ood=ood,
            robust=self.robust,
            segment=self.segment,
            execution=self.execution,
            seed=self.seed,
            context=context,
        )

    def check(self, data: Dataset) -> list[str]:
        """Returns warnings; builds the network on the meta device, without sampling numbers or starting the method.

        Warns of layers that cannot be pruned, counted or run by sparse kernels, of an optimizer that the method does not use,
        and of a method that would never update a mask in this budget. Raises `ValueError` for a network that cannot be widened
        or narrowed, for weight averaging while masks move, and for moments of fewer than two weight samples.
        """
        recipe = self.method.complete(self)
        num_outputs = data.num_classes + recipe.objective.num_extra
        with torch.device("meta"):
            model = self.model_for(data.image_shape, data.num_classes)
        network, warnings = checked_network(model, image_shape=data.image_shape, num_classes=num_outputs)
        choose_prunable(network, self.prunable)
        if self.method.target_density < 1:
            check_prunable(network)
        check_execution(self.execution, recipe, self.method)
        self.initial.check(network)
        self.narrow.check(network, data.image_shape)
        check_patterns(getattr(self.optimizer, "lr_factors", ()), [name for name, _ in network.named_parameters()])
        if isinstance(self.method, CountsWeights):
            self.method.counts(prunable_weights(network))
        self.augment(torch.zeros((1, *data.image_shape), dtype=torch.uint8), stream(self.seed, "augment"))
        check_fits_classes(getattr(recipe.objective, "class_weight", "none"), data.classes)
        self._check_inputs(data, takes=getattr(recipe.objective, "takes", "any"))
        num_steps = self.budget.num_steps(len(data.train))
        per_epoch = self.budget.steps_per_epoch(len(data.train))
        num_samples = recipe.average.num_samples(num_steps=num_steps, steps_per_epoch=per_epoch)
        if recipe.average.swag_rank and num_samples < 2:
            raise ValueError(
                f"average.swag_rank is {recipe.average.swag_rank}, but this budget takes {num_samples} weight samples; "
                "it must take at least 2: lower average.begin or raise average.per_epoch"
            )
        averaged = range(recipe.average.first(num_steps) + 1, num_steps)
        moved = [step for step in averaged if self.method.is_due(step, num_steps=num_steps)]
        if moved:
            raise ValueError(
                f"masks move at step {moved[-1]}, but averaging begins after step {averaged.start - 1}; "
                "masks must not move while weights are averaged: raise average.begin or end the method's schedule earlier"
            )
        warnings += uncovered_parts(network, data.image_shape, prunes=self.method.target_density < 1)
        warnings += staying_masked(self.execution, self.method, network, prunable_weights(network), data.image_shape)
        if self.optimizer not in (recipe.optimizer, SparseJob.optimizer):
            warnings.append(f"optimizer and schedule are not used: method {name_of(self.method)} trains no weight")
        every = getattr(getattr(self.method, "schedule", None), "every", None)
        if every is None or any(self.method.is_due(step, num_steps=num_steps) for step in range(num_steps)):
            return warnings
        return [
            *warnings,
            f"method.schedule.every is {every}, but the budget has {num_steps} steps: masks will never be updated",
        ]

    def _check_inputs(self, data: Dataset, *, takes: InputKind) -> None:
        """Raises `ValueError` for a part of the recipe that needs images, or pixels, if the data has none."""
        if data.pixels:
            return
        is_image = len(data.image_shape) == 3
        needs = {
            f"objective.name: {name_of(self.objective)}": takes,
            "robust.restarts": "pixels" if self.robust.restarts else "any",
            "budget.channels_last": "images" if self.budget.channels_last else "any",
        }
        for key, kind in needs.items():
            if kind == "pixels" or (kind == "images" and not is_image):
                raise ValueError(f"{key} needs {kind}, but data has features of shape {data.image_shape}; leave it out")

    def measured_step_s(self, data: Dataset) -> float | None:
        """Returns the seconds of one step on one thread of this machine, measured; None for a network too large to be tried."""
        objective = self.method.complete(self).objective
        network_s = seconds_per_step(
            self.model_for(data.image_shape, data.num_classes),
            image_shape=data.image_shape,
            num_outputs=data.num_classes + objective.num_extra,
            batch_size=min(self.budget.batch_size, len(data.train)),
        )
        return None if network_s is None else network_s * (3 + objective.extra_forwards) / 3

    def expected_work(self, data: Dataset) -> tuple[float, int]:
        """Returns the FLOPs of masked dense kernels (2 per multiply-add, a backward pass counted as two forward) and the steps.

        The extra forward passes of the objective are counted; those of the mask updates are not.
        """
        objective = self.method.complete(self).objective
        model = self.model_for(data.image_shape, data.num_classes)
        macs = macs_of(model, data.image_shape, data.num_classes + objective.num_extra)
        num_rows = len(data.train)
        num_steps = self.budget.num_steps(num_rows)
        per_row = 2.0 * sum(macs.values()) * (3 + objective.extra_forwards)
        return per_row * num_steps * min(self.budget.batch_size, num_rows), num_steps
