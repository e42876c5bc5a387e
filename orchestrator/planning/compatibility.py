"""Compares the jobs of a spec with the runs of a folder: finds the nearest known run, and refuses to drop an unfinished study."""

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pruneyard.orchestrator.errors import UsageError
from pruneyard.orchestrator.planning.plan import Plan
from pruneyard.orchestrator.spec.job import Job
from pruneyard.orchestrator.spec.load import load_spec
from pruneyard.orchestrator.spec.renamed_keys import with_all_present_keys
from pruneyard.orchestrator.spec.run_key import differences
from pruneyard.reports.layout import RunFolder
from pruneyard.reports.planned import read_plan
from pruneyard.reports.records import Status
from pruneyard.reports.store import Store

logger = logging.getLogger(__name__)

UNFINISHED = (None, Status.INTERRUPTED)  # a FAILED job counts as finished here: another spec may replace it
MAX_COMPARED = 200  # jobs per side of the error message; the comparison is quadratic


@dataclass(frozen=True, kw_only=True)
class NearestRun:
    """The known run that differs from a job in the fewest fields.

    differences: dotted key, the run's value and the job's value of each of these fields.
    """

    run_key: str
    differences: Sequence[tuple[str, Any, Any]]

    def lines(self) -> list[str]:
        """Returns one line of text for each field that differs."""
        return [f"  {name}: {old!r} there, {new!r} here" for name, old, new in self.differences]


def nearest_run(known: Mapping[str, Mapping[str, Any]], jobs: Sequence[Job]) -> NearestRun | None:
    """Returns the known run that differs from any of the jobs in the fewest fields; None where no run is known.

    known: identities by run key. Of several runs that are equally near the first one wins.
    """
    # Identities have the first names of keys; a message shows the present ones, which specs now use.
    classes = {type(job.workload) for job in jobs}
    present = {cls: {key: with_all_present_keys(cls, old) for key, old in known.items()} for cls in classes}
    own = [(type(job.workload), with_all_present_keys(type(job.workload), job.identity)) for job in jobs]
    compared = (
        NearestRun(run_key=key, differences=list(differences(present[cls][key], identity)))
        for key in known
        for cls, identity in own
    )
    return min(compared, key=lambda run: len(run.differences), default=None)


def recorded_identities(folder: RunFolder) -> dict[str, Mapping[str, Any]]:
    """Returns the identity of every run in the folder's run table, by run key."""
    rows = Store(folder).runs().select(["run_key", "spec_json", "identity_json"]).to_pylist()
    # Null in rows that were written before this column existed.
    return {row["run_key"]: json.loads(row["identity_json"] or row["spec_json"]) for row in rows}


def check_same_study(plan: Plan) -> None:
    """Raises `UsageError` where the folder holds an unfinished study and the new spec has none of its jobs.

    The message lists the fields in which the two nearest jobs differ. Where the new spec leaves out only some of the
    unfinished jobs, a warning is logged instead.
    """
    planned_before = read_plan(plan.folder) or frozenset()
    own_keys = {job.key for job in plan.spec.jobs}
    dropped = [key for key in planned_before - own_keys if plan.statuses.get(key, (None,))[0] in UNFINISHED]
    if not dropped or not own_keys:
        return
    if planned_before & own_keys:
        logger.warning("%d unfinished jobs of the spec that this folder was last run with are not in this spec", len(dropped))
        return
    holds = f"holds a study of {len(planned_before)} jobs, {len(dropped)} of which are not finished"
    lines = [f"{plan.folder.path}: {holds}, and this spec has none of them"]
    known = recorded_identities(plan.folder) | _planned_identities(plan.folder, dropped)
    nearest = nearest_run(dict(list(known.items())[:MAX_COMPARED]), plan.spec.jobs[:MAX_COMPARED])
    lines += ["the two nearest jobs differ in:", *nearest.lines()] if nearest and nearest.differences else []
    lines += ["give the spec that was run before, another --out, or --add to run this spec in the same folder"]
    raise UsageError("\n".join(lines))


def _planned_identities(folder: RunFolder, keys: Sequence[str]) -> dict[str, Mapping[str, Any]]:
    """Returns the identities of those jobs of the folder's spec that have these keys."""
    try:
        jobs = load_spec(folder.spec).jobs
    except (UsageError, FileNotFoundError):
        return {}  # the user may have edited spec.yaml; the recorded runs are compared without it
    return {job.key: job.identity for job in jobs if job.key in keys}
