"""Carries code of the user's own to the worker processes of a study: they find the modules and objects that the driver found."""

import atexit
import importlib
import shutil
import sys
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path

from pruneyard.workloads.user_code.files import (
    LOCATIONS,
    PREFIX,
    CodeLocations,
    add_package,
    add_to_path,
    folder_of,
    package_name,
)
from pruneyard.workloads.user_code.handed_over import HANDED_OVER, HandedOver
from pruneyard.workloads.user_code.pickling import pickle_by_value, unpickle
from pruneyard.workloads.user_code.source_code import loaded_source, module_files

_USED: dict[str, None] = {}
"""The modules that were used in this process and whose source counts, in order."""
_RECEIVED: list[bytes] = []
"""The shipment that this process has installed."""


@dataclass(frozen=True, kw_only=True)
class _Source:
    """The source of a module: its content, and the path of its file below the folder that is on `sys.path`.

    Of a module in a folder of files, the path begins with the package name of the folder.
    """

    content: bytes
    path: str

    @classmethod
    def of(cls, module: str, file: Path) -> "_Source":
        """Returns the source of a module of this process."""
        return cls(content=loaded_source(module, file), path=_path_of(_full_name(module, file), file))


@dataclass(frozen=True, kw_only=True)
class _Shipment:
    path: tuple[str, ...]  # sys.path of the driver
    locations: CodeLocations
    sources: Mapping[str, _Source]  # by module
    objects: Mapping[str, HandedOver]  # by reference


def use_modules(modules: Iterable[str]) -> None:
    """Adds modules to those whose source is part of shipments."""
    _USED.update(dict.fromkeys(modules))


def shipment() -> bytes:
    """Returns what another process needs to use the same code: the search path, sources of modules, and objects by value.

    The sources are those of all modules that specs of this process refer to, with what they import (see `module_files`). In a
    process that has installed a shipment, it is that one.
    """
    if _RECEIVED:
        return _RECEIVED[0]
    modules = [*_USED, *(module for entry in HANDED_OVER.values() for module in entry.modules)]
    files = {name: file for module in modules for name, file in module_files(module).items()}
    sources = {_full_name(name, file): _Source.of(name, file) for name, file in files.items()}
    locations = replace(LOCATIONS, base=str(Path.cwd()))
    objects = {name: HandedOver(pickled=entry.pickled, modules=entry.modules) for name, entry in HANDED_OVER.items()}
    return pickle_by_value(_Shipment(path=tuple(sys.path), locations=locations, sources=sources, objects=objects))


def files_to_copy(folder: Path) -> dict[str, Path]:
    """Returns the files of the code in use, by the path below another current folder from which the same names find them.

    Of files outside packages these are the ones below `folder`, which is the current one; of others, other machines must have the
    paths.
    """
    found, folder = {}, folder.resolve()
    for name, file in {name: file for module in _USED for name, file in module_files(module).items()}.items():
        if folder_of(name, str(file)) is not None and file.is_relative_to(folder):
            found[file.relative_to(folder).as_posix()] = file
        elif str(file.parent) not in LOCATIONS.folders.values():
            found[_path_of(name, file)] = file
    return found


def install(content: bytes) -> None:
    """Makes the code of a shipment available in this process, which must be a worker of the study that made it.

    Modules that are found here with the same content, as on the same machine, are used from where they are, so that files beside
    them are found. Others are used from copies that last as long as this process.
    """
    received: _Shipment = unpickle(content)
    _RECEIVED[:] = [content]
    theirs = received.locations
    LOCATIONS.base, LOCATIONS.modules, LOCATIONS.plugins = theirs.base, theirs.modules, theirs.plugins
    for folder in received.path:
        if folder and Path(folder).exists():
            add_to_path(folder)
    for name, folder in theirs.folders.items():
        add_package(name, folder)
    HANDED_OVER.update(received.objects)
    differing = {name.partition(".")[0] for name, source in received.sources.items() if not _is_here(name, source, theirs)}
    copied = {name: source for name, source in received.sources.items() if name.partition(".")[0] in differing}
    if copied:
        _use_copies(copied, theirs)


def _path_of(module: str, file: Path) -> str:
    parts = module.split(".")
    return "/".join([*parts, file.name] if file.stem == "__init__" else [*parts[:-1], file.name])


def _full_name(module: str, file: Path) -> str:
    """Returns the name of a module with the package that stands for its folder, if there is one."""
    folder = folder_of(module, str(file))
    return module if folder is None or module.startswith(PREFIX) else f"{package_name(folder)}.{module}"


def _is_here(module: str, source: _Source, locations: CodeLocations) -> bool:
    top, _, below = source.path.partition("/")
    if top in locations.folders:
        file = Path(locations.folders[top], below)
        return file.is_file() and file.read_bytes() == source.content
    try:
        found = find_spec(module)
    except ImportError:  # its package is not here
        return False
    origin = Path(found.origin) if found is not None and found.origin is not None else None
    return origin is not None and origin.is_file() and origin.read_bytes() == source.content


def _use_copies(sources: Mapping[str, _Source], locations: CodeLocations) -> None:
    folder = Path(tempfile.mkdtemp(prefix="pruneyard-code-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    for source in sources.values():
        file = folder / source.path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(source.content)
    # Before all others: another version of these modules may be installed here.
    sys.path.insert(0, str(folder))
    importlib.invalidate_caches()
    tops = {name.partition(".")[0] for name in sources}
    # Last, so at the front of the path, the folder that the driver searches first.
    for top in [*(tops - locations.folders.keys()), *(name for name in reversed(locations.folders) if name in tops)]:
        if top in locations.folders:
            add_package(top, str(folder / top))
            sys.path.insert(0, str(folder / top))  # for imports of files beside it by their name alone
        for loaded in [name for name in sys.modules if name.partition(".")[0] == top and name != top]:
            del sys.modules[loaded]  # imported above, to find the file of a module
        if top not in locations.folders:
            sys.modules.pop(top, None)
