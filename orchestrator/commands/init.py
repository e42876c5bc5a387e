"""`pruneyard init`: an example spec to start from."""

import json
from importlib.resources import files
from pathlib import Path

import click

from pruneyard.orchestrator.errors import UsageError
from pruneyard.orchestrator.spec.stage import NAME_PATTERN
from pruneyard.orchestrator.spec.yaml_document import parse_value

EXAMPLE = "quickstart"


def execute(path: Path) -> int:
    """Write an example spec to PATH [default: sweep.yaml]; an existing file is left alone."""
    text = files("pruneyard.orchestrator.specs").joinpath(f"{EXAMPLE}.yaml").read_text(encoding="utf-8")
    if NAME_PATTERN.fullmatch(path.stem):
        # Its own name gives the study its own folder, apart from that of the packaged spec.
        name = path.stem if parse_value(path.stem) == path.stem else json.dumps(path.stem)
        text = text.replace(f"\nname: {EXAMPLE}\n", f"\nname: {name}\n", 1)
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError as error:
        raise UsageError(f"{path}: exists already; name another file") from error
    except OSError as error:
        raise UsageError(f"{path}: cannot be written: {error}") from error
    click.echo(f"wrote {path}; see what it means with: pruneyard plan {path}")
    return 0
