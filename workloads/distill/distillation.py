"""The state of a running distillation: its iterations, evaluations, previews, checkpoints and artifacts."""

import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from pruneyard.workloads.checkpoint import Checkpoint
from pruneyard.workloads.data.batches import DeviceSplit
from pruneyard.workloads.data.dataset import Dataset
from pruneyard.workloads.data.synthetic_set import SyntheticSet
from pruneyard.workloads.distill import previews
from pruneyard.workloads.distill.distiller import (
    DistillContext,
    Distiller,
    DistillState,
    LearnsRate,
    extra_files,
    should_evaluate,
)
from pruneyard.workloads.distill.evaluate import Evaluation, mean_metrics, predict_logits, train_network
from pruneyard.workloads.distill.flop_counting import ProblemSize, count_flops
from pruneyard.workloads.distill.selected import random_images, real_images
from pruneyard.workloads.distill.separation import measure_separation
from pruneyard.workloads.distill.teacher import HasTeacher, serialize_weights, size_bytes_of, soft_labels
from pruneyard.workloads.networks.builder import ModelBuilder
from pruneyard.workloads.parents import Predictions
from pruneyard.workloads.seeding import fork_rng, stream_seed
from pruneyard.workloads.workload import InterruptedJobError, Metric, NonFiniteError, Outcome, Progress

PREVIEW_PREFIX = "picture/"  # starts the names of previews in a checkpoint; the iteration follows

Outputs = Mapping[tuple[str, str], list[np.ndarray]]
"""Logits of all evaluation networks by (architecture, split); the name of the job's own model is the empty string."""


