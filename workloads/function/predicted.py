"""Checks the outputs that a function saves on a split, and computes what the page shows of them."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch

from pruneyard.workloads.metrics.classification import reliability_of_logits, standard_metrics
from pruneyard.workloads.parents import Predictions
from pruneyard.workloads.workload import CurvePoint


def as_predictions(split: str, labels: Any, logits: Any, *, row_ids: Any = None) -> Predictions:
    """Returns the outputs on one split as stored. Raises `ValueError` for arrays that do not fit, see `save_predictions`."""
    if split not in ("val", "calib", "test") and not (is_ood(split) and split != "ood."):
        raise ValueError(f"split is {split!r}; it must be val, calib, test or ood.NAME")
    labels_N, logits_NC = _array(labels), _array(logits)
    if logits_NC.ndim != 2 or logits_NC.shape[1] < 2 or logits_NC.dtype.kind not in "iuf":
        shape = f"shape {logits_NC.shape} of {logits_NC.dtype}"
        raise ValueError(f"logits of {split} have {shape}; they must be numbers (N, C), C at least 2")
    if labels_N.shape != (len(logits_NC),) or not len(labels_N) or labels_N.dtype.kind not in "iu":
        raise ValueError(
            f"labels of {split} have shape {labels_N.shape} of {labels_N.dtype}; they must be one whole number for each of the "
            f"{len(logits_NC)} rows of logits"
        )
    if not np.isfinite(logits_NC).all():
        raise ValueError(f"logits of {split} are not all finite; they must be numbers without NaN and infinity")
    low, high = (-1, -1) if is_ood(split) else (0, logits_NC.shape[1] - 1)
    if labels_N.min() < low or labels_N.max() > high:
        raise ValueError(
            f"labels of {split} lie in {labels_N.min()} ... {labels_N.max()}; they must lie in {low} ... {high}"
        )
    ids = np.arange(len(labels_N)) if row_ids is None else _array(row_ids)
    if ids.shape != labels_N.shape or ids.dtype.kind not in "iu":
        raise ValueError(
            f"row_ids of {split} have shape {ids.shape} of {ids.dtype}; they must be a whole number for each row"
        )
    return Predictions(
        row_ids=ids.astype(np.int64), labels=labels_N.astype(np.int64), logits=logits_NC.astype(np.float32)
    )


def is_ood(split: str) -> bool:
    """Returns whether a split holds inputs of no class."""
    return split.startswith("ood.")


def metrics_of(predictions: Mapping[str, Predictions]) -> dict[tuple[str, str], float]:
    """Returns the standard metrics of every split with labels, by split and name."""
    return {
        (split, name): value
        for split, outputs in predictions.items()
        if not is_ood(split)
        for name, value in standard_metrics(outputs.logits, outputs.labels).items()
    }


def reliability_points(predictions: Mapping[str, Predictions], *, step: int) -> Iterator[CurvePoint]:
    """Yields the non-empty reliability bins of every split with labels: x confidence, y accuracy, count rows."""
    for split, outputs in predictions.items():
        if is_ood(split):
            continue
        bins = reliability_of_logits(outputs.logits, outputs.labels)
        for x, y, count in zip(bins.confidence, bins.accuracy, bins.count, strict=True):
            if count:
                yield CurvePoint(
                    name="reliability", step=step, key=split, x=float(x), y=float(y), count=int(count)
                )


def _array(values: Any) -> np.ndarray:
    if not isinstance(values, torch.Tensor):
        return np.asarray(values)
    # NumPy has no bfloat16, in which networks under autocast answer.
    return (values.float() if values.is_floating_point() else values).detach().cpu().numpy()
