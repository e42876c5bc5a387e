"""Makes Python files importable that lie in no package: each folder of such files gets a package name of its own.

Files of the same name in different folders can then be imported side by side, relative imports of files beside them work, and
their classes can be pickled. A file inside a package is imported as a module of that package.

`import helpers` in such a file means the `helpers.py` beside it, also where another folder has loaded one of its own: then the
module gets the package name of its folder. Modules of Python and of installed packages are hidden by no file. A module named by
a computed text, as by `importlib.import_module`, is searched on `sys.path` alone.
"""

import builtins
import difflib
import hashlib
import importlib
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

from pruneyard.workloads.user_code.errors import UserCodeError

OURS = "pruneyard"
INSTALLED = {"site-packages", "dist-packages"}
"""The folders that package managers install into."""
PREFIX = f"{OURS}_files_"
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
    if _FINDER not in sys.meta_path:
        # Where Python searches `sys.path`: its own modules, and finders that others have put before, come first as before.
        sys.meta_path.insert(sys.meta_path.index(PathFinder) if PathFinder in sys.meta_path else 0, _FINDER)


def name_without_folder(module: str) -> str:
    """Returns the name of a module without the package that stands for its folder, so that it does not depend on the path."""
    package, _, rest = module.partition(".")
    return rest if package.startswith(PREFIX) else module


def folder_of(module: str, file: str) -> str | None:
    """Returns the folder of files of the user in which a module is found; None for one that is found elsewhere.

    file: of the module, or its folder if it is a package without a file.
    """
    top = module.partition(".")[0]
    if top.startswith(PREFIX):
        return LOCATIONS.folders.get(top)
    folder = os.path.dirname(file)
    for _ in range(module.count(".") + (os.path.basename(file) == "__init__.py")):
        folder = os.path.dirname(folder)
    return folder if folder in LOCATIONS.folders.values() else None


def name_beside(module: str, folder: str | None) -> str:
    """Returns the name of the module that a file of a folder means by `import MODULE`.

    It has the package name of the folder if the module lies there, but Python finds another folder's under its plain name.
    """
    top = module.partition(".")[0]
    if folder is None or top in sys.stdlib_module_names or top == OURS or top.startswith(PREFIX):
        return module
    beside = PathFinder.find_spec(top, [folder])
    # A folder without `__init__.py` may be one of data.
    if beside is None or (beside.origin is None and not _holds_code(Path(folder, *module.split(".")))):
        return module
    return f"{package_name(folder)}.{module}" if _is_hidden(beside, folder) else module


def _holds_code(place: Path) -> bool:
    return place.with_suffix(".py").is_file() or any(place.glob("*.py"))


def _is_hidden(beside: ModuleSpec, folder: str) -> bool:
    """Returns whether a plain import does not find a module in a folder, but another file of a user, or nothing."""
    try:
        found = find_spec(beside.name)
    except ValueError:  # a module made by hand
        return False
    if found is None:
        return True
    place, other = _place(beside), _place(found)
    if os.path.realpath(other) == os.path.realpath(place) or not INSTALLED.isdisjoint(Path(other).parts):
        return False
    # Python prefers a module to a folder without `__init__.py`, but for those of another folder of a user's files.
    return beside.origin is not None or found.origin is None or folder_of(beside.name, other) not in (None, folder)


def _place(spec: ModuleSpec) -> str:
    """Returns the file of a module; of a package without one, its first folder."""
    return spec.origin or next(iter(spec.submodule_search_locations or ()), "")


class _Finder(MetaPathFinder):
    """Finds what Python finds, and lets the modules in folders of the user's files import what lies beside them."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        spec = PathFinder.find_spec(fullname, path, target) if LOCATIONS.folders else None
        if spec is None or spec.origin is None or type(spec.loader) is not SourceFileLoader:
            return spec
        if (folder := folder_of(fullname, spec.origin)) is not None:
            spec.loader = FileLoader(fullname, spec.origin, folder)
        return spec


_FINDER = _Finder()


class FileLoader(SourceFileLoader):
    """Loads a module of a folder; its import statements, also those inside functions, see that folder first."""

    def __init__(self, fullname: str, path: str, folder: str) -> None:
        super().__init__(fullname, path)
        self._folder = folder

    def exec_module(self, module: ModuleType) -> None:
        """Runs the module with an `__import__` of its own, which Python calls for import statements."""
        vars(module)["__builtins__"] = {**vars(builtins), "__import__": self._import}
        super().exec_module(module)

    def _import(
        self,
        name: str,
        globals: Mapping[str, Any] | None = None,
        locals: Mapping[str, Any] | None = None,
        fromlist: Sequence[str] | None = (),
        level: int = 0,
    ) -> ModuleType:
        beside = name if level else name_beside(name, self._folder)
        imported = builtins.__import__(beside, globals, locals, fromlist or (), level)
        if beside == name or fromlist:
            return imported
        # `import a.b` binds a, which is the second part of the name here.
        return sys.modules[".".join(beside.split(".")[:2])]


def package_name(folder: str) -> str:
    """Returns the package name of a folder; in a process that uses a copy of the folder, that of the original."""
    known = (name for name, known in LOCATIONS.folders.items() if known == folder)
    return next(known, PREFIX + hashlib.sha256(folder.encode()).hexdigest()[:12])


def _package_of(folder: str) -> str:
    """Returns the package name of a folder, after making its files importable."""
    name = package_name(folder)
    if name not in LOCATIONS.folders:
        add_package(name, folder)
        add_to_path(folder)  # for imports by a computed name
    return name


def _name_in_folder(path: Path) -> str:
    if not path.stem.isidentifier():
        raise UserCodeError(f"{path.name} cannot be imported; its name must consist of letters, digits and '_'")
    return f"{_package_of(str(path.parent))}.{path.stem}"


def _name_in_package(path: Path) -> str:
    parts, folder = [path.stem], path.parent
    while (folder / "__init__.py").is_file():
        parts.insert(0, folder.name)
        folder = folder.parent
    _package_of(str(folder))
    name = ".".join(parts)
    found = find_spec(name)
    if found is None or found.origin is None or Path(found.origin).resolve() != path:
        hidden_by = found.origin if found is not None else "another package"
        raise UserCodeError(f"{path} is hidden by {hidden_by}, which has the name {name}, too; rename one of them")
    return name
