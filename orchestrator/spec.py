"""A spec, validated whole: what a user writes becomes a list of resolved jobs, or one error with every problem in it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from typing import Any

from ruamel.yaml.error import YAMLError

from orchestrator.body import Body
from orchestrator.decode import encode, hints_of, shown
from orchestrator.document import Document, complaint, dump_document, parse_value, plain, read_document
from orchestrator.errors import Problem, SpecError, UsageError
from orchestrator.job import NAME_PATTERN, Header, Job, Learning, Stage
from orchestrator.schedulers import Scheduler
from orchestrator.search import Choices, written
from orchestrator.stages import Earlier, as_parent
from orchestrator.written_out import as_variants, written_out
from reports.location import Location
from workloads.plugins import find_job

SHARED = ("name", "seeds", "resources")  # keys of the header that may stand beside `stages`


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
            return dump_document({"name": None, **_written_out(self.stages[0])})
        stages = {str(stage.name): _written_out(stage) for stage in self.stages}
        for table in stages.values():
            del table["name"]
        return dump_document({"name": self.name, "stages": stages})


def _written_out(stage: Stage) -> dict[str, Any]:
    header, tables = stage.header, stage.tables
    resolved = [job.resolved for job in stage.jobs]
    if header.search and stage.learning is None:
        tables = {name: value for name, value in tables.items() if name in hints_of(Header) and name != "grid"}
        tables["variants"] = as_variants(resolved)
    if stage.learning is not None:
        return _searching(stage, stage.learning)
    written = written_out(find_job(header.kind), tables, tables.get("grid") or {}, resolved, tables.get("variants") or [])
    inherited = {"seeds"} if "seeds" not in tables and any(job.parents for job in stage.jobs) else set()
    names = [name for name in ("name", "kind", "seeds", *_scheduled(header), "resources") if name not in inherited]
    varied = {"variants": written.variants} if written.variants else {}
    encoded = {name: encode(getattr(header, name)) for name in names}
    return {"name": None, "kind": None, **written.tables, **encoded, **varied, "grid": written.grid}


def _scheduled(header: Header) -> list[str]:
    """The key of a scheduler that does something."""
    return [] if header.scheduler == Scheduler() else ["scheduler"]


def _searching(stage: Stage, learning: Learning) -> dict[str, Any]:
    """A search that learns is written as a search.

    The tables that it chooses from are left as they were given, but for those of a population, which chooses only numbers.
    """
    header, tables = stage.header, stage.tables
    if learning.search.breeds:
        tables = {**tables, **_with_defaults(stage, learning)}
    encoded = {name: encode(getattr(header, name)) for name in ("name", "kind", *_scheduled(header), "resources")}
    seeds = {"seeds": encode(header.seeds)} if "seeds" in tables else {}
    plain_tables = {name: value for name, value in tables.items() if name not in hints_of(Header)}
    axes = {name: tables[name] for name in ("variants", "grid") if tables.get(name)}
    return {**encoded, **plain_tables, **seeds, **axes, "search": written(learning.search)}


def _with_defaults(stage: Stage, learning: Learning) -> dict[str, Any]:
    """Tables, variants and grid of a population's jobs, complete but for the numbers that the search chooses."""
    tables, search = stage.tables, learning.search
    searched = {
        key: list(values.choices) if isinstance(values, Choices) else [values.low] for key, values in search.space.items()
    }
    (corner, *_), _ = search.corners()
    resolved = [job.resolved for jobs in learning.propose([corner]) for job in jobs]
    axes = {**(tables.get("grid") or {}), **searched}
    written = written_out(find_job(stage.header.kind), tables, axes, resolved, tables.get("variants") or [])
    grid = {key: values for key, values in written.grid.items() if key not in searched}
    return {**written.tables, "variants": written.variants, "grid": grid}


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
        return _chain(document, overrides, axes)
    tables, changed = _changed(document.tables, overrides, axes)
    body = Body(document, tables, changed)
    stage = body.stage()
    if stage is None:
        raise SpecError(document.origin, body.problems)
    return Spec(name=stage.header.name, stages=(stage,), tables=stage.tables)


