"""The sentences of the page: the headline, the summary note, and the facts of the experimental setup."""

from __future__ import annotations

import json
import math
import shlex
from collections.abc import Sequence
from pathlib import PurePosixPath

import pandas as pd

from pruneyard.reports import formats, records
from pruneyard.reports.comparison_section import Comparison
from pruneyard.reports.glossary import measure_title
from pruneyard.reports.leading import selection_measure
from pruneyard.reports.records import Status
from pruneyard.reports.row_intervals import NOTE
from pruneyard.reports.series import NUM_BINS, calibration_errors
from pruneyard.reports.study import CALIBRATE, DENSE, Study
from pruneyard.reports.tables import MAX_ROWS, best_cells
from pruneyard.reports.trust.verdicts import Verdict


def headline(study: Study) -> str:
    """Returns the progress, and the range of the first measure; without it where calibrators are all there is, which keep it."""
    measure = study.main_measure
    has_span = measure is not None and study.cells[measure].notna().any() and not study.calibrates_only
    return f"{progress(study)} {_span(study, measure)}" if has_span and measure else progress(study)


def answers(
    study: Study,
    comparisons: Sequence[Comparison],
    calibration: Sequence[Verdict] = (),
    *,
    merges: str = "",
    of_papers: Sequence[str] = (),
) -> list[str]:
    """Returns the answers of the page, a line a question.

    These are the verdicts on papers' claims and what is better than the baseline, or, without both, than all others; and the
    verdicts on merges and calibrators.
    """
    found = [*of_papers, *(each.short for each in comparisons)]
    measure = study.main_measure
    if not found and not (study.calibrates_only and calibration) and measure and study.cells[measure].notna().any():
        found = [_verdict(study, measure)]
    return [text for text in [*found, merges, *(verdict.short for verdict in calibration)] if text]


def progress(study: Study) -> str:
    """Returns how many runs are completed, out of the planned ones if the folders have a plan."""
    settings = formats.plural(len(study.cells), "setting")
    if study.planned is None:
        completed = int((study.labelled["status"] == Status.COMPLETED).sum())
        return f"{completed:,} of {formats.plural(len(study.labelled), 'run')} completed in {settings}."
    completed = sum(study.statuses.get(key) == Status.COMPLETED for key in study.planned)
    parts = [f"{completed:,} of {formats.plural(len(study.planned), 'planned run')} completed in {settings}."]
    if missing := not_started(study):
        parts.append(f"{missing:,} {'has' if missing == 1 else 'have'} not started.")
    if others := len(study.statuses.keys() - study.planned):
        was = "was" if others == 1 else "were"
        parts.append(f"{formats.plural(others, 'further run')} in the same folder {was} planned by an earlier spec.")
    return " ".join(parts)


def not_started(study: Study) -> int:
    """Returns the number of planned runs without a record; 0 without a plan."""
    return len((study.planned or frozenset()) - study.statuses.keys())


def _span(study: Study, measure: str) -> str:
    """Returns the smallest and largest mean in words, with intervals if there are any."""
    table = _headline_cells(study, measure).sort_values("mean")
    name = measure_title(measure)
    texts = [_estimate(row) for row in table[["mean", "low", "high"]].itertuples(index=False)]
    if len(texts) == 1:
        return f"Mean {name} is {texts[0]}."
    low, high = table["label"].iloc[0], table["label"].iloc[-1]
    return f"Mean {name} ranges from {texts[0]} ({low}) to {texts[-1]} ({high})."


def _headline_cells(study: Study, measure: str) -> pd.DataFrame:
    """Returns the cells with the measure.

    Those that settings were chosen from are left out, and calibrate runs, which repeat their inputs, if there are others.
    """
    table = study.measured(measure)
    chosen = table[~table["stage"].isin(study.chosen_from)]
    table = table if chosen.empty else chosen
    others = table[table["kind"] != CALIBRATE]
    return table if others.empty else others


def _estimate(triple: tuple[float, float, float]) -> str:
    text, half = formats.estimate(*triple)
    return f"{text} ± {half}" if half else text


def _verdict(study: Study, measure: str) -> str:
    table = _headline_cells(study, measure)
    if len(table) < 2:
        return ""
    if (table["num"] < 2).all():
        return "Every setting has a single seed, so there are no intervals and no ranking."
    if (table["num"] < 2).any():
        return "Some settings have a single seed and no interval, so there is no ranking."
    best = best_cells(study.cells, measure)
    names = list(table.loc[table["cell"].isin(best), "label"])
    if not names:
        return "No setting's 95% interval is separate from all others."
    where = "in the same stage" if "stage" in study.varying else "on the same data"
    return f"The 95% interval of {formats.listed(names)} is separate from all others {where}."


