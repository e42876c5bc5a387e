"""The table of results comes before the page, and the exit code tells how the jobs ended, whatever becomes of the page."""

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
    def fail(*_: object) -> None:
        raise RecursionError("Maximum call stack size exceeded")

    (tmp_path / "small.yaml").write_text(SPEC)
    monkeypatch.setattr("pruneyard.orchestrator.results.write_page", fail)
    found = pruneyard("run", tmp_path / "small.yaml", "--out", tmp_path / "out", "--local")
    assert found.code == 0
    assert "dense" in found.out
    assert "report:" not in found.out
    assert "there is no report, because of RecursionError: Maximum call stack size exceeded" in found.err
    assert f"try again with: pruneyard report {tmp_path / 'out'}" in found.err
