"""Decodes plain tables to the workloads' dataclasses and encodes them again. Every problem is reported with its key."""

import dataclasses
import json
import re
from collections.abc import Callable, Mapping, Set
from functools import cache
from typing import Annotated, Any, TypeVar, get_args, get_origin, get_type_hints

from pydantic import ConfigDict, TypeAdapter, ValidationError

from pruneyard.orchestrator.spec.plain_types import names_in, words_of
from pruneyard.orchestrator.spec.problem_log import ProblemLog, join_keys
from pruneyard.orchestrator.spec.reference_keys import (
    BESIDE_FROM,
    NEEDS_FROM,
    SOURCES,
    forms,
    may_refer,
    written_keys,
)
from pruneyard.workloads.plugins import Plugin, UnknownPluginError, find, name_of, names
from pruneyard.workloads.user_code.errors import UserCodeError
from pruneyard.workloads.user_code.identity import SOURCE, identity_name, source_digest
from pruneyard.workloads.user_code.nearest import nearest
from pruneyard.workloads.user_code.references import is_reference

FIRST_REVISION = 1

T = TypeVar("T")


def _cached_by_class(function: Callable[[type[Any]], T]) -> Callable[[type[Any]], T]:
    """`functools.cache` for functions of a class: mypy does not know that classes are hashable."""
    return cache(function)  # type: ignore[return-value]


@_cached_by_class
def hints_of(cls: type[Any]) -> dict[str, Any]:
    """Returns the type of every field that a spec may give, with its `Annotated` metadata."""
    hints = get_type_hints(cls, include_extras=True)
    return {f.name: hints[f.name] for f in dataclasses.fields(cls) if f.init and f.metadata.get("given", True)}


@_cached_by_class
def defaults_of(cls: type[Any]) -> dict[str, Any]:
    """Returns the default of every field that has one."""
    fields = {f.name: f for f in dataclasses.fields(cls) if f.name in hints_of(cls)}
    values = {name: f.default for name, f in fields.items() if f.default is not dataclasses.MISSING}
    factory_values = {n: f.default_factory() for n, f in fields.items() if f.default_factory is not dataclasses.MISSING}
    return values | factory_values


@_cached_by_class
def old_keys_of(cls: type[Any]) -> dict[str, str]:
    """Returns the present key of every key that was renamed and may still be used in specs."""
    return {f.metadata["was"]: f.name for f in dataclasses.fields(cls) if "was" in f.metadata}


@_cached_by_class
def choices_of(cls: type[Any]) -> dict[str, Callable[[], list[str]]]:
    """Returns, for every field of text with a fixed choice, the function that lists what may be given."""
    return {f.name: f.metadata["choices"] for f in dataclasses.fields(cls) if "choices" in f.metadata}


def with_present_keys(cls: type[Any], table: Any) -> Any:
    """Returns the table with renamed keys under their present names; an old key beside the present one stays, to be refused."""
    if not isinstance(table, Mapping):
        return table
    present = old_keys_of(cls)
    return {key if (new := present.get(key, key)) in table else new: value for key, value in table.items()}


def class_of_field(cls: type[Any], field: str, table: Any) -> type[Any] | None:
    """Returns the dataclass of a field or list item (`ood[0]`): that of the chosen plug-in or of the nested table; else None."""
    name, bracket, _ = field.partition("[")
    hint = hints_of(cls).get(name)
    if bracket:
        marker = plugins_of(hint)
        return _class_named(marker, table, default=None) if marker is not None else None
    if plugin_of(hint) is not None:
        return plugin_class(cls, name, {} if table is None else table)
    return hint if dataclasses.is_dataclass(hint) and isinstance(hint, type) else None


def given_twice(cls: type[Any], old_key: str) -> str:
    """Returns the complaint about an old key that stands beside the present one."""
    return f"is the old name of {old_keys_of(cls)[old_key]}, which is given too; leave one of them out"


def is_free_table(hint: Any) -> bool:
    """Returns whether a field takes a table with any keys, such as the arguments of a function."""
    return get_origin(hint) is Mapping


def takes_any_table(hint: Any) -> bool:
    """Returns whether a field takes, possibly beside or within other values, a table with any keys."""
    return hint in (Any, dict, Mapping) or get_origin(hint) in (dict, Mapping) or any(map(takes_any_table, get_args(hint)))


