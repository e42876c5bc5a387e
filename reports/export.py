"""Exports tables as CSV with all digits, or as Markdown, LaTeX and HTML with rounded values and intervals."""

from __future__ import annotations

import html
import re
from collections.abc import Collection, Sequence
from typing import Any

import pandas as pd

from pruneyard.reports import formats
from pruneyard.reports.naming import RUNS, column_names

FORMATS = ("csv", "md", "markdown", "latex", "html")
_Bold = Sequence[Sequence[bool]]
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


def export(frame: pd.DataFrame, format: str, *, best: Collection[tuple[int, str]] = ()) -> str:
    """Returns the table as text that ends with a newline. Raises `ValueError` for an unknown format.

    In the formats for people a column with `_low` and `_high` beside it is written as mean ± half width, and
    columns without any value or for programs only (specs, tracebacks) are left out. They print the cells of `best` bold: pairs of
    the place of a row and the name of a column.
    """
    if format == "csv":
        return frame.to_csv(index=False, lineterminator="\n")
    if format not in FORMATS:
        raise ValueError(f"format is {format!r}; it must be one of {', '.join(FORMATS)}")
    texts = shown(frame)
    bold = [[(row, name) in best for name in texts.columns] for row in range(len(texts))]
    return {"markdown": _markdown, "md": _markdown, "latex": _latex, "html": _html}[format](texts, bold)


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


def _markdown(texts: pd.DataFrame, bold: _Bold) -> str:
    # A line break inside a cell would end the row.
    cells = [[_MARKDOWN.sub(r"\\\1", " ".join(cell.split())) for cell in line] for line in texts.to_numpy().tolist()]
    head = [_MARKDOWN.sub(r"\\\1", " ".join(name.split())) for name in texts.columns]
    lines = [head, ["---"] * len(head), *_emphasized(cells, bold, "**", "**")]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _latex(texts: pd.DataFrame, bold: _Bold) -> str:
    """Returns a booktabs tabular with left-aligned text and right-aligned numbers."""
    cells = [[_latex_text(cell) for cell in row] for row in texts.to_numpy().tolist()]
    rows = [" & ".join(row) + r" \\" for row in _emphasized(cells, bold, r"\textbf{", "}")]
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


def _html(texts: pd.DataFrame, bold: _Bold) -> str:
    """Returns a table element without styles, whose texts are escaped."""
    cells = [[html.escape(cell) for cell in row] for row in texts.to_numpy().tolist()]
    head = "".join(f"<th>{html.escape(name)}</th>" for name in texts.columns)
    rows = ["".join(f"<td>{cell}</td>" for cell in row) for row in _emphasized(cells, bold, "<b>", "</b>")]
    body = "".join(f"<tr>{row}</tr>\n" for row in rows)
    return f"<table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{body}</tbody>\n</table>\n"


def _emphasized(cells: Sequence[Sequence[str]], bold: _Bold, before: str, after: str) -> list[list[str]]:
    return [
        [f"{before}{cell}{after}" if is_bold else cell for cell, is_bold in zip(line, marked, strict=True)]
        for line, marked in zip(cells, bold, strict=True)
    ]


def _latex_text(text: str) -> str:
    # Character by character: replacing one after another would escape the backslashes of earlier replacements.
    return "".join(_LATEX.get(character, character) for character in " ".join(text.split()))


def _is_number(text: str) -> bool:
    # An empty cell does not decide the alignment of its column.
    return not text or text[0].isdigit() or text[0] == "-" or text == "n/a"
