"""Digests the source of plug-ins of third parties, so that a run key changes when their code does."""

import ast
import hashlib
import sys
from collections.abc import Iterator
from functools import cache
from importlib.util import find_spec
from pathlib import Path

SOURCE = "source_code"
"""The key under which an identity has the digest of a plug-in of third parties."""
_OURS = "pruneyard"
_INSTALLED = {"site-packages", "dist-packages"}
"""The folders that package managers install into."""


def source_digest(cls: type) -> str | None:
    """Returns 16 hexadecimal digits over the source of a class of third parties; None for a class of this package.

    They cover the file of the class and, file by file, what it imports: modules of the same top-level package, and modules that
    are not installed by a package manager, such as those on `$PYTHONPATH`. Imports by a computed name are not seen.
    """
    return None if cls.__module__.partition(".")[0] == _OURS else _digest(cls.__module__)


def source_files(cls: type) -> list[Path]:
    """Returns the files of that source; none for a class of this package."""
    return [] if cls.__module__.partition(".")[0] == _OURS else sorted(_files(cls.__module__).values())


@cache  # of the source as imported: a process does not see later changes either
def _digest(module: str) -> str:
    digest = hashlib.sha256()
    for name, file in sorted(_files(module).items()):
        digest.update(f"{name}\0".encode())
        digest.update(hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()[:16]


@cache
def _files(module: str) -> dict[str, Path]:
    """Returns the file of a module, and of every module that it imports and whose source counts, by module."""
    found: dict[str, Path] = {}
    waiting = [module]
    while waiting:
        name = waiting.pop()
        file = None if name in found else _file_of(name, importer=module)
        if file is not None:
            found[name] = file
            waiting += _imported(name, file)
    return found


def _file_of(name: str, *, importer: str) -> Path | None:
    """Returns the file of a module whose source counts; None for modules of Python, of this package and of installed ones."""
    top = name.partition(".")[0]
    if top == _OURS or top in sys.stdlib_module_names:
        return None
    try:
        spec = find_spec(name)
    except (ImportError, ValueError):  # no module of this name, or one made by hand
        return None
    if spec is None or spec.origin is None or not Path(spec.origin).is_file():
        return None
    file = Path(spec.origin)
    is_same = top == importer.partition(".")[0]
    return file if is_same or not _INSTALLED & set(file.resolve().parts) else None


def _imported(name: str, file: Path) -> Iterator[str]:
    """Yields every module that a file may import, and the packages that contain it."""
    parts = name.split(".")
    yield from (".".join(parts[:end]) for end in range(1, len(parts)))
    if file.suffix != ".py":
        return
    package = parts if file.name == "__init__.py" else parts[:-1]
    for node in ast.walk(ast.parse(file.read_bytes())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = [*package[: len(package) - node.level + 1], *filter(None, [node.module])] if node.level else [str(node.module)]
            yield ".".join(base)
            # Each name may be a module of that package.
            yield from (".".join([*base, alias.name]) for alias in node.names)
