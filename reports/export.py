"""Exports tables as CSV with all digits, or as Markdown and LaTeX with rounded values and intervals."""

from __future__ import annotations

import re
from typing import Any

import pandas as pd

from pruneyard.reports import formats
from pruneyard.reports.naming import RUNS, column_names

FORMATS = ("csv", "markdown", "latex")
_FOR_PROGRAMS = ("spec_json", "identity_json", "data_fingerprint", "artifact", "error")
"""Columns of `runs` that are too long or not useful for readers."""
_LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "±": r"$\pm$",
    **{character: "\\" + character for character in "&%$#_{}"},
}
_MARKDOWN = re.compile(r"([\\|`*_<>])")


def export(frame: pd.DataFrame, format: str) -> str:
    """Returns the table as text that ends with a newline. Raises `ValueError` for an unknown format.

    In Markdown and LaTeX a column with `_low` and `_high` beside it is written as mean ± half width, and
    columns without any value or for programs only (specs, tracebacks) are left out.
    """
    if format == "csv":
        return frame.to_csv(index=False, lineterminator="\n")
    if format == "markdown":
        return _markdown(shown(frame))
    if format == "latex":
        return _latex(shown(frame))
    raise ValueError(f"format is {format!r}; it must be one of {', '.join(FORMATS)}")


def shown(frame: pd.DataFrame) -> pd.DataFrame:
    """Returns the table as texts, with intervals next to their means and without empty columns.

    Settings of input runs have the same names as on the page; other columns keep their names.
    """
    columns = {}
    called = column_names([name for name in frame.columns if RUNS in name], taken=list(frame.columns))
    for name in frame.columns:
        if name.endswith(("_low", "_high")) and name.rpartition("_")[0] in frame.columns:
            continue
        if name not in _FOR_PROGRAMS and frame[name].notna().any():
            columns[called.get(name, name)] = _texts(frame, name)
    return pd.DataFrame(columns, index=frame.index, dtype=object)


def _texts(frame: pd.DataFrame, name: str) -> list[str]:
    if f"{name}_low" not in frame.columns:
        return [_plain(value) for value in frame[name]]
    triples = zip(frame[name], frame[f"{name}_low"], frame[f"{name}_high"], strict=True)
    return [
        f"{text} ± {half}" if half else text
        for text, half in (formats.estimate(*triple) for triple in triples)
    ]


def _plain(value: Any) -> str:
    if value is None or value is pd.NA or value is pd.NaT:
        return ""
    if isinstance(value, float):
        # pandas turns a column of counts into floats if one is missing.
        is_count = value.is_integer() and abs(value) < 1e7
        return "" if pd.isna(value) else f"{value:.0f}" if is_count else formats.number(value)
    return str(value)


def _markdown(texts: pd.DataFrame) -> str:
    lines = [list(texts.columns), ["---"] * len(texts.columns), *texts.to_numpy().tolist()]
    # A line break inside a cell would end the row.
    escaped = [[_MARKDOWN.sub(r"\\\1", " ".join(cell.split())) for cell in line] for line in lines]
    return "".join(f"| {' | '.join(line)} |\n" for line in escaped)


def _latex(texts: pd.DataFrame) -> str:
    """Returns a booktabs tabular with left-aligned text and right-aligned numbers."""
    rows = [" & ".join(_latex_text(cell) for cell in row) + r" \\" for row in texts.to_numpy().tolist()]
    sides = "".join("r" if all(_is_number(cell) for cell in texts[name]) else "l" for name in texts.columns)
    head = " & ".join(_latex_text(name) for name in texts.columns) + r" \\"
    lines = [
        rf"\begin{{tabular}}{{{sides}}}",
        r"\toprule",
        head,
        r"\midrule",
        *rows,
        r"\bottomrule",
        r"\end{tabular}",
    ]
    return "\n".join(lines) + "\n"


def _latex_text(text: str) -> str:
    # Character by character: replacing one after another would escape the backslashes of earlier replacements.
    return "".join(_LATEX.get(character, character) for character in " ".join(text.split()))


def _is_number(text: str) -> bool:
    # An empty cell does not decide the alignment of its column.
    return not text or text[0].isdigit() or text[0] == "-" or text == "n/a"