def plugin_of(hint: Any) -> Plugin | None:
    """Returns the plug-in marker of a field's type; None where the field is not chosen by name."""
    if not isinstance(hint, type) and get_origin(hint) is Annotated:  # most hints are types, and asking them is fast
        return next((mark for mark in get_args(hint)[1:] if isinstance(mark, Plugin)), None)
    return None


def plugins_of(hint: Any) -> Plugin | None:
    """Returns the plug-in marker of a list's items, as in `tuple[Annotated[Source, Plugin("data.sources")], ...]`; else None."""
    if isinstance(hint, type) or get_origin(hint) is not tuple:
        return None
    items = get_args(hint)
    return plugin_of(items[0]) if len(items) == 2 and items[1] is Ellipsis else None


def plugin_class(cls: type[Any], field: str, table: Any) -> type[Any] | None:
    """Returns the class that `table` chooses for a plug-in field; None where the name is missing or unknown."""
    marker = plugin_of(hints_of(cls)[field])
    assert marker is not None
    return _class_named(marker, table, default=_default_name(cls, field))


def _default_name(cls: type[Any], field: str) -> str | None:
    return name_of(defaults_of(cls)[field]) if field in defaults_of(cls) else None


def _class_named(marker: Plugin, table: Any, *, default: str | None) -> type[Any] | None:
    name = table if isinstance(table, str) else table.get("name") if isinstance(table, Mapping) else None
    name = default if name is None else name
    try:
        return find(marker.family, name) if isinstance(name, str) else None
    except (UnknownPluginError, UserCodeError):
        return None


@cache
def _adapter(hint: Any) -> TypeAdapter[Any]:
    # YAML can spell infinity and NaN, which have no stable form in a run key.
    return TypeAdapter(hint, config=ConfigDict(allow_inf_nan=False))


def decode(cls: type[Any], table: Any, key: str, log: ProblemLog) -> Any:
    """Returns an instance of the dataclass `cls`; None where the table does not fit, with every problem added to the log.

    key: the dotted key of the table.
    """
    hints, defaults = hints_of(cls), defaults_of(cls)
    if not isinstance(table, Mapping):
        log.add(key, f"is {short_json(table)}; it must be {_table_words(cls)}")
        return None
    table = with_present_keys(cls, table)
    num_before = log.num_problems
    for name in table:
        if (problem := _problem_of_key(cls, name)) is not None:
            log.add(join_keys(key, str(name)), problem)
    lacks_from = may_refer(hints) and any(name in table and name not in hints for name in BESIDE_FROM)
    values, wrong = {}, set()
    for name, hint in hints.items():
        at, num_before_field = join_keys(key, name), log.num_problems
        if name in table:
            values[name] = _decode_field(cls, name, hint, table[name], at, log)
        elif name not in defaults:
            _add_missing(cls, name, hint, key, log, lacks_from=lacks_from)
        if log.num_problems > num_before_field:
            wrong.add(name)
    # A table without the runs that it is about would be refused for that, which has just been reported.
    is_open = lacks_from or bool(wrong - set(defaults)) or any(names_in(hints[name]) for name in wrong)
    instance = None if is_open else _construct(cls, values, key, log, wrong=wrong)
    return None if log.num_problems > num_before else instance


def _problem_of_key(cls: type[Any], name: Any) -> str | None:
    """Returns what is wrong with a key of a table; None for a field that it may give."""
    hints = hints_of(cls)
    if name in old_keys_of(cls):
        return given_twice(cls, name)
    if name in getattr(cls, "provided", ()):
        return "is filled in from the data; leave it out"
    if name in getattr(cls, "refused", {}):
        return str(cls.refused[name])
    if name in hints:
        return None
    if name in BESIDE_FROM and may_refer(hints):
        return NEEDS_FROM
    known = written_keys(sorted(hints))
    return f"is unknown; known are {', '.join(known) or 'none'}{nearest(name, known)}"


def _add_missing(cls: type[Any], name: str, hint: Any, key: str, log: ProblemLog, *, lacks_from: bool) -> None:
    """Adds that a field is missing. lacks_from: whether keys that need `from` have reported it already."""
    if name == "runs":
        if not lacks_from:
            log.add(join_keys(key, "from"), f"is missing; give {forms(hints_of(cls))}")
    elif _is_table(hint) and may_refer(hints_of(hint)):
        log.add(join_keys(key, name), f"is missing; give {forms(hints_of(hint))}")
    else:
        log.add(join_keys(key, name), f"is missing; it must be {_allowed(cls, name, hint)}")


