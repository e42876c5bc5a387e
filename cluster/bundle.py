"""Writes the bundle of a job: the installed code, the spec, and the versions it was submitted with."""

import json
import shutil
from collections.abc import Mapping
from importlib.metadata import distribution
from importlib.util import find_spec
from pathlib import Path

from pruneyard.cluster.pins import PACKAGE, SUBPACKAGES, installed

SPEC, PINS = "spec.yaml", "pins.json"


def write_bundle(folder: Path, *, spec: str, code: Mapping[str, Path]) -> None:
    """Fills an empty folder with all that a node needs, as its working directory, besides the dependencies.

    code: files of the user's own code, by their path in the folder.
    """
    for name, source in {**code, **source_files()}.items():
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source, target)  # with its mode: a command may start a file
    _write_metadata(folder)
    (folder / SPEC).write_text(spec, encoding="utf-8")
    (folder / PINS).write_text(json.dumps(installed(), indent=1), encoding="utf-8")


def is_bundle(folder: Path) -> bool:
    """Returns whether a folder is the bundle of a job, of which the cluster keeps a copy for as long as it likes."""
    return (folder / SPEC).is_file() and (folder / PINS).is_file()


def source_files() -> dict[str, Path]:
    """Returns every file of the installed package by its path below `site-packages`, however it is installed.

    In a wheel the subpackages lie below the package; in an editable install each has a folder of its own.
    """
    files = {f"{PACKAGE}/{path.name}": path for path in sorted(_root(PACKAGE).iterdir()) if path.is_file()}
    public = set(files.values())  # in an editable install they also lie below the folder of a subpackage
    for name in SUBPACKAGES:
        root = _root(f"{PACKAGE}.{name}")
        for path in sorted(root.rglob("*")):
            if path.is_file() and "__pycache__" not in path.parts and path not in public:
                files[f"{PACKAGE}/{name}/{path.relative_to(root).as_posix()}"] = path
    return files


def _root(package: str) -> Path:
    found = find_spec(package)
    assert found is not None
    assert found.submodule_search_locations, f"{package} is no package"
    # Exactly one folder: a namespace package spread over several has no single root to copy.
    (source,) = found.submodule_search_locations
    return Path(source)


def _write_metadata(folder: Path) -> None:
    """Writes the metadata from which the package reads its own version."""
    here = distribution(PACKAGE)
    # importlib.metadata finds the version of a package by a folder of this name beside it.
    info = folder / f"{PACKAGE}-{here.version}.dist-info"
    info.mkdir()
    # An egg-info folder, as some editable installs have, calls the same file PKG-INFO.
    text = here.read_text("METADATA") or here.read_text("PKG-INFO")
    assert text is not None
    (info / "METADATA").write_text(text, encoding="utf-8")
