"""The report of a finished merge: its metrics beside those of its members and of their ensemble, curves, and the outcome."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from pruneyard.workloads.data.batches import DeviceSplit
from pruneyard.workloads.data.dataset import Dataset, Split
from pruneyard.workloads.masks.masks import layer_densities, prunable_weights
from pruneyard.workloads.merge.context import MergeContext
from pruneyard.workloads.merge.member import Member
from pruneyard.workloads.merge.merger import MergedNetwork, MergedOutputs
from pruneyard.workloads.metrics.classification import class_counts, reliability_of_logits
from pruneyard.workloads.networks.finished import FinishedNetwork
from pruneyard.workloads.networks.shared_tensors import state_once
from pruneyard.workloads.parents import Predictions
from pruneyard.workloads.training.ood_evaluation import evaluate_ood
from pruneyard.workloads.workload import CurvePoint, Metric, Outcome, Progress

COMPARED = ("val", "test")  # splits on which the members and their ensemble are evaluated too
NO_LOGITS = np.zeros((0, 0), dtype=np.float32)


@dataclass(frozen=True, kw_only=True)
class Result:
    """A finished merge.

    network: the merged network; None for a merge of outputs.
    fits_val: whether the method fitted numbers on `val`, which is then not evaluated.
    elapsed: seconds of merging.
    """

    members: Sequence[Member]
    merged: MergedNetwork | MergedOutputs
    network: FinishedNetwork | None
    merging: MergeContext
    fits_val: bool
    elapsed: float

    def logits(self) -> dict[str, Tensor]:
        """Returns the logits (N, K) of the result on every split that is evaluated."""
        names = [name for name in ("val", "calib", "test") if name in self.merging.splits]
        return {name: self._on_split(name) for name in names if not (name == "val" and self.fits_val)}

    def _on_split(self, split: str) -> Tensor:
        if self.network is None:
            return self._combined([self.merging.member_logits(member, split) for member in self.members])
        return self.merging.logits(self.network.network.state_dict(), split)

    def on_rows(self, rows: DeviceSplit) -> Tensor:
        """Returns the logits of the result on other rows."""
        if self.network is None:
            return self._combined([self.merging.member_logits_on(member, rows) for member in self.members])
        return self.merging.logits_on(self.network.network.state_dict(), rows)

    def _combined(self, logits: Sequence[Tensor]) -> Tensor:
        assert isinstance(self.merged, MergedOutputs)
        return self.merged.combine(torch.stack(list(logits)))


def progress_of(
    result: Result, *, data: Dataset, ood: Mapping[str, Split], on_device: Callable[[Split], DeviceSplit]
) -> Progress:
    """Returns the only report of a merge; `ood` are the rows of the out-of-distribution sets by split name."""
    logits = result.logits()
    named = _own_metrics(result, logits) | _compared_metrics(result)
    of_ood, ood_predictions = evaluate_ood(
        ood,
        lambda split: result.on_rows(on_device(split)).numpy(),
        known=logits["test"].numpy() if ood else NO_LOGITS,
        num_extra=result.merging.num_extra,
    )
    splits = {"val": data.val, "calib": data.calib, "test": data.test}
    predictions = {
        name: Predictions(row_ids=splits[name].row_ids, labels=splits[name].labels, logits=found.numpy())
        for name, found in logits.items()
    }
    return Progress(
        step=1,
        num_steps=1,
        metrics=tuple(
            Metric(step=1, epoch=0.0, split=split, name=name, value=value, wall_s=result.elapsed)
            for (split, name), value in (named | of_ood).items()
        ),
        curves=(*_density_curve(result.network), *_output_curves(result, logits, data.classes), *_share_curve(result)),
        outcome=_outcome(result, predictions | ood_predictions),
    )


def _own_metrics(result: Result, logits: Mapping[str, Tensor]) -> dict[tuple[str, str], float]:
    found = {(split, name): v for split, outputs in logits.items() for name, v in result.merging.metrics(outputs, split).items()}
    found["train", "num_members"] = float(len(result.members))
    if result.network is not None:
        found["train", "density"] = result.network.density
    return found | {("train", name): value for name, value in result.merged.numbers.items()}


def _compared_metrics(result: Result) -> dict[tuple[str, str], float]:
    """Returns the metrics of the ensemble of members, of the best one on `val`, and their mean over members."""
    merging, found = result.merging, dict[tuple[str, str], float]()
    for split in COMPARED:
        if split not in merging.splits:
            continue
        ensemble = averaged_outputs([merging.member_logits(member, split) for member in result.members])
        by_member = [merging.member_metrics(member, split) for member in result.members]
        found |= {(f"{split}@ensemble", name): value for name, value in merging.metrics(ensemble, split).items()}
        found |= {(f"{split}@mean_member", name): float(np.mean([m[name] for m in by_member])) for name in by_member[0]}
        if "val" in merging.splits:
            best = max(result.members, key=lambda member: merging.member_metrics(member, "val")["accuracy"])
            found |= {(f"{split}@best_member", name): v for name, v in merging.member_metrics(best, split).items()}
    return found


def averaged_outputs(logits: Sequence[Tensor]) -> Tensor:
    """Returns the logarithm (N, K) of the mean probabilities of members' logits, each (N, K)."""
    stacked = torch.stack([member.double().log_softmax(1) for member in logits])
    averaged: Tensor = stacked.logsumexp(0) - math.log(len(logits))
    return averaged.float()


