"""Reads a folder of results, for Python and notebooks. Needs no Ray, and torch only for networks."""

import html
from collections.abc import Iterable, Mapping, Sequence
from os import PathLike
from typing import TYPE_CHECKING, Any

import pandas as pd
import pyarrow as pa

from pruneyard.orchestrator.artifacts.run_keys import RunChoice, full_run_key
from pruneyard.orchestrator.errors import ClusterError, ExitCode, UsageError
from pruneyard.orchestrator.reading.analyses import analysis
from pruneyard.orchestrator.reading.choice import best_run, pareto_front
from pruneyard.orchestrator.reading.comparison import compared, matched
from pruneyard.orchestrator.reading.metric_names import check_recorded, directions_of, recorded_measures
from pruneyard.orchestrator.reading.run_artifacts import load_network, predictions
from pruneyard.orchestrator.reading.summary_columns import summary_table
from pruneyard.reports.ancestors import ancestors
from pruneyard.reports.export import shown
from pruneyard.reports.final_values import final_values
from pruneyard.reports.inline import results_html
from pruneyard.reports.latency import read_latency
from pruneyard.reports.layout import RunFolder
from pruneyard.reports.location import Location, located
from pruneyard.reports.paired import paired_differences
from pruneyard.reports.planned import plan_is_complete, read_plan
from pruneyard.reports.predictions import SplitPredictions
from pruneyard.reports.records import TABLES, Status
from pruneyard.reports.store import Store
from pruneyard.reports.study import Study
from pruneyard.reports.summary import MAX_NARROW, cells

