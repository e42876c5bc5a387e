"""Makes Python files importable that lie in no package: each folder of such files gets a package name of its own.

Files of the same name in different folders can then be imported side by side, relative imports of files beside them work, and
their classes can be pickled. A file inside a package is imported as a module of that package.
"""

import difflib
import hashlib
import importlib
import sys
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

from pruneyard.workloads.user_code.errors import UserCodeError

PREFIX = "pruneyard_files_"
"""The start of the package names of folders."""


@dataclass
class CodeLocations:
    """The folders and modules in which this process finds code.

    base: the folder that relative paths start from; None for the current one.
    folders: the folder of each package name that stands for one.
    modules: the module of each file, by its absolute path where the study was started.
    plugins: the module of each plug-in that a file adds, by family and name.
    """

    base: str | None = None
    folders: dict[str, str] = field(default_factory=dict)
    modules: dict[str, str] = field(default_factory=dict)
    plugins: dict[tuple[str, str], str] = field(default_factory=dict)


LOCATIONS = CodeLocations()


def base_folder() -> Path:
    """Returns the folder that relative paths and imports start from: the current one where the study was started."""
    return Path(LOCATIONS.base) if LOCATIONS.base is not None else Path.cwd()


def module_of_file(given: str) -> str:
    """Returns the name under which a file can be imported, after making it importable.

    Raises `UserCodeError` for a file that does not exist, and for one in a package that another package hides.
    """
    path = Path(str(base_folder() / given))
    if (known := LOCATIONS.modules.get(str(path))) is not None:
        return known
    path = path.resolve()
    if not path.is_file():
        close = difflib.get_close_matches(path.name, [file.name for file in path.parent.glob("*.py")], n=1)
        hint = f"; did you mean {Path(given).with_name(close[0])}?" if close else ""
        raise UserCodeError(f"{given} is no file; {path} does not exist{hint}")
    name = _name_in_package(path) if (path.parent / "__init__.py").is_file() else _name_in_folder(path)
    LOCATIONS.modules[str(base_folder() / given)] = name
    return name


def add_to_path(folder: str) -> None:
    """Appends a folder to `sys.path`, after all others, so that it hides no module."""
    if folder not in sys.path:
        sys.path.append(folder)
        importlib.invalidate_caches()


def add_package(name: str, folder: str) -> None:
    """Makes the files of a folder modules of a package."""
    package = ModuleType(name, f"Stands for the files in {folder}.")
    package.__path__ = [folder]
    sys.modules[name] = package
    LOCATIONS.folders[name] = folder


def name_without_folder(module: str) -> str:
    """Returns the name of a module without the package that stands for its folder, so that it does not depend on the path."""
    package, _, rest = module.partition(".")
    return rest if package.startswith(PREFIX) else module


def _name_in_folder(path: Path) -> str:
    if not path.stem.isidentifier():
        raise UserCodeError(f"{path.name} cannot be imported; its name must consist of letters, digits and '_'")
    package = PREFIX + hashlib.sha256(str(path.parent).encode()).hexdigest()[:12]
    if package not in LOCATIONS.folders:
        add_package(package, str(path.parent))
        add_to_path(str(path.parent))  # for imports of files beside it by their name alone
    return f"{package}.{path.stem}"


def _name_in_package(path: Path) -> str:
    parts, folder = [path.stem], path.parent
    while (folder / "__init__.py").is_file():
        parts.insert(0, folder.name)
        folder = folder.parent
    add_to_path(str(folder))
    name = ".".join(parts)
    found = find_spec(name)
    if found is None or found.origin is None or Path(found.origin).resolve() != path:
        hidden_by = found.origin if found is not None else "another package"
        raise UserCodeError(f"{path} is hidden by {hidden_by}, which has the name {name}, too; rename one of them")
    return name
