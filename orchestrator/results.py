"""Reads a folder of results, for Python and notebooks. Needs neither Ray nor torch."""

import difflib
from collections.abc import Iterable, Mapping, Sequence
from os import PathLike
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from pruneyard.orchestrator.errors import ClusterError, ExitCode, UsageError
from pruneyard.orchestrator.spec.direction import COSTS, known_direction
from pruneyard.reports.export import shown
from pruneyard.reports.latency import read_latency
from pruneyard.reports.layout import RunFolder
from pruneyard.reports.location import Location, located
from pruneyard.reports.page import write_page
from pruneyard.reports.planned import plan_is_complete, read_plan
from pruneyard.reports.records import TABLES, Status
from pruneyard.reports.store import Store
from pruneyard.reports.summary import cells

if TYPE_CHECKING:
    from pruneyard.orchestrator.spec.load import Spec

NOT_PROPOSED = ""  # stands for the runs that a search has yet to propose


class GracefulInterrupt(KeyboardInterrupt):
    """Raised after Ctrl-C once everything is saved; `results` reads the finished runs."""

    def __init__(self, results: "Results") -> None:
        super().__init__(f"stopped; finished work and checkpoints are kept in {results.folder.path}; run again to resume")
        self.results = results


class ClusterLostError(ClusterError):
    """Raised where the cluster was lost or ran out of resources during a study; `results` reads the finished runs."""

    def __init__(self, message: str, results: "Results") -> None:
        super().__init__(message)
        self.results = results


def _direction(name: str) -> str:
    """Returns whether a measure is better when larger (`max`) or smaller (`min`). Raises `UsageError` where it is not known."""
    direction = known_direction(name)
    if direction is None:
        raise UsageError(f"{name}: it is not known whether larger is better; give the direction, as in {{{name}: max}}")
    return direction


def check_results(folder: RunFolder) -> None:
    """Raises `UsageError` for a folder in which no study ever started. An empty folder is accepted: a study may be starting."""
    if not folder.path.is_dir():
        raise UsageError(f"{folder.path}: there is no such folder")
    # A driver creates hidden files, such as the lease, before it writes spec.yaml.
    has_started = folder.spec.exists() or any(folder.table(name).exists() for name in TABLES)
    if not has_started and any(not entry.name.startswith(".") for entry in folder.path.iterdir()):
        raise UsageError(f"{folder.path}: holds neither {folder.spec.name} nor results, so it is no folder of results")


