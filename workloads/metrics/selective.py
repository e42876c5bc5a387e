"""Selective prediction: what risk is left when only the most confident rows are answered.

Rows are ranked by falling confidence. Rows of equal confidence are in no order: what stands for them is the mean over all
their orders, so no measure depends on the order of rows.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from pruneyard.workloads.metrics.probabilities import Floats, TopLabel


@dataclass(frozen=True, kw_only=True)
class RiskCoverage:
    """For k = 1 ... N answered rows `(N,)`: the share answered, the expected errors among these, and their share."""

    coverage: Floats
    errors: Floats
    risk: Floats

    @property
    def area(self) -> float:
        """AURC."""
        return float(self.risk.mean())

    @property
    def excess_area(self) -> float:
        """E-AURC."""
        return self.area - optimal_aurc(round(float(self.errors[-1])), len(self.errors))

    @property
    def joint_area(self) -> float:
        """AUGRC."""
        return float(self.errors.mean() / len(self.errors))


def risk_coverage(probabilities: ArrayLike, labels: ArrayLike) -> RiskCoverage:
    """The whole curve. Reference: Geifman and El-Yaniv (NeurIPS 2017, arXiv:1705.08500)."""
    return risk_coverage_of(TopLabel.of(probabilities, labels))


def risk_coverage_of(top: TopLabel) -> RiskCoverage:
    """The same of confidences."""
    num_answered, errors = np.arange(1, len(top) + 1), _expected_errors(top)
    return RiskCoverage(coverage=num_answered / len(top), errors=errors, risk=errors / num_answered)


def aurc(probabilities: ArrayLike, labels: ArrayLike) -> float:
    """Area under the risk-coverage curve: the mean of the risk over k = 1 ... N answered rows.

    Reference: Geifman, Uziel and El-Yaniv (ICLR 2019, arXiv:1805.08206).
    """
    return risk_coverage(probabilities, labels).area


def optimal_aurc(num_errors: int, num_rows: int) -> float:
    """The least AURC there is with so many errors: all of them ranked last. Exact, not the limit for many rows."""
    if not 0 <= num_errors <= num_rows or num_rows < 1:
        raise ValueError(
            f"num_errors is {num_errors} of {num_rows} rows; it must lie in 0 ... {num_rows}, of at least 1"
        )
    late = np.arange(num_rows - num_errors + 1, num_rows + 1)
    return float(np.sum((late - (num_rows - num_errors)) / late) / num_rows)


def e_aurc(probabilities: ArrayLike, labels: ArrayLike) -> float:
    """AURC less that of the best order of the same rows: 0 where confidence ranks all errors last.

    Reference: Geifman, Uziel and El-Yaniv (ICLR 2019, arXiv:1805.08206).
    """
    return risk_coverage(probabilities, labels).excess_area


def augrc(probabilities: ArrayLike, labels: ArrayLike) -> float:
    """Mean over k = 1 ... N answered rows of the errors among them over N, so that early ranks weigh no more than late ones.

    Reference: Traub et al. (NeurIPS 2024, arXiv:2407.01032).
    """
    return risk_coverage(probabilities, labels).joint_area


def _expected_errors(top: TopLabel) -> Floats:
    """Errors among the k most confident rows, k = 1 ... N, on average over orders of equally confident ones."""
    rising = top.ascending()
    wrong = 1.0 - rising.correct[::-1]
    confidence = rising.confidence[::-1]
    first = np.flatnonzero(np.append(True, confidence[1:] != confidence[:-1]))
    if len(first) < len(top):
        size = np.diff(np.append(first, len(top)))
        wrong = np.repeat(np.add.reduceat(wrong, first) / size, size)
    return np.cumsum(wrong)
