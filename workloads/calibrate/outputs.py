"""What finished networks said of the rows of every split, one of them or several averaged, as the inputs of calibration.

Dimensions: N rows, C outputs (the classes and those beyond them).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import log_softmax, logsumexp

from workloads.earlier import FinishedRun
from workloads.workload import Predictions

Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Outputs:
    """`logits: (N, C)` float64 of one split, `labels: (N,)`, -1 for unknown inputs, and `row_ids: (N,)`."""

    logits: Floats
    labels: NDArray[np.int64]
    row_ids: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.labels)


def outputs_of(runs: Sequence[FinishedRun]) -> tuple[dict[str, Outputs], int]:
    """Outputs by split and how many of the last columns are no classes; of several runs averaged.

    Members of an ensemble are averaged as probabilities, before anything is calibrated, and given as their logarithms.
    Raises `ValueError` for a run without predictions, and for runs that did not predict the same rows.

    Reference: Lakshminarayanan, Pritzel and Blundell 2017, Deep Ensembles (arXiv:1612.01474)
    """
    said = [run.predictions() for run in runs]
    extra = {run.num_extra for run in runs}
    if len(extra) > 1:
        raise ValueError(f"runs have {sorted(extra)} outputs beyond the classes; they must have equally many")
    first, key = said[0], runs[0].run_key
    for run, other in zip(runs[1:], said[1:], strict=True):
        _check_same_rows(first, other, key=key, other_key=run.run_key)
    found = {}
    for split, rows in first.items():
        logits = [np.asarray(member[split].logits, dtype=np.float64) for member in said]
        mixed = logits[0] if len(logits) == 1 else averaged(logits)
        found[split] = Outputs(logits=mixed, labels=rows.labels, row_ids=rows.row_ids)
    return found, extra.pop()


def averaged(logits: Sequence[Floats]) -> Floats:
    """Logarithm (N, C) of the mean of the probabilities of members' logits, each (N, C)."""
    stacked = np.stack([log_softmax(member, axis=1) for member in logits])
    return np.asarray(logsumexp(stacked, axis=0) - np.log(len(logits)))


def _check_same_rows(
    one: Mapping[str, Predictions], other: Mapping[str, Predictions], *, key: str, other_key: str
) -> None:
    if set(one) != set(other):
        raise ValueError(f"{other_key} predicted {sorted(other)} and {key} {sorted(one)}; they must be the same splits")
    for split, rows in one.items():
        theirs = other[split]
        same = np.array_equal(rows.row_ids, theirs.row_ids) and np.array_equal(rows.labels, theirs.labels)
        if not same or rows.logits.shape != theirs.logits.shape:
            raise ValueError(f"{other_key} and {key} predicted other rows of {split}; members of an ensemble must share them")