class Results:
    """Reads a folder of results, also while a study writes to it. Every method raises `UsageError` for a folder without results.

    spec: the spec whose runs determine `exit_code`; by default the one that the folder was last run with.
    """

    def __init__(self, folder: str | PathLike[str] | Location, *, spec: "Spec | None" = None) -> None:
        self.folder = RunFolder(located(folder))
        self._spec = spec

    @property
    def _store(self) -> Store:
        check_results(self.folder)
        return Store(self.folder)

    def runs(self) -> pd.DataFrame:
        """Returns one row per run: its newest attempt. `artifact` is the location of its artifacts in this folder."""
        runs = pd.DataFrame(self._store.runs().to_pandas())
        # Earlier versions stored the place where the folder was then.
        here = RunFolder(self.folder.path.resolve())
        places = [str(here.artifact(key)) for key in runs["run_key"]]
        runs["artifact"] = pd.Series(places, index=runs.index, dtype=object).where(runs["artifact"].notna(), None)
        return runs

    def metrics(self) -> pd.DataFrame:
        """Returns the metrics in long form: one row per run, step, split and metric."""
        return pd.DataFrame(self._store.metrics().to_pandas())

    def curves(self) -> pd.DataFrame:
        """Returns the curves in long form: one row per point."""
        return pd.DataFrame(self._store.curves().to_pandas())

    def latency(self) -> pd.DataFrame:
        """Returns one row per network, format, batch size and number of threads that `pruneyard latency` measured."""
        return read_latency(self.folder)

    def summary(self) -> pd.DataFrame:
        """Returns one row per cell (runs that differ only in their seed): means over seeds with 95% intervals."""
        return cells(self._store.runs(), self._store.metrics())

    def pareto(self, objectives: Mapping[str, str] | Sequence[str]) -> pd.DataFrame:
        """Returns the Pareto front of the summary: the rows that no other row dominates.

        A row dominates another if it is at least as good in all objectives and better in one. Rows without a value for every
        objective are left out.

        objectives: measures (`split/name`) or columns such as num_active. A mapping gives `max` or `min` for each; a list of
            names suffices where the direction is known.

        Raises `UsageError` for an objective that no run has, an unknown direction, or a name whose direction is not known.
        """
        self._check_objectives(objectives)
        directions = dict(objectives) if isinstance(objectives, Mapping) else {name: _direction(name) for name in objectives}
        measures = [name for name in directions if "/" in name]
        table = cells(self._store.runs(), self._store.metrics(), measures=measures) if measures else self.summary()
        for name, direction in directions.items():
            if direction not in ("max", "min"):
                raise UsageError(f"{name}: is {direction!r}; it must be max or min")
        signs = np.array([-1.0 if direction == "max" else 1.0 for direction in directions.values()])
        costs = table[list(directions)].to_numpy(dtype=float) * signs
        known = np.isfinite(costs).all(axis=1)
        dominated = [bool((known & (costs <= row).all(axis=1) & (costs < row).any(axis=1)).any()) for row in costs]
        # Comparisons with NaN are False, so without `known` every row that lacks a value would be on the front.
        front: pd.DataFrame = table[known & ~np.array(dominated, dtype=bool)]
        return front

    def _check_objectives(self, names: Iterable[str]) -> None:
        recorded = self._store.metrics().select(["split", "name"]).to_pandas().drop_duplicates()
        measures = [f"{split}/{name}" for split, name in recorded.itertuples(index=False)]
        for name in names:
            if name in COSTS or name in measures:
                continue
            close = difflib.get_close_matches(name, [*measures, *COSTS], n=1)
            hint = f"; did you mean {close[0]}?" if close else ""
            raise UsageError(
                f"{name}: no run has it; an objective is a recorded metric (split/name) or one of {', '.join(COSTS)}{hint}"
            )

    def report(self, out: str | PathLike[str] | Location | None = None) -> Location:
        """Writes the HTML page and returns its location, by default `report.html` in the folder."""
        check_results(self.folder)
        return write_page([self.folder.path], located(out) if out is not None else self.folder.report)

    @property
    def exit_code(self) -> ExitCode:
        """Returns how the runs of the study ended, as the command's exit code: PARTIAL also where some never started."""
        newest = {key: status for key, (status, _) in self._store.statuses().items()}
        statuses = {newest.get(key) for key in self._planned_keys(recorded=newest)}
        if Status.FAILED in statuses:
            return ExitCode.FAILED
        return ExitCode.PARTIAL if statuses & {Status.INTERRUPTED, None} else ExitCode.FINISHED

    def _planned_keys(self, *, recorded: Iterable[str]) -> list[str]:
        """Returns the run keys of the study; those of the `recorded` runs where the folder holds neither a plan nor a spec."""
        if self._spec is None:
            is_complete = plan_is_complete(self.folder)
            if is_complete is not None:
                return [*(read_plan(self.folder) or ()), *([] if is_complete else [NOT_PROPOSED])]
            if not self.folder.spec.exists():
                return list(recorded)
        # Only here: reading a spec imports torch, which takes seconds.
        from pruneyard.orchestrator.search.proposals import is_search_finished, with_proposed_jobs
        from pruneyard.orchestrator.spec.load import load_spec

        spec = load_spec(self._spec or self.folder.spec)
        jobs = with_proposed_jobs(spec, self.folder).jobs
        return [job.key for job in jobs] + ([] if is_search_finished(spec, self.folder) else [NOT_PROPOSED])

    def __repr__(self) -> str:
        try:
            table = shown(self.summary()).to_string(index=False)
        except UsageError as error:
            table = str(error)
        return f"Results({str(self.folder.path)!r})\n{table}"

    def _repr_html_(self) -> str:
        return shown(self.summary()).to_html(index=False)
