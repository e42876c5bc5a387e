"""File names of a results folder."""

from pathlib import Path

import pytest

from pruneyard.reports.layout import RunFolder, plain_name
from pruneyard.testing.cases import each_case


def test_paths_follow_the_documented_layout():
    folder = RunFolder(Path("out"))
    assert folder.spec == Path("out/spec.yaml")
    assert folder.plan == Path("out/plan.json")
    assert folder.table("runs") == Path("out/results/runs")
    assert folder.predictions("0a1b") == Path("out/artifacts/0a1b/predictions.parquet")
    assert folder.checkpoints("0a1b") == Path("out/artifacts/0a1b/checkpoints")
    assert folder.report == Path("out/report.html")


@each_case("name", ["", "..", ".hidden", "a/b", "a\\b", "a b", "-x", "a\n", "a\0"])
def test_a_run_key_cannot_leave_its_folder(name):
    with pytest.raises(ValueError, match="run_key is"):
        plain_name(name)
