"""The reports of a training: metrics and curves of an evaluation, and the outcome of a finished training."""

from collections.abc import Mapping, Sequence

import safetensors.torch
import torch
from torch import Tensor

from pruneyard.workloads.data.batches import DeviceSplit
from pruneyard.workloads.data.dataset import Dataset
from pruneyard.workloads.interfaces import measured
from pruneyard.workloads.masks.explored import PackedMask
from pruneyard.workloads.masks.masks import active_per_layer, layer_densities
from pruneyard.workloads.masks.sparse_index import Mask, dense_mask
from pruneyard.workloads.metrics.classification import class_counts, reliability_of_logits, standard_metrics
from pruneyard.workloads.metrics.detection import extra_probability
from pruneyard.workloads.networks.builder import ModelBuilder
from pruneyard.workloads.networks.finished import Blueprint
from pruneyard.workloads.networks.model_source import sources_of
from pruneyard.workloads.networks.shared_tensors import state_once
from pruneyard.workloads.parents import Predictions
from pruneyard.workloads.plugins import table_of
from pruneyard.workloads.training.final_network import final_logits, final_network
from pruneyard.workloads.training.state import Training
from pruneyard.workloads.workload import CurvePoint, Metric, Outcome

MOMENTS_FILE = "swag.safetensors"  # moments of the averaged weights, if the recipe keeps them


def logits_of(training: Training, splits: Mapping[str, DeviceSplit], *names: str) -> dict[str, Tensor]:
    """Returns the logits on the named splits, without those that have no rows."""
    return {name: final_logits(training, splits[name]) for name in names if name in splits}


def metrics_at(
    training: Training,
    logits: Mapping[str, Tensor],
    splits: Mapping[str, DeviceSplit],
    *,
    epoch: float,
    mean_loss: float,
) -> list[Metric]:
    """Returns the standard metrics of every split, and metrics of the training itself under the split `train`.

    mean_loss: mean of the losses since the last evaluation.
    """
    named: dict[tuple[str, str], float] = {}
    for split, outputs in logits.items():
        labels = splits[split].labels.cpu().numpy()
        of_split = standard_metrics(outputs.numpy(), labels, num_extra=training.num_extra)
        of_split |= extra_probability(outputs.numpy(), num_extra=training.num_extra)
        named |= {(split, name): value for name, value in of_split.items()}
    named["train", "loss"] = mean_loss
    named["train", "density"] = density(training)
    named["train", "flops"] = training.train_flops
    named["train", "explored"] = explored_share(training)
    named |= {("train", name): value for name, value in training.rule.metrics.items()}
    # Sorted, because a resumed run has the tensors of its checkpoint in another order.
    named |= {("train", name): value for name, value in sorted(measured(training.applied.tensors).items())}
    if (spread := training.mean.spread) is not None:
        named["train", "average_spread"] = spread
    named |= {("train", name): value for name, value in training.backward.scale.metrics().items()}
    scalars = {name: tensor for name, tensor in sorted(training.memory.items()) if tensor.numel() == 1}
    named |= {("train", name): float(tensor) for name, tensor in scalars.items()}
    return metrics_of(training, named, epoch=epoch)


def metrics_of(training: Training, named: Mapping[tuple[str, str], float], *, epoch: float) -> list[Metric]:
    """Returns metrics of the current step from values by split and name."""
    return [
        Metric(step=training.step, epoch=epoch, split=split, name=name, value=value, wall_s=training.train_s)
        for (split, name), value in named.items()
    ]


def density_curve(training: Training) -> list[CurvePoint]:
    """Returns the density of every prunable layer, in module order; `count` is the layer's number of weights."""
    return [
        CurvePoint(
            name="density", step=training.step, key=name, x=i, y=y, count=training.applied.layers.sizes[name]
        )
        for i, (name, y) in enumerate(densities(training).items())
    ]


