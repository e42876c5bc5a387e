"""Finds plug-ins by family and name: a family is a folder, a plug-in is one file in it.

The file name is the name used in specs and the one class in its `__all__` is the plug-in. A family with a file `_by_reference.py`
also takes code of the user's own, by a reference such as `my_package.nets:Net`. Third parties add plug-ins
through the entry-point group `pruneyard.plugins`: `sparse.methods.fresh_growth = "their_package.fresh_growth"`. A further kind
of job is `kinds.nearest_mean = "their_package.job"`, with methods such as `nearest_mean.methods.cosine = "their_package.cosine"`.
A built-in kind cannot be replaced. `add_file` adds a file that lies in no package.

The conformance suites (`pruneyard.testing`) build a plug-in with its defaults and with short budgets. A class whose fields have
no defaults, or that has more than one way of working, names the settings to test in a class attribute `examples`, a tuple of
`Settings`.
"""

import ast
import dataclasses
import difflib
import importlib
import inspect
import pkgutil
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from importlib.util import find_spec
from itertools import takewhile
from pathlib import Path
from types import ModuleType
from typing import Any

from pruneyard.workloads.user_code.errors import UserCodeError
from pruneyard.workloads.user_code.families import KINDS, PROTOCOLS, NoFamilyError, family_of
from pruneyard.workloads.user_code.files import LOCATIONS, module_of_file
from pruneyard.workloads.user_code.nearest import nearest
from pruneyard.workloads.user_code.references import import_user_module, is_reference

ENTRY_POINT_GROUP = "pruneyard.plugins"

Settings = Mapping[str, Any]
"""A plug-in's table in a spec, without its name."""


@dataclass(frozen=True)
class Plugin:
    """Marks a dataclass field that is chosen by name: `Annotated[Objective, Plugin("objectives")]`."""

    family: str


@dataclass(frozen=True, kw_only=True)
class Description:
    """The docstring of a plug-in's file in parts, read without importing it."""

    name: str
    family: str
    summary: str
    reference: str


class UnknownPluginError(ValueError):
    """There is no plug-in of that name; `nearest` is the closest known name, or empty."""

    def __init__(self, family: str, name: str) -> None:
        known = names(family)
        close = difflib.get_close_matches(name, known, n=1)
        self.nearest = close[0] if close else ""
        hint = f"; did you mean {self.nearest}?" if self.nearest else ""
        if takes_references(family):
            known = [*known, "package.module:Name"]
        super().__init__(f"{name!r} is none of {', '.join(known)}{hint}")


@cache
def _modules(family: str) -> dict[str, str]:
    """Returns the module path of every plug-in of a family, by name."""
    folder = Path(__file__).parent.joinpath(*family.split("."))
    foreign = _foreign_modules(family)
    if not is_family(family):
        raise ModuleNotFoundError(f"{family} is no family of plug-ins")
    own = {
        info.name: f"pruneyard.workloads.{family}.{info.name}"
        for info in pkgutil.iter_modules([str(folder)])
        if not info.name.startswith("_")
    }
    return dict(sorted((foreign | own).items()))


def _foreign_modules(family: str) -> dict[str, str]:
    """Returns the module paths that other distributions offer for a family, by name."""
    prefix = f"{family}."
    return {
        point.name.removeprefix(prefix): point.value
        for point in _entry_points()
        if point.name.startswith(prefix)
    }


@cache
def _entry_points() -> tuple[EntryPoint, ...]:
    """Returns what other distributions offer. Finding out opens a file of every installed distribution."""
    return tuple(entry_points(group=ENTRY_POINT_GROUP))


def _all_modules(family: str) -> dict[str, str]:
    """Returns the module paths of a family's plug-ins by name, with those of the files that specs have named."""
    added = {name: module for (of, name), module in LOCATIONS.plugins.items() if of == family}
    return dict(sorted((added | _modules(family)).items())) if added else _modules(family)


def add_file(path: str, family: str | None = None) -> str:
    """Makes a file a plug-in, or a kind of job, of this process and its workers, by its name without `.py`. Returns its module.

    family: the family of its class; by default the one whose protocol the class satisfies.

    Raises `UserCodeError` for a file that cannot be imported or has no plug-in class (see `class_in`), a class that fits no
    family, and a name that another plug-in has.
    """
    module = module_of_file(path)
    cls = class_in(import_user_module(module, reference=path), path)
    if family is not None and family not in PROTOCOLS:
        known = f"known are {', '.join(PROTOCOLS)}{nearest(family, PROTOCOLS)}"
        raise UserCodeError(f"{path}: {family!r} is no family of plug-ins; {known}")
    try:
        member = family or family_of(cls), Path(path).stem
    except NoFamilyError as error:
        raise UserCodeError(f"{path}: {error}") from error
    taken = _installed_jobs() if member[0] == KINDS else _modules(member[0])
    if member[1] in taken or LOCATIONS.plugins.get(member, module) != module:
        raise UserCodeError(f"{path}: {member[0]} has a plug-in {member[1]} already; give the file another name")
    LOCATIONS.plugins[member] = module
    _find_named.cache_clear()
    return module


