"""What an evaluation says of a training: metrics, curves, and in the end what the training leaves."""

from collections.abc import Mapping

import safetensors.torch
import torch
from torch import Tensor

from pruneyard.workloads.data.batches import DeviceSplit
from pruneyard.workloads.data.dataset import Dataset
from pruneyard.workloads.masks.masks import active_per_layer, layer_densities
from pruneyard.workloads.metrics.classification import reliability_of_logits, standard_metrics
from pruneyard.workloads.networks.builder import ModelBuilder
from pruneyard.workloads.networks.finished import Blueprint
from pruneyard.workloads.parents import Predictions
from pruneyard.workloads.plugins import table_of
from pruneyard.workloads.training.state import Training
from pruneyard.workloads.workload import CurvePoint, Metric, Outcome

MOMENTS_FILE = "swag.safetensors"  # moments of the averaged weights, where the recipe keeps them


def logits_of(training: Training, splits: Mapping[str, DeviceSplit], *names: str) -> dict[str, Tensor]:
    """Outputs on those of the named splits that have rows."""
    return {name: training.logits(splits[name]) for name in names if name in splits}


def metrics_at(
    training: Training,
    logits: Mapping[str, Tensor],
    splits: Mapping[str, DeviceSplit],
    *,
    epoch: float,
    mean_loss: float,
) -> list[Metric]:
    """Standard metrics per split, and the training's own: mean loss since the last evaluation, density, explored."""
    named: dict[tuple[str, str], float] = {}
    for split, outputs in logits.items():
        labels = splits[split].labels.cpu().numpy()
        of_split = standard_metrics(outputs.numpy(), labels, num_extra=training.num_extra)
        named |= {(split, name): value for name, value in of_split.items()}
    named["train", "loss"] = mean_loss
    named["train", "density"] = density(training)
    named["train", "flops"] = training.train_flops
    named["train", "explored"] = explored_share(training)
    named |= {("train", name): value for name, value in training.rule.numbers.items()}
    named |= {("train", name): value for name, value in training.backward.scale.numbers().items()}
    remembered = {name: tensor for name, tensor in sorted(training.memory.items()) if tensor.numel() == 1}
    named |= {("train", name): float(tensor) for name, tensor in remembered.items()}
    return metrics_of(training, named, epoch=epoch)


def metrics_of(training: Training, named: Mapping[tuple[str, str], float], *, epoch: float) -> list[Metric]:
    """Numbers by split and name, as of now."""
    return [
        Metric(step=training.step, epoch=epoch, split=split, name=name, value=value, wall_s=training.train_s)
        for (split, name), value in named.items()
    ]


def density_curve(training: Training) -> list[CurvePoint]:
    """Density of every prunable layer, in network order; `count` is the layer's number of weights."""
    return [
        CurvePoint(
            name="density", step=training.step, key=name, x=i, y=y, count=training.weights[name].numel()
        )
        for i, (name, y) in enumerate(densities(training).items())
    ]


def reliability_curves(
    training: Training, logits: Mapping[str, Tensor], splits: Mapping[str, DeviceSplit]
) -> list[CurvePoint]:
    """Filled bins of the reliability diagram of every split: x confidence, y accuracy, count rows."""
    points = []
    for split, outputs in logits.items():
        labels = splits[split].labels.cpu().numpy()
        bins = reliability_of_logits(outputs.numpy(), labels, num_extra=training.num_extra)
        points += [
            CurvePoint(name="reliability", step=training.step, key=split, x=float(x), y=float(y), count=int(count))
            for x, y, count in zip(bins.confidence, bins.accuracy, bins.count, strict=True)
            if count
        ]
    return points


def outcome_of(
    training: Training,
    logits: Mapping[str, Tensor],
    data: Dataset,
    shown: dict[str, Predictions],
    *,
    model: ModelBuilder,
) -> Outcome:
    """Returns the outcome of a finished training, on the CPU; `shown` holds its outputs on out-of-distribution sets."""
    on_gpu = training.device.type == "cuda"
    with training.finished():
        weights = {
            name: tensor.detach().cpu().clone() for name, tensor in training.network.state_dict().items()
        }
    return Outcome(
        predictions={
            name: Predictions(row_ids=split.row_ids, labels=split.labels, logits=logits[name].numpy())
            for name, split in {"val": data.val, "calib": data.calib, "test": data.test}.items()
            if name in logits
        }
        | shown,
        weights=weights,
        masks={name: mask.cpu() for name, mask in training.sparse.used.items()},
        num_parameters=num_parameters(training),
        num_active=num_active(training),
        train_flops=training.train_flops,
        train_s=training.train_s,
        peak_memory_bytes=torch.cuda.max_memory_allocated(training.device) if on_gpu else None,
        num_extra=training.num_extra,
        blueprint=Blueprint(
            model=table_of(model),
            image_shape=data.image_shape,
            num_outputs=data.num_classes + training.num_extra,
            mean=data.mean,
            std=data.std,
        ).table,
        files=_files(training),
    )


def _files(training: Training) -> dict[str, bytes]:
    moments = {name: tensor.cpu().contiguous() for name, tensor in training.mean.moment_tensors.items()}
    return {MOMENTS_FILE: safetensors.torch.save(moments)} if moments else {}


def num_active(training: Training) -> int:
    """Parameters that are not masked, biases and norms included."""
    return num_parameters(training) - num_outside(training.sparse.used)


def num_parameters(training: Training) -> int:
    return sum(parameter.numel() for parameter in training.network.parameters())


def density(training: Training) -> float:
    """Active share of all prunable weights."""
    total = sum(weight.numel() for weight in training.weights.values())
    return 1 - (num_parameters(training) - num_active(training)) / total


def explored_share(training: Training) -> float:
    """Share of all prunable weights that were used in some step so far.

    Reference: Liu et al. 2021, Do We Actually Need Dense Over-Parameterization? (arXiv:2102.02887).
    """
    total = sum(weight.numel() for weight in training.weights.values())
    return 1 - num_outside(training.explored) / total


def densities(training: Training) -> dict[str, float]:
    """Active share of every prunable layer, 1 where the method keeps no mask."""
    return dict.fromkeys(training.weights, 1.0) | layer_densities(training.sparse.used)


def num_outside(masks: Mapping[str, Tensor]) -> int:
    """Entries that are False."""
    return sum(mask.numel() for mask in masks.values()) - sum(active_per_layer(masks).values())
