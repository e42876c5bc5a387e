"""The runs that a spec planned for a folder, kept beside it, so that a page can say how many of them there are."""

import json
import logging
from collections.abc import Sequence

from reports.durable import write_durably
from reports.layout import RunFolder

logger = logging.getLogger(__name__)


def write_plan(folder: RunFolder, run_keys: Sequence[str]) -> None:
    """Replace the plan of the folder."""
    write_durably(folder.plan, json.dumps({"run_keys": list(run_keys)}).encode())


def read_plan(folder: RunFolder) -> frozenset[str] | None:
    """The run keys that were planned; None where there is no plan, or none that can be read, which is logged."""
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
    return frozenset(keys)
