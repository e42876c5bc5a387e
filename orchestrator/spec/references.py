"""Resolves references to earlier runs: `from: STAGE` of the same spec, or `from: FOLDER` of finished results.

A table with `from` becomes a table with `runs`, a list of run keys. There is one job for each run; with `over: seed` one for
each group of runs that differ only in their seed, or in the seeds of what they come from; with `over: siblings` one for each
group that differ only in their own seed, and so come from the same runs; with `over: all` one for all runs. `where` keeps the
runs whose spec has the given values at the given dotted keys, and `best` those of the best setting by a metric. Two equal
references in a job mean the same run. A spec without `seeds` takes the seed of the run, or of the run that siblings come from.
"""

import itertools
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pruneyard.orchestrator.spec.best_runs import Best, RunResults, best_runs
from pruneyard.orchestrator.spec.codec import decode, hints_of, plugin_of, short_json, with_present_keys
from pruneyard.orchestrator.spec.predicted_splits import choose, lacked_in, lacked_splits
from pruneyard.orchestrator.spec.problem_log import ProblemLog, join_keys
from pruneyard.orchestrator.spec.reference_keys import REFERENCE, SOURCES
from pruneyard.orchestrator.spec.reference_places import find_references, is_reference
from pruneyard.orchestrator.spec.run_filter import runs_with, why_none
from pruneyard.orchestrator.spec.run_key import canonical
from pruneyard.orchestrator.spec.run_values import NO_VALUE, keys_of_runs, value_at
from pruneyard.reports.data_record import content_of, data_records
from pruneyard.reports.layout import RunFolder
from pruneyard.reports.location import Location, located
from pruneyard.reports.records import Status
from pruneyard.reports.store import Store
from pruneyard.workloads.plugins import find
from pruneyard.workloads.user_code.nearest import nearest

if TYPE_CHECKING:
    from pruneyard.orchestrator.spec.job import Job


logger = logging.getLogger(__name__)

GROUP_BY = ("seed", "all", "siblings")
SYNTHETIC = "synthetic"  # the data source that a reference in place of a data set stands for


@dataclass(frozen=True, kw_only=True)
class Parent:
    """An earlier run that a job consumes.

    described: its columns data, model, method, density and ipc. data: the hashes of the data that it was computed on, if it is
    finished; see `data_record.content_of`. lacks: splits of which it will have no predictions, if it is not finished.
    parents: keys of the runs that it consumes itself.
    """

    run_key: str
    seed: int
    kind: str
    resolved: Mapping[str, Any]
    identity: Mapping[str, Any]
    described: Mapping[str, Any]
    data: Mapping[str, str] = field(default_factory=dict)
    lacks: frozenset[str] = frozenset()
    parents: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class ResolvedTables:
    """The tables of a job with every reference resolved to run keys, and the runs that they name."""

    tables: Mapping[str, Any]
    parents: tuple[Parent, ...]
    seed: int | None  # of the parent; None where the first reference names several runs


class ChainError(ValueError):
    """A problem of a reference, with the dotted key at which it stands."""

    def __init__(self, key: str, message: str) -> None:
        super().__init__(message)
        self.key, self.message = key, message


def parent_of_job(job: "Job") -> Parent:
    """Returns a job of this spec as a parent."""
    return Parent(
        run_key=job.key,
        seed=job.workload.seed,
        kind=job.kind,
        resolved=job.resolved,
        identity=job.identity,
        described=job.described,
        lacks=lacked_splits(job.workload),
        parents=job.parents,
    )


def finished_runs(folder: Location) -> list[Parent]:
    """Returns the COMPLETED runs of a folder of results, in the order in which they started."""
    runs = Store(RunFolder(folder)).runs()
    rows = runs.to_pylist()
    records = data_records(*(runs.column(name).to_pylist() for name in ("data_read", "data_fingerprint", "parent_key")))
    return [
        Parent(
            run_key=row["run_key"],
            seed=row["seed"],
            kind=row["kind"],
            resolved=json.loads(row["spec_json"]),
            # Null in rows that were written before this column existed.
            identity=json.loads(row["identity_json"] or row["spec_json"]),
            described={name: row[name] for name in ("data", "model", "method", "density", "ipc")},
            data=content_of(record),
            parents=tuple(filter(None, (row["parent_key"] or "").split(","))),
        )
        for row, record in zip(rows, records, strict=True)
        if row["status"] == Status.COMPLETED.value
    ]


