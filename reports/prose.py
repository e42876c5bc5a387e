"""What the page says in words: the headline, and what was run, where and when."""

from __future__ import annotations

import shlex

import pandas as pd

from pruneyard.reports import formats, records
from pruneyard.reports.records import Status
from pruneyard.reports.series import NUM_BINS, calibration_errors
from pruneyard.reports.study import CALIBRATE, DENSE, Study
from pruneyard.reports.tables import best_cells


def headline(study: Study) -> str:
    """How much there is and what the first measure says, claiming no more than the intervals carry."""
    parts = [progress(study)]
    if study.measures and study.cells[study.measures[0]].notna().any():
        parts += [_span(study), _verdict(study)]
    return " ".join(part for part in parts if part)


def progress(study: Study) -> str:
    """How many runs are completed, of those planned where the folders say what was planned."""
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
        parts.append(f"{formats.plural(others, 'further run')} in the same folder {was} planned before.")
    return " ".join(parts)


def not_started(study: Study) -> int:
    """Planned runs without a record; 0 where nothing is known of a plan."""
    return len((study.planned or frozenset()) - study.statuses.keys())


def _span(study: Study) -> str:
    """The smallest and largest mean, with intervals where there are some."""
    table = _headlined(study).sort_values("mean")
    name = study.measures[0].replace("/", " ")
    texts = [_estimate(row) for row in table[["mean", "low", "high"]].itertuples(index=False)]
    if len(texts) == 1:
        return f"Mean {name} is {texts[0]}."
    low, high = table["label"].iloc[0], table["label"].iloc[-1]
    return f"Mean {name} runs from {texts[0]} ({low}) to {texts[-1]} ({high})."


def _headlined(study: Study) -> pd.DataFrame:
    """The cells of the first measure; those of calibrate runs, which repeat what they rest on, only where there are no others."""
    table = study.measured(study.measures[0])
    others = table[table["kind"] != CALIBRATE]
    return table if others.empty else others


def _estimate(triple: tuple[float, float, float]) -> str:
    text, half = formats.estimate(*triple)
    return f"{text} ± {half}" if half else text


def _verdict(study: Study) -> str:
    measure = study.measures[0]
    table = _headlined(study)
    if len(table) < 2:
        return ""
    if (table["num"] < 2).all():
        return "Every setting has a single seed, so that no interval and no ranking is given."
    if (table["num"] < 2).any():
        return "Some settings have a single seed, so that no interval and no ranking is given for all."
    best = best_cells(study.cells, measure)
    names = list(table.loc[table["cell"].isin(best), "label"])
    if not names:
        return "No setting's 95% interval lies clear of all others."
    return f"The interval of {formats.listed(names)} lies clear of all others on the same data."


def summary_note(study: Study) -> str:
    """What the marks of the summary table mean, as far as it has any."""
    parts = []
    if study.measures and study.cells[study.measures].notna().any(axis=None):
        parts.append("Mean over seeds ± half the 95% t interval; a value without ± rests on one seed.")
        calibrators = ", for calibrators on the same runs" if (study.cells["kind"] == CALIBRATE).any() else ""
        parts.append(f"Bold: the interval lies beyond all others on the same data and model{calibrators}.")
    if "test/ece" in study.measures and (note := _floor(study)):
        parts.append(note)
    if study.cells["censored"].any():
        parts.append("Pruned runs are counted, never averaged.")
    return " ".join(parts)


def _floor(study: Study) -> str:
    """Bins, samples and noise floor of the calibration errors in the table; nothing where runs left no bins."""
    errors = calibration_errors(study.test_bins)
    if errors.empty:
        return ""
    rows, floors = _range(errors["num"], ",.0f"), _range(errors["floor"], ".4f")
    return (
        f"Test ece: {NUM_BINS} bins, unless a spec says otherwise, over n = {rows} samples a run; networks "
        f"with the same confidences would show {floors} were they perfectly calibrated."
    )


def _range(values: pd.Series[float], how: str) -> str:
    return " to ".join(dict.fromkeys((format(values.min(), how), format(values.max(), how))))


def facts(study: Study) -> list[tuple[str, str]]:
    """What was run and where, as terms and texts."""
    runs = study.labelled
    start, end = runs["started_at"].min(), runs["ended_at"].max()
    seeds = sorted(set(runs["seed"]))
    workers = [f"{device}, {formats.plural(num, 'worker')}" for device, num in _pairs(study)]
    versions = [f"pruneyard {formats.listed(_names(study, 'code_version'))}"]
    versions += [
        f"torch {formats.listed(_names(study, 'torch_version'))}",
        f"schema {records.SCHEMA_VERSION}",
    ]
    methods = sorted(_names(study, "method"), key=lambda name: name != DENSE)
    return [
        ("kind", formats.listed(_names(study, "kind"))),
        ("data", formats.listed(_names(study, "data"))),
        ("model", formats.listed(_names(study, "model"))),
        ("methods", formats.listed(methods, limit=12)),
        ("seeds", formats.listed([str(seed) for seed in seeds], limit=12)),
        ("device", formats.listed(workers)),
        ("when", f"{start:%Y-%m-%d %H:%M} to {end:%Y-%m-%d %H:%M} UTC"),
        ("compute", f"{formats.duration(float(runs['wall_s'].sum()))} summed over runs"),
        ("versions", ", ".join(versions)),
    ]


def _names(study: Study, column: str) -> list[str]:
    return [str(name) for name in dict.fromkeys(study.labelled[column].dropna())]


def _pairs(study: Study) -> list[tuple[str, int]]:
    frame = study.labelled[["device", "num_workers"]].drop_duplicates()
    return [(str(device), int(num)) for device, num in frame.itertuples(index=False)]


def commands(study: Study) -> list[str]:
    """How to repeat the study, which runs only what is missing, and how to make this page again."""
    again = [
        shlex.join(["pruneyard", "run", str(folder.spec), "--out", str(folder.path)])
        for folder in study.folders
        if folder.spec.is_file()
    ]
    return [*again, shlex.join(["pruneyard", "report", *(str(folder.path) for folder in study.folders)])]
