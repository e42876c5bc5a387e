"""The report's table of renamed keys agrees with the classes that read specs, and old runs are shown under present names."""

import dataclasses
from collections.abc import Iterator
from typing import Any

from pruneyard.orchestrator.spec.codec import hints_of, old_keys_of, plugin_of, plugins_of
from pruneyard.reports.naming import column_names
from pruneyard.reports.renamed_keys import RENAMED, RENAMED_BY_NAME, present_key
from pruneyard.workloads.plugins import find, find_job, kinds, names


def paths(cls: type[Any], old: str, new: str, spec: dict[str, str], above: tuple[object, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yields every key below a table: its first name, its present name, and the plug-ins above it.

    above: the families, or classes of no family, of the tables around it.
    """
    first = {present: was for was, present in old_keys_of(cls).items()}
    for name, hint in hints_of(cls).items():
        was = f"{old}{first.get(name, name)}"
        yield was, f"{new}{name}", spec
        marker = plugin_of(hint) or plugins_of(hint)
        inside = [(find(marker.family, choice), choice) for choice in names(marker.family)] if marker else [(hint, "")]
        kind_of_table: object = marker.family if marker else hint
        # A source of a source of a source has no other keys than a source of a source.
        if above.count(kind_of_table) == 2:
            continue
        for inner, choice in inside:
            if dataclasses.is_dataclass(inner) and isinstance(inner, type):
                chosen = {**spec, f"{was}.name": choice} if choice else spec
                yield from paths(inner, f"{was}.", f"{new}{name}.", chosen, (*above, kind_of_table))


def test_every_first_name_becomes_the_present_one_and_no_present_one_changes() -> None:
    used = set()
    for kind in kinds():
        for old, new, spec in paths(find_job(kind), "", "", {}):
            assert present_key(old, spec) == new, f"{kind}: {old}"
            assert present_key(new) == new, f"{kind}: {new}"
            used |= {part for part, present in zip(old.split("."), new.split("."), strict=True) if part != present}
    listed = {was for table in (*RENAMED.values(), *RENAMED_BY_NAME.values()) for was in table}
    assert used == listed, "the table names keys that no class has"


def test_columns_of_settings_have_present_names() -> None:
    keys = ["data.share", "method.outer", "input.runs.data.of.name", "objective.warm_epochs", "method.keep"]
    assert list(column_names(keys).values()) == ["fraction", "outer_loop", "input's base", "warmup_epochs", "keep"]
