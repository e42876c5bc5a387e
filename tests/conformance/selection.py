"""A pytest plug-in that chooses which members of which family the conformance suites test.

    pytest --pyargs pruneyard.testing --plugin path/to/mymethod.py     a file of your own
    pytest --pyargs pruneyard.testing --plugin mymethod                an installed plug-in, by its name in specs
    pytest --pyargs pruneyard.testing --family sparse.methods          all members of a family

The family of a file is the one whose protocol its class satisfies; `--family` names it where that is not clear. Without these
options all members of all families are tested.
"""

import dataclasses
import importlib
import inspect
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from pruneyard.workloads import plugins

FAMILIES = {
    "calibrate.conformal": "pruneyard.workloads.calibrate.prediction_sets.ConformalRule",
    "calibrate.methods": "pruneyard.workloads.calibrate.calibrator.Calibrator",
    "calibrate.scores": "pruneyard.workloads.calibrate.score.Score",
    "data.selectors": "pruneyard.workloads.data.selection.Selector",
    "data.sources": "pruneyard.workloads.data.dataset.Source",
    "deploy.formats": "pruneyard.workloads.deploy.format.Format",
    "distill.methods": "pruneyard.workloads.distill.distiller.Distiller",
    "gradients": "pruneyard.workloads.interfaces.GradientRule",
    "models": "pruneyard.workloads.networks.builder.ModelBuilder",
    "nodes.methods": "pruneyard.workloads.nodes.node_method.NodeMethod",
    "nodes.models": "pruneyard.workloads.nodes.node_network.NodeModel",
    "nodes.objectives": "pruneyard.workloads.nodes.node_objective.NodeObjective",
    "nodes.sources": "pruneyard.workloads.nodes.graph.GraphSource",
    "nodes.splits": "pruneyard.workloads.nodes.splitting.NodeSplitter",
    "objectives": "pruneyard.workloads.interfaces.Objective",
    "optimizers": "pruneyard.workloads.interfaces.OptimizerBuilder",
    "schedules": "pruneyard.workloads.interfaces.RateSchedule",
    "sparse.methods": "pruneyard.workloads.training.mask_updater.MaskUpdater",
}
"""The protocol, or the abstract base class, of every family of plug-ins."""

