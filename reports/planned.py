"""The runs that a spec planned for a folder, kept beside it, so that a page can say how many of them there are."""

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pruneyard.reports.durable import write_durably
from pruneyard.reports.layout import RunFolder

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Population:
    """Trainings in parts that belong together: what the best of them is chosen by, `max` or `min`, and their runs."""

    measure: str
    best_is: str
    run_keys: frozenset[str]


def write_plan(folder: RunFolder, run_keys: Sequence[str], populations: Mapping[str, Population] | None = None) -> None:
    """Replace the plan of the folder. Populations are named by their stages; that of a spec without stages has no name."""
    told = {
        name: {"measure": one.measure, "best_is": one.best_is, "run_keys": sorted(one.run_keys)}
        for name, one in (populations or {}).items()
    }
    write_durably(folder.plan, json.dumps({"run_keys": list(run_keys), "populations": told}).encode())


def read_plan(folder: RunFolder) -> frozenset[str] | None:
    """The run keys that were planned; None where there is no plan, or none that can be read, which is logged."""
    plan = _read(folder)
    return None if plan is None else frozenset(plan["run_keys"])


def read_populations(folder: RunFolder) -> dict[str, Population]:
    """By stage; none where the plan tells of none."""
    told = (_read(folder) or {}).get("populations")
    return {
        stage: Population(one["measure"], one["best_is"], frozenset(one["run_keys"]))
        for stage, one in (told.items() if isinstance(told, dict) else ())
        if isinstance(one, dict) and {"measure", "best_is", "run_keys"} <= one.keys() and isinstance(one["run_keys"], list)
    }


def _read(folder: RunFolder) -> dict[str, Any] | None:
    if not folder.plan.is_file():
        return None
    try:
        plan = json.loads(folder.plan.read_bytes())
    except ValueError:
        plan = None
    keys = plan.get("run_keys") if isinstance(plan, dict) else None
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
        logger.warning('%s is left out: it must be a JSON object {"run_keys": [...]}', folder.plan)
        return None
    return dict(plan)