def class_in(module: ModuleType, path: str) -> type[Any]:
    """Returns the class of a plug-in's file.

    Raises `UserCodeError`, which begins with the path, unless `__all__` names exactly one class, a frozen dataclass without
    abstract methods.
    """
    public = list(getattr(module, "__all__", []))
    own = [name for name, member in vars(module).items() if inspect.isclass(member) and member.__module__ == module.__name__]
    defined = f"; the file defines {', '.join(own)}" if own else "; the file defines no class"
    if len(public) != 1:
        raise UserCodeError(f"{path}: __all__ is {public}; it must name exactly one class{defined}")
    cls = getattr(module, public[0], None)
    if not inspect.isclass(cls):
        raise UserCodeError(f"{path}: __all__ names {public[0]}, which is no class{defined}")
    if not getattr(vars(cls).get("__dataclass_params__"), "frozen", False):
        rule = "write @dataclass(frozen=True, kw_only=True) above it"
        raise UserCodeError(f"{path}: {cls.__name__} is no frozen dataclass; {rule}")
    if inspect.isabstract(cls):
        lacking = ", ".join(sorted(getattr(cls, "__abstractmethods__", ())))
        raise UserCodeError(f"{path}: {cls.__name__} lacks {lacking}, which its base class asks for")
    return cls


def names(family: str) -> list[str]:
    """Returns the names of a family's plug-ins, sorted."""
    return list(_all_modules(family))


def is_family(family: str) -> bool:
    """Returns whether there are plug-ins of a family; a kind of job need not have methods."""
    return Path(__file__).parent.joinpath(*family.split(".")).is_dir() or bool(_foreign_modules(family))


def takes_references(family: str) -> bool:
    """Returns whether a family takes code of the user's own by reference."""
    return Path(__file__).parent.joinpath(*family.split("."), f"{_BY_REFERENCE}.py").is_file()


_BY_REFERENCE = "_by_reference"
"""The file of a family whose one public function makes a plug-in's class of a reference."""


def find(family: str, name: str) -> type[Any]:
    """Returns a plug-in's class.

    Raises `UnknownPluginError`, `UserCodeError` for a reference that cannot be used, or `ImportError` for a file without exactly
    one public name.
    """
    if is_reference(name) and takes_references(family):
        adapters = importlib.import_module(f"pruneyard.workloads.{family}.{_BY_REFERENCE}")
        return adapters.adapt(name)  # type: ignore[no-any-return]
    return _find_named(family, name)


@cache
def _find_named(family: str, name: str) -> type[Any]:
    modules = _all_modules(family)
    if name not in modules:
        raise UnknownPluginError(family, name)
    if modules[name].rpartition(".")[2] != name:
        raise ImportError(
            f"plug-in {name} of {family} names {modules[name]}; the file must be called {name}.py"
        )
    module = importlib.import_module(modules[name])
    public = getattr(module, "__all__", [])
    if len(public) != 1:
        raise ImportError(f"{modules[name]} must name exactly one class in __all__, it names {public}")
    return getattr(module, public[0])  # type: ignore[no-any-return]


def name_of(plugin: object) -> str:
    """Returns the name of a plug-in instance in specs: the name of the file that defines its class, or its reference."""
    return getattr(type(plugin), "reference", None) or type(plugin).__module__.rpartition(".")[2]


def table_of(plugin: Any) -> dict[str, Any]:
    """Returns the spec table of a plug-in: its name and every field, tuples as lists; fields are plain values or plug-ins."""
    fields = {field.name: getattr(plugin, field.name) for field in dataclasses.fields(plugin) if field.init}
    plain = {key: table_of(v) if dataclasses.is_dataclass(v) else v for key, v in fields.items()}
    return {"name": name_of(plugin)} | {key: list(v) if isinstance(v, tuple) else v for key, v in plain.items()}


@cache
def _installed_jobs() -> dict[str, str]:
    """Returns the module of every kind's job class: of ours, and of other distributions."""
    own = {path.parent.name: f"pruneyard.workloads.{path.parent.name}.job" for path in Path(__file__).parent.glob("*/job.py")}
    return dict(sorted((_foreign_modules(KINDS) | own).items()))


def _jobs() -> dict[str, str]:
    """Returns these modules with those of the files that specs have named."""
    added = {name: module for (family, name), module in LOCATIONS.plugins.items() if family == KINDS}
    return dict(sorted((added | _installed_jobs()).items()))


def kinds() -> list[str]:
    """Returns the kinds of jobs: folders of `workloads` with a `job.py`, and those that other distributions and files add."""
    return list(_jobs())


def find_job(kind: str) -> type[Any]:
    """Returns the job class of a kind; raises `ValueError` if there is none."""
    if kind not in kinds():
        raise ValueError(f"{kind!r} is none of {', '.join(kinds())}{nearest(kind, kinds())}")
    module = importlib.import_module(_jobs()[kind])
    return getattr(module, module.__all__[0])  # type: ignore[no-any-return]


def describe(family: str) -> list[Description]:
    """Returns summary (first line) and reference (paragraph that starts with `Reference:`) of every plug-in's docstring."""
    return [_describe(family, name, module) for name, module in _all_modules(family).items()]


def _describe(family: str, name: str, module: str) -> Description:
    found = find_spec(module)
    if found is None or found.origin is None:
        raise ImportError(f"plug-in {name} of {family} names {module}, which cannot be found")
    text = ast.get_docstring(ast.parse(Path(found.origin).read_text(encoding="utf-8"))) or ""
    lines = [line.strip() for line in text.splitlines()]
    # Several references, or a long one, take several lines: the paragraph ends at an empty line.
    begin = next((place for place, line in enumerate(lines) if line.startswith("Reference:")), len(lines))
    reference = " ".join(takewhile(bool, lines[begin:])).removeprefix("Reference:").strip()
    return Description(name=name, family=family, summary=lines[0] if lines else "", reference=reference)
