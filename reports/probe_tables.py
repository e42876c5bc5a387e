"""The page's sections of probes: what was measured on finished networks, a table and figures for each probe."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from pruneyard.reports import formats, summary
from pruneyard.reports.charts.figure import Figure, undrawn
from pruneyard.reports.charts.probes import probe_figures
from pruneyard.reports.glossary import measure_title
from pruneyard.reports.study import PROBE, Study
from pruneyard.reports.tables import MAX_ROWS, Table, Value, label_headers, label_values


@dataclass(frozen=True, kw_only=True)
class ProbeTable:
    """The table of one probe, a row per setting of the probed runs and a column per measure, and its figures, unranked."""

    name: str
    table: Table
    figures: Sequence[Figure] = ()


def probe_tables(study: Study) -> list[ProbeTable]:
    """Returns a table for every probe that recorded something."""
    cells = study.cells[study.cells["kind"] == PROBE]
    found = [(name, _measures(study, name)) for name in dict.fromkeys(cells["method"])]
    return [
        ProbeTable(
            name=name,
            table=_table(study, cells[cells["method"] == name].head(MAX_ROWS), measures),
            figures=_figures(study, name, cells[cells["method"] == name]),
        )
        for name, measures in found
        if measures
    ]


def _figures(study: Study, name: str, cells: pd.DataFrame) -> list[Figure]:
    try:
        return probe_figures(study, name, cells)
    # Whatever it is, the page can do without the figures of one probe, and says which.
    except Exception as error:
        return [undrawn(name, error, name=f"undrawn-probe-{name.replace('_', '-')}")]


def probe_measures(study: Study) -> list[str]:
    """Returns the measures of the tables of all probes."""
    runs = study.labelled[study.labelled["kind"] == PROBE]
    return [measure for name in dict.fromkeys(runs["method"]) for measure in _measures(study, name)]


def _measures(study: Study, name: str) -> list[str]:
    """Returns the measures of one probe by name, without those of a part, such as one corruption (`shift.fog/accuracy`)."""
    runs = study.labelled[(study.labelled["kind"] == PROBE) & (study.labelled["method"] == name)]
    found = study.finals.loc[study.finals["run_key"].isin(runs["run_key"]), "measure"]
    return sorted(measure for measure in set(found) if "." not in measure.partition("/")[0])


def _table(study: Study, cells: pd.DataFrame, measures: list[str]) -> Table:
    values = summary.cell_table(study.labelled, study.finals, measures).set_index("cell").loc[cells["cell"]]
    headers, columns = label_headers(study), label_values(study, cells)
    # The heading names the probe.
    kept = [place for place, header in enumerate(headers) if header != "method" or len(headers) == 1]
    labels, columns = [headers[place] for place in kept], [columns[place] for place in kept]
    for measure in measures:
        numbers = zip(values[measure], values[f"{measure}_low"], values[f"{measure}_high"], strict=True)
        estimates = [formats.estimate(mean, low, high) for mean, low, high in numbers]
        columns.append([Value(text=text, half=half) for text, half in estimates])
    # A split such as `path_matched` is read as words.
    titles = [measure_title("/".join((split.replace("_", " "), name))) for split, _, name in (m.partition("/") for m in measures)]
    headers = [*labels, *titles]
    return Table(
        headers=headers,
        num_labels=len(labels),
        rows=list(zip(*columns, strict=True)),
        cells=[[int(cell)] for cell in cells["cell"]],
    ).without_empty_columns()
