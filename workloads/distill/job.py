"""A job of kind `distill`: makes or selects a small synthetic set and evaluates networks that are trained on it alone."""

import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from typing import Annotated, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from pruneyard.workloads.checkpoint import Checkpoint
from pruneyard.workloads.data.batches import DeviceSplit, device_splits
from pruneyard.workloads.data.dataset import Dataset, Source
from pruneyard.workloads.data.synthetic_set import SyntheticSet
from pruneyard.workloads.distill import previews
from pruneyard.workloads.distill.distiller import (
    DistillContext,
    Distiller,
    DistillState,
    LearnsRate,
    RealSet,
    count_evaluations,
    extra_files,
    should_evaluate,
)
from pruneyard.workloads.distill.evaluate import Evaluation, mean_metrics, predict_logits, train_network
from pruneyard.workloads.distill.flop_counting import ProblemSize, count_flops, forward_flops, training_flops
from pruneyard.workloads.distill.selected import random_images, real_images
from pruneyard.workloads.distill.separation import measure_separation
from pruneyard.workloads.distill.teacher import HasTeacher, serialize_weights, size_bytes_of, soft_labels
from pruneyard.workloads.fields import NOT_IDENTITY
from pruneyard.workloads.models.convnet import ConvNet
from pruneyard.workloads.networks.builder import ModelBuilder
from pruneyard.workloads.parents import Predictions
from pruneyard.workloads.plugins import Plugin, name_of
from pruneyard.workloads.workload import (
    Context,
    InterruptedJobError,
    Metric,
    NonFiniteError,
    Outcome,
    Progress,
    RateLimitedCheck,
)

__all__ = ["DistillJob"]

PREVIEW_PREFIX = "picture/"  # starts the names of previews in a checkpoint; the iteration follows


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
        distillation = _Distillation.start(self, distill_context, stop_requested)
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
        with torch.device("meta"):
            for model in (self.model, *self.evaluation.architectures):
                model.build(image_shape=data.image_shape, num_classes=data.num_classes)
        smallest = int(np.bincount(data.train.labels, minlength=data.num_classes).min())
        if self.ipc is not None and self.ipc > smallest:
            raise ValueError(f"method.ipc is {self.ipc}; it must be at most {smallest}, the training rows of the smallest class")
        lowest, highest = data.train.images.min(), data.train.images.max()
        if lowest < 0 or highest > 255:
            raise ValueError(f"data has training pixels from {lowest:g} to {highest:g}; they must lie in [0, 255]")
        return []


Outputs = Mapping[tuple[str, str], list[np.ndarray]]
"""Logits of all evaluation networks by (architecture, split); the name of the job's own model is the empty string."""


