"""Accuracy, ECE and NLL of a finished network under corrupted test images, over corruption and severity.

A metric of the split `shift.NAME` is the mean over the severities above 0 of one corruption, that of `shift` the mean over
corruptions, and `shift.clean` is that of the images as they are. The curves `shift_accuracy`, `shift_ece` and `shift_nll` have a
point for each corruption and severity, 0 being the clean images.

Reference: Hendrycks and Dietterich 2019, Benchmarking Neural Network Robustness to Common Corruptions and Perturbations
(arXiv:1903.12261); see `workloads/data/corruptions/catalogue.py`
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import torch
from torch import nn

from pruneyard.workloads.data.corruptions.catalogue import SEVERITIES, STANDARD, check_corruption, corrupt
from pruneyard.workloads.data.dataset import Split
from pruneyard.workloads.metrics.classification import standard_metrics
from pruneyard.workloads.plugins import Settings
from pruneyard.workloads.probe.probe import BATCH_SIZE, Finding, Subject, check_max_samples, logits_of
from pruneyard.workloads.workload import CurvePoint

__all__ = ["Shift"]

NAMES = ("accuracy", "ece", "nll")


@dataclass(frozen=True, kw_only=True)
class Shift:
    """corruptions: their names, by default the fifteen of CIFAR-10-C. max_samples: test rows, evenly spread; left out: all."""

    examples: ClassVar[tuple[Settings, ...]] = (
        {"corruptions": ["rotation", "gaussian_noise"], "severities": [1, 5], "max_samples": 50},
    )
    fewest_runs: ClassVar[int] = 1
    most_runs: ClassVar[int | None] = 1
    reads_data: ClassVar[bool] = True

    corruptions: tuple[str, ...] = STANDARD
    severities: tuple[int, ...] = SEVERITIES
    max_samples: int | None = None

    def __post_init__(self) -> None:
        for place, name in enumerate(self.corruptions):
            check_corruption(name, field=f"corruptions[{place}]")
        for field, values in (("corruptions", self.corruptions), ("severities", self.severities)):
            if not values or len(set(values)) < len(values):
                raise ValueError(f"{field} is {list(values)}; it must list at least one, none of them twice")
        if not set(self.severities) <= set(SEVERITIES):
            raise ValueError(f"severities is {list(self.severities)}; they must lie in 1 ... 5")
        check_max_samples(self.max_samples)

    def measure(self, subjects: Sequence[Subject], *, seed: int) -> Finding:
        """Returns the metrics on clean and on corrupted test rows."""
        (subject,) = subjects
        network, rows = subject.network(), subject.split("test", self.max_samples)
        clean = self._metrics(subject, network, rows)
        metrics = {("shift.clean", name): value for name, value in clean.items()}
        curves = []
        means = []
        for corruption in self.corruptions:
            by_severity = {0: clean}
            for severity in self.severities:
                shifted = _corrupted(rows, corruption, severity, seed=seed, device=subject.device)
                by_severity[severity] = self._metrics(subject, network, shifted)
            curves += _points(corruption, by_severity, len(rows))
            means.append({name: float(np.mean([by_severity[s][name] for s in self.severities])) for name in NAMES})
            metrics |= {(f"shift.{corruption}", name): value for name, value in means[-1].items()}
        metrics |= {("shift", name): float(np.mean([mean[name] for mean in means])) for name in NAMES}
        return Finding(metrics=metrics, curves=tuple(curves))

    def _metrics(self, subject: Subject, network: nn.Module, rows: Split) -> dict[str, float]:
        logits = logits_of(network, subject.on_device(rows), num_classes=subject.num_classes)
        values = standard_metrics(logits.numpy(), rows.labels)
        return {name: values[name] for name in NAMES}


def _corrupted(rows: Split, corruption: str, severity: int, *, seed: int, device: torch.device) -> Split:
    """Returns the rows with corrupted images. Raises `ValueError` if they are features."""
    if not rows.pixels:
        raise ValueError("the data has features; only images can be corrupted")
    images, row_ids = torch.from_numpy(rows.images), torch.from_numpy(rows.row_ids)
    parts = [
        corrupt(images[part].to(device), corruption, severity, rows=row_ids[part], seed=seed).cpu()
        for part in torch.arange(len(rows)).split(BATCH_SIZE)
    ]
    return replace(rows, images=torch.cat(parts).numpy())


def _points(corruption: str, by_severity: Mapping[int, Mapping[str, float]], count: int) -> list[CurvePoint]:
    return [
        CurvePoint(name=f"shift_{name}", step=1, key=corruption, x=float(severity), y=values[name], count=count)
        for name in NAMES
        for severity, values in by_severity.items()
    ]