@dataclass(kw_only=True)
class Distillation:
    """The mutable state of a running job; the model of the context is the first architecture that is evaluated."""

    method: Distiller
    evaluation: Evaluation
    context: DistillContext
    state: DistillState
    should_stop: Callable[[], bool]
    num_done: int = 0  # completed iterations
    train_s: float = 0.0  # time of distillation, without evaluations
    history: list[Metric] = field(default_factory=list)
    previews: dict[int, Tensor] = field(default_factory=dict)  # by iteration

    @classmethod
    def start(
        cls, method: Distiller, evaluation: Evaluation, context: DistillContext, *, should_stop: Callable[[], bool]
    ) -> "Distillation":
        started = time.monotonic()
        with fork_rng(context.device, stream_seed(context.seed, "distill/start")):
            state = method.start(context)
        return cls(
            method=method,
            evaluation=evaluation,
            context=context,
            state=state,
            should_stop=should_stop,
            train_s=time.monotonic() - started,
        )

    def iterate(self) -> None:
        started = time.monotonic()
        # Dropout samples from the global generator, which no checkpoint holds and evaluations use too.
        with fork_rng(self.context.device, stream_seed(self.context.seed, "distill/iterate", self.num_done)):
            self.state = self.method.iterate(self.state, self.num_done, self.context)
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
        method = self.method
        is_due = self.num_done in previews.preview_iterations(method.num_iterations) and self.num_done not in self.previews
        if method.ipc is not None and is_due:
            self.previews[self.num_done] = previews.render_preview(self.synthetic_set())

    def should_evaluate(self, every: int) -> bool:
        """Returns whether to evaluate now; False if the evaluation was already made before the job was interrupted."""
        newest = self.history[-1].step if self.history else 0
        return should_evaluate(self.method, self.num_done, every=every, newest=newest)

    def synthetic_set(self) -> SyntheticSet:
        """Returns the current set; without soft labels if a teacher labels views instead."""
        made = self.method.synthetic_set(self.state, self.context)
        return made if self.teacher_weights is None else replace(made, soft_labels=made.soft_labels[:0])

    @property
    def teacher_weights(self) -> dict[str, Tensor] | None:
        """Current weights of the network that labels views; None if labels are stored."""
        method, by_views = self.method, self.evaluation.labels == "views"
        return method.teacher.weights(self.state.tensors) if by_views and isinstance(method, HasTeacher) else None

    def evaluate(self, splits: Mapping[str, DeviceSplit], *names: str) -> Outputs:
        """Trains new networks on the current set, with the same random numbers at every evaluation.

        Raises `InterruptedJobError` on a stop request; the resumed job then repeats the whole evaluation.
        """
        synthetic = self.synthetic_set()
        outputs: dict[tuple[str, str], list[np.ndarray]] = {}
        models = [self.context.model, *self.evaluation.architectures]
        for architecture, model in zip(["", *self.evaluation.architecture_names], models, strict=True):
            for network in self.train_networks(synthetic, model, self.evaluation):
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
            assert isinstance(self.method, HasTeacher), "refused on construction"
            teacher = self.method.teacher.network(self.state.tensors, self.context)
            label = partial(soft_labels, teacher, temperature=evaluation.temperature)
        if evaluation.learned_rate and isinstance(self.method, LearnsRate):
            evaluation = replace(evaluation, lr=self.method.learned_rate(self.state))
        for index in range(evaluation.networks):
            yield train_network(
                synthetic,
                model=model,
                evaluation=evaluation,
                num_classes=self.context.real.num_classes,
                seed=self.context.seed,
                index=index,
                between_epochs=raise_if_stopped,
                label=label,
            )

    def separation_metrics(self, outputs: Outputs, splits: Mapping[str, DeviceSplit]) -> list[Metric]:
        """Returns metrics of the set without augmentation and soft labels, compared with random images and with all images.

        The list is empty unless `evaluation.dd_ranking` is true.
        """
        ipc, test = self.method.ipc, splits["test"]
        if not self.evaluation.dd_ranking or ipc is None:
            return []
        labels = test.labels.cpu().numpy()

        def measure(synthetic: SyntheticSet, evaluation: Evaluation) -> Mapping[str, float]:
            networks = self.train_networks(synthetic, self.context.model, evaluation)
            return mean_metrics([predict_logits(network, test) for network in networks], labels)

        named = measure_separation(
            measure,
            self.evaluation,
            baseline=mean_metrics(outputs["", "test"], labels),
            synthetic=self.synthetic_set(),
            random=random_images(ipc, self.context, name="separate/random"),
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
        views = num_images * self.evaluation.for_images(num_images).epochs
        return {
            "storage_bytes": synthetic.size_bytes + size_bytes_of(weights),
            "view_labels_bytes": views * self.context.real.num_classes * 2,
        }

    def flops(self) -> float | None:
        """Returns the counted FLOPs so far; None for a method that does not count them."""
        real = self.context.real
        sizes = tuple(len(rows) for rows in real.rows_of_class)
        problem = ProblemSize(model=self.context.model, image_shape=real.split.image_shape, class_sizes=sizes)
        return count_flops(self.method, self.num_done, problem)

    def _rows(self, named: Mapping[tuple[str, str], float]) -> list[Metric]:
        """Returns values by (split, name) as metrics of the current iteration."""
        return [
            Metric(step=self.num_done, epoch=float(self.num_done), split=split, name=name, value=value, wall_s=self.train_s)
            for (split, name), value in named.items()
        ]

    def progress(self, metrics: list[Metric], outcome: Outcome | None = None) -> Progress:
        num_steps = max(1, self.method.num_iterations)
        return Progress(step=self.num_done, num_steps=num_steps, metrics=tuple(metrics), outcome=outcome)

    def outcome(self, outputs: Outputs, data: Dataset) -> Outcome:
        """Returns the outcome of the job; the predictions are those of the first network of the job's model."""
        synthetic = self.synthetic_set()
        parts = {"val": data.val, "calib": data.calib, "test": data.test}
        with torch.device("meta"):
            network = self.context.model.build(image_shape=data.image_shape, num_classes=data.num_classes)
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
            files={} if self.method.ipc is None else self.files(synthetic),
            num_parameters=num_parameters,
            num_active=num_parameters,
            train_flops=self.flops(),
            train_s=self.train_s,
            peak_memory_bytes=torch.cuda.max_memory_allocated(self.context.device) if on_gpu else None,
        )

    def files(self, synthetic: SyntheticSet) -> dict[str, bytes]:
        """Returns the artifacts by file name."""
        own = extra_files(self.method, self.state, self.context)
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
