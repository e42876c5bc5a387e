"""Names the families of plug-ins and finds that of a class: the one whose protocol it satisfies."""

import dataclasses
import importlib
import inspect
from collections.abc import Iterator
from functools import cache
from typing import Any

FAMILIES = {
    "calibrate.conformal": "pruneyard.workloads.calibrate.prediction_sets.ConformalRule",
    "calibrate.methods": "pruneyard.workloads.calibrate.calibrator.Calibrator",
    "calibrate.scores": "pruneyard.workloads.calibrate.score.Score",
    "data.selectors": "pruneyard.workloads.data.selection.Selector",
    "data.sources": "pruneyard.workloads.data.dataset.Source",
    "deploy.formats": "pruneyard.workloads.deploy.format.Format",
    "distill.methods": "pruneyard.workloads.distill.distiller.Distiller",
    "features.methods": "pruneyard.workloads.features.ranker.FeatureRanker",
    "gradients": "pruneyard.workloads.interfaces.GradientRule",
    "merge.methods": "pruneyard.workloads.merge.merger.Merger",
    "models": "pruneyard.workloads.networks.builder.ModelBuilder",
    "nodes.methods": "pruneyard.workloads.nodes.node_method.NodeMethod",
    "nodes.models": "pruneyard.workloads.nodes.node_network.NodeModel",
    "nodes.objectives": "pruneyard.workloads.nodes.node_objective.NodeObjective",
    "nodes.sources": "pruneyard.workloads.nodes.graph.GraphSource",
    "nodes.splits": "pruneyard.workloads.nodes.splitting.NodeSplitter",
    "objectives": "pruneyard.workloads.interfaces.Objective",
    "optimizers": "pruneyard.workloads.interfaces.OptimizerBuilder",
    "probe.methods": "pruneyard.workloads.probe.probe.Probe",
    "schedules": "pruneyard.workloads.interfaces.RateSchedule",
    "sparse.methods": "pruneyard.workloads.training.mask_updater.MaskUpdater",
    "sparse.patterns": "pruneyard.workloads.sparse.pattern.Pattern",
}
"""The protocol, or the abstract base class, of every family of plug-ins."""
KINDS = "kinds"
"""The family of kinds of jobs: a file of a user, or an entry point, adds one as it adds a plug-in."""
PROTOCOLS = FAMILIES | {KINDS: "pruneyard.workloads.workload.Workload"}
"""The protocol of everything that a file can add."""


class NoFamilyError(ValueError):
    """A class satisfies the protocol of no family, or of several equally well."""


def family_of(cls: type[Any]) -> str:
    """Returns the family whose protocol a class satisfies. Raises `NoFamilyError` where none, or several, fit best."""
    bases = {family: _protocol(family) for family in PROTOCOLS}
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
        raise NoFamilyError(f"{cls.__name__} fits {', '.join(best)}; the family must be named")
    held = _names_held(cls)
    near = max(missing, key=lambda family: len(_claims(bases[family]) & held) / len(_claims(bases[family])))
    lacking = ", ".join(missing[near])
    raise NoFamilyError(
        f"{cls.__name__} satisfies the protocol of no family. Nearest is {near}; of {bases[near].__name__} it lacks {lacking}, "
        "or has it with other parameters"
    )


@cache
def _protocol(family: str) -> type[Any]:
    module, _, name = PROTOCOLS[family].rpartition(".")
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
