"""Digests the source of modules that are not part of this package, so that a run key changes when their code does."""

import ast
import hashlib
import os
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from importlib.machinery import ModuleSpec, SourceFileLoader
from importlib.util import find_spec
from pathlib import Path

from pruneyard.workloads.user_code.errors import UserCodeError
from pruneyard.workloads.user_code.files import (
    INSTALLED,
    OURS,
    FileLoader,
    folder_of,
    name_beside,
    name_without_folder,
)


@dataclass(frozen=True)
class _Loaded:
    """The source of a module when it was first looked at after it was loaded.

    spec: of the loaded module, which every reload replaces; None for a module that is not loaded.
    is_stale: whether the file had changed already since the module was loaded.
    """

    spec: ModuleSpec | None
    file: Path
    content: bytes
    is_stale: bool


_LOADED: dict[str, _Loaded] = {}
"""The sources of this process, by module."""
_FILES: dict[str, dict[str, Path]] = {}
"""What `module_files` has found, by module."""
_DIGESTS: dict[str, str] = {}
"""The digests of this process, by module."""


def forget_sources() -> None:
    """Makes this process read all sources anew."""
    _LOADED.clear()
    _FILES.clear()
    _DIGESTS.clear()


def is_ours(module: str) -> bool:
    """Returns whether a module belongs to this package."""
    return module.partition(".")[0] == OURS


def is_installed(module: str) -> bool:
    """Returns whether a module belongs to Python, or was installed by a package manager."""
    top = module.partition(".")[0]
    if top in sys.stdlib_module_names:
        return True
    try:
        spec = find_spec(top)
    except ValueError:  # a module made by hand
        return False
    return spec is not None and spec.origin is not None and not INSTALLED.isdisjoint(Path(spec.origin).resolve().parts)


def module_digest(module: str) -> str:
    """Returns 16 hexadecimal digits over the source of a module and of what it imports, which `module_files` lists.

    It is the source as this process has loaded it: a later change of a file counts once the module is reloaded.
    """
    files = module_files(module)
    if module not in _DIGESTS:
        digest = hashlib.sha256()
        for shown, name in sorted((name_without_folder(name), name) for name in files):
            digest.update(f"{shown}\0".encode())
            digest.update(hashlib.sha256(loaded_source(name, files[name])).digest())
        _DIGESTS[module] = digest.hexdigest()[:16]
    return _DIGESTS[module]


def module_files(module: str) -> dict[str, Path]:
    """Returns the file of a module, and of every module that it imports and whose source counts, by module.

    These are modules of the same top-level package, and modules that are not installed by a package manager, such as those on
    `$PYTHONPATH`. Imports by a computed name are not seen. Raises `UserCodeError` where one finds the module of another folder.
    """
    known = _FILES.get(module)
    if known is not None and all(name in _LOADED and _LOADED[name].spec is _spec_of(name) for name in known):
        return known
    found: dict[str, Path] = {}
    waiting = [module]
    while waiting:
        name = waiting.pop()
        file = None if name in found else _file_of(name, importer=module)
        if file is not None:
            found[name] = file
            content, folder = loaded_source(name, file), folder_of(name, str(file))
            _refuse_hidden(file, content, folder)
            waiting += (name_beside(each, folder) for each in _imported(name, file, content))
    _FILES[module] = found
    _DIGESTS.pop(module, None)
    return found


def loaded_source(module: str, file: Path) -> bytes:
    """Returns the source of a module as this process has loaded it, or as it is if it is not loaded."""
    spec, known = _spec_of(module), _LOADED.get(module)
    if known is None or known.spec is not spec or known.file != file:
        known = _Loaded(spec, file, file.read_bytes(), spec is not None and _has_changed_since_compiled(spec, file))
        _LOADED[module] = known
    return known.content


def changed_files() -> dict[str, Path]:
    """Returns the files that have changed since this process loaded them, by module; of those whose digest it has computed.

    Files of modules that are not loaded yet are read anew by the next digest.
    """
    changed = {}
    for name, known in list(_LOADED.items()):
        if known.spec is not _spec_of(name):
            continue  # loaded anew since, so that the next digest reads it anew
        try:
            is_same = known.file.read_bytes() == known.content
        except OSError:  # moved, or deleted
            is_same = False
        if known.spec is None and not is_same:
            del _LOADED[name]
        elif known.is_stale or not is_same:
            changed[name] = known.file
    return changed


