"""Trials of two workers on Ray: equal to one worker up to rounding, and nothing is lost by crashes or stops."""

import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml_spec
from comparing import assert_same_numbers
from driving import Driver, StepDelay, driving, is_rank, listening_addresses, reachable_from_outside
from safetensors.numpy import load_file
from shared_head import NUM_CPUS, SharedHead
from watching import checkpoints, completed, runs_in_progress

from pruneyard.orchestrator.results import Results
from pruneyard.reports.layout import RunFolder
from pruneyard.reports.store import Store

pytestmark = [pytest.mark.ray, pytest.mark.distributed, pytest.mark.nodes]

METHODS = [
    {"name": "rigl", "density": 0.2, "schedule": {"every": 5}},
    {"name": "set", "density": 0.2, "schedule": {"every": 5}},
]
WORKERS = {"workers": 2, "cpus": NUM_CPUS // 2}  # all of the shared head, so that one trial fits at a time
WITHIN_S = 280


def spec_of(**tables: Any) -> dict[str, Any]:
    return yaml_spec.spec_of(METHODS, **{"name": "pairs", "resources": WORKERS, **tables})


@pytest.fixture(scope="module")
def quick_env(env: dict[str, str]) -> dict[str, str]:
    """Returns an environment whose ranks run at normal priority, so that a busy machine does not starve them."""
    return env | {"RAY_worker_niceness": "0"}


@pytest.fixture(scope="module")
def sockets() -> dict[str, set[str]]:
    """Collects the addresses on which processes accepted connections during the uninterrupted study, by kind of process."""
    return {}


@pytest.fixture(scope="module")
def uninterrupted(
    quick_env: dict[str, str],
    sockets: dict[str, set[str]],
    head: SharedHead,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """Runs two jobs that complete and one whose rank 1 raises, on the study's own cluster while another one runs."""
    home = tmp_path_factory.mktemp("uninterrupted")
    variants = [{"method": method} for method in METHODS]
    failing_rank = {"method": METHODS[0], "schedule": {"name": "failing_rank"}}
    tables = {key: value for key, value in spec_of().items() if key != "grid"}
    spec = yaml_spec.write(home / "spec.yaml", {**tables, "variants": [failing_rank, *variants]})
    env = quick_env | {"RAY_ADDRESS": head.address}
    with driving("run", spec, "--out", "out", folder=home, env=env) as driver:
        deadline = time.monotonic() + WITHIN_S
        while driver.is_running() and time.monotonic() < deadline:
            record_sockets(driver, sockets)
            assert not head.ranks()
            time.sleep(0.2)
        assert driver.wait(within_s=1) == 1, driver.output()
        driver.seconds_until_gone()
    return home / "out"


def record_sockets(driver: Driver, sockets: dict[str, set[str]]) -> None:
    for process in [driver.process, *driver.live_processes()]:
        kind = "rank" if is_rank(process) else "process"
        sockets.setdefault(f"{kind} {process.pid}", set()).update(listening_addresses(process))


def run_with_one_worker(home: Path, env: dict[str, str]) -> Path:
    """Runs the same jobs with one worker, without Ray; returns the folder of results."""
    spec = yaml_spec.write(home / "alone.yaml", spec_of(resources={"workers": 1}))
    with driving("run", spec, "--out", "alone", "--local", folder=home, env=env) as driver:
        assert driver.wait(within_s=WITHIN_S) == 0, driver.output()
    return home / "alone"


def tensors_of(folder: Path, key: str, file: str) -> dict[str, np.ndarray]:
    found: dict[str, np.ndarray] = load_file(RunFolder(folder).artifact(key) / file)
    return found


def test_two_workers_make_what_one_makes(
    uninterrupted: Path, quick_env: dict[str, str], tmp_path: Path
) -> None:
    alone = run_with_one_worker(tmp_path, quick_env)
    keys = set(Results(alone).runs()["run_key"])
    assert len(keys) == len(METHODS)
    ours, theirs = (Results(folder).runs().set_index("run_key") for folder in (uninterrupted, alone))
    assert set(ours.loc[list(keys), "num_workers"]) == {2}
    assert set(theirs["num_workers"]) == {1}
    for key in keys:
        assert ours.loc[key, "status"] == "COMPLETED"
        assert ours.loc[key, "train_flops"] == pytest.approx(theirs.loc[key, "train_flops"], rel=1e-12)
        assert ours.loc[key, "peak_memory_bytes"] > 1e7
        masks, expected = (tensors_of(folder, key, "masks.safetensors") for folder in (uninterrupted, alone))
        assert masks.keys() == expected.keys()
        for name, mask in masks.items():
            assert np.array_equal(mask, expected[name]), f"{key}: {name}"
        weights, expected = (tensors_of(folder, key, "model.safetensors") for folder in (uninterrupted, alone))
        for name, weight in weights.items():
            np.testing.assert_allclose(weight, expected[name], rtol=1e-3, atol=1e-4, err_msg=f"{key}: {name}")
    our_metrics, their_metrics = (_metrics(folder, keys) for folder in (uninterrupted, alone))
    assert our_metrics.keys() == their_metrics.keys()
    for name, value in our_metrics.items():
        assert value == pytest.approx(their_metrics[name], rel=1e-3, abs=1e-4), name


def test_a_trial_takes_over_the_ranks_of_the_one_before_unless_that_failed(
    uninterrupted: Path, sockets: dict[str, set[str]]
) -> None:
    runs = Results(uninterrupted).runs()
    assert sorted(runs["status"]) == ["COMPLETED", "COMPLETED", "FAILED"]
    assert sum(name.startswith("rank") for name in sockets) == 4, "two ranks of the trial that fails, two of the others"


def test_ranks_and_all_that_starts_them_listen_on_loopback_alone(
    uninterrupted: Path, sockets: dict[str, set[str]]
) -> None:
    ranks = [found for name, found in sockets.items() if name.startswith("rank")]
    assert sum(len(found) > 2 for found in ranks) >= 4, "a rank has Ray's own sockets and one for its process group"
    reachable = {name: reachable_from_outside(found) for name, found in sockets.items()}
    assert not any(reachable.values()), reachable


def _metrics(folder: Path, keys: set[str]) -> dict[tuple[str, int, str, str], float]:
    metrics = Results(folder).metrics()
    rows = metrics[metrics["run_key"].isin(keys)]
    tuples = rows[["run_key", "step", "split", "name", "value"]].itertuples(index=False)
    return {(key, step, split, name): value for key, step, split, name, value in tuples}


def test_a_rank_that_raises_fails_its_trial_with_its_own_traceback(uninterrupted: Path) -> None:
    runs = Results(uninterrupted).runs()
    (failed,) = (row for _, row in runs[runs["status"] != "COMPLETED"].iterrows())
    assert failed["status"] == "FAILED"
    assert failed["num_workers"] == 2
    assert failed["error"].rstrip().endswith("RuntimeError: rank 1 alone <cannot> go on")
    assert "in factor" in failed["error"]
    assert "Connection closed" not in failed["error"]


def test_killed_and_stopped_trials_end_with_the_numbers_of_uninterrupted_ones(
    uninterrupted: Path, head: SharedHead, tmp_path: Path
) -> None:
    """First a rank is killed, then the study is stopped; after the resume, the process that the ranks report to is killed."""
    step_delay = StepDelay(tmp_path, 0.15)
    spec, folder = yaml_spec.write(tmp_path / "spec.yaml", spec_of()), tmp_path / "out"

    with head.driving("run", spec, "--out", "out", folder=tmp_path, **step_delay.env) as driver:
        driver.wait_until(lambda: bool(runs_in_progress(folder)) and len(head.ranks()) == 2, within_s=WITHIN_S)
        (first,) = runs_in_progress(folder)
        head.ranks()[-1].kill()
        driver.wait_until(lambda: bool(attempts_of(folder, first)), within_s=WITHIN_S)
        before = checkpoints(folder)
        driver.wait_until(lambda: bool(checkpoints(folder) - before), within_s=WITHIN_S)  # it is retried at once
        driver.send_signal(signal.SIGINT)
        assert driver.wait(within_s=WITHIN_S) == 130, driver.output()
    crashed, stopped = attempts_of(folder, first)
    assert (crashed["status"], stopped["status"]) == ("FAILED", "INTERRUPTED")
    assert "rank" in crashed["error"]
    assert "died" in crashed["error"]
    assert not isinstance(stopped["error"], str)
    assert set(Results(folder).runs()["run_key"]) == {first}

    before = checkpoints(folder)
    with head.driving("resume", "out", folder=tmp_path, **step_delay.env) as driver:
        driver.wait_until(lambda: bool(checkpoints(folder) - before), within_s=WITHIN_S)
        (actor,) = head.trials()
        actor.kill()
        step_delay.set(0)
        assert driver.wait(within_s=WITHIN_S) == 0, driver.output()
        assert "died; it resumes from its checkpoint" in driver.stderr
    (second,) = set(completed(folder)) - {first}
    assert_same_numbers(folder, uninterrupted)
    assert [row["status"] for row in attempts_of(folder, first)] == ["FAILED", "INTERRUPTED", "FAILED", "COMPLETED"]
    assert [row["status"] for row in attempts_of(folder, second)] == ["COMPLETED"]
    assert set(Results(folder).runs()["num_workers"]) == {2}


def attempts_of(folder: Path, key: str) -> list[dict[str, Any]]:
    """Returns the records of all attempts at a run, in their order."""
    attempts = Store(RunFolder(folder)).runs(latest=False).to_pandas().sort_values("attempt")
    return [dict(row) for _, row in attempts[attempts["run_key"] == key].iterrows()]


def test_pruned_trials_end_their_ranks_and_make_room_for_others(head: SharedHead, tmp_path: Path) -> None:
    """Successive halving over trials of two workers."""
    tables = yaml_spec.spec_of(
        [{"name": "static", "density": 0.5}],
        name="halved",
        budget={"epochs": 4, "batch_size": 64},
        grid={"optimizer.lr": [0.2, 1e-6]},
        scheduler={"name": "asha", "metric": "val/accuracy", "grace": 0.25, "reduction_factor": 2},
        resources=WORKERS,
    )
    head.run("run", yaml_spec.write(tmp_path / "spec.yaml", tables), "--out", "out", folder=tmp_path)
    results = Results(tmp_path / "out")
    runs = results.runs()
    assert len(runs) == 2
    assert set(runs["attempt"]) == {1}
    assert set(runs["num_workers"]) == {2}
    rates = runs["spec_json"].str.extract(r'"lr":([0-9.e-]+)')[0].astype(float)
    assert set(runs["status"][rates < 1e-3]) == {"PRUNED"}
    assert "COMPLETED" in set(runs["status"][rates > 1e-3])
    steps = results.metrics().groupby("run_key")["step"].max()
    assert set(steps[runs["run_key"][rates < 1e-3]]) == {17}, (
        "they are stopped at the first of four evaluations, which is their rung"
    )


def test_more_workers_than_the_cluster_has_are_refused_before_any_starts(head: SharedHead, tmp_path: Path) -> None:
    spec = yaml_spec.write(tmp_path / "spec.yaml", spec_of(resources={"workers": NUM_CPUS + 1}))
    driver = head.run("run", spec, "--out", "out", folder=tmp_path, code=2)
    needed = f"one trial needs {NUM_CPUS + 1} workers, each with 1 CPUs and 0 GPUs; available are {NUM_CPUS} CPUs"
    assert needed in driver.stderr
    assert not len(Results(tmp_path / "out").runs())
