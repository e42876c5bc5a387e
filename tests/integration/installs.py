"""The package as a wheel installs it, and a folder of a user whose own modules have the names of our folders."""

import importlib.metadata
import shutil
import subprocess
import sys
from pathlib import Path

CHECKOUT = Path(__file__).parents[2]
SOURCES = {
    "pruneyard": "orchestrator/api",
    "pruneyard/cluster": "cluster",
    "pruneyard/orchestrator": "orchestrator",
    "pruneyard/reports": "reports",
    "pruneyard/testing": "tests/conformance",
    "pruneyard/workloads": "workloads",
}
"""Maps installed packages to the folders of the checkout that hold their files."""

HOSTILE = ("cluster.py", "orchestrator.py", "workloads.py", "reports/__init__.py")
MESSAGE = "the user's module was imported"


def source_files() -> dict[str, Path]:
    """Returns every file of the checkout that is to be installed, by its path below `site-packages`; manuals are not."""
    api = CHECKOUT / SOURCES["pruneyard"]
    return {
        f"{package}/{path.relative_to(CHECKOUT / folder).as_posix()}": path
        for package, folder in SOURCES.items()
        for path in (CHECKOUT / folder).rglob("*")
        if path.is_file()
        and path.suffix != ".md"
        and "__pycache__" not in path.parts
        and (package == "pruneyard" or not path.is_relative_to(api))
    }


def build_wheel(folder: Path) -> Path:
    """Builds the wheel from a copy of the checkout, in which the build may leave its files."""
    copy = folder / "checkout"
    for name in ("pyproject.toml", "README.md", *(path.relative_to(CHECKOUT) for path in source_files().values())):
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(CHECKOUT / name, copy / name)
    _pip("wheel", "--no-deps", *_without_isolation(), "--wheel-dir", folder / "wheels", copy)
    (wheel,) = (folder / "wheels").iterdir()
    return wheel


def _without_isolation() -> list[str]:
    """Returns the option that builds with the installed setuptools, without network, if it is new enough."""
    try:
        new_enough = int(importlib.metadata.version("setuptools").partition(".")[0]) >= 77
    except importlib.metadata.PackageNotFoundError:
        new_enough = False
    return ["--no-build-isolation"] if new_enough else []


def install(wheel: Path, target: Path) -> None:
    """Installs the wheel into a folder, without its dependencies."""
    _pip("install", "--no-deps", "--target", target, wheel)


def _pip(*arguments: str | Path) -> None:
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet", *map(str, arguments)]
    completed = subprocess.run(command, capture_output=True, text=True, check=False)
    assert completed.returncode == 0, completed.stderr


def write_hostile(folder: Path) -> Path:
    """Fills a folder with modules that must not be imported; returns it."""
    for name in HOSTILE:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(f"raise RuntimeError({MESSAGE!r})\n")
    return folder
