"""Accuracy, accuracy under shift and quality of attributions over a population, and how they correlate.

Each network gets its test accuracy, its mean accuracy over the corruptions and severities of the probe `shift`, and the areas
of the probe `attribution`, whose `insertion_gain` is the quality of its attributions. `rank_accuracy_shifted`,
`rank_accuracy_explained` and `rank_shifted_explained` are Spearman correlations over the networks. `rank_confidence_insertion`
and `rank_confidence_deletion` correlate the raw areas with the mean confidence: where they are large, these areas rank networks
by confidence rather than by their attributions. A correlation is left out where one side does not vary. Few networks make large
correlations by chance: `rank_chance` is the magnitude that 5% of unrelated populations of this size exceed, by Fisher's
approximation.

The curves `shifted_accuracy_of_runs` and `insertion_gain_of_runs` have a point for each network: `x` is its test accuracy.

The paper evaluates nine attributions on ImageNet networks, against human annotations; here it is one attribution and no
annotation.

Reference: Nourelahi et al. 2023, How explainable are adversarially-robust CNNs? (arXiv:2205.13042)
"""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from scipy.stats import spearmanr

from pruneyard.workloads.data.corruptions.catalogue import SEVERITIES, STANDARD
from pruneyard.workloads.plugins import Settings
from pruneyard.workloads.probe.methods.attribution import Attribution
from pruneyard.workloads.probe.methods.shift import Shift
from pruneyard.workloads.probe.probe import Finding, Subject, logits_of
from pruneyard.workloads.probe.saliency import Attribution as Method
from pruneyard.workloads.workload import CurvePoint

__all__ = ["RobustExplain"]

TWO_SIDED_5 = 1.959964  # standard normal quantile


@dataclass(frozen=True, kw_only=True)
class RobustExplain:
    """by: what ranks the pixels. corruptions, severities: as in `shift`. max_samples: test rows, evenly spread; left out: all."""

    examples: ClassVar[tuple[Settings, ...]] = (
        {"num_steps": 4, "corruptions": ["rotation"], "severities": [3], "max_samples": 40},
    )
    fewest_runs: ClassVar[int] = 3
    most_runs: ClassVar[int | None] = None
    reads_data: ClassVar[bool] = True

    by: Method = "integrated_gradients"
    num_steps: int = 16
    corruptions: tuple[str, ...] = STANDARD
    severities: tuple[int, ...] = SEVERITIES
    max_samples: int | None = 500

    def __post_init__(self) -> None:
        self._attribution()
        self._shift()

    def _attribution(self) -> Attribution:
        return Attribution(by=self.by, num_steps=self.num_steps, max_samples=self.max_samples)

    def _shift(self) -> Shift:
        return Shift(corruptions=self.corruptions, severities=self.severities, max_samples=self.max_samples)

    def measure(self, subjects: Sequence[Subject], *, seed: int) -> Finding:
        """Returns means and correlations over the runs."""
        found = [self._of(subject, seed=seed) for subject in subjects]
        by_name = {name: np.array([values[name] for values in found]) for name in found[0]}
        metrics = {("population", name): float(values.mean()) for name, values in by_name.items()}
        metrics |= {("population", f"rank_{pair}"): value for pair, value in correlations(by_name).items()}
        if len(subjects) > 3:
            metrics["population", "rank_chance"] = math.tanh(TWO_SIDED_5 / math.sqrt(len(subjects) - 3))
        curves = tuple(
            CurvePoint(name=f"{name}_of_runs", step=1, key=subject.run.run_key, x=values["accuracy"], y=values[name], count=1)
            for name in ("insertion_gain", "shifted_accuracy")
            for subject, values in zip(subjects, found, strict=True)
        )
        return Finding(metrics=metrics, curves=curves)

    def _of(self, subject: Subject, *, seed: int) -> dict[str, float]:
        """Returns the criteria of one network."""
        shifted = self._shift().measure([subject], seed=seed).metrics
        attributed = self._attribution().measure([subject], seed=seed).metrics
        rows = subject.on_device(subject.split("test", self.max_samples))
        logits = logits_of(subject.network(), rows, num_classes=subject.num_classes)
        return {
            "accuracy": shifted["shift.clean", "accuracy"],
            "shifted_accuracy": shifted["shift", "accuracy"],
            "insertion_gain": attributed["attribution", "insertion_gain"],
            "insertion": attributed["attribution", "insertion"],
            "deletion": attributed["attribution", "deletion"],
            "mean_confidence": float(logits.softmax(dim=1).amax(dim=1).mean()),
        }


SHORT = {
    "accuracy": "accuracy",
    "shifted_accuracy": "shifted",
    "insertion_gain": "explained",
    "mean_confidence": "confidence",
    "insertion": "insertion",
    "deletion": "deletion",
}
PAIRS = (
    *itertools.combinations(("accuracy", "shifted_accuracy", "insertion_gain"), 2),
    ("mean_confidence", "insertion"),
    ("mean_confidence", "deletion"),
)


def correlations(by_name: Mapping[str, np.ndarray]) -> dict[str, float]:
    """Returns Spearman correlations of criteria (runs,) by pair; without those of a criterion that does not vary."""
    return {
        f"{SHORT[one]}_{SHORT[other]}": float(spearmanr(by_name[one], by_name[other]).statistic)
        for one, other in PAIRS
        if np.ptp(by_name[one]) > 0 and np.ptp(by_name[other]) > 0
    }
