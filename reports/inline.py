"""The summary and the main chart of a study as HTML for a notebook; it needs no script and loads nothing."""

from __future__ import annotations

import html
import logging
import secrets

import pandas as pd

from pruneyard.reports.export import shown
from pruneyard.reports.study import Study

_LOG = logging.getLogger(__name__)

MAX_ROWS = 40
"""Rows of the table; a notebook is no place for more."""


def results_html(study: Study, summary: pd.DataFrame, *, place: str) -> str:
    """Returns a table of the summary, which has the means and intervals of `study`, and below it its main chart."""
    texts = shown(summary)
    table = texts.head(MAX_ROWS).to_html(index=False, border=0)
    more = f"; the first {MAX_ROWS} of {len(texts):,} rows" if len(texts) > MAX_ROWS else ""
    caption = f"{place}: mean over seeds ± half the width of the 95% interval{more}"
    return f"<div><p>{html.escape(caption)}</p>{table}{_main_chart(study)}</div>"


def _main_chart(study: Study) -> str:
    """Returns the first chart that the study has data for; an empty text without one."""
    from pruneyard.reports.charts.catalog import figure_named, picture  # loads Altair and its renderer

    try:
        figure = figure_named(study)
        # A notebook shows many of them on one page, where identifiers must differ.
        return "" if figure is None else picture(figure, name=f"pruneyard-{secrets.token_hex(4)}")
    # The renderer is a JavaScript engine that fails in its own ways; the table is complete without a chart.
    except Exception as error:
        _LOG.warning("the chart could not be drawn: %s: %s", type(error).__name__, error)
        return ""
