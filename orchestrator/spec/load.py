"""A spec, validated whole: what a user writes becomes a list of resolved jobs, or one error with every problem in it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from typing import Any

from pruneyard.orchestrator.errors import Problem, SpecError, UsageError
from pruneyard.orchestrator.spec.codec import hints_of, old_keys_of, short_json
from pruneyard.orchestrator.spec.job import Job
from pruneyard.orchestrator.spec.overrides import apply_overrides
from pruneyard.orchestrator.spec.references import UpstreamRuns, parent_of_job
from pruneyard.orchestrator.spec.resolved import stage_tables
from pruneyard.orchestrator.spec.stage import NAME_PATTERN, Stage
from pruneyard.orchestrator.spec.validation import StageValidator
from pruneyard.orchestrator.spec.yaml_document import (
    Document,
    dump_document,
    plain,
    read_document,
)
from pruneyard.reports.location import Location
from pruneyard.workloads.plugins import find_job

SHARED_KEYS = ("name", "seeds", "resources")  # keys of the header that may stand beside `stages`


@dataclass(frozen=True, kw_only=True)
class Spec:
    """A validated spec: its stages in order, one without a name where it has none. No two jobs have the same run key."""

    name: str
    stages: tuple[Stage, ...]
    tables: Mapping[str, Any]  # as written, command-line changes applied

    @property
    def jobs(self) -> tuple[Job, ...]:
        """Of all stages; a job that two of them ask for comes once."""
        return tuple({job.key: job for stage in reversed(self.stages) for job in reversed(stage.jobs)}.values())[::-1]

    def to_yaml(self) -> str:
        """The spec as run, every default written out: reading it again gives the same jobs, also with other defaults."""
        if self.stages[0].name is None:
            return dump_document({"name": None, **stage_tables(self.stages[0])})
        stages = {str(stage.name): stage_tables(stage) for stage in self.stages}
        for table in stages.values():
            del table["name"]
        return dump_document({"name": self.name, "stages": stages})


def load_spec(
    source: str | PathLike[str] | Location | Mapping[str, Any] | Spec,
    *,
    overrides: Mapping[str, Any] | None = None,
    axes: Mapping[str, Sequence[Any]] | None = None,
) -> Spec:
    """Reads and validates a spec: a file, the name of a packaged one, or tables.

    `overrides` sets dotted keys to one value each, `axes` adds axes to the grid; with stages a key starts with the name of
    one, or is the whole table of a key that stands beside them. Raises `SpecError` with every problem found.
    """
    if isinstance(source, Spec):
        if not overrides and not axes:
            return source
        source = dict(source.tables)
    document = read_document(source)
    overrides, axes = plain(overrides or {}), plain(axes or {})
    if "stages" in document.tables:
        return _load_stages(document, overrides, axes)
    tables, changed = apply_overrides(document.tables, overrides, axes)
    body = StageValidator(document, tables, changed)
    stage = body.stage()
    if stage is None:
        raise SpecError(document.origin, body.log.problems)
    return Spec(name=stage.header.name, stages=(stage,), tables=stage.tables)


def _load_stages(document: Document, overrides: Mapping[str, Any], axes: Mapping[str, Sequence[Any]]) -> Spec:
    """A spec with stages: each is validated like a spec of its own, with the runs of those before it at hand."""
    tables = {**document.tables, **{key: value for key, value in overrides.items() if key in document.tables}}
    stages = tables["stages"]
    tables_given = isinstance(stages, Mapping) and all(isinstance(table, Mapping) for table in stages.values())
    if not stages or not tables_given:
        rule = "it must be a table of stages, each a table with a kind, such as {train: {kind: sparse, ...}}"
        line = document.lines.get("stages", 0)
        raise SpecError(document.origin, [Problem(line, "stages", f"is {short_json(stages)}; {rule}")])
    if "name" not in tables:
        raise SpecError(document.origin, [Problem(0, "name", "is missing; it must be text")])
    shared = {key: value for key, value in tables.items() if key != "stages"}
    elsewhere = [key for key in (*overrides, *axes) if key.split(".")[0] not in stages and key not in tables]
    if elsewhere:
        known = ", ".join([*stages, *shared])
        raise UsageError(f"{elsewhere[0]}: names no stage; with stages it must start with one of {known} (from the command line)")
    problems = _invalid_stage_names(document, stages) + _unused_keys(document, shared, stages)
    made: list[Stage] = []
    for name, table in stages.items():
        inherited = {key: value for key, value in shared.items() if key in SHARED_KEYS or key in _job_fields(table.get("kind"))}
        mine = f"{name}."
        of_stage = {key.removeprefix(mine): value for key, value in overrides.items() if key.startswith(mine)}
        more_axes = {key.removeprefix(mine): value for key, value in axes.items() if key.startswith(mine)}
        body_tables, changed = apply_overrides({**inherited, **table}, of_stage, more_axes)
        settled = [before for before in made if before.learning is None]  # what a search will propose nobody knows yet
        earlier = UpstreamRuns({str(before.name): [parent_of_job(job) for job in before.jobs] for before in settled})
        body = StageValidator(document, body_tables, changed, name=name, prefix=f"stages.{name}", earlier=earlier)
        stage = body.stage()
        problems += body.log.problems
        if stage is None:
            break  # what rests on it cannot be known
        made.append(stage)
    if problems:
        raise SpecError(document.origin, problems)
    return Spec(name=made[0].header.name, stages=tuple(made), tables=tables)


def _job_fields(kind: Any) -> frozenset[str]:
    """Tables that the jobs of a kind have; none of an unknown kind, which is reported elsewhere."""
    try:
        job_class = find_job(kind)
        return (frozenset(hints_of(job_class)) | old_keys_of(job_class).keys()) - {"seed"}
    except ValueError:
        return frozenset()


def _invalid_stage_names(document: Document, stages: Mapping[str, Any]) -> list[Problem]:
    rule = "it must consist of letters, digits, '_' and '-', the first a letter or digit"
    wrong = [name for name in stages if not NAME_PATTERN.fullmatch(name) or "." in name]
    return [Problem(document.lines.get(f"stages.{n}", 0), f"stages.{n}", f"is no name of a stage; {rule}") for n in wrong]


def _unused_keys(document: Document, shared: Mapping[str, Any], stages: Mapping[str, Any]) -> list[Problem]:
    """Keys beside `stages` that no stage takes."""
    taken = {*SHARED_KEYS, *(name for table in stages.values() for name in _job_fields(table.get("kind")))}
    listed = ", ".join(["stages", *sorted(taken)])
    return [
        Problem(document.lines.get(key, 0), key, f"is no key beside stages; known are {listed}")
        for key in shared
        if key not in taken
    ]
