"""The data of one study from several results folders, with cells, labels and series as shown on the page."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import cached_property
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from pruneyard.reports import leading, palette, series, summary
from pruneyard.reports.cells import GEOMETRY, LABELS, column_of, flat_spec, is_detail, is_label, label_cells
from pruneyard.reports.data_record import DifferentDataError, conflict, data_records
from pruneyard.reports.layout import RunFolder
from pruneyard.reports.location import Location
from pruneyard.reports.naming import column_names
from pruneyard.reports.planned import read_chosen_from, read_chosen_per, read_plan
from pruneyard.reports.pooling import NOTHING, Pooled
from pruneyard.reports.records import Status
from pruneyard.reports.row_intervals import row_intervals
from pruneyard.reports.store import Store

DENSE = "dense"
CALIBRATE = "calibrate"
PROBE = "probe"
"""The kinds of runs that calibrate, and that probe, earlier runs."""
FOLDER = "folder"
"""The column that tells apart settings of several folders."""
_SIZES = ("density", "ipc")
PLACE = ["field", *_SIZES]
"""The columns of `Study.cells` in which settings agree that compete with each other: data, model, stage and size."""


@dataclass(frozen=True, kw_only=True)
class Study:
    """The tables of one or more folders. A run in several folders is read from the one where it finished last.

    origins: the place in `folders` of the folder that each run was read from, by run key.
    pooled: what does not tell settings apart. spent: where values are those of an equal budget, the epoch of each run's last
        evaluation within it and that of the whole run; see `matched.at_budget`.
    """

    folders: Sequence[RunFolder]
    runs: pa.Table
    metrics: pa.Table
    curves: pa.Table
    origins: Mapping[str, int]
    pooled: Pooled = NOTHING
    spent: Mapping[str, tuple[float, float]] = field(default_factory=dict)

    @classmethod
    def read(cls, folders: Sequence[Location]) -> Study:
        """Reads the folders. Raises `ValueError` for a path that is no folder; `DifferentDataError`."""
        for folder in folders:
            if not folder.is_dir():
                raise ValueError(f"{folder} is no folder; give one that a run has written")
        stores = [Store(RunFolder(folder)) for folder in folders]
        runs = [store.runs() for store in stores]
        _check_same_data(runs, folders)
        keys = _counted_keys(runs)
        return cls(
            folders=[store.folder for store in stores],
            runs=_rows_of(runs, keys),
            metrics=_rows_of([store.metrics() for store in stores], keys),
            curves=_rows_of([store.curves() for store in stores], keys),
            origins={key: place for place, own in enumerate(keys) for key in own.to_pylist()},
        )

    def pool(self, names: Sequence[str]) -> Study:
        """Returns the study in which runs that differ only in these settings count as one setting; see `pooling.Pooled.named`.

        Raises `ValueError` for a name that is no setting, or that names rows.
        """
        texts = {text for name in ("spec_json", "identity_json") for text in self.runs[name].unique().to_pylist()} - {None}
        known = {key for text in texts for key in flat_spec(text)}
        labels = [key for key in known if is_label(key)]
        return replace(self, pooled=Pooled.named(names, known, labels=labels)) if names else self

    @cached_property
    def labelled(self) -> pd.DataFrame:
        """The runs with their `cell`; see `label_cells`.

        Where settings of several folders would look alike, such as those of two versions of a plug-in, `folder` is one more
        setting. The runs of one cell count together, whatever folders they are in.
        """
        runs = label_cells(self.runs, pooled=self.pooled)
        if len(self.folders) > 1 and FOLDER not in runs:
            in_cell = self._folders_of(runs)
            alike = in_cell.groupby([runs[name] for name in ("kind", *LABELS)], dropna=False).nunique()
            if (alike > 1).any():
                runs[FOLDER] = in_cell.astype(object)
                settings = [*runs.attrs["settings"], FOLDER]
                # The digest of a source, say, which says less than the folder.
                told = [name for name in settings if not is_detail(name)]
                would_look_alike = runs.drop_duplicates("cell").duplicated([*LABELS, *GEOMETRY, *told]).any()
                runs.attrs["settings"] = settings if would_look_alike else told
        return runs

    @cached_property
    def planned(self) -> frozenset[str] | None:
        """The run keys planned for the folders; None if no folder has a plan.

        In a folder without a plan, the existing runs count as planned.
        """
        plans = [read_plan(folder) for folder in self.folders]
        if all(plan is None for plan in plans):
            return None
        found = [
            frozenset(Store(folder).statuses()) if plan is None else plan
            for folder, plan in zip(self.folders, plans, strict=True)
        ]
        return frozenset().union(*found)

    @cached_property
    def chosen_from(self) -> frozenset[str]:
        """The stages whose runs served to choose settings for fresh seeds, and which are therefore no results themselves."""
        return frozenset().union(*(read_chosen_from(folder) for folder in self.folders))

    @cached_property
    def folders_of_cells(self) -> dict[int, str]:
        """The names of the folders that have runs of each cell; empty with a single folder."""
        if len(self.folders) < 2:
            return {}
        return dict(zip(self.labelled["cell"], self._folders_of(self.labelled), strict=True))

    def _folders_of(self, runs: pd.DataFrame) -> pd.Series[str]:
        """Returns for every run the names of the folders that have runs of its cell."""
        names = _names_of([folder.path for folder in self.folders])
        places = runs["run_key"].map(lambda key: names[self.origins[key]])
        in_cell: pd.Series[str] = places.groupby(runs["cell"]).transform(lambda found: ", ".join(sorted(set(found))))
        return in_cell

    @cached_property
    def _chosen_per(self) -> dict[str, frozenset[str]]:
        """The columns per whose values the settings of a stage were chosen, by stage; several folders add up."""
        found: dict[str, frozenset[str]] = {}
        for folder in self.folders:
            for stage, keys in read_chosen_per(folder).items():
                found[stage] = found.get(stage, frozenset()) | {column_of(key) for key in keys}
        return found

    def tuned_columns(self, stage: object) -> frozenset[str]:
        """Returns the columns of settings of a stage that were chosen for each of its arms on its own; empty without a choice.

        These are all but those that the choice was made per, and those that describe data, model, and where a run took place.
        """
        name = stage if isinstance(stage, str) else ""  # a spec without stages has one without a name
        if name not in self._chosen_per:
            return frozenset()
        others = [name for name in self.varying if not _is_field(name) and name not in (*GEOMETRY, FOLDER)]
        return frozenset(others) - self._chosen_per[name]

    @cached_property
    def statuses(self) -> dict[str, str]:
        """The status of every run, by its key."""
        return dict(zip(self.runs["run_key"].to_pylist(), self.runs["status"].to_pylist(), strict=True))

    @cached_property
    def history(self) -> pd.DataFrame:
        """All metric rows; see `summary.history`."""
        return summary.history(self.metrics)

    @cached_property
    def finals(self) -> pd.DataFrame:
        """Every run's last value of every measure."""
        return summary.last_values(self.history)

    @cached_property
    def by_run(self) -> pd.DataFrame:
        """`finals` with a row per run key and a column per measure; NaN for missing values."""
        return self.finals.pivot(index="run_key", columns="measure", values="value")

    @cached_property
    def test_bins(self) -> pd.DataFrame:
        """The reliability bins of every completed run on the test split; see `series.bins_of_runs`."""
        bins = series.bins_of_runs(self.curves, self.labelled)
        return bins[bins["key"] == "test"]

    @cached_property
    def row_intervals(self) -> dict[tuple[int, str], tuple[float, float]]:
        """The intervals over test rows of the drawn cells with one completed seed; see `row_intervals.row_intervals`."""
        single = self.drawn.loc[self.drawn["num_seeds"] == 1, "cell"]
        return row_intervals(self.test_bins, self.by_run, set(single))

    @cached_property
    def cells(self) -> pd.DataFrame:
        """The summary table with the additional columns `cell, label, field, rivals, series, line`.

        `field` is data, model and stage. `rivals` is the group within which cells are compared: `field`, and for calibrate runs
        their input in whatever stage. `series` describes a line of a chart (method and settings), `line` a point on it (density,
        images per class), `label` all of it. Each describes only what differs.
        """
        table = summary.cell_table(self.labelled, self.finals, self.measures)
        rows = [row for _, row in table.iterrows()]
        field = [key for key in self.varying if _is_field(key)]
        # A local list, which hides the module `series` in this method only.
        series = [key for key in self.varying if not _is_field(key) and key not in _SIZES]
        table["label"] = [self.words(row, _label_keys(row, self.varying)) or row["method"] for row in rows]
        table["field"] = [self.words(row, field) for row in rows]
        parent = [key for key in self.varying if is_of_parent(key)]
        table["rivals"] = [
            f"{CALIBRATE} · {row['data']} · {row['model']} · {self.words(row, parent)}" if row["kind"] == CALIBRATE else at
            for at, row in zip(table["field"], rows, strict=True)
        ]
        table["series"] = [self.words(row, series) or row["method"] for row in rows]
        table["line"] = [self.words(row, _SIZES) or row["method"] for row in rows]
        return table

    def measured(self, measure: str) -> pd.DataFrame:
        """Returns the cells that have a measure, with the columns `mean, low, high, num` for it."""
        names = {measure: "mean", f"{measure}_low": "low", f"{measure}_high": "high", "num_seeds": "num"}
        table = self.cells
        if measure not in table:
            others = summary.cell_table(self.labelled, self.finals, [measure])
            table = table.merge(others[["cell", *list(names)[:3]]], on="cell")
        return table.rename(columns=names).dropna(subset=["mean"])

    @cached_property
    def ranks(self) -> pd.Series[float]:
        """The place of every cell among those of its field, never by the test split; see `leading.ranks`."""
        return leading.ranks(self.cells, self.labelled, self.finals)

    @cached_property
    def drawn(self) -> pd.DataFrame:
        """The cells that charts draw: all but probes, unless there are very many; see `leading.drawn`.

        Calibrators, which may be many times as many as the networks that they calibrate, take no place of these.
        """
        kinds = self.cells["kind"]
        others = [kinds.isin([CALIBRATE]), ~kinds.isin([CALIBRATE, PROBE])]
        return pd.concat([leading.drawn(self.cells[own], self.ranks[own]) for own in others]).sort_index()

    @cached_property
    def drawn_note(self) -> str:
        """A sentence on the cells that charts draw, which follows a caption; an empty text if all are."""
        left_out = [PROBE] if self.calibrates_only else [CALIBRATE, PROBE]
        cells, drawn = (table[~table["kind"].isin(left_out)] for table in (self.cells, self.drawn))
        return leading.note(cells, drawn, measure=leading.selection_measure(self.finals))

    @cached_property
    def drawn_runs(self) -> pd.DataFrame:
        """The runs of `labelled` whose cells are drawn."""
        return self.labelled[self.labelled["cell"].isin(self.drawn["cell"])]

    @cached_property
    def learning_curves(self) -> pd.DataFrame:
        """The curves of the drawn cells, all measures; see `series.learning_curves`."""
        return series.learning_curves(self.history, self.drawn_runs)

    @cached_property
    def styles(self) -> dict[str, tuple[str, str]]:
        """Colour and symbol of every drawn series, the same in all figures; dense networks are grey."""
        is_dense = self.drawn["method"] == DENSE
        styles = palette.methods(list(self.drawn.loc[~is_dense, "series"]))
        return styles | dict.fromkeys(self.drawn.loc[is_dense, "series"], (palette.REFERENCE, "circle"))

    @property
    def measures(self) -> list[str]:
        """The measures of the summary table."""
        return summary.default_measures(self.finals)

    @property
    def calibrates_only(self) -> bool:
        """Tells whether all runs calibrate runs of other studies."""
        return bool((self.cells["kind"] == CALIBRATE).all())

    @property
    def main_measure(self) -> str | None:
        """The first measure of the summary; of calibrators alone the first beside accuracy, which most of them keep."""
        measures = self.measures
        if self.calibrates_only:
            measures = [name for name in measures if not name.endswith("/accuracy")] or measures
        return next(iter(measures), None)

    @cached_property
    def varying(self) -> list[str]:
        """The label columns in which cells differ."""
        geometry = [name for name in GEOMETRY if name not in self.pooled.columns]
        shown = [*LABELS, *geometry, *self.labelled.attrs["settings"]]
        return [name for name in shown if self.labelled[name].nunique(dropna=False) > 1]

    @cached_property
    def names(self) -> dict[str, str]:
        """The display names of the columns in `varying`."""
        # These columns exist even if they are not shown, so no setting may take their names.
        absent = [name for name in (*LABELS, *GEOMETRY) if name not in self.varying]
        return column_names(self.varying, taken=absent)

    @cached_property
    def columns(self) -> list[str]:
        """The columns of `varying` for a table of all cells: the stage first, without columns that the stage determines."""
        if "stage" not in self.varying:
            return self.varying
        said = frozenset.intersection(*self._implied_by_stage.values())
        return ["stage", *(name for name in self.varying if name not in said and name != "stage")]

    @cached_property
    def _implied_by_stage(self) -> Mapping[str | None, frozenset[str]]:
        """The columns of `varying` that do not differ within a stage, so the stage name implies them."""
        if "stage" not in self.varying:
            return {}
        # The method is always said, even where the stage implies it.
        others = [key for key in self.varying if key not in ("method", "stage")]
        return {
            stage if isinstance(stage, str) else None: frozenset(
                key for key in others if group[key].nunique(dropna=False) == 1
            )
            for stage, group in self.labelled.groupby("stage", dropna=False)
        }

    def words(self, row: pd.Series[Any], keys: Sequence[str]) -> str:
        """Returns the values of a row in these columns in words, without those that its stage implies."""
        stage = row["stage"] if isinstance(row["stage"], str) else None
        said = self._implied_by_stage.get(stage, frozenset())
        texts = [in_words(key, row[key], self.names.get(key, key)) for key in keys if key not in said]
        return " · ".join(text for text in texts if text)


