"""The table `latency` and its section of the page: replaced rows, charts, and no section without measurements."""

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from made_up_study import write_study

from pruneyard.reports.charts.latency import latency
from pruneyard.reports.latency import read_latency, write_latency
from pruneyard.reports.layout import RunFolder
from pruneyard.reports.page import render
from pruneyard.reports.records import LatencyRow
from pruneyard.reports.store import Store
from pruneyard.reports.study import Study

NOW = datetime(2025, 3, 1, 12, tzinfo=UTC)


def row(run_key: str, **changes: object) -> LatencyRow:
    """Returns the row of a sparse network that is three times as fast as its dense twin; its FLOPs promise ten times."""
    whole = LatencyRow(
        run_key=run_key,
        format="csr",
        batch_size=1,
        threads=1,
        device="A CPU",
        median_s=1e-4,
        low_s=9e-5,
        high_s=1.1e-4,
        dense_median_s=3e-4,
        speedup=3.0,
        speedup_low=2.5,
        speedup_high=3.5,
        size_bytes=20_000,
        dense_size_bytes=100_000,
        num_repeats=11,
        measured_at=NOW,
        torch_version="2.8.0",
        density=0.1,
        forward_flops=1e5,
        dense_forward_flops=1e6,
        kernels=json.dumps({"hidden1.weight": "csr", "classifier.weight": "dense"}),
        max_difference=1e-7,
        load=None,
    )
    return replace(whole, **changes)  # type: ignore[arg-type]


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return RunFolder(write_study(tmp_path, methods=("dense", "rigl"), densities=(0.1, 0.05), evaluations=3))


def first_key(folder: RunFolder) -> str:
    return str(Store(folder).runs()["run_key"].to_pylist()[3])


def test_measuring_again_replaces_only_the_same_measurement(folder: RunFolder) -> None:
    key = first_key(folder)
    write_latency(folder, row(key))
    write_latency(folder, row(key, speedup=2.0))
    for change in (
        {"format": "gather"},
        {"batch_size": 8},
        {"threads": 2},
        {"device": "B CPU"},
        {"run_key": "b1"},
    ):
        write_latency(folder, row(**{"run_key": key, **change}))  # type: ignore[arg-type]
    frame = read_latency(folder)
    assert len(frame) == 6
    assert sorted(frame["speedup"]) == [2.0, 3.0, 3.0, 3.0, 3.0, 3.0]


def test_rows_survive_compaction_of_the_other_tables(folder: RunFolder) -> None:
    write_latency(folder, row(first_key(folder)))
    Store(folder).compact()
    assert len(read_latency(folder)) == 1
    assert read_latency(folder)["measured_at"].iloc[0].to_pydatetime() == NOW


def test_a_file_that_is_not_ours_is_skipped(folder: RunFolder, caplog: pytest.LogCaptureFixture) -> None:
    write_latency(folder, row(first_key(folder)))
    (folder.table("latency") / "torn.parquet").write_bytes(b"PAR1")
    assert len(read_latency(folder)) == 1
    assert "torn.parquet" in caplog.text


def test_nothing_is_shown_where_nothing_was_measured(folder: RunFolder) -> None:
    study = Study.read([folder.path])
    assert latency(study) == []
    assert 'id="latency"' not in render(study)


def test_the_section_shows_measured_and_promised_speedup(folder: RunFolder) -> None:
    key = first_key(folder)
    write_latency(folder, row(key))
    write_latency(
        folder,
        row(key, batch_size=128, speedup=0.5, format="onnx", kernels='{"a.weight": "dense, onnxruntime"}'),
    )
    (figure,) = latency(Study.read([folder.path]))
    assert [panel.title.split(" · ")[0] for panel in figure.panels] == ["batch size 1", "batch size 128"]
    assert "csr at density 0.1: 3.00" in figure.panels[0].words
    assert figure.table is not None
    texts = [
        dict(zip(figure.table.headers, [v.text for v in line], strict=True)) for line in figure.table.rows
    ]
    assert texts[0]["median latency"] == "100 µs"
    assert (texts[0]["speed-up"], texts[0]["speed-up from FLOPs"], texts[0]["layers on dense kernels"]) == (
        "3.00",
        "10",
        "classifier",
    )
    assert (texts[1]["speed-up"], texts[1]["layers on dense kernels"]) == ("0.50", "all")
    page = render(Study.read([folder.path]))
    assert "Measured latency" in page
    assert "predicted from FLOPs" in page


def test_of_two_folders_the_newer_measurement_counts(folder: RunFolder, tmp_path: Path) -> None:
    other = RunFolder(write_study(tmp_path / "other", methods=("rigl",), densities=(0.1,), evaluations=3))
    key = str(Store(other).runs()["run_key"].to_pylist()[0])
    write_latency(folder, row(key, speedup=2.0))
    write_latency(other, row(key, measured_at=NOW + timedelta(hours=1), speedup=4.0))
    (figure,) = latency(Study.read([folder.path, other.path]))
    assert figure.table is not None
    assert [line[8].text for line in figure.table.rows] == ["4.00"]


def test_rows_of_runs_that_the_study_lacks_are_left_out(folder: RunFolder) -> None:
    write_latency(folder, row("0000000000000000"))
    assert latency(Study.read([folder.path])) == []