Member = tuple[str, str]  # family, name
CHOSEN = pytest.StashKey[frozenset[Member]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("pruneyard", "conformance of pruneyard's plug-ins")
    plugin_help = "test this plug-in alone, a file or an installed plug-in's name; may be given several times"
    group.addoption("--plugin", metavar="FILE_OR_NAME", action="append", help=plugin_help)
    group.addoption("--family", choices=sorted(FAMILIES), help="the plug-in's family; alone: test all members of this family")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "slow: takes more than a few seconds")
    config.addinivalue_line("markers", "gpu: needs a GPU")
    given, family = config.getoption("--plugin"), config.getoption("--family")
    if given is not None:
        config.stash[CHOSEN] = frozenset(member for plugin in given for member in _members(config, plugin, family))
    elif family is not None:
        config.stash[CHOSEN] = frozenset((family, name) for name in plugins.names(family))


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leaves out suites that name no chosen family: importing all of them takes longer than testing one plug-in."""
    chosen = config.stash.get(CHOSEN, None)
    if chosen is None or collection_path.parent != Path(__file__).parent or not collection_path.name.startswith("test_"):
        return None
    text = collection_path.read_text(encoding="utf-8")
    named = [family for family, _ in chosen if f'"{family}"' in text]
    return None if named or "MEMBERS" in text else True


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
    searched = [family] if family else sorted(FAMILIES)
    found = [(each, name) for each in searched if name in plugins.names(each)]
    if not found:
        try:
            plugins.find(searched[0], name)
        except plugins.UnknownPluginError as error:
            where = f"in {family}: {error}" if family else "in any family; a file is given by its path, which ends in .py"
            raise pytest.UsageError(f"--plugin {name} is no plug-in {where}") from error
    return found


def _member_in_file(config: pytest.Config, given: str, family: str | None) -> Member:
    """Makes a file a plug-in, in this process and in those it starts, and returns its family and name.

    The file is offered as an installed package offers one, through an entry point in a folder on `sys.path`.
    """
    path = (config.invocation_params.dir / given).resolve()
    if not path.is_file():
        raise pytest.UsageError(f"--plugin {given} is no file; {path} does not exist")
    own = Path(plugins.__file__).parent.resolve()
    if path.is_relative_to(own):
        return ".".join(path.relative_to(own).parent.parts), path.stem
    root, module = _importable(path)
    _prepend_to_path(config, root)
    cls = _public_class(path, module)
    family = family or family_of(cls)
    if own.joinpath(*family.split("."), path.name).exists():
        raise pytest.UsageError(f"--plugin {given}: {family} has a plug-in {path.stem} already; give the file another name")
    site = Path(tempfile.mkdtemp(prefix="pruneyard-plugin-"))
    config.add_cleanup(lambda: shutil.rmtree(site, ignore_errors=True))
    info = site / "plugin_under_test-0.dist-info"
    info.mkdir()
    info.joinpath("METADATA").write_text("Metadata-Version: 2.1\nName: plugin-under-test\nVersion: 0\n", encoding="utf-8")
    point = f"[{plugins.ENTRY_POINT_GROUP}]\n{family}.{path.stem} = {module}\n"
    info.joinpath("entry_points.txt").write_text(point, encoding="utf-8")
    _prepend_to_path(config, site)
    return family, path.stem


def _importable(path: Path) -> tuple[Path, str]:
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
    public = getattr(loaded, "__all__", [])
    if len(public) != 1 or not inspect.isclass(getattr(loaded, public[0], None)):
        raise pytest.UsageError(f"--plugin {path}: __all__ is {public}; it must name exactly one class")
    return getattr(loaded, public[0])  # type: ignore[no-any-return]


def family_of(cls: type[Any]) -> str:
    """Returns the family whose protocol a class satisfies. Raises `pytest.UsageError` where none, or several, fit best."""
    bases = {family: _protocol(family) for family in FAMILIES}
    inherited = [family for family, base in bases.items() if base in cls.__mro__]
    if inherited:
        return min(inherited, key=lambda family: cls.__mro__.index(bases[family]))
    missing = {family: list(_missing(cls, base)) for family, base in bases.items() if getattr(base, "_is_protocol", False)}
    fitting = [family for family, names in missing.items() if not names]
    most = max((len(_claims(bases[family])) for family in fitting), default=0)
    best = [family for family in fitting if len(_claims(bases[family])) == most]
    if len(best) == 1:
        return best[0]
    if best:
        raise pytest.UsageError(f"{cls.__name__} fits {', '.join(best)}; --family must name one of them")
    held = _names_held(cls)
    near = max(missing, key=lambda family: len(_claims(bases[family]) & held) / len(_claims(bases[family])))
    lacking = ", ".join(missing[near])
    raise pytest.UsageError(
        f"{cls.__name__} satisfies the protocol of no family. Nearest is {near}; of {bases[near].__name__} it lacks {lacking}, "
        "or has it with other parameters. --family names the family to test it as"
    )


@cache
def _protocol(family: str) -> type[Any]:
    module, _, name = FAMILIES[family].rpartition(".")
    return getattr(importlib.import_module(module), name)  # type: ignore[no-any-return]


def _claims(protocol: type[Any]) -> set[str]:
    """Returns the public names that a protocol asks of its members."""
    own = {name for base in protocol.__mro__ if getattr(base, "_is_protocol", False) for name in _names_in(base)}
    return {name for name in own if not name.startswith("_")}


def _names_in(cls: type[Any]) -> set[str]:
    return {*vars(cls), *inspect.get_annotations(cls)}


def _names_held(cls: type[Any]) -> set[str]:
    """Returns the names of all attributes, methods and fields of a class."""
    fields = {field.name for field in dataclasses.fields(cls)} if dataclasses.is_dataclass(cls) else set()
    return fields | {name for base in cls.__mro__ for name in _names_in(base)}


def _missing(cls: type[Any], protocol: type[Any]) -> Iterator[str]:
    """Yields what a class lacks of a protocol: attributes, fields, and methods that take the protocol's arguments."""
    held = _names_held(cls)
    for name in sorted(_claims(protocol)):
        wanted = vars(protocol).get(name)
        if name not in held or (inspect.isfunction(wanted) and not _takes(getattr(cls, name, None), wanted)):
            yield name


def _takes(method: Any, wanted: Any) -> bool:
    """Returns whether a method can be called as the protocol's is: by position, and by its keyword-only names."""
    if not callable(method):
        return False
    parameters = inspect.signature(wanted).parameters.values()
    positional = [None for parameter in parameters if parameter.kind is parameter.POSITIONAL_OR_KEYWORD]
    named = {parameter.name: None for parameter in parameters if parameter.kind is parameter.KEYWORD_ONLY}
    try:
        inspect.signature(method).bind(*positional, **named)
    except TypeError:
        return False
    return True
