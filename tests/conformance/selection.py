"""A pytest plug-in that chooses which members of which family the conformance suites test.

    pytest --pyargs pruneyard.testing --plugin path/to/mymethod.py     a file of your own
    pytest --pyargs pruneyard.testing --plugin mymethod                an installed plug-in, by its name in specs
    pytest --pyargs pruneyard.testing --family sparse.methods          all members of a family

The family of a file is the one whose protocol its class satisfies; `--family` names it where that is not clear. Without these
options all members of all families are tested.
"""

import importlib
import os
import shutil
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from pruneyard.workloads import plugins
from pruneyard.workloads.user_code.errors import UserCodeError
from pruneyard.workloads.user_code.families import KINDS, PROTOCOLS, NoFamilyError, family_of

Member = tuple[str, str]  # family, name
CHOSEN = pytest.StashKey[frozenset[Member]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("pruneyard", "conformance of pruneyard's plug-ins")
    plugin_help = "test this plug-in alone, a file or an installed plug-in's name; may be given several times"
    group.addoption("--plugin", metavar="FILE_OR_NAME", action="append", help=plugin_help)
    group.addoption("--family", choices=sorted(PROTOCOLS), help="the plug-in's family; alone: test all members of this family")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "slow: takes more than a few seconds")
    config.addinivalue_line("markers", "gpu: needs a GPU")
    plugin_options, family = config.getoption("--plugin"), config.getoption("--family")
    if plugin_options is not None:
        config.stash[CHOSEN] = frozenset(member for plugin in plugin_options for member in _members(config, plugin, family))
    elif family is not None:
        config.stash[CHOSEN] = frozenset((family, name) for name in _names(family))


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leaves out suites that name no chosen family: importing all of them takes longer than testing one plug-in."""
    chosen = config.stash.get(CHOSEN, None)
    if chosen is None or collection_path.parent != Path(__file__).parent or not collection_path.name.startswith("test_"):
        return None
    text = collection_path.read_text(encoding="utf-8")
    chosen_here = [family for family, _ in chosen if f'"{family}"' in text]
    return None if chosen_here or "MEMBERS" in text else True


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Keeps the tests of the chosen members: those whose parameter `name` is a member of their module's `FAMILY`."""
    chosen = config.stash.get(CHOSEN, None)
    if chosen is None:
        return
    left_out = [item for item in items if _member_of(item) not in chosen]
    items[:] = [item for item in items if _member_of(item) in chosen]
    config.hook.pytest_deselected(items=left_out)


def _member_of(item: pytest.Item) -> Member | None:
    """Returns the family and the name that a test is about, or None for a test of something else."""
    parameters: Mapping[str, Any] = item.callspec.params if hasattr(item, "callspec") else {}
    family = parameters.get("family", getattr(getattr(item, "module", None), "FAMILY", None))
    return (family, parameters["name"]) if family is not None and "name" in parameters else None


def _members(config: pytest.Config, plugin: str, family: str | None) -> list[Member]:
    """Returns what `--plugin` names: the class of a file, or every installed member of that name."""
    is_file = plugin.endswith(".py") or os.sep in plugin
    return [_member_in_file(config, plugin, family)] if is_file else _installed_members(plugin, family)


def _installed_members(name: str, family: str | None) -> list[Member]:
    """Returns every member of that name; several families may have one. Raises `pytest.UsageError` for an unknown name."""
    families = [family] if family else sorted(PROTOCOLS)
    found = [(candidate, name) for candidate in families if name in _names(candidate)]
    if not found:
        where = f"{family}, which has {', '.join(_names(family))}" if family else "any family"
        raise pytest.UsageError(f"--plugin {name} is no plug-in of {where}; a file is given by its path, which ends in .py")
    return found


def _names(family: str) -> list[str]:
    """Returns the names of a family's members, which for the family of kinds are the kinds of jobs."""
    return plugins.kinds() if family == KINDS else plugins.names(family)


def _member_in_file(config: pytest.Config, plugin: str, family: str | None) -> Member:
    """Makes a file a plug-in, in this process and in those it starts, and returns its family and name.

    The file is offered as an installed package offers one, through an entry point in a folder on `sys.path`.
    """
    path = (config.invocation_params.dir / plugin).resolve()
    if not path.is_file():
        raise pytest.UsageError(f"--plugin {plugin} is no file; {path} does not exist")
    package = Path(plugins.__file__).parent.resolve()
    if path == package / path.parent.name / "job.py":
        return KINDS, path.parent.name
    if path.is_relative_to(package):
        return ".".join(path.relative_to(package).parent.parts), path.stem
    root, module = _import_root_and_name(path)
    _prepend_to_path(config, root)
    cls = _public_class(path, module)
    if family is None:
        try:
            family = family_of(cls)
        except NoFamilyError as error:
            raise pytest.UsageError(f"{error}; --family names the family to test it as") from error
    own = package / path.stem / "job.py" if family == KINDS else package.joinpath(*family.split("."), path.name)
    if own.exists():
        raise pytest.UsageError(f"--plugin {plugin}: {family} has a plug-in {path.stem} already; give the file another name")
    site = Path(tempfile.mkdtemp(prefix="pruneyard-plugin-"))
    config.add_cleanup(lambda: shutil.rmtree(site, ignore_errors=True))
    info = site / "plugin_under_test-0.dist-info"
    info.mkdir()
    info.joinpath("METADATA").write_text("Metadata-Version: 2.1\nName: plugin-under-test\nVersion: 0\n", encoding="utf-8")
    entry_point = f"[{plugins.ENTRY_POINT_GROUP}]\n{family}.{path.stem} = {module}\n"
    info.joinpath("entry_points.txt").write_text(entry_point, encoding="utf-8")
    _prepend_to_path(config, site)
    return family, path.stem


def _import_root_and_name(path: Path) -> tuple[Path, str]:
    """Returns the folder that must be on `sys.path` and the module's dotted name; packages are followed upwards."""
    parts, folder = [path.stem], path.parent
    while (folder / "__init__.py").is_file():
        parts.insert(0, folder.name)
        folder = folder.parent
    return folder, ".".join(parts)


def _prepend_to_path(config: pytest.Config, folder: Path) -> None:
    """Lets this process and its children import from a folder until the session ends."""
    before = os.environ.get("PYTHONPATH")
    sys.path.insert(0, str(folder))
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(folder), before]))

    def restore() -> None:
        sys.path.remove(str(folder))
        os.environ.pop("PYTHONPATH") if before is None else os.environ.update(PYTHONPATH=before)

    config.add_cleanup(restore)


def _public_class(path: Path, module: str) -> type[Any]:
    """Returns the one class in the file's `__all__`. Raises `pytest.UsageError` where there is no such class."""
    try:
        loaded = importlib.import_module(module)
    except Exception as error:  # whatever an unfinished file raises
        raise pytest.UsageError(f"--plugin {path} cannot be imported: {type(error).__name__}: {error}") from error
    if Path(loaded.__file__ or "").resolve() != path:
        raise pytest.UsageError(f"--plugin {path} is hidden by {loaded.__file__}; give the file another name")
    try:
        return plugins.class_in(loaded, f"--plugin {path}")
    except UserCodeError as error:
        raise pytest.UsageError(str(error)) from error