def _names_of(folders: Sequence[Location]) -> list[str]:
    """Returns the names of the folders, with as many of their parents as tell them apart."""
    parts = [str(folder).rstrip("/").split("/") for folder in folders]
    for num in range(1, max(len(each) for each in parts)):
        names = ["/".join(each[-num:]) for each in parts]
        if len(set(names)) == len(set(map(tuple, parts))):
            return names
    return ["/".join(each) for each in parts]


def _check_same_data(runs: Sequence[pa.Table], folders: Sequence[Location]) -> None:
    """Raises `DifferentDataError` if a run is in two folders and was computed on different data there."""
    seen: dict[str, tuple[Location, dict[str, str]]] = {}
    for table, folder in zip(runs, folders, strict=True):
        columns = (table[name].to_pylist() for name in ("data_read", "data_fingerprint", "parent_key"))
        for key, record in zip(table["run_key"].to_pylist(), data_records(*columns), strict=True):
            before, known = seen.setdefault(key, (folder, record))
            if (found := conflict(known, record)) is not None:
                was = f"run {key} was computed on data {found[0]} in {before} and on {found[1]} in {folder}"
                raise DifferentDataError(f"{was}; report these folders separately")


def _counted_keys(runs: Sequence[pa.Table]) -> list[pa.Array]:
    """Returns for each folder the keys of the runs to read from it: those that finished last there.

    A run that is not finished in one folder is read from another one in which it is.
    """
    ends: dict[str, tuple[bool, datetime, int]] = {}
    for place, table in enumerate(runs):
        for key, status, end in zip(*(table[name].to_pylist() for name in ("run_key", "status", "ended_at")), strict=True):
            # At equal ends the later folder counts, so that every run is read from exactly one.
            found = (Status(status).is_final, end, place)
            ends[key] = max(found, ends.get(key, found))
    return [
        pa.array([key for key, (_, _, holder) in ends.items() if holder == place], pa.string())
        for place in range(len(runs))
    ]


