"""The page's table of further measures, and of the accuracy on the test samples of each class."""

from __future__ import annotations

import pandas as pd

from pruneyard.reports import formats, series
from pruneyard.reports.glossary import FURTHER_MEASURES, measure_title
from pruneyard.reports.study import Study
from pruneyard.reports.tables import MAX_ROWS, Table, Value, label_headers, label_values, measure_values

MAX_CLASSES = 20
"""Classes in the table: of more classes, those with the lowest mean accuracy over all settings."""


def further_table(study: Study) -> tuple[Table | None, str]:
    """Returns the table with one row per cell, and the note below it; None if no run recorded any of it.

    The column of a class is the mean over seeds of the accuracy on its test samples.
    """
    measures = [measure for measure in study.measures if measure.partition("/")[2] in FURTHER_MEASURES]
    accuracies, num_classes = _accuracies(study)
    table = study.cells[study.ranks.rank(method="first") <= MAX_ROWS]
    table = table[table["cell"].isin(accuracies.index) | table[measures].notna().any(axis=1)]
    if table.empty:
        return None, ""
    by_class = accuracies.reindex(table["cell"])
    columns = label_values(study, table)
    columns += [measure_values(study, table, measure) for measure in measures]
    columns += [[Value(text=formats.number(value, digits=3)) for value in by_class[name]] for name in by_class]
    headers = [*label_headers(study), *(measure_title(measure) for measure in measures), *map(str, by_class)]
    note = "A class: accuracy on its test samples, mean over seeds." if num_classes else ""
    if num_classes > MAX_CLASSES:
        note += f" The {MAX_CLASSES} of {num_classes:,} classes with the lowest accuracy; `pruneyard export` writes all."
    rows = list(zip(*columns, strict=True))
    cells = [[int(cell)] for cell in table["cell"]]
    found = Table(headers=headers, num_labels=len(label_headers(study)), rows=rows, cells=cells, name="further")
    return found.without_empty_columns(), note


def _accuracies(study: Study) -> tuple[pd.DataFrame, int]:
    """Returns a row per cell and a column per shown class in their order, and the number of all classes."""
    points = series.last_points(study.curves, "class_accuracy").merge(series.completed(study.labelled), on="run_key")
    means = points.pivot_table(index="cell", columns="key", values="y", aggfunc="mean", sort=False)
    order = points.groupby("key")["x"].min()
    lowest = means.mean().nsmallest(MAX_CLASSES).index
    shown = sorted(lowest, key=lambda name: (order[name], name))
    return means[shown], means.shape[1]
