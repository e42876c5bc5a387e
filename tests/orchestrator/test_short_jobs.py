"""Short jobs are written together: after a kill all records are whole, and only the files differ from one by one."""

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from study_contexts import context_in

from pruneyard import run
from pruneyard.orchestrator.artifacts.reader_cache import CachedRunReader
from pruneyard.orchestrator.errors import ExitCode
from pruneyard.orchestrator.execution.attempt_runner import AttemptRunner
from pruneyard.orchestrator.planning.attempt import order_by_parents
from pruneyard.orchestrator.planning.plan import make_plan
from pruneyard.orchestrator.results import Results
from pruneyard.orchestrator.spec.load import load_spec
from pruneyard.reports.layout import RunFolder
from pruneyard.reports.store import Store
from pruneyard.workloads.calibrate.job import CalibrateJob
from pruneyard.workloads.workload import Progress

TRAIN: dict[str, Any] = {
    "name": "nets",
    "kind": "sparse",
    "data": {"name": "digits", "max_train": 600, "max_test": 200},
    "model": {"name": "mlp", "width": 8},
    "method": {"name": "dense"},
    "budget": {"epochs": 2, "batch_size": 32, "evaluate_every": 0},
    "seeds": 4,
}
METHODS = ["none", "temperature", "vector", "isotonic", "histogram", "beta"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder: Path = tmp_path_factory.mktemp("nets")
    assert run(TRAIN, folder, local=True).exit_code == ExitCode.FINISHED
    return folder


@pytest.fixture(scope="module")
def uninterrupted(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder: Path = tmp_path_factory.mktemp("undisturbed")
    assert run(calibrate(trained), folder, local=True).exit_code == ExitCode.FINISHED
    return folder


def calibrate(trained: Path) -> dict[str, Any]:
    return {"name": "trust", "kind": "calibrate", "input": {"from": str(trained)}, "grid": {"method": METHODS}}


def numbers(folder: Path) -> tuple[pd.Series, pd.DataFrame]:
    """Returns metrics and curves, sorted, without what is measured in seconds."""
    results, names = Results(folder), ["run_key", "attempt", "split", "name"]
    metrics = results.metrics().astype(dict.fromkeys(names, str)).set_index(names)["value"].sort_index()
    curves = results.curves().astype({"run_key": str, "name": str, "key": str})
    return metrics, curves.sort_values(["run_key", "name", "key", "x", "y"]).reset_index(drop=True)


def test_rows_of_many_short_jobs_lie_in_few_files_and_are_those_of_one_by_one(
    trained: Path, uninterrupted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Store, "compact", lambda store: None)
    monkeypatch.setattr("pruneyard.orchestrator.artifacts.write_buffer.MAX_BUFFERED_S", 1000.0)
    together = run(calibrate(trained), tmp_path / "together", local=True)
    assert together.exit_code == ExitCode.FINISHED
    assert len(together.runs()) == 24
    assert len(list((tmp_path / "together" / "results" / "runs").iterdir())) == 1
    monkeypatch.setattr("pruneyard.orchestrator.artifacts.write_buffer.MAX_BUFFERED_S", 0.0)
    alone = run(calibrate(trained), tmp_path / "alone", local=True)
    assert len(list((tmp_path / "alone" / "results" / "runs").iterdir())) == len(alone.runs()) == 24
    (ours, our_curves), (theirs, their_curves) = numbers(uninterrupted), numbers(tmp_path / "alone")
    assert ours.index.is_unique
    pd.testing.assert_series_equal(ours, theirs, check_exact=True)
    pd.testing.assert_frame_equal(our_curves, their_curves, check_exact=True)
    for key in alone.runs()["run_key"]:
        files = [folder / "artifacts" / key / "calibrator.safetensors" for folder in (uninterrupted, tmp_path / "alone")]
        assert files[0].read_bytes() == files[1].read_bytes()


def test_the_record_of_a_short_job_that_lost_its_device_is_written(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process ends with the error, so nobody would write the buffer."""

    def lose(job: CalibrateJob, context: object) -> Iterator[Progress]:
        raise torch.AcceleratorError("device-side assert")
        yield

    monkeypatch.setattr(CalibrateJob, "run", lose)
    folder = RunFolder(tmp_path / "out")
    planned, *_ = make_plan(load_spec(calibrate(trained)), folder).attempts()
    with pytest.raises(torch.AcceleratorError):
        AttemptRunner(planned, context_in(folder)).advance()
    (row,) = Store(folder).runs().to_pylist()
    assert row["run_key"] == planned.job.key
    assert row["status"] == "FAILED"
    assert row["error"].strip().endswith("AcceleratorError: device-side assert")


KILLED = """
import os, signal, sys, torch
torch.set_num_threads(1)
from pruneyard import run
from pruneyard.orchestrator.artifacts.write_buffer import WriteBuffer
import pruneyard.orchestrator.artifacts.write_buffer as write_buffer
import pruneyard.reports.durable as durable, pruneyard.reports.store as store
when, spec, out = sys.argv[1:]
write_buffer.MAX_BUFFERED_S = 1000.0
hold, count = WriteBuffer.add, [0]

def die(*given, **named):
    os.kill(os.getpid(), signal.SIGKILL)

def hold_some(self, attempt, files):
    hold(self, attempt, files)
    count[0] += 1
    if count[0] == 5:
        self.write()          # five stand
    if count[0] == 9:
        if when == "before":
            die()
        if when == "files":
            durable._sync_all = die
        if when == "runs":
            kept = store.write_part
            store.write_part = lambda path, *a, **k: die() if path.parent.name == "runs" else kept(path, *a, **k)
        self.write()

WriteBuffer.add = hold_some
run(spec, out, local=True)
"""


@pytest.mark.slow
@pytest.mark.parametrize("when", ["before", "files", "runs"])
def test_a_process_killed_at_any_point_keeps_whole_jobs_and_the_rest_runs_again(
    trained: Path, uninterrupted: Path, tmp_path: Path, when: str
) -> None:
    spec, out = tmp_path / "spec.yaml", tmp_path / "out"
    spec.write_text(json.dumps(calibrate(trained)))
    killed = subprocess.run([sys.executable, "-c", KILLED, when, str(spec), str(out)], timeout=120, check=False)
    assert killed.returncode == -signal.SIGKILL
    runs = Store(RunFolder(out)).runs().to_pandas()
    assert len(runs) == 5
    assert set(runs["status"]) == {"COMPLETED"}
    for key in runs["run_key"]:
        assert (out / "artifacts" / key / "manifest.json").is_file()
    results = run(spec, out, local=True)
    assert results.exit_code == ExitCode.FINISHED
    assert len(results.runs()) == len(Store(RunFolder(out)).runs(latest=False)) == 24
    folders = {folder.name: folder for folder in (out / "artifacts").iterdir()}
    assert set(folders) == set(results.runs()["run_key"])  # no other, and nothing half written
    whole = {"manifest.json", "record-1.json", "calibrator.safetensors"}
    assert all(whole == {f.name for f in path.iterdir()} for path in folders.values())
    (ours, curves), (theirs, their_curves) = numbers(out), numbers(uninterrupted)
    assert ours.index.is_unique
    pd.testing.assert_series_equal(ours, theirs, check_exact=True)
    pd.testing.assert_frame_equal(curves, their_curves, check_exact=True)


def test_predictions_are_read_once_while_they_fit_and_cannot_be_changed(trained: Path) -> None:
    artifacts = [str(folder) for folder in sorted((trained / "artifacts").iterdir())]
    at_hand = CachedRunReader()
    first = at_hand.open_run(artifacts[0]).predictions()
    assert at_hand.open_run(artifacts[0]).predictions() is first
    with pytest.raises(ValueError, match="read-only"):
        first["test"].logits[0, 0] = 1.0
    small = CachedRunReader(most_bytes=1)
    first = small.open_run(artifacts[0]).predictions()
    small.open_run(artifacts[1]).predictions()
    again = small.open_run(artifacts[0]).predictions()
    assert again is not first
    assert (again["test"].logits == first["test"].logits).all()


def test_short_jobs_on_the_same_runs_stand_next_to_each_other(trained: Path, tmp_path: Path) -> None:
    attempts = order_by_parents(make_plan(load_spec(calibrate(trained)), RunFolder(tmp_path)).attempts())
    assert len({planned.job.key for planned in attempts}) == 24
    parents = [planned.job.parents for planned in attempts]
    assert [parents[place : place + 6] for place in range(0, 24, 6)] == [[parent] * 6 for parent in dict.fromkeys(parents)]
    networks = load_spec(TRAIN | {"seeds": 3})
    trainings = make_plan(networks, RunFolder(tmp_path)).attempts()
    assert order_by_parents(trainings) == trainings
