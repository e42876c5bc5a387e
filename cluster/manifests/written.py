"""Writes manifests as readable YAML: comments on top, shell scripts as blocks."""

from collections.abc import Mapping, Sequence
from io import StringIO
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.scalarstring import LiteralScalarString as Block

from pruneyard.cluster.manifests.nodes import CHECKED_WITH

__all__ = ["Block", "comment", "yaml_documents", "yaml_text"]


def yaml_text(value: Mapping[str, Any]) -> str:
    """Returns one YAML document."""
    writer = YAML()
    writer.width = 10_000  # a folded shell command would not run
    writer.representer.ignore_aliases = lambda *_: True  # write equal values out instead of as YAML aliases
    writer.indent(mapping=2, sequence=4, offset=2)
    stream = StringIO()
    writer.dump(value, stream)
    return stream.getvalue()


def yaml_documents(values: Sequence[Mapping[str, Any]], *, head: Sequence[str]) -> str:
    """Returns several YAML documents, with `head` as a comment above the first."""
    return comment(head) + "---\n".join(yaml_text(value) for value in values)


def comment(lines: Sequence[str]) -> str:
    """Returns the usage lines as a comment, followed by a note on how far the manifest was checked."""
    told = [
        *lines,
        f"Rendered by pruneyard manifest for {CHECKED_WITH}, checked against their schemas where they have",
    ]
    told.append("any; it has not been applied to a real cluster by its authors.")
    return "".join(f"# {line}".rstrip() + "\n" for line in told)
