"""Validates the tables of a spec without stages, or of one stage, and resolves them to a header and jobs."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from pruneyard.orchestrator.spec.advice import advice
from pruneyard.orchestrator.spec.chosen_settings import KEY, chosen_settings
from pruneyard.orchestrator.spec.codec import decode, encode, given_twice, hints_of, old_keys_of, short_json
from pruneyard.orchestrator.spec.combination import check_combination, check_steps, warn_of_slips
from pruneyard.orchestrator.spec.data_of_runs import with_data_of_runs
from pruneyard.orchestrator.spec.description import describe_job
from pruneyard.orchestrator.spec.grid import Axis, Point, expand, known_keys
from pruneyard.orchestrator.spec.job import MAX_JOBS, Job
from pruneyard.orchestrator.spec.labels import labels
from pruneyard.orchestrator.spec.parent_kinds import kind_problems
from pruneyard.orchestrator.spec.plugin_files import PLUGINS
from pruneyard.orchestrator.spec.problem_log import ProblemLog
from pruneyard.orchestrator.spec.references import (
    ChainError,
    ResolvedTables,
    UpstreamRuns,
    lineage,
    name_sources,
    resolve_references,
)
from pruneyard.orchestrator.spec.renamed_keys import (
    axes_given_twice,
    first_key,
    present_key,
    spec_with_present_keys,
    with_all_present_keys,
)
from pruneyard.orchestrator.spec.run_key import key_of
from pruneyard.orchestrator.spec.search import (
    Proposal,
    Search,
    decode_search,
    search_identity,
)
from pruneyard.orchestrator.spec.stage import AdaptiveSearch, Header, Stage
from pruneyard.orchestrator.spec.yaml_document import Document
from pruneyard.workloads.plugins import find_job, kinds
from pruneyard.workloads.user_code.nearest import nearest


class StageValidator:
    """Validates the tables of one stage in one pass that collects every problem in `log`.

    changed: keys whose values come from the command line.
    name: the name of the stage; None for a spec without stages.
    prefix: the dotted key of the tables in the document; empty for a spec without stages.
    earlier: the runs that references may name.
    optional: keys of `changed` that need not apply to a job, as they are meant for several stages.
    """

    def __init__(
        self,
        document: Document,
        tables: Mapping[str, Any],
        changed: frozenset[str],
        *,
        name: str | None = None,
        prefix: str = "",
        earlier: UpstreamRuns | None = None,
        optional: frozenset[str] = frozenset(),
    ) -> None:
        self.name = name
        kind = tables.get("kind")
        self.job_class = find_job(kind) if isinstance(kind, str) and kind in kinds() else None
        self.raw_tables = tables
        self.changed = frozenset(map(self._present, changed))
        self.optional = frozenset(map(self._present, optional))
        start = f"{prefix}." if prefix else ""
        lines = {
            start + self._as_read(key.removeprefix(start)) if key.startswith(start) else key: line
            for key, line in document.lines.items()
        }
        self.tables = self._with_sources(tables)
        self.earlier = earlier or UpstreamRuns({})
        self.log = ProblemLog(lines, prefix=prefix, command_line_keys=self.changed)
        self.useless_axes: list[str] = []
        self._reported: set[tuple[str, str]] = set()
        self.header: Header | None = None
        if self.job_class is not None and KEY in tables:
            self._choose_settings()

    def _choose_settings(self) -> None:
        """Makes every chosen setting a variant; reports what is wrong with the key `settings`."""
        try:
            chosen = chosen_settings(self.tables, self.earlier)
        except ChainError as error:
            self.log.add(error.key, error.message)
        else:
            self.tables = {**self.tables, "variants": [{n: v for n, v in table.items() if n in self._fields} for table in chosen]}

    def _present(self, key: str) -> str:
        """Returns a dotted key of the job, or of an axis over it, with its renamed parts under their present names."""
        if self.job_class is None:
            return key
        axis = "grid." if key.startswith("grid.") else ""
        return axis + present_key(self.job_class, self.raw_tables, key.removeprefix(axis))

    def _as_read(self, key: str) -> str:
        """Returns the name under which the problems of a key of the document are reported."""
        space = "search.space."
        if self.job_class is not None and key.startswith(space):
            return space + first_key(self.job_class, self.raw_tables, key.removeprefix(space))
        return self._present(key)

    def _with_sources(self, tables: Mapping[str, Any]) -> Mapping[str, Any]:
        """Returns the tables with present keys, and `name: synthetic` in every reference in place of a data source."""
        if self.job_class is None:
            return tables
        found = name_sources(self.job_class, spec_with_present_keys(self.job_class, tables))
        if isinstance(variants := found.get("variants"), list):
            found["variants"] = [name_sources(self.job_class, v) if isinstance(v, Mapping) else v for v in variants]
        if isinstance(grid := found.get("grid"), Mapping):
            found["grid"] = {
                key: [name_sources(self.job_class, {key: value})[key] for value in values]
                if isinstance(values, list)
                else values
                for key, values in grid.items()
            }
        return found

    def stage(self) -> Stage | None:
        """Returns the stage with its header and jobs; None where the tables have problems, which are in `log`."""
        if self.log.problems:  # of the key `settings`, which gives all tables
            return None
        self.header = header = self._header()
        self._check_renamed_axes()
        self._check_workers(header)
        search = self._search()
        if header is not None and search is not None:
            check_combination(header, search, self.job_class, self.tables, self.log)
        jobs = self._jobs(header, self.job_class, search) if self.job_class is not None else []
        if header is not None:
            warn_of_slips(header, search)
            check_steps(header, search, jobs, self.log)
        if self.log.problems or header is None:
            return None
        tables = self.without_useless_axes(self.tables)
        if search is None or not search.learns:
            return Stage(name=self.name, header=header, jobs=tuple(jobs), tables=tables, places=self.log)
        known = search_identity(search, [job.key for job in jobs])
        learning = AdaptiveSearch(search=search, identity=known, propose=self.propose, applies=self.applies)
        return Stage(name=self.name, header=header, jobs=(), tables=tables, learning=learning, places=self.log)

    def applies_to_a_job(self, key: str) -> bool:
        """Returns whether a key of `optional` has an effect on a job of the stage."""
        return self._present(key) not in self.useless_axes

    def propose(self, proposals: Sequence[Proposal]) -> list[list[Job]]:
        """Returns the jobs of each proposal of a valid space; jobs that differ only in their seed stand together."""
        assert self.job_class is not None
        proposed = [list(self._expanded(self.header, self.job_class, proposal, set(), [])) for proposal in proposals]
        assert not self.log.problems, f"a proposal of a valid space is invalid: {self.log.problems}"
        named = {job.key: job for job in self._labelled(list({job.key: job for jobs in proposed for job in jobs}.values()))}
        return [[named[job.key] for job in jobs] for jobs in proposed]

    def applies(self, proposal: Proposal) -> frozenset[str]:
        """Returns the keys of a proposal, and of the grid, that have an effect on at least one job."""
        assert self.job_class is not None
        return frozenset().union(*(point.applied for point in self._points(self.job_class, proposal)))

    def _search(self) -> Search | None:
        """Returns the search without the keys that the command line sets; None where there is no valid search."""
        if not self.tables.get("search"):
            return None
        search = decode_search(self.tables["search"], self.log)
        grid = self.tables.get("grid") or {}
        for key in search.space if search else ():
            if key.split(".")[0] in {"seed", "seeds"}:
                self.log.add(f"search.space.{key}", "cannot be searched; give `seeds: 3`, and trials are judged by their mean")
            elif self._present(key) in grid and self._present(key) not in self.changed:
                self.log.add(f"search.space.{key}", "is an axis of the grid too; it must be in one of the two")
        return search.without([key for key in search.space if self._present(key) in self.changed]) if search else None

    def without_useless_axes(self, tables: Mapping[str, Any]) -> Mapping[str, Any]:
        """Returns the tables without axes that apply to nothing after the command line's changes, so that they load again."""
        grid = {key: values for key, values in (tables.get("grid") or {}).items() if self.applies_to_a_job(key)}
        return {**tables, "grid": grid} if self.useless_axes else tables

    def _header(self) -> Header | None:
        job_fields = frozenset(hints_of(self.job_class)) - {"seed"} if self.job_class else frozenset(self.tables)
        known = {k: v for k, v in self.tables.items() if k in hints_of(Header)}
        header: Header | None = decode(Header, known, "", self.log)
        allowed = dict.fromkeys([*hints_of(Header), *job_fields])
        for name in self.tables:
            if self.job_class is not None and name in old_keys_of(self.job_class):
                self.log.add(name, given_twice(self.job_class, name))
            elif name not in allowed:
                # The key `plugins` is read before, and stands next to the stages.
                known = allowed if self.name is not None else {**allowed, PLUGINS: None}
                listed = ", ".join(sorted(known))
                hint = advice(self.job_class, self.tables, str(name)) or nearest(name, known)
                self.log.add(str(name), f"is unknown; known are {listed}{hint}")
        return header

    def _check_renamed_axes(self) -> None:
        """Reports axes that are given under two names. A key of the command line replaces the spec's under either name."""
        for at, present in axes_given_twice(self.job_class, self.raw_tables) if self.job_class else ():
            if present not in self.changed:
                self.log.add(at, f"is the old name of {present}, which is given too; leave one of them out")

    def _check_workers(self, header: Header | None) -> None:
        """Reports several workers for a kind that does not set `runs_on_ranks`: every process would repeat the whole job."""
        if header is None or header.resources.workers == 1 or getattr(self.job_class, "runs_on_ranks", False):
            return
        able = ", ".join(kind for kind in kinds() if getattr(find_job(kind), "runs_on_ranks", False))
        self.log.add(
            "resources.workers",
            f"is {header.resources.workers}; a job of kind {header.kind} runs in one process, so it must be 1 there; "
            f"several workers train jobs of kind {able}",
        )

    def _axes(self) -> list[Axis]:
        """Returns the axes of the grid and reports those that are invalid."""
        grid = self.tables.get("grid") or {}
        for key, values in grid.items() if isinstance(grid, Mapping) else ():
            if not isinstance(values, list) or not values:
                self.log.add(f"grid.{key}", f"is {short_json(values)}; it must be a list of at least one value")
            elif key.split(".")[0] in {"seed", "seeds"}:
                self.log.add(f"grid.{key}", "is not an axis; give `seeds: 3` or `seeds: [0, 1, 2]` beside the grid")
        return self._valid_axes()

    def _valid_axes(self) -> list[Axis]:
        grid = self.tables.get("grid") or {}
        return [
            Axis(key=key, values=tuple(values), origin=f"grid.{key}")
            for key, values in (grid.items() if isinstance(grid, Mapping) else ())
            if isinstance(values, list) and values and key.split(".")[0] not in {"seed", "seeds"}
        ]

    def _variants(self, fields: frozenset[str]) -> list[Mapping[str, Any]]:
        """Returns the variants that are tables and reports wrong keys in them. Other values are reported with the header."""
        given = self.tables.get("variants") or []
        variants = [item for item in given if isinstance(item, Mapping)] if isinstance(given, list) else []
        for number, variant in enumerate(variants):
            at = f"variants[{number}]"
            if not variant:
                self.log.add(at, f"is empty; it must give at least one of the tables {', '.join(sorted(fields))}")
            for name in variant:
                if name not in fields:
                    listed = ", ".join(sorted(fields))
                    hint = nearest(name, fields)
                    self.log.add(f"{at}.{name}", f"is not a table of a job; a variant gives whole tables, any of {listed}{hint}")
        return variants

    def _jobs(self, header: Header | None, job_class: type[Any], search: Search | None) -> list[Job]:
        """Returns the jobs of the grid, with every proposal of a search.

        The proposals of an adaptive search are not known yet; the jobs at the corners of its space stand for them.
        """
        axes, variants = self._axes(), self._variants(self._fields)
        proposals, all_known = ([{}], True) if search is None else search.corners()
        if search is not None and not search.learns:
            proposals = search.planned()
        # Counted before anything is expanded: a few long axes can stand for billions of jobs.
        size = len(header.seed_list if header else [0]) * max(1, len(variants)) * len(proposals)
        for axis in axes:
            size *= len(axis.values)
        if size > MAX_JOBS:
            self.log.add("grid", f"makes {size} jobs; at most {MAX_JOBS} are allowed in one study")
            return []
        applied: set[str] = set()
        points: list[Point] = []
        jobs: dict[str, Job] = {}
        for proposal in proposals:
            for job in self._expanded(header, job_class, proposal, applied, points):
                jobs.setdefault(job.key, job)
                # A reference can make several jobs of one point, so the product above is not a bound.
                if len(jobs) > MAX_JOBS:
                    self.log.add("grid", f"makes more than {MAX_JOBS} jobs; that many are allowed in one study")
                    return []
        searched = [Axis(key=key, values=(), origin=f"search.space.{key}") for key in (search.space if search else ())]
        # If only some combinations were tried, a key of the space may still apply to another one.
        for axis in (*searched, *axes) if all_known else axes:
            if axis.key not in applied and (axis.key in self.optional or self._replaced(axis.key)):
                self.useless_axes.append(axis.key)
            elif axis.key not in applied:
                beside = {key for point in points for key in known_keys(job_class, point.tables, axis.key)}
                hint = advice(job_class, self.tables, axis.key.partition(".")[0])
                hint = hint or nearest(axis.key, dict.fromkeys(sorted(beside)))
                self.log.add(axis.origin, f"applies to no job: none of the tables chosen has that key{hint}")
        return self._labelled(list(jobs.values()))

    @property
    def _fields(self) -> frozenset[str]:
        return frozenset(hints_of(self.job_class)) - {"seed"} if self.job_class else frozenset()

    def _expanded(
        self, header: Header | None, job_class: type[Any], proposal: Proposal, applied: set[str], points: list[Point]
    ) -> Iterator[Job]:
        """Yields the jobs of the grid with a proposal's values.

        Adds the axes that had an effect to `applied` and the points of the grid to `points`.
        """
        for point in self._points(job_class, proposal):
            applied |= point.applied
            points.append(point)
            for found in self._resolve(job_class, point):
                first, *others = self._seeds(header, found)
                job = self._job(header, job_class, point, found, first)
                if job is not None:
                    yield job
                    if others and (message := getattr(job.workload, "seeds_problem", "")):
                        self._report_once({"seeds": message}, point)
                    yield from (_with_seed(job, seed) for seed in others)

    def _points(self, job_class: type[Any], proposal: Proposal) -> Iterator[Point]:
        given = self.tables.get("variants") or []
        variants = [item for item in given if isinstance(item, Mapping)] if isinstance(given, list) else []
        tables = {name: value for name, value in self.tables.items() if name in self._fields}
        proposed = [Axis(key=key, values=(value,), origin=f"search.space.{key}") for key, value in proposal.items()]
        return expand(job_class, tables, [*proposed, *self._valid_axes()], variants)

    def _labelled(self, jobs: list[Job]) -> list[Job]:
        stage_prefix = f"{self.name}: " if self.name else ""
        present = [with_all_present_keys(type(job.workload), job.identity) for job in jobs]
        names = labels([{**table, **self._ancestry(job)} for table, job in zip(present, jobs, strict=True)])
        return [replace(job, label=stage_prefix + name) for job, name in zip(jobs, names, strict=True)]

    def _ancestry(self, job: Job) -> dict[str, Any]:
        """Returns what distinguishes a job from the same job on parents with other seeds, or on another file, for its label."""
        if job.parents:
            return {"after": "+".join(run[:8] for run in job.parents)}
        model = getattr(job.workload, "described", {}).get("model")
        return {"model": {"name": model}} if model else {}

    def _resolve(self, job_class: type[Any], point: Point) -> list[ResolvedTables]:
        try:
            needed = getattr(job_class, "splits_of_inputs", None)
            splits = needed(point.tables) if needed else {}
            resolved = list(resolve_references(job_class, point.tables, self.earlier, splits))
            if (key := getattr(job_class, "data_of", None)) is not None:
                resolved = [with_data_of_runs(job_class, found, point.tables, key, self.earlier) for found in resolved]
            # A file of outputs of several models makes a job for each.
            separate = getattr(job_class, "tables_of_jobs", lambda tables: [tables])
            return [replace(found, tables=tables) for found in resolved for tables in separate(found.tables)]
        except ChainError as error:
            self.log.with_origins(point.origins).add(error.key, error.message)
            return []

    def _seeds(self, header: Header | None, found: ResolvedTables) -> list[int]:
        """Returns the seeds of the spec; without `seeds` there, the seed of the parent."""
        if header is None:
            return [0]
        return [found.seed or 0] if found.parents and "seeds" not in self.tables else header.seed_list

    def _replaced(self, key: str) -> bool:
        """Returns whether the command line replaced the table that an axis of the spec was written for."""
        return key not in self.changed and any(self._present(key).startswith(f"{c.removesuffix('.name')}.") for c in self.changed)

    def _report_once(self, problems: Mapping[str, str], point: Point) -> None:
        """Reports problems of jobs by key; a point of the grid may have the same ones as another."""
        for key, message in problems.items():
            if (key, message) not in self._reported:
                self._reported.add((key, message))
                self.log.with_origins(point.origins).add(key, message)

    def _job(self, header: Header | None, job_class: type[Any], point: Point, found: ResolvedTables, seed: int) -> Job | None:
        workload = decode(job_class, {**found.tables, "seed": seed}, "", self.log.with_origins(point.origins))
        if workload is None or header is None:
            return None
        if header.resources.workers > 1 and getattr(workload, "depends_on_num_workers", False):
            # The numbers of such a job depend on how many workers share a batch, so the number enters its run key.
            workload = replace(workload, workers=header.resources.workers)
        if found.parents:
            self._report_once(kind_problems(workload, {parent.run_key: parent.kind for parent in found.parents}), point)
        resolved, identity = encode(workload), encode(workload, identity_only=True)
        key = key_of(header.kind, identity)
        return Job(
            key=key,
            label=key,
            kind=header.kind,
            workload=workload,
            resolved=resolved,
            identity=lineage(identity, {parent.run_key: parent for parent in found.parents}),
            described=describe_job(workload, resolved, found),
            stage=self.name,
            parents=tuple(parent.run_key for parent in found.parents),
        )


def _with_seed(job: Job, seed: int) -> Job:
    """Returns a valid job with another seed. Both share the other fields: decoding again would be slow for large grids."""
    workload: Any = replace(job.workload, seed=seed)  # type: ignore[type-var]
    resolved, identity = {**job.resolved, "seed": seed}, {**job.identity, "seed": seed}
    # `job.identity` describes its parents, but the run key is computed from their run keys.
    named = encode(workload, identity_only=True) if job.parents else identity
    key = key_of(job.kind, named)
    return replace(job, key=key, label=key, workload=workload, resolved=resolved, identity=identity)
