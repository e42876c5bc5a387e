"""Selective prediction: the risk of answering only the most confident rows.

Rows are ranked by falling confidence. Metrics are averages over all orders of rows with equal confidence, so no metric depends on
the order of rows.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from pruneyard.workloads.metrics.probabilities import Floats, TopLabel


@dataclass(frozen=True, kw_only=True)
class RiskCoverage:
    """The risk-coverage curve for k = 1 ... N answered rows, `(N,)` each.

    coverage: share of answered rows; errors: expected number of errors among them; risk: errors divided by k.
    """

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
        # The last value is the total number of errors; the fractions of ties add up to it only up to rounding.
        return self.area - optimal_aurc(round(float(self.errors[-1])), len(self.errors))

    @property
    def joint_area(self) -> float:
        """AUGRC."""
        return float(self.errors.mean() / len(self.errors))


def risk_coverage(probabilities: ArrayLike, labels: ArrayLike) -> RiskCoverage:
    """Returns the risk-coverage curve. Reference: Geifman and El-Yaniv (NeurIPS 2017, arXiv:1705.08500)."""
    return risk_coverage_of_top_labels(TopLabel.from_probabilities(probabilities, labels))


def risk_coverage_of_top_labels(top: TopLabel) -> RiskCoverage:
    """Returns the risk-coverage curve of confidences and correctness."""
    num_answered, errors = np.arange(1, len(top) + 1), _expected_errors(top)
    return RiskCoverage(coverage=num_answered / len(top), errors=errors, risk=errors / num_answered)


def aurc(probabilities: ArrayLike, labels: ArrayLike) -> float:
    """Returns the area under the risk-coverage curve: the mean of the risk over k = 1 ... N answered rows.

    Reference: Geifman, Uziel and El-Yaniv (ICLR 2019, arXiv:1805.08206).
    """
    return risk_coverage(probabilities, labels).area


def optimal_aurc(num_errors: int, num_rows: int) -> float:
    """Returns the smallest possible AURC with this number of errors, all ranked last; exact, not the limit for many rows."""
    if not 0 <= num_errors <= num_rows or num_rows < 1:
        raise ValueError(
            f"num_errors is {num_errors} of {num_rows} rows; it must lie in 0 ... {num_rows}, and num_rows must be at least 1"
        )
    error_ranks = np.arange(num_rows - num_errors + 1, num_rows + 1)
    return float(np.sum((error_ranks - (num_rows - num_errors)) / error_ranks) / num_rows)


def e_aurc(probabilities: ArrayLike, labels: ArrayLike) -> float:
    """Returns AURC minus that of the best order of the same rows; 0 if confidence ranks all errors last.

    Reference: Geifman, Uziel and El-Yaniv (ICLR 2019, arXiv:1805.08206).
    """
    return risk_coverage(probabilities, labels).excess_area


def augrc(probabilities: ArrayLike, labels: ArrayLike) -> float:
    """Returns the mean over k = 1 ... N answered rows of their errors divided by N, so that early ranks have no larger weight.

    Reference: Traub et al. (NeurIPS 2024, arXiv:2407.01032).
    """
    return risk_coverage(probabilities, labels).joint_area


def _expected_errors(top: TopLabel) -> Floats:
    """Returns the errors among the k most confident rows, k = 1 ... N, averaged over orders of equally confident rows."""
    rising = top.ascending()
    wrong = 1.0 - rising.correct[::-1]
    confidence = rising.confidence[::-1]
    # First row of every group of equal confidences.
    first = np.flatnonzero(np.append(True, confidence[1:] != confidence[:-1]))
    # On average over the orders of a group, each of its places has the group's mean error.
    if len(first) < len(top):
        size = np.diff(np.append(first, len(top)))
        wrong = np.repeat(np.add.reduceat(wrong, first) / size, size)
    return np.cumsum(wrong)
