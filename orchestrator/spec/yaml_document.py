"""Reads YAML 1.2 to plain data and records the line of every key."""

import difflib
import inspect
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import date, time
from io import StringIO
from os import PathLike
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.nodes import MappingNode, Node, SequenceNode

from pruneyard.orchestrator.errors import Problem, SpecError, UsageError
from pruneyard.orchestrator.spec.packaged import packaged_specs, packaged_text
from pruneyard.reports.location import Location, located
from pruneyard.reports.objects import ObjectPath
from pruneyard.workloads.user_code.errors import UserCodeError

_DESCRIPTIONS = {
    r"character '\t'": "a tab is used where only spaces are allowed",
    "flow sequence": "a list in [ ] lacks its ] or a comma",
    "flow mapping": "a table in { } lacks its } or a comma",
    "found '<stream end>'": "it ends where a value is expected",
    "quoted scalar": "a text in quotes lacks its closing quote",
    "mapping values are not allowed": "a key is not allowed here; check the indentation, and quote a value that contains a colon",
    "could not find expected ':'": "a key lacks its colon",
    "<document start>": "there is text after the end of the value",
    "did not find expected <block end>": "a line is not indented like the lines around it",
    "expected <block end>": "a line is not indented like the lines around it",
}
"""Parts of the parser's messages, and what they usually mean for the author of a spec."""

_DUPLICATE_KEY = re.compile(r'found duplicate key "(.*)" with value "', re.DOTALL)
"""The parser's message ends with the values, of which it prints tables as `{}`."""

SUFFIXES = (".yaml", ".yml")
LINE_WIDTH = 120  # of the YAML that is written
MAX_DEPTH = 50
MAX_NODES = 1_000_000  # with aliases expanded: a few nested aliases can stand for billions of values


@dataclass(frozen=True, kw_only=True)
class Document:
    """A document as written. `origin` names it in messages; `lines` holds the 1-based line of every dotted key."""

    origin: str
    tables: Mapping[str, Any]
    lines: Mapping[str, int] = field(default_factory=dict)


def read_document(source: str | PathLike[str] | Location | Mapping[str, Any]) -> Document:
    """Reads a file, a packaged spec by its name, or tables made in Python. Raises `SpecError` or `UsageError`."""
    if isinstance(source, Mapping):
        return Document(origin="spec", tables=plain(source))
    text, origin = read_text(source)
    return parse_document(text, origin=origin)


def read_text(source: str | PathLike[str] | Location) -> tuple[str, str]:
    """Returns the text of a file or of a packaged spec, and its name in messages. Raises `UsageError`."""
    try:
        path = located(source)
    except ValueError as error:
        raise UsageError(str(error)) from error
    except TypeError as error:
        rule = "it must be a path, the name of a packaged spec, or tables"
        raise UsageError(f"the spec is of type {type(source).__name__}; {rule}") from error
    if path.suffix in SUFFIXES or path.is_file():
        try:
            return path.read_text(encoding="utf-8"), str(source)
        except OSError as error:
            raise UsageError(f"{source}: cannot be read: {error.strerror or error}") from error
        except UnicodeDecodeError as error:
            raise UsageError(f"{source}: is not UTF-8 text: {error.reason} at byte {error.start}") from error
    if str(source) in packaged_specs():
        return packaged_text(str(source)), f"{source} (packaged)"
    close = difflib.get_close_matches(str(source), packaged_specs(), n=1)
    hint = f"; did you mean {close[0]}?" if close else ""
    shipped = ", ".join(packaged_specs())
    raise UsageError(f"{source}: there is no such file, and the packaged specs are {shipped}{hint}")


def parse_document(text: str, *, origin: str) -> Document:
    """Parses one document of safe YAML. Raises `SpecError`, also for a duplicate key or a second document."""
    try:
        loader = _loader()
        node = loader.compose(text)
        # Before values are made of the nodes, since this checks how deep and how many they are.
        lines = dict(_key_lines(node, "")) if node is not None else {}
        tables = plain(loader.constructor.construct_document(node)) if node is not None else None
    except (_TooLargeError, RecursionError) as error:
        problem = f"is nested deeper than {MAX_DEPTH} tables, or has more than {MAX_NODES} values with aliases written out"
        raise SpecError(origin, [Problem(0, "", problem)]) from error
    except MarkedYAMLError as error:
        mark, start = error.problem_mark or error.context_mark, error.context_mark
        line = mark.line + 1 if mark is not None else 0
        start_text = f"; it starts on line {start.line + 1}" if start is not None and start.line + 1 != line else ""
        raise SpecError(origin, [Problem(line, "", f"is not valid YAML: {describe_yaml_error(error)}{start_text}")]) from error
    except YAMLError as error:
        raise SpecError(origin, [Problem(0, "", f"is not valid YAML: {describe_yaml_error(error)}")]) from error
    if not isinstance(tables, dict):
        came = "is empty" if tables is None else f"is a {type(tables).__name__}"
        raise SpecError(origin, [Problem(1, "", f"{came}; it must be a table of keys, such as name and kind")])
    return Document(origin=origin, tables=tables, lines=lines)