@dataclass(kw_only=True)
class _Distillation:
    """The mutable state of a running job."""

    job: DistillJob
    context: DistillContext
    state: DistillState
    should_stop: Callable[[], bool]
    num_done: int = 0  # completed iterations
    train_s: float = 0.0  # time of distillation, without evaluations
    history: list[Metric] = field(default_factory=list)
    previews: dict[int, Tensor] = field(default_factory=dict)  # by iteration

    @classmethod
    def start(cls, job: DistillJob, context: DistillContext, should_stop: Callable[[], bool]) -> "_Distillation":
        started = time.monotonic()
        state = job.method.start(context)
        return cls(job=job, context=context, state=state, should_stop=should_stop, train_s=time.monotonic() - started)

    def iterate(self) -> None:
        started = time.monotonic()
        self.state = self.job.method.iterate(self.state, self.num_done, self.context)
        for name, value in self.state.numbers.items():
            if not math.isfinite(value):
                raise NonFiniteError(f"train/{name} is {value} at iteration {self.num_done}; {NonFiniteError.ADVICE}")
        self.num_done += 1
        if self.context.device.type == "cuda":
            # Kernels run asynchronously: without this, the time would be that of queueing them.
            torch.cuda.synchronize(self.context.device)
        self.train_s += time.monotonic() - started

    def capture_preview(self) -> None:
        """Renders a preview of the set if one belongs to this iteration."""
        method = self.job.method
        is_due = self.num_done in previews.preview_iterations(method.num_iterations) and self.num_done not in self.previews
        if method.ipc is not None and is_due:
            self.previews[self.num_done] = previews.render_preview(self.synthetic_set())

    def should_evaluate(self, every: int) -> bool:
        """Returns whether to evaluate now; False if the evaluation was already made before the job was interrupted."""
        newest = self.history[-1].step if self.history else 0
        return should_evaluate(self.job.method, self.num_done, every=every, newest=newest)

    def synthetic_set(self) -> SyntheticSet:
        """Returns the current set; without soft labels if a teacher labels views instead."""
        made = self.job.method.synthetic_set(self.state, self.context)
        return made if self.teacher_weights is None else replace(made, soft_labels=made.soft_labels[:0])

    @property
    def teacher_weights(self) -> dict[str, Tensor] | None:
        """Current weights of the network that labels views; None if labels are stored."""
        method, by_views = self.job.method, self.job.evaluation.labels == "views"
        return method.teacher.weights(self.state.tensors) if by_views and isinstance(method, HasTeacher) else None

    def evaluate(self, splits: Mapping[str, DeviceSplit], *names: str) -> Outputs:
        """Trains new networks on the current set, with the same random numbers at every evaluation.

        Raises `InterruptedJobError` on a stop request; the resumed job then repeats the whole evaluation.
        """
        job, synthetic = self.job, self.synthetic_set()
        outputs: dict[tuple[str, str], list[np.ndarray]] = {}
        models = {"": job.model} | {name_of(model): model for model in job.evaluation.architectures}
        for architecture, model in models.items():
            for network in self.train_networks(synthetic, model, job.evaluation):
                for split in names:
                    if split in splits:
                        outputs.setdefault((architecture, split), []).append(predict_logits(network, splits[split]))
        return outputs

    def train_networks(self, synthetic: SyntheticSet, model: ModelBuilder, evaluation: Evaluation) -> Iterator[nn.Module]:
        """Yields new networks, each trained on the set by the recipe."""

        def raise_if_stopped() -> None:
            if self.should_stop():
                raise InterruptedJobError(self.num_done)

        label = None
        if evaluation.labels == "views":
            assert isinstance(self.job.method, HasTeacher), "refused on construction"
            teacher = self.job.method.teacher.network(self.state.tensors, self.context)
            label = partial(soft_labels, teacher, temperature=evaluation.temperature)
        if evaluation.learned_rate and isinstance(self.job.method, LearnsRate):
            evaluation = replace(evaluation, lr=self.job.method.learned_rate(self.state))
        for index in range(evaluation.networks):
            yield train_network(
                synthetic,
                model=model,
                evaluation=evaluation,
                num_classes=self.context.real.num_classes,
                seed=self.job.seed,
                index=index,
                between_epochs=raise_if_stopped,
                label=label,
            )

    def separation_metrics(self, outputs: Outputs, splits: Mapping[str, DeviceSplit]) -> list[Metric]:
        """Returns metrics of the set without augmentation and soft labels, compared with random images and with all images.

        The list is empty unless `evaluation.dd_ranking` is true.
        """
        job, test = self.job, splits["test"]
        if not job.evaluation.dd_ranking or job.ipc is None:
            return []
        labels = test.labels.cpu().numpy()

        def measure(synthetic: SyntheticSet, evaluation: Evaluation) -> Mapping[str, float]:
            networks = self.train_networks(synthetic, job.model, evaluation)
            return mean_metrics([predict_logits(network, test) for network in networks], labels)

        named = measure_separation(
            measure,
            job.evaluation,
            baseline=mean_metrics(outputs["", "test"], labels),
            synthetic=self.synthetic_set(),
            random=random_images(job.ipc, self.context, name="separate/random"),
            whole=real_images(torch.cat(self.context.real.rows_of_class).to(self.context.device), self.context),
        )
        return self._rows(named)

    def metrics(self, outputs: Outputs, splits: Mapping[str, DeviceSplit]) -> list[Metric]:
        """Returns metrics as means over networks; those of other architectures have the split `test@NAME`."""
        named: dict[tuple[str, str], float] = {}
        for (architecture, split), network_logits in outputs.items():
            labels = splits[split].labels.cpu().numpy()
            label = f"{split}@{architecture}" if architecture else split
            named |= {(label, name): value for name, value in mean_metrics(network_logits, labels).items()}
        named |= {("train", name): value for name, value in self.state.numbers.items()}
        named |= {("train", name): float(size) for name, size in self.sizes().items()}
        if (flops := self.flops()) is not None:
            named["train", "flops"] = flops
        return self._rows(named)

    def sizes(self) -> dict[str, int]:
        """Returns the bytes of all data that networks are trained on, the teacher included if it labels views.

        In that case `view_labels_bytes` is the size of the alternative to a teacher: stored float16 labels of every view that
        one network is trained on.
        """
        synthetic, weights = self.synthetic_set(), self.teacher_weights
        if weights is None:
            return {"storage_bytes": synthetic.size_bytes}
        num_images = len(synthetic.images) * synthetic.factor**2
        views = num_images * self.job.evaluation.for_images(num_images).epochs
        return {
            "storage_bytes": synthetic.size_bytes + size_bytes_of(weights),
            "view_labels_bytes": views * self.context.real.num_classes * 2,
        }

    def flops(self) -> float | None:
        """Returns the counted FLOPs so far; None for a method that does not count them."""
        real = self.context.real
        sizes = tuple(len(rows) for rows in real.rows_of_class)
        problem = ProblemSize(model=self.context.model, image_shape=real.split.image_shape, class_sizes=sizes)
        return count_flops(self.job.method, self.num_done, problem)

    def _rows(self, named: Mapping[tuple[str, str], float]) -> list[Metric]:
        """Returns values by (split, name) as metrics of the current iteration."""
        return [
            Metric(step=self.num_done, epoch=float(self.num_done), split=split, name=name, value=value, wall_s=self.train_s)
            for (split, name), value in named.items()
        ]

    def progress(self, metrics: list[Metric], outcome: Outcome | None = None) -> Progress:
        num_steps = max(1, self.job.method.num_iterations)
        return Progress(step=self.num_done, num_steps=num_steps, metrics=tuple(metrics), outcome=outcome)

    def outcome(self, outputs: Outputs, data: Dataset) -> Outcome:
        """Returns the outcome of the job; the predictions are those of the first network of the job's model."""
        synthetic = self.synthetic_set()
        parts = {"val": data.val, "calib": data.calib, "test": data.test}
        with torch.device("meta"):
            network = self.job.model.build(image_shape=data.image_shape, num_classes=data.num_classes)
        num_parameters = sum(parameter.numel() for parameter in network.parameters())
        on_gpu = self.context.device.type == "cuda"
        return Outcome(
            predictions={
                name: Predictions(row_ids=split.row_ids, labels=split.labels, logits=outputs["", name][0])
                for name, split in parts.items()
                if ("", name) in outputs
            },
            weights={},
            masks={},
            files={} if self.job.ipc is None else self.files(synthetic),
            num_parameters=num_parameters,
            num_active=num_parameters,
            train_flops=self.flops(),
            train_s=self.train_s,
            peak_memory_bytes=torch.cuda.max_memory_allocated(self.context.device) if on_gpu else None,
        )

    def files(self, synthetic: SyntheticSet) -> dict[str, bytes]:
        """Returns the artifacts by file name."""
        own = extra_files(self.job.method, self.state, self.context)
        weights = self.teacher_weights
        teacher = {} if weights is None else {"teacher.safetensors": serialize_weights(weights)}
        return {**previews.set_files(synthetic), **previews.encode_previews(self.previews), **own, **teacher}

    def checkpoint(self, *, data: str) -> Checkpoint:
        """Returns all that a bit-equal continuation needs; `data` is the fingerprint of the data set."""
        return Checkpoint(
            step=self.num_done,
            tensors={**self.state.tensors, **{f"{PREVIEW_PREFIX}{step}": pixels for step, pixels in self.previews.items()}},
            state={},
            meta={
                "data": data,
                "numbers": dict(self.state.numbers),
                "train_s": self.train_s,
                "metrics": [asdict(metric) for metric in self.history],
            },
        )

    def restore(self, checkpoint: Checkpoint, *, data: str) -> None:
        """Restores the state of a checkpoint. Raises `ValueError` if it belongs to other data."""
        if checkpoint.meta["data"] != data:
            found = checkpoint.meta["data"]
            raise ValueError(f"the checkpoint was made on data {found}, this run has {data}; give another --out")
        stored = checkpoint.tensors
        tensors = {
            name: tensor.to(self.context.device) for name, tensor in stored.items() if not name.startswith(PREVIEW_PREFIX)
        }
        self.previews = {int(name.removeprefix(PREVIEW_PREFIX)): stored[name].cpu() for name in stored.keys() - tensors.keys()}
        self.state = DistillState(tensors, checkpoint.meta["numbers"])
        self.num_done, self.train_s = checkpoint.step, checkpoint.meta["train_s"]
        self.history = [Metric(**row) for row in checkpoint.meta["metrics"]]
