"""The runs that a spec planned for a folder, kept beside it, so that a page can say how many of them there are."""

import json
import logging
from collections.abc import Mapping, Sequence
from typing import Any

from reports.durable import write_durably
from reports.layout import RunFolder

logger = logging.getLogger(__name__)


def write_plan(folder: RunFolder, run_keys: Sequence[str], aims: Mapping[str, tuple[str, str]] | None = None) -> None:
    """Replace the plan of the folder.

    aims: what each stage that chooses among its runs does so by, and `max` or `min`; a spec without stages has one without a
    name.
    """
    told = {"run_keys": list(run_keys), "aims": {stage: list(aim) for stage, aim in (aims or {}).items()}}
    write_durably(folder.plan, json.dumps(told).encode())


def read_plan(folder: RunFolder) -> frozenset[str] | None:
    """The run keys that were planned; None where there is no plan, or none that can be read, which is logged."""
    plan = _read(folder)
    return None if plan is None else frozenset(plan["run_keys"])


def read_aims(folder: RunFolder) -> dict[str, tuple[str, str]]:
    """By stage, what was chosen by, and `max` or `min`; nothing where the plan does not say."""
    aims = (_read(folder) or {}).get("aims")
    return {
        stage: (str(aim[0]), str(aim[1]))
        for stage, aim in (aims.items() if isinstance(aims, dict) else ())
        if isinstance(aim, list) and len(aim) == 2 and aim[1] in ("max", "min")
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
