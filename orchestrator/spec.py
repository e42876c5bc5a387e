"""A spec, validated whole: what a user writes becomes a list of resolved jobs, or one error with every problem in it."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ruamel.yaml.error import YAMLError

from orchestrator.decode import decode, encode, hints_of, nearest, shown
from orchestrator.document import Document, complaint, dump_document, parse_value, plain, read_document
from orchestrator.errors import Problem, SpecError, UsageError
from orchestrator.fingerprint import run_key
from orchestrator.labels import labels
from orchestrator.space import Axis, Point, expand, known_keys, origin_of
from orchestrator.written_out import written_out
from workloads.plugins import find_job, kinds
from workloads.workload import Workload

NAME_PATTERN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,79}")
MAX_JOBS = 100_000
MAX_SEED = 2**63 - 1  # what the column of records holds


@dataclass(frozen=True, kw_only=True)
class Resources:
    """What one trial takes. `cpus` is also the number of its torch threads."""

    workers: int = 1
    cpus: int = 1
    gpus: float = 0.0  # a fraction shares one GPU among several trials

    def __post_init__(self) -> None:
        if self.workers != 1:
            raise ValueError(f"workers is {self.workers}; it must be 1, since trials of several workers are not built yet")
        if self.cpus < 1:
            raise ValueError(f"cpus is {self.cpus}; it must be 1 or more")
        if self.gpus < 0 or (self.gpus > 1 and self.gpus != int(self.gpus)):
            raise ValueError(f"gpus is {self.gpus}; it must be a fraction up to 1, or a whole number")


@dataclass(frozen=True, kw_only=True)
class Job:
    """One resolved job and its identity."""

    key: str
    kind: str
    workload: Workload
    resolved: Mapping[str, Any]  # plain data, every default filled in
    identity: Mapping[str, Any]  # the part of it that the key is a hash of
    label: str  # short, for people; no other job of the spec has it


@dataclass(frozen=True, kw_only=True)
class Header:
    """The keys of a spec that are not the job's own."""

    name: str
    kind: str
    seeds: int | tuple[int, ...] = 1
    variants: tuple[Mapping[str, Any], ...] = ()
    grid: Mapping[str, Any] = field(default_factory=dict)
    resources: Resources = Resources()

    def __post_init__(self) -> None:
        if isinstance(self.seeds, int):
            if not 1 <= self.seeds <= MAX_JOBS:
                raise ValueError(f"seeds is {self.seeds}; it must lie in 1 ... {MAX_JOBS}, or be a list of seeds")
        elif not self.seeds or len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"seeds is {shown(list(self.seeds))}; it must list different whole numbers")
        elif not all(0 <= seed <= MAX_SEED for seed in self.seeds):
            raise ValueError(f"seeds is {shown(list(self.seeds))}; every seed must lie in 0 ... {MAX_SEED}")
        if self.kind not in kinds():
            raise ValueError(f"kind is {shown(self.kind)}; it must be one of {', '.join(kinds())}")
        if not NAME_PATTERN.fullmatch(self.name):
            rule = "letters, digits, '.', '_' and '-', 80 at most, the first a letter or digit"
            raise ValueError(f"name is {shown(self.name)}; it must consist of {rule}")

    @property
    def seed_list(self) -> list[int]:
        """`seeds: 3` means 0, 1, 2."""
        return list(range(self.seeds)) if isinstance(self.seeds, int) else list(self.seeds)


@dataclass(frozen=True, kw_only=True)
class Spec:
    """A validated spec: a header and its jobs, no two with the same run key."""

    header: Header
    jobs: tuple[Job, ...]
    tables: Mapping[str, Any]  # as written, command-line changes applied

    @property
    def name(self) -> str:
        return self.header.name

    def to_yaml(self) -> str:
        """The spec as run, every default written out: reading it again gives the same jobs, also with other defaults."""
        resolved = [job.resolved for job in self.jobs]
        job_class, grid = find_job(self.header.kind), self.tables.get("grid") or {}
        written = written_out(job_class, self.tables, grid, resolved, self.tables.get("variants") or [])
        header = {name: encode(getattr(self.header, name)) for name in ("name", "kind", "seeds", "resources")}
        varied = {"variants": written.variants} if written.variants else {}
        return dump_document({"name": None, "kind": None, **written.tables, **header, **varied, "grid": written.grid})


def load_spec(
    source: str | Path | Mapping[str, Any] | Spec,
    *,
    overrides: Mapping[str, Any] | None = None,
    axes: Mapping[str, Sequence[Any]] | None = None,
) -> Spec:
    """Reads and validates a spec: a file, the name of a packaged one, or tables.

    `overrides` sets dotted keys to one value each, `axes` adds axes to the grid. Raises `SpecError` with every problem found.
    """
    if isinstance(source, Spec):
        if not overrides and not axes:
            return source
        source = dict(source.tables)
    document = read_document(source)
    tables, changed = _changed(document.tables, plain(overrides or {}), plain(axes or {}))
    return _Validation(document, tables, changed).spec()


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


