"""What a folder of results holds, for Python and notebooks; needs neither Ray nor torch."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    pass
from collections.abc import Iterable, Mapping
from os import PathLike

import numpy as np
import pandas as pd

from pruneyard.orchestrator.errors import ExitCode, UsageError
from pruneyard.reports.export import shown
from pruneyard.reports.glossary import LARGER_IS_BETTER
from pruneyard.reports.latency import read_latency
from pruneyard.reports.layout import RunFolder
from pruneyard.reports.location import Location, located
from pruneyard.reports.page import write_page
from pruneyard.reports.records import TABLES, Status
from pruneyard.reports.store import Store
from pruneyard.reports.summary import cells

if TYPE_CHECKING:
    from pruneyard.orchestrator.spec.load import Spec
from pruneyard.orchestrator.errors import ClusterError


class GracefulInterrupt(KeyboardInterrupt):
    """Ctrl-C, after everything was saved; `results` is what there is by then."""

    def __init__(self, results: "Results") -> None:
        super().__init__(f"stopped; finished work and checkpoints are kept in {results.folder.path}, so run again to go on")
        self.results = results


class ClusterLostError(ClusterError):
    """The cluster was lost, or had no room left, in the middle of a study; `results` is what there is by then."""

    def __init__(self, words: str, results: "Results") -> None:
        super().__init__(words)
        self.results = results


NOT_PROPOSED = ""  # stands for the jobs that a search has yet to propose


COSTS = ("num_active", "num_parameters", "train_flops", "train_s")  # columns of the summary; less is better


def _better(name: str) -> str:
    """`max` or `min`. Raises `UsageError` where nobody has said."""
    if name in COSTS:
        return "min"
    larger = LARGER_IS_BETTER.get(name.partition("/")[2])
    if larger is None:
        raise UsageError(f"{name}: it is not known whether more is better; give objectives as {{{name}: max}}")
    return "max" if larger else "min"


def check_results(folder: RunFolder) -> None:
    """Raises `UsageError` for a folder in which no study ever began; an empty one may be about to begin."""
    if not folder.path.is_dir():
        raise UsageError(f"{folder.path}: there is no such folder")
    begun = folder.spec.exists() or any(folder.table(name).exists() for name in TABLES)
    if not begun and any(not entry.name.startswith(".") for entry in folder.path.iterdir()):
        raise UsageError(f"{folder.path}: holds neither {folder.spec.name} nor results, so it is no folder of results")


class Results:
    """Reads a folder, also while it is being written. Everything asked of a folder without results raises `UsageError`.

    `spec` is what the exit code is about: by default the one that the folder was last run with.
    """

    def __init__(self, folder: str | PathLike[str] | Location, *, spec: "Spec | None" = None) -> None:
        self.folder = RunFolder(located(folder))
        self._spec = spec

    @property
    def _store(self) -> Store:
        check_results(self.folder)
        return Store(self.folder)

    def runs(self) -> pd.DataFrame:
        """One row per run, its newest attempt."""
        return pd.DataFrame(self._store.runs().to_pandas())

    def metrics(self) -> pd.DataFrame:
        """Long form: one row per run, step, split and metric."""
        return pd.DataFrame(self._store.metrics().to_pandas())

    def curves(self) -> pd.DataFrame:
        """Long form: one row per point."""
        return pd.DataFrame(self._store.curves().to_pandas())

    def latency(self) -> pd.DataFrame:
        """One row per network, format, batch size and threads that `pruneyard latency` measured."""
        return read_latency(self.folder)

    def summary(self) -> pd.DataFrame:
        """One row per cell (runs that differ only in their seed): means over seeds with 95% intervals."""
        return cells(self._store.runs(), self._store.metrics())

    def pareto(self, objectives: Mapping[str, str] | Sequence[str]) -> pd.DataFrame:
        """The rows of the summary that no other one beats: at least as good in all objectives and better in one.

        Objectives are measures, `split/name`, or columns such as num_active; `max` or `min` by name, or names alone where it
        is known which way is better. Raises `UsageError` for others. Cells without a value in all of them are left out.
        """
        ways = dict(objectives) if isinstance(objectives, Mapping) else {name: _better(name) for name in objectives}
        measures = [name for name in ways if "/" in name]
        table = cells(self._store.runs(), self._store.metrics(), measures=measures) if measures else self.summary()
        for name, way in ways.items():
            if name not in COSTS and name not in measures:
                raise UsageError(f"{name}: is no objective; give split/name or one of {', '.join(COSTS)}")
            if way not in ("max", "min"):
                raise UsageError(f"{name}: is to be {way!r}; it must be max or min")
        signs = np.array([-1.0 if way == "max" else 1.0 for way in ways.values()])
        costs = table[list(ways)].to_numpy(dtype=float) * signs
        known = np.isfinite(costs).all(axis=1)
        beaten = [bool((known & (costs <= row).all(axis=1) & (costs < row).any(axis=1)).any()) for row in costs]
        front: pd.DataFrame = table[known & ~np.array(beaten, dtype=bool)]
        return front

    def report(self, out: str | PathLike[str] | Location | None = None) -> Location:
        """Writes the HTML page, `report.html` in the folder by default."""
        check_results(self.folder)
        return write_page([self.folder.path], located(out) if out is not None else self.folder.report)

    @property
    def exit_code(self) -> ExitCode:
        """How the jobs of the spec ended, as the command's exit code: PARTIAL also where some never ran."""
        newest = {key: status for key, (status, _) in self._store.statuses().items()}
        statuses = {newest.get(key) for key in self._keys(default=newest)}
        if Status.FAILED in statuses:
            return ExitCode.FAILED
        return ExitCode.PARTIAL if statuses & {Status.INTERRUPTED, None} else ExitCode.FINISHED

    def _keys(self, *, default: Iterable[str]) -> list[str]:
        """Run keys of the spec's jobs; `default` for a folder whose spec was not kept."""
        if self._spec is None and not self.folder.spec.exists():
            return list(default)
        from pruneyard.orchestrator.search.proposals import is_searched, known_jobs
        from pruneyard.orchestrator.spec.load import load_spec

        spec = load_spec(self._spec or self.folder.spec)
        jobs = known_jobs(spec, self.folder).jobs
        return [job.key for job in jobs] + ([] if is_searched(spec, self.folder) else [NOT_PROPOSED])

    def __repr__(self) -> str:
        try:
            table = shown(self.summary()).to_string(index=False)
        except UsageError as error:
            table = str(error)
        return f"Results({str(self.folder.path)!r})\n{table}"

    def _repr_html_(self) -> str:
        return shown(self.summary()).to_html(index=False)