def _is_table(hint: Any) -> bool:
    return dataclasses.is_dataclass(hint) and isinstance(hint, type)


def _table_words(cls: type[Any]) -> str:
    return f"a table with some of {', '.join(written_keys(hints_of(cls))) or 'no keys'}"


def _decode_field(cls: type[Any], name: str, hint: Any, value: Any, key: str, log: ProblemLog) -> Any:
    if (marker := plugin_of(hint)) is not None:
        return _decode_plugin(marker, value, key, log, default=_default_name(cls, name))
    if (marker := plugins_of(hint)) is not None:
        return _decode_plugins(marker, value, key, log)
    if dataclasses.is_dataclass(hint):
        assert isinstance(hint, type)
        return decode(hint, value, key, log)
    try:
        # As JSON, because pydantic's strict mode takes a list for a tuple there, and refuses it as a Python value.
        return _adapter(hint).validate_json(json.dumps(value, default=str), strict=True)
    except ValidationError as error:
        problems = error.errors()
        is_infinite = any(problem["type"] == "finite_number" for problem in problems)
        allowed = "a finite number" if is_infinite else _allowed(cls, name, hint)
        unknown = [problem["input"] for problem in problems if problem["type"] == "literal_error"]
        suggested = nearest(unknown[0], names_in(hint)) if unknown else ""
        log.add(key, f"is {short_json(value)}; it must be {allowed}{suggested}")
        return None


def _decode_plugins(marker: Plugin, value: Any, key: str, log: ProblemLog) -> Any:
    if not isinstance(value, list):
        each = f"a table with a name, one of {', '.join(names(marker.family))}"
        log.add(key, f"is {short_json(value)}; it must be a list, each item {each}")
        return None
    return tuple(_decode_plugin(marker, item, f"{key}[{i}]", log, default=None) for i, item in enumerate(value))


def _decode_plugin(marker: Plugin, value: Any, key: str, log: ProblemLog, *, default: str | None) -> Any:
    table = {"name": value} if isinstance(value, str) else value
    if not isinstance(table, Mapping):
        log.add(key, f"is {short_json(value)}; it must be a table with a name, one of {', '.join(names(marker.family))}")
        return None
    chosen = _class_named(marker, table, default=default)
    if chosen is None:
        name = table.get("name")
        if name is None:
            # Only data of a whole job: `references.name_sources` names no source within another one.
            instead = f", or give {forms(())}" if marker.family == SOURCES and "." not in key else ""
            log.add(join_keys(key, "name"), f"is missing; it must be one of {', '.join(names(marker.family))}{instead}")
        elif not isinstance(name, str):
            log.add(join_keys(key, "name"), f"is {short_json(name)}; it must be one of {', '.join(names(marker.family))}")
        else:
            log.add(join_keys(key, "name"), _why_not_found(marker, name))
        return None
    return decode(chosen, {k: v for k, v in table.items() if k != "name"}, key, log)


def _why_not_found(marker: Plugin, name: str) -> str:
    try:
        find(marker.family, name)
    except UnknownPluginError as error:
        return f"is unknown: {error}"
    except UserCodeError as error:
        return f"cannot be used: {error}"
    raise AssertionError(f"{name} of {marker.family} was found")


def _construct(cls: type[Any], values: Mapping[str, Any], key: str, log: ProblemLog, *, wrong: Set[str]) -> Any:
    """Returns an instance; None after adding to the log what the class raised.

    The class raises `ValueError` with a message that starts with the field's name, `name[0]` or `name.key`. It reports one
    problem at a time, so it is constructed again with the default in place of each wrong field, to find all of them. That ends at
    a choice among names: what the other fields may be depends on it, and the default would have them refused.

    wrong: names of the fields that are known to be wrong.
    """
    try:
        return cls(**{name: value for name, value in values.items() if name not in wrong})
    except ValueError as error:
        field, place, message = split_message(cls, str(error))
        if not field:
            log.add(key, message)
        elif field not in wrong and not any(_stands_for(cls, name) == field for name in wrong):
            log.add(join_keys(key, field + place), message)
            if field in values and field in defaults_of(cls) and not names_in(hints_of(cls)[field]):
                return _construct(cls, values, key, log, wrong={*wrong, field})
        return None


def _stands_for(cls: type[Any], name: str) -> str | None:
    """Returns the field in whose place a field is given; None for most."""
    found: str | None = cls.__dataclass_fields__[name].metadata.get("in_place_of")
    return found


