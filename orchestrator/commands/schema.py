"""`pruneyard schema`: the JSON Schema of specs."""

import json

import click

from pruneyard.orchestrator.spec.json_schema import spec_schema
from pruneyard.reports.records import schema_markdown


def execute(tables: bool) -> int:
    """Print the JSON Schema; in an editor: `# yaml-language-server: $schema=FILE` on a spec's first line."""
    click.echo(schema_markdown() if tables else json.dumps(spec_schema(), indent=1))
    return 0