def _spec_of(module: str) -> ModuleSpec | None:
    """Returns the spec of a loaded module; None for one that is not loaded, or was made by hand."""
    return getattr(sys.modules.get(module), "__spec__", None)


def _has_changed_since_compiled(spec: ModuleSpec, file: Path) -> bool:
    """Returns whether a file differs from the one that the bytecode was compiled from, which Python updates at every import.

    Returns False where Python could not have written the bytecode, so that it says nothing.
    """
    # Other loaders, such as pytest's, keep bytecode of their own.
    compiled = Path(spec.cached) if spec.cached and type(spec.loader) in (SourceFileLoader, FileLoader) else None
    if compiled is None or sys.dont_write_bytecode or not compiled.is_file() or not os.access(compiled.parent, os.W_OK):
        return False
    with compiled.open("rb") as opened:
        header = opened.read(16)
    if len(header) < 16 or header[4:8] != bytes(4):  # checked by hash, not by time
        return False
    status = file.stat()
    return header[8:] != b"".join((int(value) & 0xFFFFFFFF).to_bytes(4, "little") for value in (status.st_mtime, status.st_size))


def script_files(file: Path, *, name: str = "__main__", folder: Path) -> dict[str, Path]:
    """Returns the file of a script, and of every module that it imports and whose source counts, by module.

    name: of the script as a module. folder: the folder that Python searches first.

    Files are read anew at each call, as every run of the script reads them. Imports that cannot be parsed are not followed.
    """
    found: dict[str, Path] = {}
    waiting = [(name, file)]
    while waiting:
        module, place = waiting.pop()
        if module not in found:
            found[module] = place
            with suppress(SyntaxError):
                imported = _imported(module, place, place.read_bytes())
                files = ((other, file_in(folder, other) or _file_of(other, importer=name)) for other in imported)
                waiting += [(other, found_at) for other, found_at in files if found_at is not None]
    return found


def file_in(folder: Path, module: str) -> Path | None:
    """Returns the file of a module or package below a folder; None if it is not there."""
    place = folder.joinpath(*module.split("."))
    return next((each for each in (place / "__init__.py", place.with_suffix(".py")) if each.is_file()), None)


def _file_of(name: str, *, importer: str) -> Path | None:
    """Returns the file of a module whose source counts; None for modules of Python, of this package and of installed ones."""
    top = name.partition(".")[0]
    if top == OURS or top in sys.stdlib_module_names:
        return None
    try:
        spec = find_spec(name)
    except (ImportError, ValueError):  # no module of this name, or one made by hand
        return None
    if spec is None or spec.origin is None or not Path(spec.origin).is_file():
        return None
    file = Path(spec.origin)
    is_same = top == importer.partition(".")[0]
    return file if is_same or not INSTALLED & set(file.resolve().parts) else None


def _refuse_hidden(file: Path, content: bytes, folder: str | None) -> None:
    """Raises `UserCodeError` if `importlib.import_module` finds the module of another folder, as far as its text tells."""
    if file.suffix != ".py" or b"import_module" not in content:
        return
    for name in filter(None, map(_start_of_name, ast.walk(ast.parse(content)))):
        if name_beside(name, folder) != name:
            found = _file_of(name, importer=name) or "another folder"
            raise UserCodeError(
                f"{file}: importlib.import_module finds {name} in {found}, not the one beside this file; write an import "
                "statement, or rename one of the two"
            )


def _start_of_name(node: ast.AST) -> str:
    """Returns the top-level package that a call of `import_module` names; empty for other nodes and where it is not written."""
    match node:
        case ast.Call(func=ast.Name(id="import_module") | ast.Attribute(attr="import_module"), args=[first, *_]):
            texts = [each for each in ast.walk(first) if isinstance(each, ast.Constant)]
        case _:
            return ""
    text = min(texts, key=lambda each: each.col_offset).value if texts else ""
    return text.partition(".")[0] if isinstance(text, str) else ""


def _imported(name: str, file: Path, content: bytes) -> Iterator[str]:
    """Yields every module that a file with this content may import, and the packages that contain it."""
    parts = name.split(".")
    yield from (".".join(parts[:end]) for end in range(1, len(parts)))
    if file.suffix != ".py":
        return
    package = parts if file.name == "__init__.py" else parts[:-1]
    for node in ast.walk(ast.parse(content)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = [*package[: len(package) - node.level + 1], *filter(None, [node.module])] if node.level else [str(node.module)]
            yield ".".join(base)
            # Each name may be a module of that package.
            yield from (".".join([*base, alias.name]) for alias in node.names)