def summary_note(study: Study, *, calibrators_follow: bool = False) -> str:
    """Returns the explanation of intervals, bold values and noise floors in the summary table, as far as they occur.

    calibrators_follow: say that calibrate runs are in a table of their own.
    """
    parts = []
    if study.measures and study.cells[study.measures].notna().any(axis=None):
        alone = "have a single seed"
        if any(num > 1 and math.isnan(low) for num, low in _ends(study)):
            alone = "have a single seed, or seeds that all rest on one first run"
        parts.append(f"Mean over seeds ± half width of the 95% t interval; values without ± {alone}.")
        has_calibrators = (study.cells["kind"] == CALIBRATE).any() and not calibrators_follow
        calibrators = ", or for calibrators on the same input runs" if has_calibrators else ""
        parts.append(f"Bold: the interval lies beyond all others on the same data and model{calibrators}.")
    if study.row_intervals:
        parts.append(NOTE)
    if calibrators_follow:
        parts.append("Calibrators are compared under Calibration and uncertainty.")
    if "test/ece" in study.measures and (note := _floor(study)):
        parts.append(note)
    if study.cells["censored"].any():
        parts.append("Runs stopped early (pruned) are counted but never averaged.")
    if (num := len(study.cells)) > MAX_ROWS:
        measure = selection_measure(study.finals)
        first, by = ("best", f" by {measure_title(measure)}") if measure else ("first", "")
        parts.append(f"Rows: the {first} {MAX_ROWS:,} of {num:,} settings{by}; `pruneyard export` writes all.")
    return " ".join(parts)


def _ends(study: Study) -> list[tuple[int, float]]:
    """Returns the number of seeds and the lower end of the interval of every value of the summary."""
    tables = [study.cells[["num_seeds", f"{name}_low"]][study.cells[name].notna()] for name in study.measures]
    return [(int(num), float(low)) for table in tables for num, low in table.itertuples(index=False)]


def _floor(study: Study) -> str:
    """Returns bins, samples and noise floor of the calibration errors in the table; an empty text if no run recorded bins."""
    errors = calibration_errors(study.test_bins)
    if errors.empty:
        return ""
    rows, floors = _range(errors["num"], ",.0f"), _range(errors["floor"], ".4f")
    return (
        f"Test ECE: {NUM_BINS} bins unless the spec sets another number, n = {rows} samples per run; noise floor: perfectly "
        f"calibrated networks with the same confidences would show {floors}."
    )


def _range(values: pd.Series[float], spec: str) -> str:
    """Returns `lowest to highest` in a format, or one number if both print alike."""
    return " to ".join(dict.fromkeys((format(values.min(), spec), format(values.max(), spec))))


def facts(study: Study) -> list[tuple[str, str]]:
    """Returns the experimental setup as pairs of term and text."""
    runs = study.labelled
    start, end = runs["started_at"].min(), runs["ended_at"].max()
    seeds = sorted(set(runs["seed"]))
    workers = [f"{device}, {formats.plural(num, 'worker')}" for device, num in _devices(study)]
    versions = [f"pruneyard {formats.listed(_names(study, 'code_version'))}"]
    versions += [
        f"torch {formats.listed(_names(study, 'torch_version'))}",
        f"schema {records.SCHEMA_VERSION}",
    ]
    methods = sorted(_names(study, "method"), key=lambda name: name != DENSE)
    found = [
        ("kind", formats.listed(_names(study, "kind"))),
        ("data", formats.listed(_names(study, "data"))),
        ("outputs", _outputs(study)),
        ("model", formats.listed(_names(study, "model"))),
        ("methods", formats.listed(methods, limit=12)),
        ("seeds", formats.listed([str(seed) for seed in seeds], limit=12)),
        ("device", formats.listed(workers)),
        ("time", f"{start:%Y-%m-%d %H:%M} to {end:%Y-%m-%d %H:%M} UTC"),
        ("total wall time", f"{formats.duration(float(runs['wall_s'].sum()))}, summed over runs"),
        ("versions", ", ".join(versions)),
    ]
    return [(term, text) for term, text in found if text]


def _outputs(study: Study) -> str:
    """Returns the files of outputs that calibrate runs read, and how rows are cut where no column names their splits."""
    inputs = [json.loads(text).get("input") for text in study.labelled.loc[study.labelled["kind"] == CALIBRATE, "spec_json"]]
    files = [table for table in inputs if isinstance(table, dict) and table.get("path")]
    if not files:
        return ""
    names = dict.fromkeys(PurePosixPath(table["path"]).name for table in files)
    cuts = dict.fromkeys((table["calib_fraction"], table["split_seed"]) for table in files)
    cut = ", ".join(f"{share:g} of each class to fit on (split_seed {seed})" for share, seed in cuts)
    return f"{formats.listed(list(names), limit=12)}; rows without a named split are cut: {cut}"


def _names(study: Study, column: str) -> list[str]:
    """Returns the distinct values of a column, in order of appearance."""
    return [str(name) for name in dict.fromkeys(study.labelled[column].dropna()) if name]


def _devices(study: Study) -> list[tuple[str, int]]:
    """Returns the distinct pairs of device and number of workers."""
    frame = study.labelled[["device", "num_workers"]].drop_duplicates()
    return [(str(device), int(num)) for device, num in frame.itertuples(index=False)]


def commands(study: Study) -> list[str]:
    """Returns the commands that run the study again (only its missing runs) and that recreate this page."""
    again = [
        shlex.join(["pruneyard", "run", str(folder.spec), "--out", str(folder.path)])
        for folder in study.folders
        if folder.spec.is_file()
    ]
    return [*again, shlex.join(["pruneyard", "report", *(str(folder.path) for folder in study.folders)])]
