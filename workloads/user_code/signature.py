"""Makes the arguments of a class or function keys of a table in a spec: a dataclass with a field for each of them.

An argument becomes a field if plain data can give it: its annotation, if there is one, is built of numbers, text, booleans,
lists, tuples, mappings and choices of them, and its default, if there is one, is plain data. Values are checked against the
annotation, and defaults filled in, as for the fields of plug-ins. Arguments that a spec cannot give keep their defaults.
"""

import dataclasses
import inspect
import math
import types
import typing
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Union, get_args, get_origin

from pruneyard.workloads.user_code.errors import UserCodeError

_SCALARS = (bool, int, float, str, type(None))
_CONTAINERS: tuple[Any, ...] = (list, tuple, dict, Sequence, Mapping, Collection)
_RESERVED = frozenset({"name", "from", "over", "where"})
"""Keys of a table that mean something else."""


@dataclass(frozen=True, kw_only=True)
class Signature:
    """The arguments of a class or function.

    fields: name, type and `dataclasses.field` of each argument that a spec can give, for `make_dataclass`.
    provided: names of the arguments that the caller provides.
    """

    fields: tuple[tuple[str, Any, Any], ...]
    provided: frozenset[str]


def signature_of(target: Any, *, reference: str, provided: Collection[str], reserved: Collection[str] = ()) -> Signature:
    """Returns the arguments of a class or function that can be called.

    provided: names of arguments that the caller provides where the signature has them. A spec cannot give them.
    reserved: names that no field may have.

    Raises `UserCodeError` for an argument that is required and that plain data cannot give.
    """
    try:
        parameters = inspect.signature(target).parameters.values()
    except (TypeError, ValueError) as error:
        raise UserCodeError(f"{reference}: has no signature: {error}") from error
    hints = _hints(target)
    fields = []
    for parameter in parameters:
        if parameter.name in provided or parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            continue
        hint, has_default = hints.get(parameter.name, Any), parameter.default is not parameter.empty
        obstacle = _obstacle(parameter, hint, reserved)
        if not obstacle:
            fields.append((parameter.name, hint, _field(parameter.default) if has_default else dataclasses.field()))
        elif not has_default:
            raise UserCodeError(f"{reference}: needs the argument {parameter.name}, {obstacle}; give it a default, or a factory")
    names = {parameter.name for parameter in parameters if parameter.kind is not parameter.POSITIONAL_ONLY}
    return Signature(fields=tuple(fields), provided=frozenset(names & set(provided)))


def arguments_of(instance: Any) -> dict[str, Any]:
    """Returns the arguments that a dataclass of a signature holds, by name."""
    return {field.name: getattr(instance, field.name) for field in dataclasses.fields(instance)}


def is_plain(value: Any) -> bool:
    """Returns whether a value is plain data: numbers, text, booleans, None, and lists, tuples and mappings of them."""
    if isinstance(value, float):
        return math.isfinite(value)  # others have no stable form in a run key
    if isinstance(value, list | tuple):
        return all(map(is_plain, value))
    if isinstance(value, Mapping):
        return all(isinstance(key, str) and is_plain(item) for key, item in value.items())
    return type(value) in _SCALARS


def _hints(target: Any) -> dict[str, Any]:
    """Returns the types of the arguments; those that cannot be evaluated, as of names imported for types only, are left out."""
    function = target.__init__ if inspect.isclass(target) else target
    try:
        return typing.get_type_hints(function)
    except Exception:  # whatever an annotation in quotes raises
        return {name: hint for name, hint in inspect.get_annotations(function).items() if not isinstance(hint, str)}


def _obstacle(parameter: inspect.Parameter, hint: Any, reserved: Collection[str]) -> str:
    """Returns why a spec cannot give an argument; empty where it can."""
    if parameter.kind is parameter.POSITIONAL_ONLY:
        return "which has no name in calls"
    if parameter.name in _RESERVED or parameter.name in reserved or parameter.name.startswith("_"):
        return "a name that is taken in tables of specs"
    if not _is_plain_hint(hint):
        return f"of type {getattr(hint, '__name__', hint)}, which a spec cannot give"
    if parameter.default is not parameter.empty and not is_plain(parameter.default):
        return "whose default is no plain data"
    return ""


def _is_plain_hint(hint: Any) -> bool:
    if hint is Any or hint in _SCALARS or hint in _CONTAINERS:
        return True
    origin = get_origin(hint)
    if origin is Literal:
        return all(map(is_plain, get_args(hint)))
    if origin in (Union, types.UnionType) or origin in _CONTAINERS:
        return all(_is_plain_hint(each) for each in _arguments(hint))
    return False


def _arguments(hint: Any) -> Iterator[Any]:
    yield from (each for each in get_args(hint) if each is not Ellipsis)


def _field(default: Any) -> Any:
    if isinstance(default, list | Mapping):
        return dataclasses.field(default_factory=lambda: default)
    return dataclasses.field(default=default)
