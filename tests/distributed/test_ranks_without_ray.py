"""Trials of two workers in processes of this machine: equal to one worker up to rounding; after a kill or stop, bit-equal."""

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from safetensors.numpy import load_file

from pruneyard.orchestrator.driver.run import run
from pruneyard.orchestrator.local_backend.worker_processes import _Process
from pruneyard.orchestrator.results import GracefulInterrupt, Results
from pruneyard.reports.layout import RunFolder
from pruneyard.reports.store import Store

pytestmark = [pytest.mark.distributed, pytest.mark.slow]

WITHIN_S = 120.0
SPEC: dict[str, Any] = {
    "name": "pair",
    "kind": "sparse",
    "data": {"name": "digits"},
    "model": {"name": "mlp", "width": 32},
    "method": {"name": "rigl", "density": 0.2, "schedule": {"every": 5}},
    "budget": {"epochs": 6, "batch_size": 64, "checkpoint_every_s": 0.0},
    "resources": {"workers": 2},
}


@pytest.fixture(scope="module")
def two_workers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs the study with two workers; returns its results."""
    if (os.cpu_count() or 1) < 2:
        pytest.skip("two workers want two CPUs")
    folder = tmp_path_factory.mktemp("together")
    assert run(SPEC, folder, local=True).exit_code == 0
    return folder


def tensors(folder: Path) -> dict[str, np.ndarray]:
    """Returns weights and masks of the only run in the folder."""
    (key,) = Results(folder).runs()["run_key"]
    artifact = RunFolder(folder).artifact(key)
    return {
        f"{file}/{n}": t
        for file in ("model", "masks")
        for n, t in load_file(artifact / f"{file}.safetensors").items()
    }


def values(folder: Path) -> list[Any]:
    """Returns every metric of the newest attempt."""
    metrics = Results(folder).metrics()
    newest = metrics[metrics["attempt"] == metrics["attempt"].max()]
    return (
        newest[["step", "split", "name", "value"]].sort_values(["step", "split", "name"]).to_numpy().tolist()
    )


def test_two_workers_make_what_one_makes_and_run_nothing_twice(two_workers: Path, tmp_path: Path) -> None:
    single = run(SPEC, tmp_path, overrides={"resources.workers": 1}, local=True)
    for name, found in tensors(two_workers).items():
        if found.dtype == bool:
            assert np.array_equal(found, tensors(tmp_path)[name]), name
        else:
            np.testing.assert_allclose(found, tensors(tmp_path)[name], rtol=1e-3, atol=1e-4, err_msg=name)
    assert list(Results(two_workers).runs()["num_workers"]) == [2]
    assert list(single.runs()["num_workers"]) == [1]
    second_call = run(SPEC, tmp_path, local=True)
    assert list(second_call.runs()["num_workers"]) == [1], "a finished run of one worker is as good as one of two"
    assert list(second_call.runs()["attempt"]) == [1]


def test_processes_serve_trial_after_trial_also_after_one_that_was_stopped_early(
    two_workers: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two processes serve all trials, and the numbers are those of new processes."""
    started: list[_Process] = []
    start = _Process.start
    monkeypatch.setattr(_Process, "start", lambda: started.append(start()) or started[-1])
    stopping = {"name": "median", "metric": "val/accuracy", "grace": 0.3, "min_others": 1}
    grid = {"optimizer.lr": [0.1, 1e-9]}
    # The second rate learns nothing, so its trial is stopped early; the last trial is that of `two_workers`.
    first = {**SPEC, "grid": grid, "scheduler": stopping, "seeds": [7]}
    spec = {"name": "pair", "stages": {"first": first, "last": {key: table for key, table in SPEC.items() if key != "name"}}}
    spec["stages"]["first"].pop("name")
    results = run(spec, tmp_path, local=True)
    assert results.runs()["status"].value_counts().to_dict() == {"COMPLETED": 2, "PRUNED": 1}
    assert len(started) == 2
    (key,) = Results(two_workers).runs()["run_key"]
    for file in ("model", "masks"):
        ours = load_file(RunFolder(tmp_path).artifact(key) / f"{file}.safetensors")
        for name, tensor in ours.items():
            assert tensor.tobytes() == tensors(two_workers)[f"{file}/{name}"].tobytes(), name