class UpstreamRuns:
    """The runs that a stage may refer to: those of earlier stages, by name, and those of folders, which are read once.

    refused: why a stage cannot be referred to, by the names of all other stages of the spec.
    undecided: why the runs of a stage are not known yet; `stages` then holds all that may become its runs.
    results: of the runs of the stages, for choices among them; None where they are not known yet.
    """

    def __init__(
        self,
        stages: Mapping[str, Sequence[Parent]],
        *,
        refused: Mapping[str, str] | None = None,
        undecided: Mapping[str, str] | None = None,
        results: RunResults | None = None,
    ) -> None:
        self._stages, self._refused, self._undecided = stages, refused or {}, undecided or {}
        self._results = results
        self.waits_for = ""  # why a reference that was resolved may name fewer runs than were returned; empty where none does
        self._folders: dict[str, list[Parent]] = {}
        self._known = {run.run_key: run for runs in stages.values() for run in runs}
        self._warned: set[str] = set()

    def groups(self, table: Mapping[str, Any], key: str, splits: Sequence[str] = ()) -> list[tuple[Parent, ...]]:
        """Returns the runs that a reference names, one group for each job. Raises `ChainError`.

        splits: those of which a run must have predictions; runs without are left out, which is logged.
        """
        if "from" not in table:
            named, listed = self.runs_by_key(table, key), " and ".join(splits)
            if splits and self._predicted(named, splits, table.get("folder"), f"{key}.runs") != list(named):
                raise ChainError(f"{key}.runs", f"is {short_json(table['runs'])}; each must have predictions of {listed}")
            return [named]
        source, over = table["from"], table.get("over")
        if over not in (None, *GROUP_BY):
            rule = f"it must be one of {', '.join(GROUP_BY)}, or be left out{nearest(over, GROUP_BY)}"
            raise ChainError(f"{key}.over", f"is {short_json(over)}; {rule}")
        found = self._filter(self._runs_from(source, f"{key}.from"), table.get("where"), f"{key}.where")
        found = self._predicted(found, splits, self.folder(table), f"{key}.from") if splits else found
        if "best" in table:
            found = self._best(found, table, key)
        if over == "all":
            return [_on_same_data(found, f"{key}.over")]
        grouped: dict[str, list[Parent]] = {}
        for parent in found:
            # `identity` describes what the run comes from, and `resolved` names it.
            tables = parent.resolved if over == "siblings" else parent.identity
            group_key = parent.run_key if over is None else canonical([parent.kind, _without_seed(tables)])
            grouped.setdefault(group_key, []).append(parent)
        return [_on_same_data(group, f"{key}.over") for group in grouped.values()]

    def seed_of(self, group: Sequence[Parent], over: Any) -> int | None:
        """Returns the seed of a single run, or of the first run that siblings come from; None for other groups."""
        origin = self._known.get(group[0].parents[0]) if over == "siblings" and group[0].parents else None
        if origin is not None:
            return origin.seed
        return group[0].seed if len(group) == 1 else None

    def _best(self, found: Sequence[Parent], table: Mapping[str, Any], key: str) -> list[Parent]:
        """Returns the runs of the best settings; all of them, with the reason in `waits_for`, where they are not known yet."""
        log = ProblemLog()
        given = {"metric": table["best"]} if isinstance(table["best"], str) else table["best"]
        best: Best | None = decode(Best, given, "best", log)
        if best is None:
            raise ChainError(join_keys(key, log.problems[0].key), log.problems[0].message)
        folder = self.folder(table)
        results = self._results if folder is None else RunResults(RunFolder(_locate_folder(folder, key)))
        values = [tuple(value_at(parent, name) for name in best.keys) for parent in found]
        for place, name in enumerate(best.keys):
            if all(value[place] is NO_VALUE for value in values):
                message = f"is {short_json(best.per)}; none of the {len(found)} runs has a value at {name}"
                raise ChainError(f"{key}.best.per", message + nearest(name, keys_of_runs(found)))
        if results is None or results.num_pending(found):
            self.waits_for = f"the best {best.metric} of {table['from']} is known once all its runs have ended"
            return list(found)
        try:
            return best_runs(found, best, results, values)
        except ValueError as error:
            if folder is not None:
                raise ChainError(f"{key}.best", str(error)) from error
            # The runs of a stage have just been computed: the other stages run all the same.
            self.waits_for = f"{key}.best {error}"
            return list(found)

    def _predicted(self, found: Sequence[Parent], splits: Sequence[str], folder: str | None, key: str) -> list[Parent]:
        """Returns those runs that have predictions of all splits; logs which are left out. Raises `ChainError` if all are."""
        if folder is None:
            chosen = choose(found, splits, lambda run: run.lacks)
        else:
            chosen = choose(found, splits, lacked_in(RunFolder(_locate_folder(folder, key)), splits))
        if not chosen.runs:
            why = "runs have calib rows unless calib_fraction is 0, calibrate runs have predictions if keep_predictions is true"
            rule = f"names {len(found)} runs, none of which has predictions of {' and '.join(splits)}: {chosen.reasons}"
            raise ChainError(key, f"{rule}; {why}")
        said = f"{key}: {len(found) - len(chosen.runs)} of {len(found)} runs are left out: {chosen.reasons}"
        if len(chosen.runs) < len(found) and said not in self._warned:
            self._warned.add(said)
            logger.warning("%s", said)
        return list(chosen.runs)

    def folder(self, table: Mapping[str, Any]) -> str | None:
        """Returns the folder of results that a reference names; None where it names a stage or run keys."""
        source = table.get("from")
        return None if source is None or source in self._stages else source

    def runs_by_key(self, table: Mapping[str, Any], key: str) -> tuple[Parent, ...]:
        """Returns the runs of a table that lists run keys. Raises `ChainError` for a key that is not known."""
        folder, keys = table.get("folder"), table["runs"]
        known = self._in_folder(folder, f"{key}.folder") if folder else [p for found in self._stages.values() for p in found]
        by_key = {parent.run_key: parent for parent in known}
        missing = [run for run in keys if run not in by_key]
        if missing:
            where = f"a finished run of {folder}" if folder else "a run of an earlier stage; give the folder of others"
            raise ChainError(f"{key}.runs", f"is {short_json(keys)}; {short_json(missing[0])} is not the key of {where}")
        return tuple(by_key[run] for run in keys)

    def _runs_from(self, source: Any, key: str) -> list[Parent]:
        if not isinstance(source, str):
            raise ChainError(key, f"is {short_json(source)}; it must be the name of a stage or a folder of results")
        if source in self._undecided:
            self.waits_for = self._undecided[source]
        if source in self._stages:
            return list(self._stages[source])
        if source in self._refused:
            instead = f"give an earlier stage ({', '.join(self._stages)}) or a folder of results"
            rule = instead if self._stages else "there is no earlier stage; give a folder of results"
            raise ChainError(key, f"is {short_json(source)}, {self._refused[source]}; {rule}")
        if not _locate_folder(source, key).is_dir():
            listed = f"no earlier stage of that name (stages: {', '.join(self._stages)}){nearest(source, self._stages)}"
            known = listed if self._stages else "this spec has no earlier stage"
            raise ChainError(key, f"is {short_json(source)}; there is no such folder, and {known}")
        return self._in_folder(source, key)

    def _in_folder(self, source: str, key: str) -> list[Parent]:
        if source not in self._folders:
            self._folders[source] = finished_runs(_locate_folder(source, key))
            self._known |= {run.run_key: run for run in self._folders[source]}
        if not self._folders[source]:
            raise ChainError(key, f"is {short_json(source)}, which holds no finished run; run its study first")
        return self._folders[source]

    def _filter(self, found: list[Parent], where: Any, key: str) -> list[Parent]:
        if where is None:
            return found
        if not isinstance(where, Mapping):
            raise ChainError(key, f"is {short_json(where)}; it must be a table of dotted keys, such as {{method.name: rigl}}")
        kept = runs_with(found, where)
        if not kept:
            name, message = why_none(found, where)
            raise ChainError(join_keys(key, name), message)
        return kept


