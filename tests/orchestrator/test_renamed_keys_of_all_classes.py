"""Every renamed spec key of every class: the old spelling gives the same identity, and both spellings at once are refused."""

import dataclasses
from collections.abc import Iterator
from typing import Any

from pruneyard.orchestrator.spec.codec import (
    decode,
    encode,
    hints_of,
    old_keys_of,
    plugin_of,
    plugins_of,
)
from pruneyard.orchestrator.spec.problem_log import ProblemLog
from pruneyard.orchestrator.spec.run_key import canonical
from pruneyard.workloads.plugins import find, find_job, kinds, names

SOURCE, RUN = {"name": "digits"}, ["0123456789abcdef"]
VALUES: dict[type, Any] = {int: 3, float: 0.5, str: "digits", bool: True}
FIELDS: dict[str, Any] = {  # values of fields that a default or a type does not give
    "base": SOURCE,
    "data": SOURCE,
    "selector": "random",
    "model": "mlp",
    "method": "dense",
    "budget": {"epochs": 1},
    "input": {"runs": RUN},
    "minority": 1,
}
ALONE: dict[str, dict[str, Any]] = {  # tables that a class needs beside its required fields
    "Selected": {"fraction": 0.5},
    "Synthetic": {"runs": RUN},
    "CalibrateJob": {"scores": [{"name": "odin"}], "near": [{"name": "noise"}]},
    "DistillJob": {"method": {"name": "random", "ipc": 1}},
    "NodesJob": {"data": "block_model", "method": "plain"},
    "Evaluation": {"max_steps": 10},
}


def classes() -> Iterator[type[Any]]:
    """Returns every class that a spec can reach: jobs, plug-ins and the tables inside them."""
    reached: dict[type[Any], None] = {}

    def visit(cls: type[Any]) -> None:
        if cls in reached:
            return
        reached[cls] = None
        for hint in hints_of(cls).values():
            marker = plugin_of(hint) or plugins_of(hint)
            for inner in [find(marker.family, name) for name in names(marker.family)] if marker else [hint]:
                if dataclasses.is_dataclass(inner) and isinstance(inner, type):
                    visit(inner)

    for kind in kinds():
        visit(find_job(kind))
    yield from reached


def table_of(cls: type[Any]) -> dict[str, Any]:
    """Returns a table with every required field of the class."""
    given = {
        field.name: FIELDS.get(field.name, VALUES.get(hints_of(cls)[field.name]))
        for field in dataclasses.fields(cls)
        if field.name in hints_of(cls)
        and field.default is dataclasses.MISSING
        and field.default_factory is dataclasses.MISSING
    }
    return {**given, **ALONE.get(cls.__name__, {})}


def read(cls: type[Any], table: dict[str, Any]) -> tuple[Any, list[str]]:
    log = ProblemLog({})
    return decode(cls, table, "", log), [f"{problem.key}: {problem.message}" for problem in log.problems]


def test_every_old_key_gives_the_identity_of_the_new_one_and_is_refused_together_with_it() -> None:
    checked = set()
    for cls in classes():
        table = table_of(cls)
        plain, problems = (None, []) if not old_keys_of(cls) else read(cls, table)
        for old, new in old_keys_of(cls).items():
            place = f"{cls.__name__}.{new}"
            assert plain is not None, f"{place}: {problems}"
            value = encode(plain)[new]
            others = {name: content for name, content in table.items() if name != new}
            (present, _), (former, wrong) = read(cls, {**others, new: value}), read(cls, {**others, old: value})
            assert former == present == plain, f"{place}: {wrong}"
            if (identity := encode(former, identity_only=True)) != {}:
                assert new not in identity, f"{place}: run keys would change"
            assert canonical(identity) == canonical(encode(present, identity_only=True)), place
            both = read(cls, {**others, new: value, old: value})[1]
            message = f"{old}: is the old name of {new}, which is given too; leave one of them out"
            assert message in both, f"{place}: {both}"
            checked.add(place)
    assert {"SparseJob.ood", "NM.n", "OneShot.prune_at"} <= checked
