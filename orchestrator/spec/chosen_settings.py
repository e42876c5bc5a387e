"""Takes the settings of the best runs of an earlier stage or folder: the key `settings`, for fresh seeds after a search.

Such a stage trains the chosen settings anew, with seeds of its own. Its jobs do not consume the runs that the choice was made by,
so their run keys are those of the same jobs in any other spec.
"""

from collections.abc import Mapping
from typing import Any

from pruneyard.orchestrator.spec.codec import short_json
from pruneyard.orchestrator.spec.references import ChainError, UpstreamRuns
from pruneyard.workloads.user_code.nearest import nearest

KEY = "settings"
_KEYS = ("from", "where", "best")
_BESIDE = ("name", "kind", "seeds", "scheduler", "resources", KEY)


def chosen_settings(tables: Mapping[str, Any], earlier: UpstreamRuns) -> list[Mapping[str, Any]]:
    """Returns the tables of every chosen setting, without seeds, for a stage whose tables have the key `settings`.

    While the choice is open, all settings that may be chosen are returned, and `earlier.waits_for` says why. Raises `ChainError`.
    """
    table = tables[KEY]
    if not isinstance(table, Mapping) or "from" not in table:
        raise ChainError(KEY, f"is {short_json(table)}; it must be a table such as {{from: STAGE, best: val/accuracy}}")
    for key in table:
        if key not in _KEYS:
            hint = nearest(key, _KEYS)
            raise ChainError(f"{KEY}.{key}", f"is unknown; known are {', '.join(_KEYS)}{hint}")
    for name in tables:
        if name not in _BESIDE and tables[name]:
            rule = f"{KEY} gives all tables of the jobs; beside it stand only {', '.join(_BESIDE[:-1])}"
            raise ChainError(name, f"stands beside {KEY}: {rule}")
    # One group is one setting: its runs differ only in their seed.
    groups = earlier.groups({**table, "over": "seed"}, KEY)
    other = next((run.kind for group in groups for run in group if run.kind != tables["kind"]), None)
    if other is not None:
        found = f"is {short_json(table['from'])}, which has runs of kind {other}"
        raise ChainError(f"{KEY}.from", f"{found}; they must be of the stage's kind, {tables['kind']}")
    return [{name: value for name, value in group[0].resolved.items() if name != "seed"} for group in groups]
