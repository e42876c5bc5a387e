"""Which of several finished networks compute the same function, by a hash of their outputs.

The hash is that of the predicted classes on standard normal inputs. Networks with equal hashes are compared by their
log-probabilities: those that differ by at most `tolerance` compute the same function, however their weights are arranged.
`num_functions` is the number of different functions, `num_hashes` that of different hashes; hashes of different functions
that are equal are collisions. The curve `function` gives every run the number of its function.

Only the abstract was at hand. Unverified: that the hash is made of predicted classes, and the comparison after it.

Reference: Gillard et al. 2023, Unified Functional Hashing in Automatic Machine Learning (arXiv:2302.05433)
"""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

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
    tolerance: float = 1e-3

    def __post_init__(self) -> None:
        if self.num_inputs < 1:
            raise ValueError(f"num_inputs is {self.num_inputs}; it must be 1 or more")
        if not 0 <= self.tolerance < math.inf:
            raise ValueError(f"tolerance is {self.tolerance}; it must be 0 or more")

    def measure(self, subjects: Sequence[Subject], *, seed: int) -> Finding:
        """Returns the number of different functions. Runs may have different models, if inputs and classes have equal shapes."""
        outputs = [self._log_probabilities(subject, seed=seed) for subject in subjects]
        hashes = [hash_of(logits) for logits in outputs]
        numbers = functions(hashes, outputs, tolerance=self.tolerance)
        found = {
            "num_functions": len(set(numbers)),
            "num_hashes": len(set(hashes)),
            "duplicate_share": 1 - len(set(numbers)) / len(numbers),
        }
        curves = tuple(
            CurvePoint(name="function", step=1, key=subject.run.run_key, x=float(place), y=float(number), count=self.num_inputs)
            for place, (subject, number) in enumerate(zip(subjects, numbers, strict=True))
        )
        return Finding(metrics={("function", name): float(value) for name, value in found.items()}, curves=curves)

    @torch.no_grad()
    def _log_probabilities(self, subject: Subject, *, seed: int) -> Tensor:
        """Returns (N, K) on the CPU; inputs depend on the seed and their shape alone."""
        inputs = subject.finished.random_images(self.num_inputs, seed=seed).to(subject.device)
        logits: Tensor = subject.network()(inputs)[:, : subject.num_classes]
        return logits.float().log_softmax(dim=1).cpu()


def hash_of(outputs: Tensor) -> str:
    """Returns 16 hexadecimal digits of the predicted classes of outputs (N, K)."""
    classes = outputs.argmax(dim=1).to(torch.int64).numpy()
    return hashlib.blake2b(classes.tobytes(), digest_size=8).hexdigest()


def functions(hashes: Sequence[str], outputs: Sequence[Tensor], *, tolerance: float) -> list[int]:
    """Returns the number of the function of every network, counted from 0 in their order.

    A network has the function of the first one with the same hash from which it differs by at most `tolerance`.
    """
    found: list[int] = []
    firsts: list[int] = []
    for place, output in enumerate(outputs):
        alike = [(number, first) for number, first in enumerate(firsts) if hashes[first] == hashes[place]]
        same = (number for number, first in alike if _is_close(outputs[first], output, tolerance))
        number = next(same, len(firsts))
        if number == len(firsts):
            firsts.append(place)
        found.append(number)
    return found


def _is_close(one: Tensor, other: Tensor, tolerance: float) -> bool:
    return one.shape == other.shape and float((one - other).abs().max()) <= tolerance
