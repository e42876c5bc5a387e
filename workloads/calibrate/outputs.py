"""Stored outputs of finished runs by split, of one run or averaged over several, as the inputs of calibration.

Dimensions: N rows, C outputs (classes and extra outputs).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import log_softmax, logsumexp

from pruneyard.workloads.calibrate.evidence import blocks
from pruneyard.workloads.calibrate.members import pooled_logits
from pruneyard.workloads.parents import FinishedRun, Predictions
from pruneyard.workloads.plugins import find, names

Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Outputs:
    """Outputs on one split: `logits: (N, C)` float64, `labels: (N,)`, -1 for OOD inputs, and `row_ids: (N,)`.

    uncertainty: for several members, by name in `UNCERTAINTY_METRICS`, (N,) in nats.
    """

    logits: Floats
    labels: NDArray[np.int64]
    row_ids: NDArray[np.int64]
    uncertainty: Mapping[str, Floats] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.labels)


def needed_splits(tables: Mapping[str, Any]) -> dict[str, tuple[str, ...]]:
    """Returns the splits of which the input runs of a job must have predictions, by the key of `tables` that names the runs."""
    return {"input": ("test", "val" if tables.get("fit") == "val" else "calib")}


def outputs_of(runs: Sequence[FinishedRun]) -> tuple[dict[str, Outputs], int]:
    """Returns outputs by split, averaged over the runs, and the number of extra outputs (last columns that are not classes).

    Members of an ensemble are averaged as probabilities before calibration, and returned as logarithms. Raises `ValueError`
    for a run without predictions, and for runs that did not predict the same rows.

    Reference: Lakshminarayanan, Pritzel and Blundell 2017, Deep Ensembles (arXiv:1612.01474)
    """
    predictions = [run.predictions() for run in runs]
    extra = {run.num_extra for run in runs}
    if len(extra) > 1:
        raise ValueError(f"runs have {sorted(extra)} extra outputs beyond the classes; the numbers must be equal")
    first, key = predictions[0], runs[0].run_key
    for run, other in zip(runs[1:], predictions[1:], strict=True):
        _check_same_rows(first, other, key=key, other_key=run.run_key)
    found = {}
    for split, rows in first.items():
        logits = [np.asarray(member[split].logits, dtype=np.float64) for member in predictions]
        if len(logits) == 1:
            found[split] = Outputs(logits=logits[0], labels=rows.labels, row_ids=rows.row_ids)
        else:
            found[split] = outputs_of_members(np.stack(logits), labels=rows.labels, row_ids=rows.row_ids)
    return found, extra.pop()


def outputs_of_members(
    logits_MNC: NDArray[np.floating], *, labels: NDArray[np.int64], row_ids: NDArray[np.int64]
) -> Outputs:
    """Returns members averaged as probabilities with their uncertainty; computed in blocks of rows, in float64."""
    mixed, parts = [], []
    for rows in blocks(len(labels)):
        of_block = logits_MNC[:, rows].astype(np.float64)
        mixed.append(averaged(of_block))
        parts.append(pooled_logits(of_block).uncertainty)
    return Outputs(
        logits=np.concatenate(mixed),
        labels=labels,
        row_ids=row_ids,
        uncertainty={name: np.concatenate([part[name] for part in parts]) for name in parts[0]},
    )


def saw_val(run: FinishedRun) -> bool:
    """Returns whether the run's objective learned from the rows of `val`, so that they are no longer held out."""
    name = run.spec.get("objective", {}).get("name")
    return name in names("objectives") and bool(getattr(find("objectives", name), "fits_val", False))


def averaged(logits: Sequence[Floats] | Floats) -> Floats:
    """Returns the logarithm (N, C) of the mean probabilities of members' logits, each (N, C)."""
    # The mean is computed in logarithms, in which tiny probabilities do not become 0.
    stacked = np.stack([log_softmax(member, axis=1) for member in logits])
    return np.asarray(logsumexp(stacked, axis=0) - np.log(len(logits)))


def _check_same_rows(
    one: Mapping[str, Predictions], other: Mapping[str, Predictions], *, key: str, other_key: str
) -> None:
    if set(one) != set(other):
        raise ValueError(f"{other_key} predicted splits {sorted(other)}, but {key} {sorted(one)}; they must be equal")
    for split, rows in one.items():
        theirs = other[split]
        same = np.array_equal(rows.row_ids, theirs.row_ids) and np.array_equal(rows.labels, theirs.labels)
        if not same or rows.logits.shape != theirs.logits.shape:
            raise ValueError(f"{other_key} and {key} predicted different rows of {split}; ensemble members must share them")
