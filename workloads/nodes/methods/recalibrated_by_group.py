"""Fits one post-hoc calibrator per predicted class, on the validation nodes with that prediction.

A class with too few nodes, or with nodes of one label only, uses a calibrator fitted on all nodes. `train/groups_fitted` counts
the classes with their own calibrator.

Reference: Guo et al., On calibration of modern neural networks (ICML 2017), in each group by itself
"""

from dataclasses import dataclass, field
from typing import Annotated

import numpy as np

from pruneyard.workloads.calibrate.calibrator import Calibrator, FittedCalibrator
from pruneyard.workloads.calibrate.methods.temperature import Temperature
from pruneyard.workloads.fields import renamed
from pruneyard.workloads.metrics.classification import Floats, Labels
from pruneyard.workloads.nodes.node_method import Readout, Untuned
from pruneyard.workloads.plugins import Plugin

__all__ = ["RecalibratedByGroup"]

GROUPS = ("majority", "minority")


@dataclass(frozen=True, kw_only=True)
class RecalibratedByGroup(Untuned):
    calibrator: Annotated[Calibrator, Plugin("calibrate.methods")] = Temperature()
    # smallest number of nodes that a group calibrator is fitted on
    min_samples: int = field(default=20, metadata=renamed("fewest"))

    def __post_init__(self) -> None:
        if self.min_samples < 2:
            raise ValueError(f"min_samples is {self.min_samples}; it must be at least 2")

    @property
    def uses_val(self) -> bool:
        """Always true."""
        return True

    def readout(self, logits: Floats, labels: Labels, *, seed: int) -> Readout:
        """Returns a readout that applies the calibrator of each node's predicted class."""
        predicted = logits.argmax(axis=1)
        shared = self.calibrator.fit(logits, labels, seed=seed)
        fitted: dict[int, FittedCalibrator] = {}
        for group in range(len(GROUPS)):
            rows = predicted == group
            # Calibrators refuse rows of one label only.
            if rows.sum() >= self.min_samples and len(np.unique(labels[rows])) > 1:
                fitted[group] = self.calibrator.fit(logits[rows], labels[rows], seed=seed)

        def log_probabilities(given: Floats) -> Floats:
            found = shared.log_probabilities(given)
            for group, calibrator in fitted.items():
                # Groups are those of the uncalibrated prediction, as in the fit.
                rows = given.argmax(axis=1) == group
                if rows.any():
                    found[rows] = calibrator.log_probabilities(given[rows])
            return found

        named = {"all": shared} | {GROUPS[group]: calibrator for group, calibrator in fitted.items()}
        own = {name: calibrator for name, calibrator in named.items() if name != "all"}
        return Readout(
            log_probabilities=log_probabilities,
            numbers={"groups_fitted": float(len(fitted))}
            | {f"{key}_{name}": value for name, c in own.items() for key, value in c.numbers.items()},
            tensors={
                f"{name}/{key}": tensor for name, c in named.items() for key, tensor in c.tensors.items()
            },
        )