def _chain(document: Document, overrides: Mapping[str, Any], axes: Mapping[str, Sequence[Any]]) -> Spec:
    """A spec with stages: each is validated like a spec of its own, with the runs of those before it at hand."""
    tables = {**document.tables, **{key: value for key, value in overrides.items() if key in document.tables}}
    stages = tables["stages"]
    tables_given = isinstance(stages, Mapping) and all(isinstance(table, Mapping) for table in stages.values())
    if not stages or not tables_given:
        rule = "it must be a table of stages, each a table with a kind, such as {train: {kind: sparse, ...}}"
        line = document.lines.get("stages", 0)
        raise SpecError(document.origin, [Problem(line, "stages", f"is {shown(stages)}; {rule}")])
    if "name" not in tables:
        raise SpecError(document.origin, [Problem(0, "name", "is missing; it must be text")])
    shared = {key: value for key, value in tables.items() if key != "stages"}
    elsewhere = [key for key in (*overrides, *axes) if key.split(".")[0] not in stages and key not in tables]
    if elsewhere:
        known = ", ".join([*stages, *shared])
        raise UsageError(f"{elsewhere[0]}: names no stage; with stages it must start with one of {known} (from the command line)")
    problems = _names_of(document, stages) + _unused(document, shared, stages)
    made: list[Stage] = []
    for name, table in stages.items():
        inherited = {key: value for key, value in shared.items() if key in SHARED or key in _fields(table.get("kind"))}
        mine = f"{name}."
        of_stage = {key.removeprefix(mine): value for key, value in overrides.items() if key.startswith(mine)}
        more_axes = {key.removeprefix(mine): value for key, value in axes.items() if key.startswith(mine)}
        body_tables, changed = _changed({**inherited, **table}, of_stage, more_axes)
        settled = [before for before in made if before.learning is None]  # what a search will propose nobody knows yet
        earlier = Earlier({str(before.name): [as_parent(job) for job in before.jobs] for before in settled})
        body = Body(document, body_tables, changed, name=name, prefix=f"stages.{name}", earlier=earlier)
        stage = body.stage()
        problems += body.problems
        if stage is None:
            break  # what rests on it cannot be known
        made.append(stage)
    if problems:
        raise SpecError(document.origin, problems)
    return Spec(name=made[0].header.name, stages=tuple(made), tables=tables)


def _fields(kind: Any) -> frozenset[str]:
    """Tables that the jobs of a kind have; none of an unknown kind, which is reported elsewhere."""
    try:
        return frozenset(hints_of(find_job(kind))) - {"seed"}
    except ValueError:
        return frozenset()


def _names_of(document: Document, stages: Mapping[str, Any]) -> list[Problem]:
    rule = "it must consist of letters, digits, '_' and '-', the first a letter or digit"
    wrong = [name for name in stages if not NAME_PATTERN.fullmatch(name) or "." in name]
    return [Problem(document.lines.get(f"stages.{n}", 0), f"stages.{n}", f"is no name of a stage; {rule}") for n in wrong]


def _unused(document: Document, shared: Mapping[str, Any], stages: Mapping[str, Any]) -> list[Problem]:
    """Keys beside `stages` that no stage takes."""
    taken = {*SHARED, *(name for table in stages.values() for name in _fields(table.get("kind")))}
    listed = ", ".join(["stages", *sorted(taken)])
    return [
        Problem(document.lines.get(key, 0), key, f"is no key beside stages; known are {listed}")
        for key in shared
        if key not in taken
    ]


def parse_assignment(text: str, *, option: str) -> tuple[str, Any]:
    """`method.density=0.05` as key and value. Raises `UsageError`."""
    key, value = _halves(text, f"{option} {text}: must have the form KEY=VALUE, as in method.density=0.05")
    return key, _value(value, f"{option} {text}")


def parse_axis(text: str) -> tuple[str, list[Any]]:
    """`method.density=0.1,0.05` as key and values. Raises `UsageError`."""
    form = "KEY=VALUE,VALUE, as in method.density=0.1,0.05"
    key, values = _halves(text, f"--axis {text}: must have the form {form}")
    return key, _value(f"[{values}]", f"--axis {text}")


def _halves(text: str, otherwise: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise UsageError(otherwise)
    return key.strip(), value


def _value(text: str, place: str) -> Any:
    try:
        return parse_value(text)
    except (YAMLError, RecursionError) as error:
        words = complaint(error) if isinstance(error, YAMLError) else "it is nested too deeply"
        raise UsageError(f"{place}: the value is not valid YAML: {words}") from error


def _changed(
    tables: Mapping[str, Any], overrides: Mapping[str, Any], axes: Mapping[str, Sequence[Any]]
) -> tuple[dict[str, Any], frozenset[str]]:
    """Tables with the command line's changes, and the keys that stem from there.

    A key of the job becomes an axis of one value, which also wins over what an axis of the spec would choose.
    """
    for key in overrides.keys() & axes.keys():
        raise UsageError(f"{key}: is both set and an axis on the command line; give one of the two")
    header = set(hints_of(Header))
    grid = dict(tables.get("grid") or {}) if isinstance(tables.get("grid") or {}, Mapping) else {}
    changed = dict(tables)
    for key, value in sorted(overrides.items(), key=lambda item: item[0] != "grid"):  # a whole grid first
        head = key.split(".")[0]
        if key == "grid":
            if not isinstance(value, Mapping):
                raise UsageError(f"grid: is {shown(value)}; it must be a table of axes (from the command line)")
            grid = dict(value)
        elif head == "grid":
            grid[key.removeprefix("grid.")] = value
        elif head in header:
            changed = _with_path(changed, key.split("."), value)
        else:
            grid[key] = [value]
    grid |= {key: list(values) for key, values in axes.items()}
    if overrides or axes:
        changed["grid"] = grid
    return changed, frozenset(key.removeprefix("grid.") for key in (*overrides, *axes))


def _with_path(tables: Mapping[str, Any], path: Sequence[str], value: Any) -> dict[str, Any]:
    head, *rest = path
    inner = tables.get(head)
    return {**tables, head: _with_path(inner if isinstance(inner, Mapping) else {}, rest, value) if rest else value}


