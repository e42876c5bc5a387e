"""`pruneyard init`: an example spec to start from."""

from importlib.resources import files
from pathlib import Path

import click

from pruneyard.orchestrator.errors import UsageError


def execute(path: Path) -> int:
    """Write an example spec to PATH [default: sweep.yaml]; an existing file is left alone."""
    text = files("pruneyard.orchestrator.specs").joinpath("quickstart.yaml").read_text(encoding="utf-8")
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError as error:
        raise UsageError(f"{path}: exists already; name another file") from error
    except OSError as error:
        raise UsageError(f"{path}: cannot be written: {error}") from error
    click.echo(f"wrote {path}; see what it means with: pruneyard plan {path}")
    return 0
