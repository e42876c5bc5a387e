"""Finds finished networks that compute the same function, by a hash of their outputs.

The hash is that of the predicted classes on standard normal inputs. Networks with equal hashes are compared by their
log-probabilities: those that differ by at most `tolerance` compute the same function, however their weights are arranged.
`num_functions` is the number of different functions, `num_hashes` that of different hashes; hashes of different functions
that are equal are collisions. The curve `function` gives every run the number of its function. The same for any network, such as
a candidate of a search, is in `pruneyard.workloads.networks.functions`.

Only the abstract was read. Unverified: that the hash is made of predicted classes, and the comparison after it.

Reference: Gillard et al. 2023, Unified Functional Hashing in Automatic Machine Learning (arXiv:2302.05433)
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from pruneyard.workloads.networks.functions import TOLERANCE, KnownFunctions, hash_of, log_probabilities
from pruneyard.workloads.probe.probe import Finding, Subject
from pruneyard.workloads.workload import CurvePoint

__all__ = ["FunctionalHash"]


@dataclass(frozen=True, kw_only=True)
class FunctionalHash:
    """num_inputs: of the random inputs. tolerance: largest difference of a log-probability, in nats."""

    fewest_runs: ClassVar[int] = 2
    most_runs: ClassVar[int | None] = None
    reads_data: ClassVar[bool] = False

    num_inputs: int = 256
    tolerance: float = TOLERANCE

    def __post_init__(self) -> None:
        if self.num_inputs < 1:
            raise ValueError(f"num_inputs is {self.num_inputs}; it must be 1 or more")
        if not 0 <= self.tolerance < math.inf:
            raise ValueError(f"tolerance is {self.tolerance}; it must be 0 or more")

    def measure(self, subjects: Sequence[Subject], *, seed: int) -> Finding:
        """Returns the number of different functions. Runs may have different models, if inputs and classes have equal shapes."""
        known = KnownFunctions(tolerance=self.tolerance)
        hashes: list[str] = []
        firsts: dict[str, int] = {}
        numbers: list[int] = []
        for subject in subjects:
            inputs = subject.finished.random_images(self.num_inputs, seed=seed).to(subject.device)
            outputs = log_probabilities(subject.network(), inputs, num_classes=subject.num_classes)
            hashes.append(hash_of(outputs))
            first = known.add(subject.run.run_key, outputs) or subject.run.run_key
            numbers.append(firsts.setdefault(first, len(firsts)))
        found = {
            "num_functions": len(firsts),
            "num_hashes": len(set(hashes)),
            "duplicate_share": 1 - len(firsts) / len(numbers),
        }
        curves = tuple(
            CurvePoint(name="function", step=1, key=subject.run.run_key, x=float(place), y=float(number), count=self.num_inputs)
            for place, (subject, number) in enumerate(zip(subjects, numbers, strict=True))
        )
        return Finding(metrics={("function", name): float(value) for name, value in found.items()}, curves=curves)