def reliability_curves(
    training: Training, logits: Mapping[str, Tensor], splits: Mapping[str, DeviceSplit]
) -> list[CurvePoint]:
    """Returns the non-empty bins of every split's reliability diagram: x confidence, y accuracy, count number of rows."""
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


def class_accuracy_curve(
    training: Training, logits: Mapping[str, Tensor], splits: Mapping[str, DeviceSplit], classes: Sequence[str]
) -> list[CurvePoint]:
    """Returns the accuracy on the test rows of every class that has some: x its number, y the accuracy, count its rows."""
    if "test" not in logits:
        return []
    counts = class_counts(logits["test"].numpy(), splits["test"].labels.cpu().numpy(), num_extra=training.num_extra)
    return [
        CurvePoint(
            name="class_accuracy",
            step=training.step,
            key=name,
            x=i,
            y=float(counts.accuracy[i]),
            count=int(counts.rows[i]),
        )
        for i, name in enumerate(classes)
        if counts.rows[i]
    ]


def outcome_of(
    training: Training,
    logits: Mapping[str, Tensor],
    data: Dataset,
    ood_predictions: dict[str, Predictions],
    *,
    model: ModelBuilder,
) -> Outcome:
    """Returns the outcome of a finished training, on the CPU; `ood_predictions` are those on out-of-distribution sets."""
    on_gpu, layers = training.device.type == "cuda", training.applied.layers
    with final_network(training):  # copied, because the context restores the trained weights
        weights = layers.finished_state(state_once(training.network))
    return Outcome(
        predictions={
            name: Predictions(row_ids=split.row_ids, labels=split.labels, logits=logits[name].numpy())
            for name, split in {"val": data.val, "calib": data.calib, "test": data.test}.items()
            if name in logits
        }
        | ood_predictions,
        weights=weights,
        masks={n: dense_mask(mask).cpu().contiguous() for n, mask in training.applied.used.items() if not layers.is_large(n)},
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
            prunable=training.recipe.prunable,
            pixels=data.pixels,
            sources=sources_of(model),
        ).table,
        files=_files(training),
    )


def _files(training: Training) -> dict[str, bytes]:
    """Returns the contents of additional artifact files by name."""
    moments = {name: tensor.cpu().contiguous() for name, tensor in training.mean.moment_tensors.items()}
    return {MOMENTS_FILE: safetensors.torch.save(moments)} if moments else {}


def num_active(training: Training) -> int:
    """Returns the number of unmasked parameters, including biases and norm parameters."""
    return num_parameters(training) - num_inactive(training.applied.used)


def num_parameters(training: Training) -> int:
    """Returns the number of all parameters, masked ones included."""
    stored = sum(parameter.numel() for parameter in training.network.parameters())
    return stored + training.applied.layers.num_left_out


def density(training: Training) -> float:
    """Returns the active share of all prunable weights, in [0, 1]; 1 without any."""
    total = sum(training.applied.layers.sizes.values())
    return 1 - (num_parameters(training) - num_active(training)) / max(total, 1)


def explored_share(training: Training) -> float:
    """Returns the share of all prunable weights that were active in some step so far.

    Reference: Liu et al. 2021, Do We Actually Need Dense Over-Parameterization? (arXiv:2102.02887).
    """
    total = sum(training.applied.layers.sizes.values())
    masks = {name: mask for name, mask in training.explored.items() if not isinstance(mask, PackedMask)}
    packed = [mask for mask in training.explored.values() if isinstance(mask, PackedMask)]
    return 1 - (num_inactive(masks) + sum(mask.numel() - mask.num_active for mask in packed)) / max(total, 1)


def densities(training: Training) -> dict[str, float]:
    """Returns the active share of every prunable layer by weight name; 1 for a layer without a mask."""
    return dict.fromkeys(training.weights, 1.0) | layer_densities(training.applied.used)


def num_inactive(masks: Mapping[str, Mask]) -> int:
    """Returns the number of False entries in all masks."""
    return sum(mask.numel() for mask in masks.values()) - sum(active_per_layer(masks).values())