class _Validation:
    """One pass over a document that collects every problem before it raises."""

    def __init__(self, document: Document, tables: Mapping[str, Any], changed: frozenset[str]) -> None:
        self.document, self.tables, self.changed = document, tables, changed
        self.problems: list[Problem] = []
        self.useless: list[str] = []

    def report(self, key: str, message: str) -> None:
        """A problem at a dotted key; its line is that of the key or of the nearest table around it."""
        axis = key.removeprefix("grid.")
        if any(axis == c or axis.startswith((f"{c}.", f"{c}[")) for c in self.changed):
            self.problems.append(Problem(0, axis, f"{message} (from the command line)"))
            return
        at, line = key, 0
        while at and not line:
            line = self.document.lines.get(at, 0)
            at = at[: max(at.rfind("."), at.rfind("["), 0)]
        self.problems.append(Problem(line, key, message))

    def spec(self) -> Spec:
        """The spec, or `SpecError`."""
        header, job_class = self._header()
        jobs = self._jobs(header, job_class) if job_class is not None else []
        if self.problems or header is None:
            raise SpecError(self.document.origin, self.problems)
        return Spec(header=header, jobs=tuple(jobs), tables=self._without(self.useless))

    def _without(self, axes: Sequence[str]) -> Mapping[str, Any]:
        """The tables without axes that the command line left nothing to apply to, so that they can be read again."""
        grid = {key: values for key, values in (self.tables.get("grid") or {}).items() if key not in axes}
        return {**self.tables, "grid": grid} if axes else self.tables

    def _header(self) -> tuple[Header | None, type[Any] | None]:
        kind = self.tables.get("kind")
        job_class = find_job(kind) if isinstance(kind, str) and kind in kinds() else None
        job_fields = frozenset(hints_of(job_class)) - {"seed"} if job_class else frozenset(self.tables)
        known = {k: v for k, v in self.tables.items() if k in hints_of(Header)}
        header: Header | None = decode(Header, known, "", self.report)
        allowed = dict.fromkeys([*hints_of(Header), *job_fields])
        for name in self.tables:
            if name not in allowed:
                listed = ", ".join(sorted(allowed))
                self.report(str(name), f"is unknown; known are {listed}{nearest(name, allowed)}")
        return header, job_class

    def _axes(self) -> list[Axis]:
        grid = self.tables.get("grid") or {}
        axes = []
        for key, values in grid.items() if isinstance(grid, Mapping) else ():
            if not isinstance(values, list) or not values:
                self.report(f"grid.{key}", f"is {shown(values)}; it must be a list of at least one value")
            elif key.split(".")[0] in {"seed", "seeds"}:
                self.report(f"grid.{key}", "is not an axis; give `seeds: 3` or `seeds: [0, 1, 2]` beside the grid")
            else:
                axes.append(Axis(key=key, values=tuple(values), origin=f"grid.{key}"))
        return axes

    def _variants(self, fields: frozenset[str]) -> list[Mapping[str, Any]]:
        """Those that can be looked into; what is no list of tables is reported with the header."""
        given = self.tables.get("variants") or []
        variants = [item for item in given if isinstance(item, Mapping)] if isinstance(given, list) else []
        for number, variant in enumerate(variants):
            at = f"variants[{number}]"
            if not variant:
                self.report(at, f"is empty; it must give at least one of the tables {', '.join(sorted(fields))}")
            for name in variant:
                if name not in fields:
                    listed = ", ".join(sorted(fields))
                    hint = nearest(name, dict.fromkeys(fields))
                    self.report(f"{at}.{name}", f"is no table of a job; a variant gives whole ones of {listed}{hint}")
        return variants

    def _jobs(self, header: Header | None, job_class: type[Any]) -> list[Job]:
        fields = frozenset(hints_of(job_class)) - {"seed"}
        tables = {name: value for name, value in self.tables.items() if name in fields}
        axes, variants = self._axes(), self._variants(fields)
        seeds = header.seed_list if header else [0]
        size, points = len(seeds) * max(1, len(variants)), []
        for axis in axes:
            size *= len(axis.values)
        if size > MAX_JOBS:
            self.report("grid", f"makes {size} jobs; at most {MAX_JOBS} are allowed in one study")
            return []
        applied: set[str] = set()
        jobs: dict[str, Job] = {}
        for point in expand(job_class, tables, axes, variants):
            applied |= point.applied
            points.append(point)
            for seed in seeds:
                job = self._job(header, job_class, point, seed)
                if job is None:
                    break
                jobs.setdefault(job.key, job)
        for axis in axes:
            if axis.key not in applied and self._replaced(axis.key):
                self.useless.append(axis.key)
            elif axis.key not in applied:
                beside = {key for point in points for key in known_keys(job_class, point.tables, axis.key)}
                hint = nearest(axis.key, dict.fromkeys(sorted(beside)))
                self.report(axis.origin, f"applies to no job: none of the tables chosen has that key{hint}")
        found = list(jobs.values())
        names = labels([job.identity for job in found])
        return [replace(job, label=name) for job, name in zip(found, names, strict=True)]

    def _replaced(self, key: str) -> bool:
        """Whether the command line chose another table than the one that an axis of the spec was written for."""
        return key not in self.changed and any(key.startswith(f"{c.removesuffix('.name')}.") for c in self.changed)

    def _job(self, header: Header | None, job_class: type[Any], point: Point, seed: int) -> Job | None:
        workload = decode(
            job_class,
            {**point.tables, "seed": seed},
            "",
            lambda key, message: self.report(origin_of(key, point.origins), message),
        )
        if workload is None or header is None:
            return None
        key = run_key(header.kind, workload)
        return Job(
            key=key,
            label=key,
            kind=header.kind,
            workload=workload,
            resolved=encode(workload),
            identity=encode(workload, identity_only=True),
        )