def split_message(cls: type[Any], message: str) -> tuple[str, str, str]:
    """Returns the field that a message of a class begins with, the place within it, and the rest; both are empty without one."""
    match = re.match(r"(\w+)(\[\d+\]|\.[\w.]+)?\s+(.*)", message, flags=re.DOTALL)
    if match is None or match[1] not in hints_of(cls):
        return "", "", message
    return match[1], match[2] or "", match[3]


def encode(value: Any, *, identity_only: bool = False) -> Any:
    """Returns plain data for a decoded value, with every default filled in; plug-ins carry their `name`.

    identity_only: return only the fields that can change a number of the finished job. Fields marked `unless_default` are
        left out where they have their default, so a neutral field that is added later leaves the identity of every job that
        does not use it unchanged. A field that specs cannot give is part of an identity only if it is marked `unless_default`.
        A class variable `revision` above 1 enters the identity too: a class raises it when its numbers change while its fields
        do not. Plug-ins of third parties enter with a digest of their source instead; a method `code_identity` returns what
        stands for other code.
    """
    if not dataclasses.is_dataclass(value) or isinstance(value, type):
        return list(value) if isinstance(value, tuple) else value
    hints = hints_of(type(value))
    table = {}
    for field in dataclasses.fields(value):
        content = getattr(value, field.name)
        is_named = field.name in hints or (identity_only and field.metadata.get("identity") == "unless_default")
        if not is_named or (identity_only and not _is_identity(type(value), field, content)):
            continue
        # An identity keeps the old name of a renamed field, so that run keys stay the same.
        key = field.metadata.get("was", field.name) if identity_only else field.name
        # A field that specs cannot give holds a plain value, for which any plain type serves.
        table[key] = encode_field(hints.get(field.name, int), content, identity_only=identity_only)
    if identity_only and (revision := getattr(type(value), "revision", FIRST_REVISION)) != FIRST_REVISION:
        table["revision"] = revision
    if identity_only and hasattr(value, "code_identity"):
        table |= value.code_identity()
    # A kind of job of third parties; their plug-ins enter below the key that chooses them.
    if identity_only and hasattr(type(value), "run") and (digest := source_digest(type(value))) is not None:
        table[SOURCE] = digest
    return table


def encode_field(hint: Any, content: Any, *, identity_only: bool = False) -> Any:
    """Returns plain data for the content of a field of this type."""
    if plugins_of(hint) is not None:
        return [encode_field(get_args(hint)[0], item, identity_only=identity_only) for item in content]
    name = {"name": _name_in(content, identity_only)} if plugin_of(hint) else {}
    encoded = encode(content, identity_only=identity_only)
    if not isinstance(encoded, dict):
        return encoded
    digest = source_digest(type(content)) if name and identity_only else None
    return {**name, **encoded} if digest is None else {**name, **encoded, SOURCE: digest}


def _name_in(plugin: Any, identity_only: bool) -> str:
    name = name_of(plugin)
    return identity_name(name) if identity_only and is_reference(name) else name


def _is_identity(cls: type[Any], field: dataclasses.Field[Any], content: Any) -> bool:
    mark = field.metadata.get("identity", True)
    if mark == "unless_default":
        return bool(content != defaults_of(cls).get(field.name, field.default))
    assert mark in (True, False), f"{cls.__name__}.{field.name} is marked {mark!r}"
    return bool(mark)


def _allowed(cls: type[Any], name: str, hint: Any) -> str:
    choices = choices_of(cls).get(name)
    # A default of None is given by leaving the field out.
    is_left_out = name in defaults_of(cls) and defaults_of(cls)[name] is None
    return f"one of {', '.join(choices())}" if choices else describe_hint(hint, null=not is_left_out)


def describe_hint(hint: Any, *, null: bool = True) -> str:
    """Returns in words what a field of this type takes, for messages. null: whether they say that it takes null."""
    marker = plugin_of(hint)
    if marker is not None:
        return f"a table with a name, one of {', '.join(names(marker.family))}"
    if plugins_of(hint) is not None:
        return f"a list, each item {describe_hint(get_args(hint)[0])}"
    return _table_words(hint) if _is_table(hint) else words_of(hint, null=null)


def short_json(value: Any) -> str:
    """Returns a value as JSON for a message, cut to 60 characters."""
    text = json.dumps(value, default=str)
    return text if len(text) <= 60 else text[:57] + "..."
