"""Tables for other programs and for papers."""

import io
import math

import pandas as pd
import pytest

from pruneyard.reports.export import export

FRAME = pd.DataFrame(
    {
        "method": ["a|b_c", "50% & <more>"],
        "test/accuracy": [0.91234567891, 0.5],
        "test/accuracy_low": [0.90, math.nan],
        "test/accuracy_high": [0.92469135782, math.nan],
        "num_seeds": [3, 1],
        "ipc": [math.nan, math.nan],
    }
)


def test_csv_keeps_every_digit_and_column():
    pd.testing.assert_frame_equal(pd.read_csv(io.StringIO(export(FRAME, "csv"))), FRAME)


def test_markdown_puts_the_interval_next_to_the_mean_and_escapes():
    lines = export(FRAME, "markdown").splitlines()
    assert lines[0] == r"| method | test/accuracy | num\_seeds |"
    assert lines[2] == r"| a\|b\_c | 0.912 ± 0.012 | 3 |"
    assert lines[3] == r"| 50% & \<more\> | 0.5000 | 1 |"


def test_latex_is_a_booktabs_tabular_with_escaped_text():
    text = export(FRAME, "latex")
    assert r"\begin{tabular}{lrr}" in text
    assert r"a|b\_c & 0.912 $\pm$ 0.012 & 3 \\" in text
    assert r"50\% \& <more>" in text


def test_what_is_clearly_best_is_bold_where_people_read_it_and_html_is_escaped():
    best = {(0, "test/accuracy")}
    assert "**0.912 ± 0.012**" in export(FRAME, "md", best=best)
    assert r"\textbf{0.912 $\pm$ 0.012}" in export(FRAME, "latex", best=best)
    text = export(FRAME, "html", best=best)
    assert "<td><b>0.912 ± 0.012</b></td>" in text
    assert "<td>50% &amp; &lt;more&gt;</td>" in text
    assert export(FRAME, "csv", best=best) == export(FRAME, "csv")


def test_what_only_programs_read_stays_in_the_csv():
    hidden = ["spec_json", "identity_json", "data_fingerprint", "artifact", "error"]
    frame = pd.DataFrame({"seed": [1], **{name: ["{}"] for name in hidden}})
    assert export(frame, "csv").startswith("seed,spec_json,identity_json,")
    assert export(frame, "markdown").splitlines()[0] == "| seed |"
    assert r"\begin{tabular}{r}" in export(frame, "latex")


def test_unknown_formats_are_refused():
    with pytest.raises(ValueError, match="'xlsx'; it must be one of csv, md, markdown, latex, html"):
        export(FRAME, "xlsx")


def test_an_empty_table_is_fine():
    for name in ("csv", "markdown", "md", "latex", "html"):
        assert export(FRAME.head(0), name)
