"""Loads a spec: validates it as a whole and resolves it to a list of jobs, or raises one error with every problem."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from os import PathLike
from typing import Any

from pruneyard.orchestrator.errors import Problem, SpecError
from pruneyard.orchestrator.spec.best_runs import RunResults
from pruneyard.orchestrator.spec.changed_code import refuse_changed_code
from pruneyard.orchestrator.spec.chosen_settings import KEY
from pruneyard.orchestrator.spec.codec import hints_of, old_keys_of, short_json
from pruneyard.orchestrator.spec.job import Job
from pruneyard.orchestrator.spec.overrides import apply_overrides
from pruneyard.orchestrator.spec.plugin_files import PLUGINS, add_plugin_files, without_plugin_files
from pruneyard.orchestrator.spec.references import UpstreamRuns, parent_of_job
from pruneyard.orchestrator.spec.resolved import stage_tables
from pruneyard.orchestrator.spec.stage import NAME_PATTERN, Stage
from pruneyard.orchestrator.spec.stage_changes import (
    changes_of_stage,
    comes_from_a_stage,
    refuse_bare_stages,
    unused_change,
)
from pruneyard.orchestrator.spec.stage_order import refused_references
from pruneyard.orchestrator.spec.validation import StageValidator
from pruneyard.orchestrator.spec.yaml_document import (
    Document,
    dump_document,
    plain,
    read_document,
)
from pruneyard.reports.layout import RunFolder
from pruneyard.reports.location import Location
from pruneyard.workloads.plugins import find_job
from pruneyard.workloads.user_code.nearest import nearest

SHARED_KEYS = ("name", "seeds", "resources")  # keys of the header that are allowed next to `stages`


@dataclass(frozen=True, kw_only=True)
class Spec:
    """A validated spec.

    stages: in order; a spec without stages has one stage without a name.
    tables: the tables as written, with the changes from the command line applied.
    plugins: the files of plug-ins, as written.
    decide: returns the spec with the jobs of those stages whose choices are made by these results; see `with_results`.
    origin: what messages call the document.
    """

    name: str
    stages: tuple[Stage, ...]
    tables: Mapping[str, Any]
    plugins: Sequence[Any] = ()
    decide: Callable[[RunResults], "Spec"] | None = None
    origin: str

    def with_results(self, folder: RunFolder) -> "Spec":
        """Returns the spec with the jobs of every stage whose choices among earlier runs can be made by the runs of a folder."""
        if self.decide is None:
            return self
        return replace(self.decide(RunResults(folder)), plugins=self.plugins, tables=self.tables)

    @property
    def jobs(self) -> tuple[Job, ...]:
        """Returns the jobs of all stages. A job that several stages ask for comes once, so run keys are unique."""
        # Reversed, because the last entry wins in a dict: the first stage that asks for a job gives it.
        return tuple({job.key: job for stage in reversed(self.stages) for job in reversed(stage.jobs)}.values())[::-1]

    def error_at(self, key: str, message: str, *, stage: str | None) -> SpecError:
        """Returns the error for a key of a stage's jobs, with its line in the document."""
        return SpecError(self.origin, [self.problem_at(key, message, stage=stage)])

    def problem_at(self, key: str, message: str, *, stage: str | None) -> Problem:
        """Returns the problem of a key of a stage's jobs, at the axis that sets it if there is one, with its line."""
        (found,) = [each for each in self.stages if each.name == stage]
        axes = {axis: f"grid.{axis}" for axis in found.tables.get("grid") or {}}
        return found.places.with_origins(axes).problem(key, message)

    def to_yaml(self) -> str:
        """Returns the spec as run, with every default written out: it gives the same jobs after a default has changed."""
        plugins = {PLUGINS: list(self.plugins)} if self.plugins else {}
        if self.stages[0].name is None:
            # None is replaced by the tables; it only puts the name first.
            return dump_document({"name": None, **plugins, **stage_tables(self.stages[0])})
        stages = {str(stage.name): stage_tables(stage) for stage in self.stages}
        for table in stages.values():
            del table["name"]
        return dump_document({"name": self.name, **plugins, "stages": stages})