def parse_value(text: str) -> Any:
    """Returns one YAML value as plain Python data: `0.1`, `[1, 2]`, `{name: set}`."""
    return plain(_loader().load(text))


def describe_yaml_error(error: YAMLError) -> str:
    """Returns one line that says what is wrong, in plain words for the parser's most frequent messages."""
    context, problem = getattr(error, "context", None), getattr(error, "problem", None)
    duplicate = _DUPLICATE_KEY.match(problem or "")
    if duplicate is not None:
        return f"the key {duplicate[1]} is given twice in one table"
    raw = f"{context or ''} {problem or ''}".strip() or str(error)
    return next((words for sign, words in _DESCRIPTIONS.items() if sign in raw), problem or raw.splitlines()[0])


def plain(value: Any, key: str = "") -> Any:
    """Converts tuples, sets, ranges, dates, paths, and NumPy arrays and tensors of one axis to plain lists, numbers and text.

    A class or function becomes its reference, see `pruneyard.workloads.user_code.registration.register`. Raises `UsageError` for
    one that cannot be sent to worker processes, and for any other value. key: the dotted key of the value, for messages.
    """
    if isinstance(value, Mapping):
        return {str(name): plain(item, f"{key}.{name}" if key else str(name)) for name, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset | range):
        return [plain(item, f"{key}[{place}]") for place, item in enumerate(value)]
    if inspect.isclass(value) or inspect.isroutine(value):
        return _reference(value)
    # bool comes before int, of which it is a subclass.
    for kind in (bool, int, float, str):
        if isinstance(value, kind):
            return kind(value)
    if value is None:
        return None
    if isinstance(value, date | time | PathLike | ObjectPath):
        return str(value)
    return plain(_from_array(value, key), key)


def _from_array(value: Any, key: str) -> Any:
    """Returns the number of a NumPy scalar, or the list of an array or tensor of one axis. Raises `UsageError` for others."""
    num_axes = getattr(value, "ndim", None)
    if hasattr(value, "tolist") and num_axes in (0, 1):
        content = value.tolist()
        if type(content) is not type(value):  # NumPy's longdouble has no type of Python
            return content
    found = f" of {num_axes} axes" if isinstance(num_axes, int) and num_axes > 1 else ""
    rule = "it must be a number, text, true or false, null, a list, a table, a date, a path, a class or a function"
    arrays = "NumPy arrays and tensors of one axis are lists"
    raise UsageError(f"{key or 'value'}: is a {type(value).__name__}{found}; {rule}; {arrays}")


def _reference(code: Any) -> str:
    # Imported here because it loads torch, which a spec in a file does not need at this point.
    from pruneyard.workloads.user_code.registration import register

    try:
        return register(code)
    except UserCodeError as error:
        raise UsageError(str(error)) from error


def dump_document(tables: Mapping[str, Any]) -> str:
    """Returns plain tables as YAML text without anchors and aliases."""
    dumper = YAML(typ="safe", pure=True)
    # None writes only the innermost lists and tables in one line.
    dumper.default_flow_style = None
    dumper.width = LINE_WIDTH
    # Before `representer` is used: ruamel.yaml builds it with the settings that it finds then.
    dumper.sort_base_mapping_type_on_output = False  # type: ignore[assignment]
    dumper.representer.ignore_aliases = lambda data: True
    stream = StringIO()
    dumper.dump(dict(tables), stream)
    return stream.getvalue()


def _loader() -> YAML:
    return YAML(typ="safe", pure=True)


class _TooLargeError(Exception):
    """The document is larger than any sensible spec, for example because an alias contains itself."""


def _key_lines(root: Node, prefix: str) -> Iterator[tuple[str, int]]:
    """Yields dotted key and line, for mappings (`a.b`) and sequences (`a[0]`). Raises `_TooLargeError`."""
    left = MAX_NODES
    waiting = [(root, prefix, 0)]
    while waiting:
        node, prefix, depth = waiting.pop()
        if depth > MAX_DEPTH or left < 0:
            raise _TooLargeError
        inner: list[tuple[str, int, Node]] = []
        if isinstance(node, MappingNode):
            dotted = f"{prefix}.".lstrip(".")
            inner = [(f"{dotted}{key.value}", key.start_mark.line + 1, value) for key, value in node.value]
        elif isinstance(node, SequenceNode):
            inner = [(f"{prefix}[{i}]", item.start_mark.line + 1, item) for i, item in enumerate(node.value)]
        left -= len(inner)
        for key, line, value in inner:
            yield key, line
            waiting.append((value, key, depth + 1))
