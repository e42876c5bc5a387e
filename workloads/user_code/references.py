"""References to code of the user's own in specs, and the objects that they name.

A reference is `package.module:Name`, `path/file.py:Name`, or `Name@DIGEST` for an object that was handed over from Python and
cannot be imported, such as a class of a notebook.
"""

import importlib
import re
import sys
import traceback
from importlib.util import find_spec
from typing import Any

from pruneyard.workloads.user_code.errors import UserCodeError
from pruneyard.workloads.user_code.files import add_to_path, base_folder, module_of_file, name_without_folder
from pruneyard.workloads.user_code.handed_over import is_handed_over, object_of
from pruneyard.workloads.user_code.nearest import nearest
from pruneyard.workloads.user_code.shipping import use_modules
from pruneyard.workloads.user_code.source_code import is_installed, is_ours, module_files

_NAME = r"[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*"
_MODULE = re.compile(rf"(?P<module>{_NAME}):(?P<attribute>{_NAME})", flags=re.ASCII)
_FILE = re.compile(rf"(?P<file>[^:]+\.py):(?P<attribute>{_NAME})", flags=re.ASCII)


def is_reference(name: str) -> bool:
    """Returns whether a name in a spec is a reference, not the name of a plug-in."""
    return is_handed_over(name) or _FILE.fullmatch(name) is not None or _MODULE.fullmatch(name) is not None


def resolve(name: str) -> Any:
    """Returns the object that a reference names, importing its module.

    Modules are searched on `sys.path` and then in the current folder; paths start from the current folder.

        resolve("torch.nn:Linear")
        resolve("train.py:main")

    Raises `UserCodeError`, which says what was not found, or what the import raised.
    """
    if is_handed_over(name):
        return object_of(name)
    module, attribute = module_and_attribute(name)
    found = import_user_module(module, reference=name)
    for part in attribute.split("."):
        if not hasattr(found, part):
            known = [known for known in vars(found) if not known.startswith("_")] if hasattr(found, "__dict__") else []
            raise UserCodeError(f"{name!r} cannot be found: {name.rpartition(':')[0]} has no {attribute}{nearest(part, known)}")
        found = getattr(found, part)
    return found


def module_and_attribute(name: str) -> tuple[str, str]:
    """Returns module and dotted attribute of a reference that can be imported. Raises `UserCodeError` for another text."""
    if (match := _FILE.fullmatch(name)) is not None:
        return module_of_file(match["file"]), match["attribute"]
    if (match := _MODULE.fullmatch(name)) is not None:
        return match["module"], match["attribute"]
    raise UserCodeError(f"{name!r} is no reference; it must be package.module:Name or path/file.py:Name")


def import_user_module(module: str, *, reference: str) -> Any:
    """Imports a module, whose source is part of shipments then. Raises `UserCodeError`, which begins with the reference."""
    # The command does not search the current folder, as `python -m` does.
    add_to_path(str(base_folder()))
    try:
        imported = importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is not None and f"{module}.".startswith(f"{error.name}."):
            searched = f"on sys.path or in {base_folder()}"
            raise UserCodeError(f"{reference!r} cannot be imported: there is no module {error.name} {searched}") from error
        raise _failed_import(module, reference, error) from error
    # Whatever the code raises when it is run, also `sys.exit` of a script without a main guard.
    except (Exception, SystemExit) as error:
        raise _failed_import(module, reference, error) from error
    if not is_ours(module) and not is_installed(module):
        use_modules([module])
        module_files(module)  # remembers the sources as they were imported
    return imported


def _failed_import(module: str, reference: str, error: BaseException) -> UserCodeError:
    """Returns what the import of a module raised, with the line of its file that did; a syntax error says its own line."""
    found = find_spec(module)
    lines = [line for frame, line in traceback.walk_tb(error.__traceback__) if found and frame.f_code.co_filename == found.origin]
    where = f" in line {lines[-1]}" if lines else ""
    raised = f"{name_without_folder(module)} raised {type(error).__name__}{where}: {error}"
    return UserCodeError(f"{reference!r} cannot be imported: {raised}")


def importable_name(obj: Any) -> str | None:
    """Returns the reference under which other processes can import a class or function; None where they cannot."""
    module, name = getattr(obj, "__module__", None), getattr(obj, "__qualname__", "")
    if not module or module == "__main__" or _MODULE.fullmatch(f"{module}:{name}") is None:
        return None
    found: Any = sys.modules.get(module)
    for part in name.split("."):
        found = getattr(found, part, None)
    try:
        return f"{module}:{name}" if found == obj and find_spec(module) is not None else None
    except ValueError:  # a module made by hand
        return None
