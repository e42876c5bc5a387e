"""Says why a stage cannot refer to another one: it comes later, closes a cycle, or its jobs are not known in advance."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pruneyard.orchestrator.spec.stage import Stage


def refused_references(name: str, stages: Mapping[str, Mapping[str, Any]], before: Sequence[Stage]) -> dict[str, str]:
    """Returns the reason for each stage that the stage `name` cannot refer to.

    stages: the tables of all stages, as written. before: the stages before this one, validated.
    """
    refused = {name: "which is this stage itself"}
    for other in list(stages)[len(before) + 1 :]:
        path = _path(other, name, stages)
        cycle = " -> ".join([name, *path]) if path else ""
        refused[other] = f"which closes a cycle: {cycle}" if cycle else "which comes later: move it before this stage"
    for stage in before:
        if stage.learning is not None:
            search = stage.learning.search.name
            refused[str(stage.name)] = f"whose jobs are not known in advance, since its search {search} proposes them"
    return refused


def _path(start: str, end: str, stages: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Returns the names of the stages by whose references `start` depends on `end`, both included; empty if it does not."""
    paths, seen = [[start]], {start}
    for path in paths:
        for name in referred(stages[path[-1]]):
            if name == end:
                return [*path, end]
            if name in stages and name not in seen:
                seen.add(name)
                paths.append([*path, name])
    return []


def referred(value: Any) -> Iterator[str]:
    """Yields everything that the tables of a stage name by `from`."""
    if isinstance(value, Mapping):
        if isinstance(value.get("from"), str):
            yield value["from"]
        for item in value.values():
            yield from referred(item)
    elif isinstance(value, list):
        for item in value:
            yield from referred(item)