def _density_curve(network: FinishedNetwork | None) -> Iterator[CurvePoint]:
    """Yields the density of every prunable layer in module order; `count` is the layer's number of weights."""
    if network is None:
        return
    weights, densities = prunable_weights(network.network), layer_densities(network.masks)
    for place, (name, weight) in enumerate(weights.items()):
        yield CurvePoint(name="density", step=1, key=name, x=place, y=densities.get(name, 1.0), count=weight.numel())


def _output_curves(result: Result, logits: Mapping[str, Tensor], classes: Sequence[str]) -> Iterator[CurvePoint]:
    """Yields the reliability bins of every split, and the accuracy of every class on the test rows."""
    num_extra = result.merging.num_extra
    for split, outputs in logits.items():
        labels = result.merging.splits[split].labels.cpu().numpy()
        bins = reliability_of_logits(outputs.numpy(), labels, num_extra=num_extra)
        for x, y, count in zip(bins.confidence, bins.accuracy, bins.count, strict=True):
            if count:
                yield CurvePoint(name="reliability", step=1, key=split, x=float(x), y=float(y), count=int(count))
        if split == "test":
            counts = class_counts(outputs.numpy(), labels, num_extra=num_extra)
            for place, name in enumerate(classes):
                if count := int(counts.rows[place]):
                    y = float(counts.accuracy[place])
                    yield CurvePoint(name="class_accuracy", step=1, key=name, x=place, y=y, count=count)


def _share_curve(result: Result) -> Iterator[CurvePoint]:
    """Yields the share of every member in the result, where the method chooses shares."""
    for place, (run_key, share) in enumerate(result.merged.shares.items()):
        yield CurvePoint(name="merge_share", step=1, key=run_key, x=place, y=share, count=1)


def _outcome(result: Result, predictions: dict[str, Predictions]) -> Outcome:
    network, device = result.network, result.merging.device
    of_network = {} if network is None else state_once(network.network)
    num_parameters = None if network is None else sum(p.numel() for p in network.network.parameters())
    num_masked = 0 if network is None else sum(int((~mask).sum()) for mask in network.masks.values())
    return Outcome(
        predictions=predictions,
        weights={name: tensor.detach().cpu().clone() for name, tensor in of_network.items()},
        masks={} if network is None else dict(network.masks),
        num_parameters=num_parameters,
        num_active=None if num_parameters is None else num_parameters - num_masked,
        train_flops=result.merging.flops,
        train_s=result.elapsed,
        peak_memory_bytes=torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None,
        num_extra=result.merging.num_extra,
        blueprint=None if network is None else network.blueprint.table,
    )
