"""Says in words what a field of a plain type takes: numbers, text, and choices, lists and tables of them."""

import types
from collections.abc import Mapping, Sequence, Set
from dataclasses import is_dataclass
from typing import Annotated, Any, Literal, Union, get_args, get_origin

_WORDS: Mapping[Any, str] = {
    int: "a whole number",
    float: "a number",
    str: "text",
    bool: "true or false",
    types.NoneType: "null",
    Any: "any value",
    list: "a list",
    tuple: "a list",
    dict: "a table",
    Mapping: "a table",
}
_PLURALS: Mapping[Any, str] = {int: "whole numbers", float: "numbers", str: "texts", Any: "values"}
_UNKNOWN = "a value of the right type"


def words_of(hint: Any, *, null: bool = True) -> str:
    """Returns what a plain type takes. null: whether the words say that a type which takes null does so."""
    kind, parts = get_origin(hint), get_args(hint)
    if kind is Annotated:
        return words_of(parts[0], null=null)
    if kind is Literal:
        return f"one of {', '.join(map(str, parts))}" if len(parts) > 1 else str(parts[0])
    if kind in (Union, types.UnionType):
        found = [words_of(part) for part in parts if null or part is not types.NoneType]
        return (", or " if any("," in words for words in found) else " or ").join(found)
    if isinstance(kind, type) and issubclass(kind, Mapping):
        return "a table" if parts[1] is Any else f"a table, each value {words_of(parts[1])}"
    if isinstance(kind, type) and issubclass(kind, (Sequence, Set)):
        return _list_words([part for part in parts if part is not Ellipsis], any_number=kind is not tuple or Ellipsis in parts)
    return "a table" if is_dataclass(hint) else _WORDS.get(hint, _UNKNOWN)


def _list_words(items: Sequence[Any], *, any_number: bool) -> str:
    if any_number:
        return f"a list of {_PLURALS[items[0]]}" if items[0] in _PLURALS else f"a list, each item {words_of(items[0])}"
    if len(set(items)) == 1 and items[0] in _PLURALS:
        return f"a list of {len(items)} {_PLURALS[items[0]]}"
    return f"a list of {', then '.join(map(words_of, items))}"


def names_in(hint: Any) -> list[str]:
    """Returns the names among which a type chooses, also those of items and values within it; empty where it takes any."""
    if get_origin(hint) is Literal:
        return [str(value) for value in get_args(hint)]
    return [name for part in get_args(hint) for name in names_in(part)]
