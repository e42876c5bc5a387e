"""Chooses, of the runs that a reference names, those with predictions of the splits that a job needs."""

import logging
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from pruneyard.orchestrator.spec.referenced_run import AnyRun, Run
from pruneyard.orchestrator.spec.run_key import canonical
from pruneyard.reports.layout import RunFolder
from pruneyard.reports.predictions import FILE, read_splits

logger = logging.getLogger(__name__)

_FRACTIONS = {"val": "val_fraction", "calib": "calib_fraction"}


def lacked_splits(workload: Any) -> frozenset[str]:
    """Returns those of test, val and calib of which a job, once it has run, will have no predictions."""
    if not getattr(workload, "keep_predictions", True):
        return frozenset({"test", *_FRACTIONS})
    source = getattr(workload, "data", None)
    root = None if source is None else source.rests_on()
    return frozenset(split for split, name in _FRACTIONS.items() if getattr(root, name, None) == 0)


def lacked_in(folder: RunFolder, splits: Sequence[str]) -> Callable[[Run], frozenset[str]]:
    """Returns a function that tells of which of these splits a finished run in the folder has no predictions."""
    known: dict[str, frozenset[str]] = {}

    def lacked(run: Run) -> frozenset[str]:
        path = folder.artifact(run.run_key) / FILE
        if not path.is_file():
            return frozenset(splits)
        # Runs that differ only in their seed have the same splits.
        group = canonical([run.kind, {name: value for name, value in run.identity.items() if name != "seed"}])
        if group not in known:
            known[group] = read_splits(path)
        return frozenset(splits) - known[group]

    return lacked


@dataclass(frozen=True, kw_only=True)
class Chosen:
    """The runs with predictions of all splits, and in words why the others are left out."""

    runs: Sequence[Any]
    reasons: str


def choose(runs: Sequence[AnyRun], splits: Sequence[str], lacked: Callable[[AnyRun], frozenset[str]]) -> Chosen:
    """Returns the runs that have predictions of all splits."""
    missing = {run.run_key: lacked(run) & frozenset(splits) for run in runs}
    counts = Counter((run.kind, tuple(sorted(missing[run.run_key]))) for run in runs if missing[run.run_key])
    reasons = [
        f"{num} of kind {kind} with no predictions" + ("" if len(lost) == len(splits) else f" of {' and '.join(lost)}")
        for (kind, lost), num in counts.items()
    ]
    return Chosen(runs=[run for run in runs if not missing[run.run_key]], reasons=", ".join(reasons))