if TYPE_CHECKING:
    from torch import nn

    from pruneyard.orchestrator.spec.load import Spec
    from pruneyard.reports.charts.catalog import AnyChart

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

    In a notebook it shows its summary and main chart. Nothing here needs Ray, and only `network` needs torch.

    Example:
        >>> import pruneyard
        >>> results = pruneyard.Results("out/digits")
        >>> results.summary(columns=["method", "density", "num_seeds"]).to_dict("records")
        [{'method': 'rigl', 'density': 0.1, 'num_seeds': 3}, {'method': 'static', 'density': 0.1, 'num_seeds': 3}]
    """

    def __init__(self, folder: str | PathLike[str] | Location, *, spec: "Spec | None" = None) -> None:
        self.folder = RunFolder(located(folder))
        self._spec = spec

    @property
    def _store(self) -> Store:
        check_results(self.folder)
        return Store(self.folder)

    @property
    def _study(self) -> Study:
        check_results(self.folder)
        return Study.read([self.folder.path])

    def runs(self) -> pd.DataFrame:
        """Returns one row per run: its newest attempt. `artifact` is the location of its artifacts in this folder.

        Example:
            >>> set(pruneyard.Results("out/digits").runs()["status"])
            {'COMPLETED'}
        """
        runs = pd.DataFrame(self._store.runs().to_pandas())
        # Earlier versions stored the place where the folder was then.
        here = RunFolder(self.folder.path.resolve())
        places = [str(here.artifact(key)) for key in runs["run_key"]]
        runs["artifact"] = pd.Series(places, index=runs.index, dtype=object).where(runs["artifact"].notna(), None)
        return runs

    def metrics(self) -> pd.DataFrame:
        """Returns the metrics in long form: one row per run, step, split and metric; `final` has the last values.

        Example:
            >>> metrics = pruneyard.Results("out/digits").metrics()
            >>> list(metrics.columns)
            ['run_key', 'attempt', 'step', 'epoch', 'split', 'name', 'value', 'wall_s']
        """
        return pd.DataFrame(self._store.metrics().to_pandas())

    def curves(self) -> pd.DataFrame:
        """Returns the curves in long form: one row per point.

        Example:
            >>> curves = pruneyard.Results("out/digits").curves()
            >>> sorted(set(curves["name"]))
            ['class_accuracy', 'density', 'reliability']
        """
        return pd.DataFrame(self._store.curves().to_pandas())

    def latency(self) -> pd.DataFrame:
        """Returns one row per network, format, batch size and number of threads that `pruneyard latency` measured.

        Example:
            >>> len(pruneyard.Results("out/digits").latency())  # nothing was measured there
            0
        """
        return read_latency(self.folder)

    def final(self) -> pd.DataFrame:
        """Returns one row per run: its labels, settings that differ, costs, and the last value of each metric (`split/name`).

        Example:
            >>> final = pruneyard.Results("out/digits").final()
            >>> final.groupby("method")["test/accuracy"].count().to_dict()
            {'rigl': 3, 'static': 3}
        """
        return final_values(self._store.runs(), self._store.metrics())

    def summary(self, columns: str | Sequence[str] | None = None) -> pd.DataFrame:
        """Returns one row per cell (runs that differ only in their seed): means over seeds with 95% intervals.

        columns: names of columns or of measures (`split/name`); `all` for every column; by default those that tell rows apart,
            the number of seeds, the main measures with their intervals (`_low`, `_high`), and costs.

        Raises `UsageError` for a column that there is not.

        Example:
            >>> table = pruneyard.Results("out/digits").summary()
            >>> list(table.columns)[:5]
            ['method', 'density', 'num_seeds', 'test/accuracy', 'test/accuracy_low']
            >>> table = pruneyard.Results("out/digits").summary(columns=["method", "val/accuracy"])
        """
        return summary_table(self._store.runs(), self._store.metrics(), columns)

    def best(self, metric: str = "val/accuracy", *, mode: str | None = None) -> "pd.Series[Any]":
        """Returns the completed run with the best final value of a metric, as a row of `final`.

        metric: `split/name`, or a name alone for that of the val split. A metric of the test split is refused: what was chosen
            on it cannot be tested on it.
        mode: `max` or `min`; by default the direction that is known of the metric.

        One run is as good as its seed was lucky: compare settings by `summary` and `compare`. Raises `UsageError` for a metric
        that no completed run has, or whose direction is not known.

        Example:
            >>> run = pruneyard.Results("out/digits").best("val/nll")
            >>> run["method"]
            'rigl'
        """
        return best_run(self.final(), metric, mode)

    def pareto(self, objectives: Mapping[str, str] | Sequence[str], *, stage: str | None = None) -> pd.DataFrame:
        """Returns the Pareto front of the summary: the rows that no other row dominates.

        A row dominates another if it is at least as good in all objectives and better in one. Rows without a value for every
        objective are left out.

        objectives: measures (`split/name`) or columns such as num_active. A mapping gives `max` or `min` for each; a list of
            names suffices where the direction is known.
        stage: the stage whose runs count; by default all runs.

        Raises `UsageError` for an objective that no run has, an unknown direction, or a name whose direction is not known.

        Example:
            >>> front = pruneyard.Results("out/digits").pareto(["test/accuracy", "num_active"])
            >>> list(front["method"])
            ['rigl']
        """
        if isinstance(objectives, str):
            raise UsageError(f"objectives is {objectives!r}; it must be a list, or a table with max or min for each name")
        runs, metrics = self._store.runs(), self._store.metrics()
        if stage is not None:
            runs = runs.filter(pa.array([name == stage for name in runs.column("stage").to_pylist()], pa.bool_()))
        check_recorded(objectives, measures=recorded_measures(metrics))
        directions = directions_of(objectives)
        return pareto_front(cells(runs, metrics, measures=[name for name in directions if "/" in name]), directions)

    def compare(
        self,
        a: str | Mapping[str, Any],
        b: str | Mapping[str, Any],
        *,
        metric: str | Sequence[str] | None = None,
        budget: str | None = None,
        pool: Sequence[str] = (),
    ) -> pd.DataFrame:
        """Compares settings: one row per metric and pair of settings, with the paired difference a - b and its interval.

        a, b: the values that columns of the summary must have on each side, such as `{"method": "rigl", "density": 0.1}`; a
            text names a method.
        metric: one or more `split/name`; by default the main measures of the summary.
        budget: such as `epochs=5`: what all runs had after it. pool: settings that do not tell rows apart, such as `batch_size`.

        Runs are paired by seed. Settings are compared that agree in all columns but those that both sides name. `difference` has
        a 95% t interval; `p_value` is that of the paired t test, `p_corrected` the same corrected for the number of rows (Holm),
        and `better` the better side where that is below 0.05. `num_won` counts the pairs in which a is better, and
        `pairs_needed` is the number of pairs that would separate the sides; `verdict` says it in words. Raises `UsageError` for
        a column, value or metric that there is not, and if no two settings can be compared.

        Example:
            >>> table = pruneyard.Results("out/digits").compare("rigl", "static", metric="test/accuracy")
            >>> table[["a", "b", "num_pairs"]].to_dict("records")
            [{'a': 'rigl', 'b': 'static', 'num_pairs': 3}]
        """
        study = matched(self._study, budget, pool)
        measures = [metric] if isinstance(metric, str) else list(metric or study.measures[:MAX_NARROW])
        check_recorded(measures, measures=set(study.history["measure"]))
        left, right = ({"method": side} if isinstance(side, str) else side for side in (a, b))
        try:
            return paired_differences(study, left, right, measures)
        except ValueError as error:
            raise UsageError(str(error)) from error

    def against(
        self,
        baseline: str | Mapping[str, Any] | None = None,
        *,
        metric: str | Sequence[str] | None = None,
        only: Mapping[str, Any] | None = None,
        budget: str | None = None,
        pool: Sequence[str] = (),
    ) -> pd.DataFrame:
        """Compares every setting with the baseline that agrees with it in all other columns, such as the density.

        baseline: a method, or values of columns; by default the natural one of the study, the method static, random, none or
        plain, else plain gradients, else cross-entropy.
        metric: one or more `split/name`; by default the first measure of the summary. only: values that compared settings must
        have. budget, pool and the columns are those of `compare`, with the setting as a and the baseline as b. Dense networks are
        left out unless they are the baseline. Raises `UsageError` as `compare` does.

        Example:
            >>> pruneyard.Results("out/digits").against("static", metric="test/accuracy")[["a", "b"]].to_dict("records")
            [{'a': 'rigl', 'b': 'static'}]
        """
        metrics = [metric] if isinstance(metric, str) else list(metric or [])
        chosen = {"method": baseline} if isinstance(baseline, str) else baseline
        study = matched(self._study, budget, pool)
        return compared(study, baseline=chosen, metrics=metrics, only=only)

    def analyze(self, kind: str, *, metric: str | None = None, **options: str | float | None) -> pd.DataFrame:
        """Returns an analysis of the whole study as a table.

        kind: `importance`, `aggregates`, `profile`, `time-to-target`, `variance`, `front` or `hypervolume`.
        metric: by default the main measure of the summary. options: `target`, `cost` and `evaluator` of those that take them.

        Raises `UsageError` for an analysis, metric or option that there is not, and where the study has too little for it.

        Example:
            >>> table = pruneyard.Results("out/digits").analyze("front", metric="test/accuracy")
            >>> int(table["on_front"].sum())
            1
        """
        return analysis(self._study, kind, metric=metric, **options)

    def lineage(self, key: "RunChoice") -> pd.DataFrame:
        """Returns a run in the last row and above it all runs that it rests on: its inputs, their inputs, and so on.

        Column `generation` counts the steps from the run. Raises `UsageError` for a run that is not in the folder.

        Example:
            >>> results = pruneyard.Results("out/digits")
            >>> results.lineage(results.best()["run_key"])["generation"].tolist()  # a training rests on no other run
            [0]
        """
        runs = self._store.runs()
        return ancestors(runs, full_run_key(self.folder, key, option="key"))

    def predictions(self, key: "RunChoice | None" = None) -> Mapping[str, SplitPredictions]:
        """Returns the logits of a run by split; see `pruneyard.predictions`.

        Example:
            >>> results = pruneyard.Results("out/digits")
            >>> sorted(results.predictions(results.best()["run_key"]))
            ['calib', 'test', 'val']
        """
        check_results(self.folder)
        return predictions(self, key)

    def network(self, key: "RunChoice | None" = None) -> "nn.Module":
        """Returns the network of a run, ready to call, with its masks applied; see `pruneyard.load_network`.

        Example:
            >>> results = pruneyard.Results("out/digits")
            >>> network = results.network(results.best())
            >>> network.training
            False
        """
        check_results(self.folder)
        return load_network(self, key)

    def plot(self, chart: str | None = None, *, metric: str | None = None) -> "AnyChart":
        """Returns one of the page's charts as an Altair chart, which notebooks draw and `save` writes to a file.

        chart: `density`, `ipc`, `schedules`, `distillation`, `learning`, `losses`, `reliability`, `layers`, `cost`, `latency`,
            `time-to-target`, `pareto`, `profile` or `importance`; by default the first of these that the study has data for.
        metric: of the charts that show any one, as `split/name`; by default the main measure of the summary.

        Raises `UsageError` for a chart that there is not, or that the study has no data for.

        Example:
            >>> pruneyard.Results("out/digits").plot("learning", metric="val/nll").save("curves.html")
        """
        from pruneyard.reports.charts.catalog import figure_named, standalone  # loads Altair and its renderer

        study = self._study
        if metric is not None:
            check_recorded([metric], measures=set(study.history["measure"]))
        try:
            figure = figure_named(study, chart, metric)
        except ValueError as error:
            raise UsageError(str(error)) from error
        if figure is None:
            raise UsageError(f"{self.folder.path}: has no data for {f'chart {chart}' if chart else 'any chart'}")
        return standalone(figure)

    def report(self, out: str | PathLike[str] | Location | None = None, *, pool: Sequence[str] = ()) -> Location:
        """Writes the HTML page and returns its location, by default `report.html` in the folder. pool: see `compare`.

        Example:
            >>> pruneyard.Results("out/digits").report("page.html").name
            'page.html'
        """
        from pruneyard.reports.page import write_page  # loads Altair and its renderer

        check_results(self.folder)
        return write_page([self.folder.path], located(out) if out is not None else self.folder.report, pool=pool)

    @property
    def exit_code(self) -> ExitCode:
        """Returns how the runs of the study ended, as the command's exit code: PARTIAL also where some never started.

        Example:
            >>> int(pruneyard.Results("out/digits").exit_code)
            0
        """
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
        try:
            return results_html(self._study, self.summary(), place=str(self.folder.path))
        except UsageError as error:
            return f"<pre>{html.escape(str(error))}</pre>"