def _rows_of(tables: Sequence[pa.Table], keys: Sequence[pa.Array]) -> pa.Table:
    """Returns one table with the rows of each folder's own keys."""
    kept = [
        table.filter(pc.is_in(table["run_key"].cast(pa.string()), own))
        for table, own in zip(tables, keys, strict=True)
    ]
    # Every folder's tables have dictionaries of their own.
    return pa.concat_tables(kept).unify_dictionaries()


def _label_keys(row: pd.Series[Any], keys: Sequence[str]) -> list[str]:
    """Returns the keys for a label; a dense network does not need its density of 1."""
    return [key for key in keys if not (key == "density" and row["method"] == DENSE)]


def _is_field(key: str) -> bool:
    return key in ("data", "model", "kind", "stage") or key.startswith(("data.", "model."))


def is_of_parent(key: str) -> bool:
    """Returns whether a key of a calibrate run describes its input and fitting data, not its calibrator."""
    return key in ("data", "model", "density", "ipc", "fit", "num_bins") or key.startswith("input.")


def in_words(key: str, value: Any, name: str) -> str:
    """Returns one label: names without their key, settings with it; an empty text for missing values."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    text = f"{value:g}" if isinstance(value, float) else str(value)
    return text if key in ("data", "model", "method", "kind", "stage", "device") else f"{name} {text}"
