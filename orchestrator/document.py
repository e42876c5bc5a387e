"""Reads a spec's YAML 1.2 into plain data and remembers on which line each key stands."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from importlib.resources import files
from io import StringIO
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.nodes import MappingNode, Node, SequenceNode

from orchestrator.errors import Problem, SpecError, UsageError

SUFFIXES = (".yaml", ".yml")


@dataclass(frozen=True, kw_only=True)
class Document:
    """A spec as written: `origin` is how messages call it, `lines` the 1-based line of every dotted key."""

    origin: str
    tables: Mapping[str, Any]
    lines: Mapping[str, int] = field(default_factory=dict)


def packaged_specs() -> list[str]:
    """Names of the specs that ship with the package."""
    folder = files("orchestrator.specs")
    return sorted(entry.name.removesuffix(".yaml") for entry in folder.iterdir() if entry.name.endswith(".yaml"))


def read_document(source: str | Path | Mapping[str, Any]) -> Document:
    """From a file, the name of a packaged spec, or tables made in Python. Raises `SpecError` or `UsageError`."""
    if isinstance(source, Mapping):
        return Document(origin="spec", tables=dict(source))
    path = Path(source)
    if path.suffix in SUFFIXES or path.exists():
        try:
            return parse_document(path.read_text(encoding="utf-8"), origin=str(source))
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"{source}: cannot be read: {error}") from error
    if str(source) in packaged_specs():
        text = files("orchestrator.specs").joinpath(f"{source}.yaml").read_text(encoding="utf-8")
        return parse_document(text, origin=f"{source} (packaged)")
    shipped = ", ".join(packaged_specs())
    raise UsageError(f"{source}: there is no such file, and the packaged specs are {shipped}")


def parse_document(text: str, *, origin: str) -> Document:
    """Safe YAML only; a duplicate key or a second document is an error."""
    try:
        tables = parse_value(text)
        node = _loader().compose(text)
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark is not None else 0
        raise SpecError(origin, [Problem(line, "", f"is not valid YAML: {error.problem}")]) from error
    except YAMLError as error:
        raise SpecError(origin, [Problem(0, "", f"is not valid YAML: {error}")]) from error
    if not isinstance(tables, dict):
        raise SpecError(origin, [Problem(1, "", f"holds {type(tables).__name__}; it must be a table of keys")])
    return Document(origin=origin, tables=tables, lines=dict(_lines(node, "")))


def parse_value(text: str) -> Any:
    """One YAML value as plain Python data: `0.1`, `[1, 2]`, `{name: set}`."""
    return _loader().load(text)


def dump_document(tables: Mapping[str, Any]) -> str:
    """Plain tables as YAML text."""
    dumper = YAML(typ="safe", pure=True)
    dumper.default_flow_style = None
    dumper.sort_base_mapping_type_on_output = False  # type: ignore[assignment]
    stream = StringIO()
    dumper.dump(dict(tables), stream)
    return stream.getvalue()


def _loader() -> YAML:
    return YAML(typ="safe", pure=True)


def _lines(node: Node, prefix: str) -> Iterator[tuple[str, int]]:
    """Dotted key to line, for mappings (`a.b`) and sequences (`a[0]`)."""
    if isinstance(node, MappingNode):
        for key, value in node.value:
            dotted = f"{prefix}.{key.value}" if prefix else str(key.value)
            yield dotted, key.start_mark.line + 1
            yield from _lines(value, dotted)
    elif isinstance(node, SequenceNode):
        for index, value in enumerate(node.value):
            yield f"{prefix}[{index}]", value.start_mark.line + 1
            yield from _lines(value, f"{prefix}[{index}]")
