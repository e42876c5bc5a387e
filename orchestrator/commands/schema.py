"""`pruneyard schema`: the JSON Schema of specs."""

import json

import click

from orchestrator.schema import spec_schema


@click.command("schema")
def command() -> int:
    """Print the JSON Schema; in an editor: `# yaml-language-server: $schema=FILE` on a spec's first line."""
    click.echo(json.dumps(spec_schema(), indent=1))
    return 0