def load_spec(
    source: str | PathLike[str] | Location | Mapping[str, Any] | Spec,
    *,
    overrides: Mapping[str, Any] | None = None,
    axes: Mapping[str, Sequence[Any]] | None = None,
) -> Spec:
    """Reads and validates a spec.

    source: a file, the name of a packaged spec, tables, or a loaded spec.
    overrides: one value for each dotted key. In a spec with stages a key may start with the name of a stage; without one it
        applies to every stage with a job that has it, but replaces no reference to another stage.
    axes: axes that are added to the grid, or replace axes of it.

    Files of plug-ins that `overrides` gives as `plugins` are added to those of the spec.

    Raises `SpecError` with every problem of the spec, and `UsageError` where it cannot be read, or where code of the user's own
    has changed since this process imported it.

    Example:
        >>> import pruneyard
        >>> spec = pruneyard.load_spec("mnist-density", overrides={"seeds": 2}, axes={"optimizer.lr": [0.1, 0.03]})
        >>> len(spec.jobs)
        84
    """
    if isinstance(source, Spec):
        if not overrides and not axes:
            return source
        source = {**source.tables, PLUGINS: list(source.plugins)}
    refuse_changed_code()
    document = read_document(source)
    overrides, axes = dict(plain(overrides or {})), plain(axes or {})
    plugins = add_plugin_files(document, overrides.pop(PLUGINS, []))
    loaded = _load(replace(document, tables=without_plugin_files(document.tables)), overrides, axes)
    refuse_changed_code()  # of modules that were not known before
    return replace(loaded, plugins=tuple(plugins))


def _load(document: Document, overrides: Mapping[str, Any], axes: Mapping[str, Sequence[Any]]) -> Spec:
    if "stages" in document.tables:
        return _load_stages(document, overrides, axes)
    tables, changed = apply_overrides(document.tables, overrides, axes)
    validator = StageValidator(document, tables, changed)
    stage = validator.stage()
    if stage is None:
        raise SpecError(document.origin, validator.log.problems)
    return Spec(name=stage.header.name, stages=(stage,), tables=stage.tables, origin=document.origin)


