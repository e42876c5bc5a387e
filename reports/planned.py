"""Reads and writes the plan of a results folder: the run keys that its newest spec planned."""

import json
import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pruneyard.reports.durable import write_durably
from pruneyard.reports.layout import RunFolder

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Population:
    """A population of segmented trainings: the measure of its objective, `max` or `min`, and its runs."""

    measure: str
    best_is: str
    run_keys: frozenset[str]


def write_plan(
    folder: RunFolder,
    run_keys: Sequence[str],
    populations: Mapping[str, Population] | None = None,
    *,
    chosen_from: Collection[str] = (),
    chosen_per: Mapping[str, Sequence[str]] | None = None,
    is_complete: bool = True,
    started_in: str | None = None,
) -> None:
    """Replaces the plan of the folder.

    populations: by the name of their stage; the population of a spec without stages has an empty name.
    chosen_from: the stages whose runs serve to choose settings for fresh seeds in a later stage.
    chosen_per: of each stage that trains chosen settings, the dotted spec keys for each of whose values a setting was chosen.
    is_complete: whether the searches of the spec have proposed all their runs, so that `run_keys` will not grow.
    started_in: the folder from which the spec names code, data and other results; None for one that does not last.
    """
    told = {
        # Sorted, since a set has no order: equal plans give equal files.
        name: {"measure": one.measure, "best_is": one.best_is, "run_keys": sorted(one.run_keys)}
        for name, one in (populations or {}).items()
    }
    choice = {"chosen_from": sorted(chosen_from), "chosen_per": {name: list(keys) for name, keys in (chosen_per or {}).items()}}
    plan = {"run_keys": list(run_keys), "is_complete": is_complete, "populations": told, **choice, "started_in": started_in}
    write_durably(folder.plan, json.dumps(plan).encode())


def read_plan(folder: RunFolder) -> frozenset[str] | None:
    """Returns the planned run keys; None if there is no plan, or it is unreadable, which is logged."""
    plan = _read(folder)
    return None if plan is None else frozenset(plan["run_keys"])


def plan_is_complete(folder: RunFolder) -> bool | None:
    """Returns whether all runs of the folder's study are in the plan, and no search will propose more.

    None where there is no plan that can be read, or an older version wrote it and did not say.
    """
    is_complete = (_read(folder) or {}).get("is_complete")
    return is_complete if isinstance(is_complete, bool) else None


def read_started_in(folder: RunFolder) -> str | None:
    """Returns the folder from which the spec names code, data and other results; None if the plan names none."""
    told = (_read(folder) or {}).get("started_in")
    return told if isinstance(told, str) else None


def read_chosen_from(folder: RunFolder) -> frozenset[str]:
    """Returns the stages whose runs serve to choose settings for fresh seeds; empty if the plan names none."""
    told = (_read(folder) or {}).get("chosen_from")
    return frozenset(name for name in told if isinstance(name, str)) if isinstance(told, list) else frozenset()


def read_chosen_per(folder: RunFolder) -> dict[str, list[str]]:
    """Returns the spec keys per whose values the settings of a stage were chosen, by stage; empty if the plan names none."""
    told = (_read(folder) or {}).get("chosen_per")
    return {
        stage: [key for key in keys if isinstance(key, str)]
        for stage, keys in (told.items() if isinstance(told, dict) else ())
        if isinstance(keys, list)
    }


def read_populations(folder: RunFolder) -> dict[str, Population]:
    """Returns the populations of the plan by stage; empty if it has none."""
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
    # Of invalid JSON and of invalid UTF-8 alike.
    except ValueError:
        plan = None
    keys = plan.get("run_keys") if isinstance(plan, dict) else None
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
        logger.warning('skipping %s: it must be a JSON object {"run_keys": [...]}', folder.plan)
        return None
    return dict(plan)
