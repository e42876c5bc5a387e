"""A job of kind `distill`: makes or selects a small synthetic set and evaluates networks that are trained on it alone."""

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Annotated, ClassVar

import numpy as np

from pruneyard.workloads.data.batches import device_splits
from pruneyard.workloads.data.dataset import Dataset, Source
from pruneyard.workloads.distill.distillation import Distillation
from pruneyard.workloads.distill.distiller import (
    DistillContext,
    Distiller,
    LearnsRate,
    RealSet,
    count_evaluations,
)
from pruneyard.workloads.distill.evaluate import Evaluation
from pruneyard.workloads.distill.flop_counting import ProblemSize, count_flops, forward_flops, training_flops
from pruneyard.workloads.distill.teacher import HasTeacher
from pruneyard.workloads.fields import NOT_IDENTITY
from pruneyard.workloads.models.convnet import ConvNet
from pruneyard.workloads.networks.builder import ModelBuilder
from pruneyard.workloads.networks.output_check import checked_network
from pruneyard.workloads.plugins import Plugin, Settings, name_of
from pruneyard.workloads.workload import Context, InterruptedJobError, Progress, RateLimitedCheck

__all__ = ["DistillJob"]

@dataclass(frozen=True, kw_only=True)
class DistillJob:
    """All settings that may change a number of the synthetic set or of the networks trained on it.

    model: the architecture used for distillation, and the first that is evaluated.
    evaluate_every: iterations between two evaluations; 0: evaluate at the end only. Every evaluation trains
        `evaluation.networks` networks. IDC and Acc-DD are evaluated when they have finished with a network, which may be later.
    """

    data: Annotated[Source, Plugin("data.sources")]
    method: Annotated[Distiller, Plugin("distill.methods")]
    model: Annotated[ModelBuilder, Plugin("models")] = ConvNet()
    evaluation: Evaluation = Evaluation()
    seed: int = 0
    evaluate_every: int = field(default=0, metadata=NOT_IDENTITY)
    checkpoint_every_s: float = field(default=30.0, metadata=NOT_IDENTITY)
    leaves: ClassVar[tuple[str, ...]] = ("synthetic set", "scores", "predictions")
    examples: ClassVar[tuple[Settings, ...]] = (
        {
            "data": {"name": "digits", "max_train": 100, "max_test": 50},
            "model": {"name": "convnet", "width": 4, "depth": 1},
            "method": {"name": "dm", "ipc": 1, "iterations": 3, "real_batch": 8},
            "evaluation": {"epochs": 2},
            "evaluate_every": 1,
        },
    )

    def __post_init__(self) -> None:
        for name in ("evaluate_every", "checkpoint_every_s"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be 0 or more")
        if self.evaluation.labels == "views" and not isinstance(self.method, HasTeacher):
            found = f"needs a teacher for labels: views, and method {name_of(self.method)} has none"
            raise ValueError(f"evaluation {found}; leave labels out, or choose a method with a teacher, such as rded")
        if self.evaluation.learned_rate and not isinstance(self.method, LearnsRate):
            found = f"has learned_rate: true, and method {name_of(self.method)} learns none"
            raise ValueError(f"evaluation {found}; leave learned_rate out and give lr, or choose mtt")

    @property
    def ipc(self) -> int | None:
        """Images per class, for the `runs` table; None for the whole set."""
        return self.method.ipc

    def run(self, context: Context) -> Iterator[Progress]:
        """Resumes from the newest intact checkpoint of the context, or starts from scratch."""
        data = context.load_data(self.data)
        splits = device_splits(data, context.device)
        real = RealSet.of(splits["train"], mean=data.mean, std=data.std, num_classes=data.num_classes)
        should_stop = RateLimitedCheck(context.should_stop)

        # `distillation` is assigned below; neither function is called before that.
        def save() -> None:
            context.checkpoints.save(distillation.checkpoint(data=data.fingerprint))

        def stop_requested() -> bool:
            """Returns whether the job must stop now; if so, saves a checkpoint."""
            stopping = should_stop()
            if stopping:
                save()
            return stopping

        distill_context = DistillContext(
            real=real, model=self.model, seed=self.seed, data=data.fingerprint, open_run=context.open_run
        )
        distillation = Distillation.start(self.method, self.evaluation, distill_context, should_stop=stop_requested)
        saved = context.checkpoints.load(context.device)
        if saved is not None:
            distillation.restore(saved, data=data.fingerprint)
        unreported = list(distillation.history)
        saved_at = time.monotonic()
        while distillation.num_done < self.method.num_iterations:
            distillation.capture_preview()
            if distillation.should_evaluate(self.evaluate_every):
                new = distillation.metrics(distillation.evaluate(splits, "val", "test"), splits)
                distillation.history += new
                yield distillation.progress([*unreported, *new])
                unreported = []
                # The checkpoint of a pause contains this evaluation, so that the resumed job does not repeat it.
                if context.should_pause():
                    save()
                    raise InterruptedJobError(distillation.num_done)
            distillation.iterate()
            if stop_requested():
                raise InterruptedJobError(distillation.num_done)
            if time.monotonic() - saved_at >= self.checkpoint_every_s:
                save()
                saved_at = time.monotonic()
        distillation.capture_preview()
        save()
        # The checkpoint above has all iterations: a stop during the last evaluation repeats nothing but the evaluation.
        outputs = distillation.evaluate(splits, "val", "calib", "test")
        new = [*distillation.metrics(outputs, splits), *distillation.separation_metrics(outputs, splits)]
        yield distillation.progress([*unreported, *new], distillation.outcome(outputs, data))

    def expected_work(self, data: Dataset) -> tuple[float, int]:
        """Returns FLOPs and optimizer steps of distillation and evaluations, a lower bound for estimates of cost.

        The FLOPs of a method that does not count them are missing, and so are the additional networks of `dd_ranking`.
        """
        num_iterations = self.method.num_iterations
        distillation_flops = count_flops(self.method, num_iterations, ProblemSize.for_data(self.model, data)) or 0.0
        num_images = len(data.train) if self.ipc is None else self.ipc * data.num_classes * getattr(self.method, "factor", 1) ** 2
        recipe = self.evaluation.for_images(num_images)
        num_networks = recipe.networks * count_evaluations(self.method, every=self.evaluate_every)
        models = (self.model, *recipe.architectures)
        flops_per_image = sum(training_flops(ProblemSize.for_data(model, data).network_spec) for model in models)
        if recipe.labels == "views" and isinstance(self.method, HasTeacher):
            flops_per_image += len(models) * forward_flops(ProblemSize.for_data(self.method.teacher.model, data).network_spec)
        steps = num_networks * (1 + len(recipe.architectures)) * recipe.epochs * -(-num_images // recipe.batch_size)
        evaluation_flops = num_networks * recipe.epochs * num_images * flops_per_image
        return distillation_flops + evaluation_flops, num_iterations + steps

    def check(self, data: Dataset) -> list[str]:
        """Builds the networks on the meta device. Raises `ValueError` for features, and for too small classes."""
        if not data.pixels:
            raise ValueError(f"data has features of shape {data.image_shape}; it must have pixels, to make a set of images")
        warnings = []
        for model in (self.model, *self.evaluation.architectures):
            warnings += checked_network(model, image_shape=data.image_shape, num_classes=data.num_classes)[1]
        smallest = int(np.bincount(data.train.labels, minlength=data.num_classes).min())
        if self.ipc is not None and self.ipc > smallest:
            raise ValueError(f"method.ipc is {self.ipc}; it must be at most {smallest}, the training rows of the smallest class")
        lowest, highest = data.train.images.min(), data.train.images.max()
        if lowest < 0 or highest > 255:
            raise ValueError(f"data has training pixels from {lowest:g} to {highest:g}; they must lie in [0, 255]")
        return warnings
