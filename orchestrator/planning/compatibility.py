"""Whether a folder holds the unfinished study of another spec, which a call would leave behind without a word."""

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pruneyard.orchestrator.errors import UsageError
from pruneyard.orchestrator.planning.plan import OVER, Plan
from pruneyard.orchestrator.spec.load import load_spec
from pruneyard.orchestrator.spec.run_key import differences
from pruneyard.reports.layout import RunFolder
from pruneyard.reports.planned import read_plan
from pruneyard.reports.records import Status
from pruneyard.reports.store import Store

logger = logging.getLogger(__name__)



ENDED = (*OVER, Status.FAILED)


MOST_COMPARED = 200  # jobs of either side; the nearest two are shown


def check_same_study(plan: Plan) -> None:
    """Raises `UsageError`, with the fields that differ, where the folder's spec planned jobs that have not ended and the new
    spec has none of its jobs. Jobs of which only some are left out are warned of.
    """
    earlier = read_plan(plan.folder) or frozenset()
    ours = {job.key: job.identity for job in plan.spec.jobs}
    left = [key for key in earlier - ours.keys() if plan.statuses.get(key, (None,))[0] not in ENDED]
    if not left or not ours:
        return
    if earlier & ours.keys():
        logger.warning("%d jobs of the spec that was run here before have not ended and are not in this one", len(left))
        return
    holds = f"holds a study of {len(earlier)} jobs, {len(left)} of which have not ended"
    lines = [f"{plan.folder.path}: {holds}, and this spec has none of them"]
    found = _nearest(dict(_identities(plan.folder, left)), ours)
    lines += ["the two nearest jobs differ in:"] if found else []
    lines += [f"  {name}: {old!r} there, {new!r} here" for name, old, new in found]
    lines += ["give the spec as it was, another --out, or --add to run this one in the same folder"]
    raise UsageError("\n".join(lines))


def _identities(folder: RunFolder, keys: Sequence[str]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Of the jobs of the folder's spec as it stands, which may have been changed by hand, and of the runs it has."""
    for row in Store(folder).runs().select(["run_key", "spec_json", "identity_json"]).to_pylist():
        yield row["run_key"], json.loads(row["identity_json"] or row["spec_json"])
    try:
        jobs = load_spec(folder.spec).jobs
    except (UsageError, FileNotFoundError):
        return  # it cannot be compared, and was not to be run
    yield from ((job.key, job.identity) for job in jobs if job.key in keys)


def _nearest(theirs: Mapping[str, Mapping[str, Any]], ours: Mapping[str, Mapping[str, Any]]) -> list[tuple[str, Any, Any]]:
    """The fields in which the most similar two differ."""
    pairs = (
        list(differences(old, new))
        for old in list(theirs.values())[:MOST_COMPARED]
        for new in list(ours.values())[:MOST_COMPARED]
    )
    return min(pairs, key=len, default=[])