def _load_stages(
    document: Document,
    overrides: Mapping[str, Any],
    axes: Mapping[str, Sequence[Any]],
    *,
    results: RunResults | None = None,
    known: Mapping[str, Stage] | None = None,
) -> Spec:
    """Returns a spec with stages. Each stage is validated like a spec of its own, and may refer to the stages before it.

    results: by which references choose among runs. known: the stages as they are without results.
    """
    tables = document.tables
    stages = overrides.get("stages", tables["stages"])
    tables_given = isinstance(stages, Mapping) and all(isinstance(table, Mapping) for table in stages.values())
    if not stages or not tables_given:
        rule = "it must be a table of stages, each a table with a kind, such as {train: {kind: sparse, ...}}"
        line = document.lines.get("stages", 0)
        raise SpecError(document.origin, [Problem(line, "stages", f"is {short_json(stages)}; {rule}")])
    if "name" not in tables:
        raise SpecError(document.origin, [Problem(0, "name", "is missing; it must be text")])
    refuse_bare_stages([*overrides, *axes], stages)
    shared = {key: value for key, value in tables.items() if key != "stages"}
    everywhere = [key for key in overrides if key.split(".")[0] not in stages and key != "stages"]
    everywhere += [key for key in axes if key.split(".")[0] not in stages]
    taken: set[str] = set()
    kept: set[str] = set()
    problems = _invalid_stage_names(document, stages) + _unused_keys(document, shared, stages)
    changed_stages: dict[str, Mapping[str, Any]] = {}
    stages_so_far: list[Stage] = []
    for name, table in stages.items():
        fields = frozenset() if KEY in table else _job_fields(table.get("kind"))  # chosen settings have all tables already
        inherited = {key: value for key, value in shared.items() if key in SHARED_KEYS or key in fields}
        given = {*fields, *(key for key in SHARED_KEYS if key in table or key in shared)}
        heads = {key: key.split(".")[0] for key in everywhere}
        referring = {key for key, head in heads.items() if head in fields and comes_from_a_stage(key, table, stages)}
        kept |= referring
        shares = [key for key, head in heads.items() if head in given and key not in referring]
        own_tables, changed = apply_overrides({**inherited, **table}, *changes_of_stage(name, overrides, axes, shares))
        settled = [before for before in stages_so_far if before.learning is None]  # jobs of a search are not known yet
        if known is not None and not known[name].candidates:
            stages_so_far.append(known[name])
            continue
        runs = {str(s.name): [parent_of_job(job) for job in (s.candidates if s.waits_for else s.jobs)] for s in settled}
        earlier = UpstreamRuns(
            runs,
            refused=refused_references(name, stages, stages_so_far),
            undecided={str(before.name): before.waits_for for before in settled if before.waits_for},
            results=results,
        )
        validator = StageValidator(
            document, own_tables, changed, name=name, prefix=f"stages.{name}", earlier=earlier, optional=frozenset(shares)
        )
        stage = validator.stage()
        taken |= set(filter(validator.applies_to_a_job, shares))
        problems += validator.log.problems
        if stage is None:
            break  # later stages may refer to it, so they cannot be validated
        if earlier.waits_for and stage.learning is not None:
            rule = f"proposes jobs whose parents are not known in advance: {earlier.waits_for}; leave best or the search out"
            problems.append(Problem(document.lines.get(f"stages.{name}.search", 0), f"stages.{name}.search", rule))
        if earlier.waits_for:
            stage = replace(stage, jobs=(), candidates=stage.jobs, waits_for=earlier.waits_for)
        elif known is not None:
            stage = replace(stage, candidates=known[name].candidates)
        stages_so_far.append(stage)
        changed_stages[name] = validator.without_useless_axes(own_tables)
    if problems:
        raise SpecError(document.origin, problems)
    if known is None and (unknown := [key for key in everywhere if key not in taken]):
        raise unused_change(unknown[0], [*stages, *shared], is_kept=unknown[0] in kept)
    without_results = known or {str(stage.name): stage for stage in stages_so_far}
    decide = partial(_decided, document, overrides, axes, known=without_results)
    waits = any(stage.candidates for stage in stages_so_far)
    return Spec(
        name=stages_so_far[0].header.name,
        stages=tuple(stages_so_far),
        tables={**tables, "stages": changed_stages},
        decide=decide if waits else None,
        origin=document.origin,
    )


def _decided(
    document: Document,
    overrides: Mapping[str, Any],
    axes: Mapping[str, Sequence[Any]],
    results: RunResults,
    *,
    known: Mapping[str, Stage],
) -> Spec:
    return _load_stages(document, overrides, axes, results=results, known=known)


def _job_fields(kind: Any) -> frozenset[str]:
    """Returns the keys of a spec that jobs of this kind have; empty for an unknown kind, which the stage reports."""
    try:
        job_class = find_job(kind)
        return (frozenset(hints_of(job_class)) | old_keys_of(job_class).keys()) - {"seed"}
    except ValueError:
        return frozenset()


def _invalid_stage_names(document: Document, stages: Mapping[str, Any]) -> list[Problem]:
    """Returns a problem for each name of a stage that is not allowed."""
    rule = "it must consist of letters, digits, '_' and '-', the first a letter or digit"
    wrong = [name for name in stages if not NAME_PATTERN.fullmatch(name) or "." in name]
    return [Problem(document.lines.get(f"stages.{n}", 0), f"stages.{n}", f"is no name of a stage; {rule}") for n in wrong]


def _unused_keys(document: Document, shared: Mapping[str, Any], stages: Mapping[str, Any]) -> list[Problem]:
    """Returns a problem for each key beside `stages` that no stage takes."""
    taken = {*SHARED_KEYS, *(name for table in stages.values() for name in _job_fields(table.get("kind")))}
    known = ["stages", *sorted(taken)]
    rule = f"is no key beside stages; known are {', '.join(known)}"
    return [
        Problem(document.lines.get(key, 0), key, rule + nearest(key, known))
        for key in shared
        if key not in taken
    ]