def call_when(condition: Callable[[], bool], function: Callable[[], object]) -> threading.Thread:
    """Calls a function as soon as a condition holds, while a study runs in the main thread."""

    def wait_and_call() -> None:
        deadline = time.monotonic() + WITHIN_S
        while not condition() and time.monotonic() < deadline:
            time.sleep(0.005)
        function()

    thread = threading.Thread(target=wait_and_call, daemon=True)
    thread.start()
    return thread


def newest_step(folder: Path) -> int:
    """Returns the step of the newest checkpoint, 0 without any."""
    checkpoints = folder.glob("artifacts/*/checkpoints/step-*")
    return max((int(path.name.removeprefix("step-")) for path in checkpoints), default=0)


def ranks() -> list[psutil.Process]:
    """Returns the ranks below this process, which may have other children."""
    return [child for child in psutil.Process().children() if "local_backend.worker_processes" in " ".join(child.cmdline())]


def interrupt_while_ranks_wait() -> None:
    """Stops the study as Ctrl-C does, before its ranks make another step."""
    waiting = ranks()
    try:
        for rank in waiting:
            rank.suspend()
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(1)  # until the main thread has handled it
    finally:
        for rank in waiting:
            with contextlib.suppress(psutil.NoSuchProcess):
                rank.resume()


def kill_a_rank() -> None:
    """Kills the rank that was started last."""
    max(ranks(), key=psutil.Process.create_time).kill()


def test_a_killed_and_a_stopped_trial_end_with_the_numbers_of_an_uninterrupted_one(
    two_workers: Path, tmp_path: Path
) -> None:
    stopped = []

    def kill_and_interrupt_later() -> None:
        kill_a_rank()
        later = newest_step(tmp_path) + 8
        call_when(lambda: newest_step(tmp_path) >= later, lambda: (stopped.append(True), interrupt_while_ranks_wait()))

    call_when(lambda: newest_step(tmp_path) >= 4, kill_and_interrupt_later)
    with pytest.raises(GracefulInterrupt):
        run(SPEC, tmp_path, local=True)
    assert stopped
    assert not ranks()
    assert list(Results(tmp_path).runs()["status"]) == ["INTERRUPTED"]
    run(SPEC, tmp_path, local=True)
    attempts = Store(RunFolder(tmp_path)).runs(latest=False).to_pandas().sort_values("attempt")
    assert list(attempts["status"]) == ["FAILED", "INTERRUPTED", "COMPLETED"]
    assert "died, with status -9" in attempts["error"].iloc[0]
    assert set(attempts["num_workers"]) == {2}
    expected = tensors(two_workers)
    for name, found in tensors(tmp_path).items():
        assert found.tobytes() == expected[name].tobytes(), name
    assert values(tmp_path) == values(two_workers)


def test_generations_of_two_workers_breed_as_those_of_one(tmp_path: Path) -> None:
    """Members resume from weights, masks and optimizers that several ranks wrote, and have the same parents."""
    search = {
        "name": "pbt",
        "max_trials": 3,
        "generations": 2,
        "metric": "val/nll",
        "mode": "min",
        "quantile": 0.4,
        "space": {"optimizer.lr": {"low": 1.0e-4, "high": 1.0, "log": True}},
    }
    pbt_spec = {**SPEC, "budget": {"steps": 30, "batch_size": 64}, "search": search}
    found = []
    for workers in (1, 2):
        results = run(pbt_spec, tmp_path / str(workers), overrides={"resources.workers": workers}, local=True)
        assert results.exit_code == 0
        runs = results.runs().set_index("run_key")
        assert set(runs["num_workers"]) == {workers}
        steps = results.metrics().groupby("run_key", observed=True)["step"].max()
        last = results.metrics().query("split == 'val' and name == 'nll'").set_index(["run_key", "step"])["value"]
        found.append({key: (runs.loc[key, "parent_key"], step, last[key, step]) for key, step in steps.items()})
    one, two = found
    assert len(one) == 6
    assert sorted(step for _, step, _ in one.values()) == [15] * 3 + [30] * 3
    assert {key: result[:2] for key, result in one.items()} == {key: result[:2] for key, result in two.items()}
    for key, (_, _, nll) in one.items():
        assert two[key][2] == pytest.approx(nll, rel=1e-3, abs=1e-4)
