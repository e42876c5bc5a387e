"""What a job takes along: the code as it is here, the spec, and the versions it was planned with."""

import json
import shutil
from collections.abc import Sequence
from importlib.metadata import distribution
from importlib.util import find_spec
from pathlib import Path

from cluster.pins import PACKAGE, installed

SPEC, PINS = "spec.yaml", "pins.json"


def write_bundle(folder: Path, *, packages: Sequence[str], spec: str) -> None:
    """Fills an empty folder that, as the working directory, is all that a node needs beside the dependencies."""
    for name in packages:
        found = find_spec(name)
        assert found is not None
        assert found.submodule_search_locations, f"{name} is no package"
        (source,) = found.submodule_search_locations
        shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("__pycache__", "*.pyc"))
    _write_metadata(folder)
    (folder / SPEC).write_text(spec, encoding="utf-8")
    (folder / PINS).write_text(json.dumps(installed(), indent=1), encoding="utf-8")


def _write_metadata(folder: Path) -> None:
    """The package asks for its own version, which an installer writes down in this form."""
    here = distribution(PACKAGE)
    info = folder / f"{PACKAGE}-{here.version}.dist-info"
    info.mkdir()
    text = here.read_text("METADATA") or here.read_text("PKG-INFO")
    assert text is not None
    (info / "METADATA").write_text(text, encoding="utf-8")
