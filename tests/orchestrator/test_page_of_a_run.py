"""The table of results comes before the page, and the exit code tells how the jobs ended, whatever becomes of the page."""

import html
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

SPEC = """\
name: small
kind: sparse
data: {name: digits, max_train: 100, max_test: 50}
model: {name: mlp, width: 8, depth: 1}
method: {name: dense}
optimizer: {name: sgd, lr: 0.1}
budget: {steps: 4, batch_size: 16}
"""


def test_a_page_that_cannot_be_written_changes_neither_table_nor_exit_code(
    pruneyard: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RecursionError("Maximum call stack size exceeded")

    (tmp_path / "small.yaml").write_text(SPEC)
    monkeypatch.setattr("pruneyard.reports.page.write_with_answers", fail)
    found = pruneyard("run", tmp_path / "small.yaml", "--out", tmp_path / "out", "--local")
    assert found.code == 0
    assert "dense" in found.out
    assert "report:" not in found.out
    assert "there is no report, because of RecursionError: Maximum call stack size exceeded" in found.err
    assert f"try again with: pruneyard report {tmp_path / 'out'}" in found.err


def test_without_a_report_the_summary_is_printed_and_the_page_is_written_later(
    pruneyard: Callable[..., Any], tmp_path: Path
) -> None:
    (tmp_path / "small.yaml").write_text(SPEC)
    out = tmp_path / "out"
    found = pruneyard("run", tmp_path / "small.yaml", "--out", out, "--local", "--no-report")
    assert found.code == 0
    assert "dense" in found.out
    assert "report:" not in found.out
    assert json.loads(pruneyard("resume", out, "--local", "--no-report", "--json").out)["report"] is None
    assert not (out / "report.html").exists()
    assert f"report: {out / 'report.html'}" in pruneyard("run", tmp_path / "small.yaml", "--out", out, "--local").out
    assert (out / "report.html").is_file()


def test_the_command_ends_with_the_answers_at_the_head_of_the_page_also_when_nothing_is_left_to_run(
    pruneyard: Callable[..., Any], tmp_path: Path
) -> None:
    methods = "grid: {method: [{name: static, density: 0.5}, {name: set, density: 0.5, schedule: {every: 2}}]}"
    (tmp_path / "small.yaml").write_text(SPEC.replace("method: {name: dense}", methods) + "seeds: 2\n")
    out = tmp_path / "out"
    first = pruneyard("run", tmp_path / "small.yaml", "--out", out, "--local").out
    page = (out / "report.html").read_text(encoding="utf-8")
    shown = page.partition('class="answers"')[2].partition("</ul>")[0]
    answers = [html.unescape(text) for text in re.findall(r"<li>(.*?)</li>", shown)]
    assert len(answers) == 1
    assert answers[0].startswith("Against static, paired by seed, in test accuracy: set is ")
    assert first.splitlines()[-2:] == [*answers, f"report: {out / 'report.html'}"]
    again = pruneyard("run", tmp_path / "small.yaml", "--out", out, "--local")
    assert "nothing to run" in again.err
    assert again.out.splitlines()[-2:] == first.splitlines()[-2:]
    assert json.loads(pruneyard("run", tmp_path / "small.yaml", "--out", out, "--local", "--json").out)["answers"] == answers