def _on_same_data(group: Sequence[Parent], key: str) -> tuple[Parent, ...]:
    """Returns the runs that one job takes together. Raises `ChainError` if they were computed on different data."""
    known: dict[str, Parent] = {}
    for parent in group:
        if "data" not in parent.data:
            continue
        first = known.setdefault(canonical(parent.identity.get("data")), parent)
        if first.data["data"] != parent.data["data"]:
            runs = " and ".join(f"{run.run_key} (seed {run.seed}) on {run.data['data']}" for run in (first, parent))
            raise ChainError(key, f"takes runs together that were computed on different data: {runs}; choose by `where`")
    return tuple(group)


def _locate_folder(source: str, key: str) -> Location:
    """Returns the location of a folder. Raises `ChainError` for a URI of an unknown storage."""
    try:
        return located(source).expanduser()
    except ValueError as error:
        raise ChainError(key, f"is {short_json(source)}: {error}") from error


def name_sources(job_class: type[Any], tables: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the tables with the name of the data source added to references that stand in place of data without a name."""
    hints = hints_of(job_class)
    return {
        name: {"name": SYNTHETIC, **table}
        if is_reference(table) and "name" not in table and name in hints and _is_source(hints[name])
        else table
        for name, table in tables.items()
    }


def _is_source(hint: Any) -> bool:
    marker = plugin_of(hint)
    return marker is not None and marker.family == SOURCES


def resolve_references(
    job_class: type[Any], tables: Mapping[str, Any], earlier: UpstreamRuns, splits: Mapping[str, Sequence[str]]
) -> Iterator[ResolvedTables]:
    """Yields the resolved tables of one point of the grid, once for each combination of referenced runs. Raises `ChainError`.

    splits: those of which the runs of a reference must have predictions, by its key.
    """
    references = dict(find_references(job_class, tables))
    if not references:
        yield ResolvedTables(tables=tables, parents=(), seed=None)
        return
    reference_ids = {key: canonical([table.get(n) for n in (*REFERENCE, "runs")]) for key, table in references.items()}
    groups = {reference_ids[key]: earlier.groups(table, key, splits.get(key, ())) for key, table in references.items()}
    first = next(iter(references.values()))
    # Over the ids of references and not over their places, so that equal references mean the same run.
    for choice in itertools.product(*groups.values()):
        chosen = dict(zip(groups, choice, strict=True))
        yield ResolvedTables(
            tables=_replace_references(tables, "", {key: chosen[reference_ids[key]] for key in references}, earlier),
            parents=tuple({p.run_key: p for group in choice for p in group}.values()),
            seed=earlier.seed_of(choice[0], first.get("over")),
        )


def _replace_references(value: Any, key: str, chosen: Mapping[str, Sequence[Parent]], earlier: UpstreamRuns) -> Any:
    if key in chosen:
        parents = chosen[key]
        table = {name: item for name, item in value.items() if name not in REFERENCE}
        table["runs"] = [parent.run_key for parent in parents]
        if folder := earlier.folder(value):
            table["folder"] = folder
        if value.get("name") == SYNTHETIC and "data" in parents[0].resolved:
            # The other splits of a synthetic set are those of the data that it was distilled from.
            table = with_present_keys(find("data.sources", SYNTHETIC), table)
            table.setdefault("base", parents[0].resolved["data"])
        return table
    if isinstance(value, Mapping):
        return {name: _replace_references(item, join_keys(key, name), chosen, earlier) for name, item in value.items()}
    if isinstance(value, list):
        return [_replace_references(item, f"{key}[{place}]", chosen, earlier) for place, item in enumerate(value)]
    return value


def lineage(identity: Any, parents: Mapping[str, Parent]) -> Any:
    """Returns an identity in which parents are described instead of named by run key.

    It is equal for jobs that differ only in their seed or in the seeds of their parents.
    """
    if isinstance(identity, Mapping):
        return {
            name: _describe_runs(item, parents) if name == "runs" and _are_known(item, parents) else lineage(item, parents)
            for name, item in identity.items()
        }
    return [lineage(item, parents) for item in identity] if isinstance(identity, list) else identity


def _are_known(runs: Any, parents: Mapping[str, Parent]) -> bool:
    """Returns whether a value under `runs` lists parents. Arguments of a function may have this name too."""
    return isinstance(runs, list) and bool(runs) and all(isinstance(run, str) and run in parents for run in runs)


def _describe_runs(runs: Sequence[str], parents: Mapping[str, Parent]) -> Any:
    tables = {canonical(table): table for table in (_describe_run(parents[run]) for run in runs)}
    if len(tables) > 1:
        return list(tables.values())
    (table,) = tables.values()
    # The number of members stays in the identity: an ensemble of three is not one of five.
    return table if len(runs) == 1 else {**table, "members": len(runs)}


def _describe_run(parent: Parent) -> dict[str, Any]:
    return {"kind": parent.kind, **_without_seed(parent.identity)}


def _without_seed(identity: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in identity.items() if name != "seed"}
