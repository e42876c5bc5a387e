"""A job of kind `distill`: make or choose a small synthetic set, and see what networks trained on it alone are worth."""

import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from typing import Annotated

import numpy as np
import torch
from torch import Tensor, nn

from pruneyard.workloads.checkpoint import Checkpoint
from pruneyard.workloads.data.batches import DeviceSplit
from pruneyard.workloads.data.dataset import Dataset, Source
from pruneyard.workloads.data.synthetic_set import SyntheticSet
from pruneyard.workloads.distill import pictures
from pruneyard.workloads.distill.distiller import Distiller, DistillState, Lab, RealSet, own_files
from pruneyard.workloads.distill.evaluate import Evaluation, logits, mean_metrics, trained
from pruneyard.workloads.distill.selected import random_images, real_images
from pruneyard.workloads.distill.separation import separated
from pruneyard.workloads.distill.teacher import Taught, file_of, size_of, soft_labels
from pruneyard.workloads.distill.work import Scene, flops_of, looking, training
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
    Rarely,
)

__all__ = ["DistillJob"]

PICTURE = "picture/"  # what the names of small pictures start with in a checkpoint: then the iteration


@dataclass(frozen=True, kw_only=True)
class DistillJob:
    """Everything that may change a number of the synthetic set or of the networks trained on it.

    model: the architecture that distils, and the first that evaluates.
    evaluate_every: iterations between two evaluations; 0: at the end only. Every one trains `evaluation.networks` networks.
    """

    data: Annotated[Source, Plugin("data.sources")]
    method: Annotated[Distiller, Plugin("distill.methods")]
    model: Annotated[ModelBuilder, Plugin("models")] = ConvNet()
    evaluation: Evaluation = Evaluation()
    seed: int = 0
    evaluate_every: int = field(default=0, metadata=NOT_IDENTITY)
    checkpoint_every_s: float = field(default=30.0, metadata=NOT_IDENTITY)

    def __post_init__(self) -> None:
        for name in ("evaluate_every", "checkpoint_every_s"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be 0 or more")
        if self.evaluation.labels == "views" and not isinstance(self.method, Taught):
            came = f"asks a teacher for labels of views, and method {name_of(self.method)} has none"
            raise ValueError(f"evaluation {came}; leave labels out, or choose a method with one, such as rded")

    @property
    def ipc(self) -> int | None:
        """Images per class, for the `runs` table; None for the whole set."""
        return self.method.ipc

    def run(self, context: Context) -> Iterator[Progress]:
        """Goes on from the newest good checkpoint of the context, or starts."""
        data = context.load_data(self.data)
        splits = _splits(data, context.device)
        real = RealSet.of(splits["train"], mean=data.mean, std=data.std, num_classes=data.num_classes)
        should_stop = Rarely(context.should_stop)

        def save() -> None:
            context.checkpoints.save(going.checkpoint(data=data.fingerprint))

        def stops() -> bool:
            """Whether to stop here; then a checkpoint is left."""
            stopping = should_stop()
            if stopping:
                save()
            return stopping

        lab = Lab(real=real, model=self.model, seed=self.seed, data=data.fingerprint, open_run=context.open_run)
        going = _Distillation.start(self, lab, stops)
        saved = context.checkpoints.load(context.device)
        if saved is not None:
            going.restore(saved, data=data.fingerprint)
        unreported = list(going.history)
        saved_at = time.monotonic()
        while going.done < self.method.num_iterations:
            going.look()
            if going.is_due(self.evaluate_every):
                new = going.metrics(going.evaluated(splits, "val", "test"), splits)
                going.history += new
                yield going.progress([*unreported, *new])
                unreported = []
                if context.pauses():
                    save()
                    raise InterruptedJobError(going.done)
            going.iterate()
            if stops():
                raise InterruptedJobError(going.done)
            if time.monotonic() - saved_at >= self.checkpoint_every_s:
                save()
                saved_at = time.monotonic()
        going.look()
        save()
        outputs = going.evaluated(splits, "val", "calib", "test")
        new = [*going.metrics(outputs, splits), *going.separated(outputs, splits)]
        yield going.progress([*unreported, *new], going.outcome(outputs, data))

    def expected_work(self, data: Dataset) -> tuple[float, int]:
        """FLOPs and optimizer steps of distillation and of its evaluations, to guess a cost by; a guess from below.

        Nothing is known of a method whose work is not counted, and `separate` trains a few networks more.
        """
        num_iterations = self.method.num_iterations
        distilling = flops_of(self.method, num_iterations, Scene.of(self.model, data)) or 0.0
        num_images = len(data.train) if self.ipc is None else self.ipc * data.num_classes * getattr(self.method, "factor", 1) ** 2
        recipe = self.evaluation.for_images(num_images)
        num_networks = recipe.networks * (1 + max(0, num_iterations - 1) // self.evaluate_every if self.evaluate_every else 1)
        judges = (self.model, *recipe.architectures)
        of_image = sum(training(Scene.of(model, data).kind) for model in judges)
        if recipe.labels == "views" and isinstance(self.method, Taught):
            of_image += len(judges) * looking(Scene.of(self.method.teacher.model, data).kind)
        steps = num_networks * (1 + len(recipe.architectures)) * recipe.epochs * -(-num_images // recipe.batch_size)
        return distilling + num_networks * recipe.epochs * num_images * of_image, num_iterations + steps

    def check(self, data: Dataset) -> list[str]:
        """Builds the networks without storage; refuses more images per class than the real set has."""
        with torch.device("meta"):
            for model in (self.model, *self.evaluation.architectures):
                model.build(image_shape=data.image_shape, num_classes=data.num_classes)
        smallest = int(np.bincount(data.train.labels, minlength=data.num_classes).min())
        if self.ipc is not None and self.ipc > smallest:
            raise ValueError(f"method.ipc is {self.ipc}; the smallest class has {smallest} training rows")
        return []


def _splits(data: Dataset, device: torch.device) -> dict[str, DeviceSplit]:
    named = {"train": data.train, "val": data.val, "calib": data.calib, "test": data.test}
    return {
        name: DeviceSplit(split, mean=data.mean, std=data.std, device=device) for name, split in named.items() if len(split)
    }


Outputs = Mapping[tuple[str, str], list[np.ndarray]]
"""Logits of every evaluation network, by name of the architecture and split; the job's own model is the empty name."""


@dataclass(kw_only=True)
class _Distillation:
    """The mutable middle of a job."""

    job: DistillJob
    lab: Lab
    state: DistillState
    should_stop: Callable[[], bool]
    done: int = 0  # iterations
    train_s: float = 0.0  # of distillation, evaluations excluded
    history: list[Metric] = field(default_factory=list)
    taken: dict[int, Tensor] = field(default_factory=dict)  # small pictures, by iteration

    @classmethod
    def start(cls, job: DistillJob, lab: Lab, should_stop: Callable[[], bool]) -> "_Distillation":
        started = time.monotonic()
        state = job.method.start(lab)
        return cls(job=job, lab=lab, state=state, should_stop=should_stop, train_s=time.monotonic() - started)

    def iterate(self) -> None:
        started = time.monotonic()
        self.state = self.job.method.iterate(self.state, self.done, self.lab)
        for name, value in self.state.numbers.items():
            if not math.isfinite(value):
                raise NonFiniteError(f"train/{name} is {value} at iteration {self.done}")
        self.done += 1
        if self.lab.device.type == "cuda":
            torch.cuda.synchronize(self.lab.device)
        self.train_s += time.monotonic() - started

    def look(self) -> None:
        """Takes a small picture where one is due."""
        method = self.job.method
        if method.ipc is not None and self.done in pictures.due(method.num_iterations) and self.done not in self.taken:
            self.taken[self.done] = pictures.small(self.synthetic_set())

    def is_due(self, every: int) -> bool:
        """Whether to evaluate after so many iterations, unless that was done before a stop."""
        newest = self.history[-1].step if self.history else 0
        return every > 0 and self.done % every == 0 and self.done > newest

    def synthetic_set(self) -> SyntheticSet:
        """Without soft labels, where a teacher takes their place."""
        made = self.job.method.synthetic_set(self.state, self.lab)
        return made if self.teacher_weights is None else replace(made, soft_labels=made.soft_labels[:0])

    @property
    def teacher_weights(self) -> dict[str, Tensor] | None:
        """Of the network that labels views, as it is now; None where labels are stored."""
        method, by_views = self.job.method, self.job.evaluation.labels == "views"
        return method.teacher.weights(self.state.tensors) if by_views and isinstance(method, Taught) else None

    def evaluated(self, splits: Mapping[str, DeviceSplit], *names: str) -> Outputs:
        """Trains fresh networks on what the set is now; the same ones at every evaluation but for the images.

        Raises `InterruptedJobError` when asked to stop; after the checkpoint that is left then, the evaluation begins anew.
        """
        job, synthetic = self.job, self.synthetic_set()
        outputs: dict[tuple[str, str], list[np.ndarray]] = {}
        models = {"": job.model} | {name_of(model): model for model in job.evaluation.architectures}
        for architecture, model in models.items():
            for network in self.networks(synthetic, model, job.evaluation):
                for split in names:
                    if split in splits:
                        outputs.setdefault((architecture, split), []).append(logits(network, splits[split]))
        return outputs

    def networks(self, synthetic: SyntheticSet, model: ModelBuilder, evaluation: Evaluation) -> Iterator[nn.Module]:
        """Fresh ones, each trained on the set by the recipe."""

        def ask() -> None:
            if self.should_stop():
                raise InterruptedJobError(self.done)

        label = None
        if evaluation.labels == "views":
            assert isinstance(self.job.method, Taught), "refused on construction"
            teacher = self.job.method.teacher.network(self.state.tensors, self.lab)
            label = partial(soft_labels, teacher, temperature=evaluation.temperature)
        for index in range(evaluation.networks):
            yield trained(
                synthetic,
                model=model,
                evaluation=evaluation,
                num_classes=self.lab.real.num_classes,
                seed=self.job.seed,
                index=index,
                between_epochs=ask,
                label=label,
            )

    def separated(self, outputs: Outputs, splits: Mapping[str, DeviceSplit]) -> list[Metric]:
        """What the set is worth without help, beside random images and all of them; nothing where nobody asks."""
        job, test = self.job, splits["test"]
        if not job.evaluation.separate or job.ipc is None:
            return []
        labels = test.labels.cpu().numpy()

        def measure(synthetic: SyntheticSet, evaluation: Evaluation) -> Mapping[str, float]:
            networks = self.networks(synthetic, job.model, evaluation)
            return mean_metrics([logits(network, test) for network in networks], labels)

        named = separated(
            measure,
            job.evaluation,
            found=mean_metrics(outputs["", "test"], labels),
            synthetic=self.synthetic_set(),
            random=random_images(job.ipc, self.lab, name="separate/random"),
            whole=real_images(torch.cat(self.lab.real.rows_of_class).to(self.lab.device), self.lab),
        )
        return self._rows(named)

    def metrics(self, outputs: Outputs, splits: Mapping[str, DeviceSplit]) -> list[Metric]:
        """Means over networks; those of other architectures under the split `test@NAME`."""
        named: dict[tuple[str, str], float] = {}
        for (architecture, split), of_networks in outputs.items():
            labels = splits[split].labels.cpu().numpy()
            shown = f"{split}@{architecture}" if architecture else split
            named |= {(shown, name): value for name, value in mean_metrics(of_networks, labels).items()}
        named |= {("train", name): value for name, value in self.state.numbers.items()}
        named |= {("train", name): float(size) for name, size in self.sizes().items()}
        if (flops := self.flops()) is not None:
            named["train", "flops"] = flops
        return self._rows(named)

    def sizes(self) -> dict[str, int]:
        """Bytes of all that networks are trained on, the teacher included where it labels views.

        Then also those of what would do instead of it: a label in float16 for every image that one network is shown.
        """
        synthetic, weights = self.synthetic_set(), self.teacher_weights
        if weights is None:
            return {"storage_bytes": synthetic.size_bytes}
        num_images = len(synthetic.images) * synthetic.factor**2
        views = num_images * self.job.evaluation.for_images(num_images).epochs
        return {
            "storage_bytes": synthetic.size_bytes + size_of(weights),
            "view_labels_bytes": views * self.lab.real.num_classes * 2,
        }

    def flops(self) -> float | None:
        """Counted work so far; None for a method whose work is not counted."""
        real = self.lab.real
        sizes = tuple(len(rows) for rows in real.rows_of_class)
        scene = Scene(model=self.lab.model, image_shape=real.split.image_shape, class_sizes=sizes)
        return flops_of(self.job.method, self.done, scene)

    def _rows(self, named: Mapping[tuple[str, str], float]) -> list[Metric]:
        """Numbers by split and name, as of now."""
        return [
            Metric(step=self.done, epoch=float(self.done), split=split, name=name, value=value, wall_s=self.train_s)
            for (split, name), value in named.items()
        ]

    def progress(self, metrics: list[Metric], outcome: Outcome | None = None) -> Progress:
        num_steps = max(1, self.job.method.num_iterations)
        return Progress(step=self.done, num_steps=num_steps, metrics=tuple(metrics), outcome=outcome)

    def outcome(self, outputs: Outputs, data: Dataset) -> Outcome:
        """The predictions are those of the first network of the job's model."""
        synthetic = self.synthetic_set()
        parts = {"val": data.val, "calib": data.calib, "test": data.test}
        with torch.device("meta"):
            network = self.job.model.build(image_shape=data.image_shape, num_classes=data.num_classes)
        num_parameters = sum(parameter.numel() for parameter in network.parameters())
        on_gpu = self.lab.device.type == "cuda"
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
            peak_memory_bytes=torch.cuda.max_memory_allocated(self.lab.device) if on_gpu else None,
        )

    def files(self, synthetic: SyntheticSet) -> dict[str, bytes]:
        """What the artifact holds, by name."""
        own = own_files(self.job.method, self.state, self.lab)
        weights = self.teacher_weights
        teacher = {} if weights is None else {"teacher.safetensors": file_of(weights)}
        return {**files_of(synthetic), **pictures.files(self.taken), **own, **teacher}

    def checkpoint(self, *, data: str) -> Checkpoint:
        """All that a bit-equal continuation needs; `data` is the fingerprint of the data set."""
        return Checkpoint(
            step=self.done,
            tensors={**self.state.tensors, **{f"{PICTURE}{step}": pixels for step, pixels in self.taken.items()}},
            state={},
            meta={
                "data": data,
                "numbers": dict(self.state.numbers),
                "train_s": self.train_s,
                "metrics": [asdict(metric) for metric in self.history],
            },
        )

    def restore(self, checkpoint: Checkpoint, *, data: str) -> None:
        """Stands where `checkpoint` was taken. Raises `ValueError` when it belongs to other data."""
        if checkpoint.meta["data"] != data:
            found = checkpoint.meta["data"]
            raise ValueError(f"the checkpoint was made on data {found}, this run has {data}; give another --out")
        held = checkpoint.tensors
        tensors = {name: tensor.to(self.lab.device) for name, tensor in held.items() if not name.startswith(PICTURE)}
        self.taken = {int(name.removeprefix(PICTURE)): held[name].cpu() for name in held.keys() - tensors.keys()}
        self.state = DistillState(tensors, checkpoint.meta["numbers"])
        self.done, self.train_s = checkpoint.step, checkpoint.meta["train_s"]
        self.history = [Metric(**row) for row in checkpoint.meta["metrics"]]


def files_of(synthetic: SyntheticSet) -> dict[str, bytes]:
    """What the artifact holds of the set: itself, and a picture of it."""
    picture = pictures.png(pictures.whole(synthetic))
    return {"synthetic_set.safetensors": synthetic.to_bytes(), "synthetic_set.png": picture}
