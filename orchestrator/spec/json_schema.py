"""Builds the JSON Schema of specs from the dataclasses that decode them, so that editors complete and check specs."""

import dataclasses
from typing import Any, get_args

from pydantic import TypeAdapter

from pruneyard.orchestrator.spec.codec import (
    defaults_of,
    encode_field,
    hints_of,
    old_keys_of,
    plugin_of,
    plugins_of,
)
from pruneyard.orchestrator.spec.plugin_files import PLUGINS
from pruneyard.orchestrator.spec.plugin_files import SCHEMA as PLUGIN_FILES
from pruneyard.orchestrator.spec.reference_keys import SOURCES, may_refer
from pruneyard.orchestrator.spec.references import GROUP_BY
from pruneyard.orchestrator.spec.search import Search
from pruneyard.orchestrator.spec.stage import Header
from pruneyard.workloads.plugins import describe, find, find_job, kinds, names, takes_references


def spec_schema() -> dict[str, Any]:
    """Returns the JSON Schema of specs, with one alternative for each kind of job and one for specs with stages."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "pruneyard spec",
        "oneOf": [*(_kind_schema(kind) for kind in kinds()), _stages_schema()],
    }


def _stages_schema() -> dict[str, Any]:
    """Returns the schema of a spec with stages. The keys of a stage are not checked here: they depend on its kind."""
    header = table_schema(Header)["properties"]
    stages = {
        "type": "object",
        "description": "stages in order; a table with `from: STAGE` consumes the artifacts of an earlier stage",
        "minProperties": 1,
        "additionalProperties": {"type": "object", "required": ["kind"], "properties": {"kind": {"enum": kinds()}}},
    }
    shared = {name: header[name] for name in ("name", "seeds", "resources")}
    return {
        "title": "chain",
        "type": "object",
        "properties": {**shared, PLUGINS: PLUGIN_FILES, "stages": stages},
        "required": ["name", "stages"],
        "not": {"required": ["kind"]},
    }


def _kind_schema(kind: str) -> dict[str, Any]:
    header, job = table_schema(Header), table_schema(find_job(kind))
    # A spec gives `seeds`; the seed of one job is not a key.
    job["properties"].pop("seed")
    grid = {
        "type": "object",
        "description": "axes of the population: a list of values for each dotted key",
        "additionalProperties": {"type": "array", "minItems": 1},
    }
    variant = {"type": "object", "properties": job["properties"], "minProperties": 1, "additionalProperties": False}
    variants = {
        "type": "array",
        "description": "tables that replace those of the spec, several at once; crossed with the grid",
        "items": variant,
    }
    settings = {
        "type": "object",
        "description": "take all tables from the best runs of an earlier stage or folder, for fresh seeds",
        "properties": {name: _REFERENCE[name] for name in ("from", "where", "best")},
        "required": ["from"],
        "additionalProperties": False,
    }
    axes = {"variants": variants, "grid": grid, "search": table_schema(Search), "settings": settings}
    properties = {**header["properties"], **job["properties"], "kind": {"const": kind}, PLUGINS: PLUGIN_FILES, **axes}
    return {
        "title": kind,
        "type": "object",
        "properties": properties,
        "required": header["required"],
        "anyOf": [{"required": job["required"]}, *({"required": [name]} for name in axes)],  # axes may give the required tables
        "additionalProperties": False,
    }


def table_schema(cls: type[Any], *, within: frozenset[str] = frozenset()) -> dict[str, Any]:
    """Returns the schema of the table of one dataclass, with its defaults.

    within: families of the plug-ins around the table. Nested plug-ins of these families are listed by name only, since they
        can be nested without end.
    """
    hints, defaults = hints_of(cls), defaults_of(cls)
    properties = {name: _field_schema(hint, within) for name, hint in hints.items()}
    for name, value in defaults.items():
        properties[name] = {**properties[name], "default": encode_field(hints[name], value)}
    for was, name in old_keys_of(cls).items():
        properties[was] = {**properties[name], "deprecated": True, "description": f"old name of {name}"}
    required = [name for name in hints if name not in defaults]
    if may_refer(hints):  # a reference in a spec, run keys in what is recorded
        properties |= _REFERENCE
        required = [name for name in required if name != "runs"]
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}


_REFERENCE_PATTERN = "[:@]"  # no plug-in has such a name
_REFERENCE: dict[str, Any] = {
    "from": {"type": "string", "description": "an earlier stage, or a folder of results"},
    "over": {"enum": list(GROUP_BY), "description": "group runs by all but their seed, also by what they come from, or together"},
    "where": {"type": "object", "description": "keep the runs that have these values at these dotted keys"},
    "best": {
        "description": "keep the runs of the best setting by this metric, such as val/accuracy",
        "oneOf": [
            {"type": "string"},
            {
                "type": "object",
                "properties": {
                    "metric": {"type": "string"},
                    "mode": {"enum": ["max", "min"]},
                    "per": {
                        "description": "dotted keys: keep the best setting for each combination of their values",
                        "oneOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}],
                    },
                },
                "required": ["metric"],
                "additionalProperties": False,
            },
        ],
    },
}


def _field_schema(hint: Any, within: frozenset[str]) -> dict[str, Any]:
    marker = plugin_of(hint)
    if marker is not None and marker.family in within:  # sources of sources can be nested without end
        by_name = {"enum": names(marker.family)}
        return {"oneOf": [by_name, {"type": "object", "properties": {"name": by_name}, "required": ["name"]}]}
    if marker is not None:
        inside = within | {marker.family}
        summaries = {found.name: found.summary for found in describe(marker.family)}
        choices = [_plugin_schema(find(marker.family, name), name, summaries[name], inside) for name in names(marker.family)]
        if takes_references(marker.family):
            form = "package.module:Name or path/file.py:Name"
            by_reference = {"type": "string", "pattern": _REFERENCE_PATTERN, "description": form}
            choices += [by_reference, {"type": "object", "properties": {"name": by_reference}, "required": ["name"]}]
        nameless = [{"type": "object", "properties": _REFERENCE, "required": ["from"], "additionalProperties": False}]
        return {"oneOf": [{"enum": names(marker.family)}, *choices, *(nameless if marker.family == SOURCES else [])]}
    if plugins_of(hint) is not None:
        return {"type": "array", "items": _field_schema(get_args(hint)[0], within)}
    if dataclasses.is_dataclass(hint):
        assert isinstance(hint, type)
        return table_schema(hint, within=within)
    return TypeAdapter(hint).json_schema()


def _plugin_schema(cls: type[Any], name: str, summary: str, within: frozenset[str]) -> dict[str, Any]:
    """Returns the schema of one plug-in's table.

    `name` is required, although a spec may omit it where the field has a default: editors need it to choose the alternative.
    Other fields are not required: an axis may give them.
    """
    table = table_schema(cls, within=within)
    table["properties"] = {"name": {"const": name}, **table["properties"]}
    return {**table, "title": name, "description": summary, "required": ["name"]}
