"""Trials of two workers on Ray: equal to one worker up to rounding, and nothing is lost by crashes or stops."""

import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml_spec
from comparing import assert_same_numbers
from driving import Driver, Patience, beyond_loopback, driving, is_rank, listening
from safetensors.numpy import load_file
from shared_head import NUM_CPUS, SharedHead
from watching import checkpoints, completed, in_the_middle

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
    """Ranks that share a busy machine as equals of what else runs there."""
    return env | {"RAY_worker_niceness": "0"}


@pytest.fixture(scope="module")
def sockets() -> dict[str, set[str]]:
    """Addresses on which processes accepted connections during the uninterrupted study, by kind of process."""
    return {}


@pytest.fixture(scope="module")
def undisturbed(
    quick_env: dict[str, str],
    sockets: dict[str, set[str]],
    head: SharedHead,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """Two jobs that complete and one whose rank 1 raises, on the study's own cluster while another one runs."""
    home = tmp_path_factory.mktemp("undisturbed")
    variants = [{"method": method} for method in METHODS]
    lopsided = {"method": METHODS[0], "schedule": {"name": "lopsided"}}
    tables = {key: value for key, value in spec_of().items() if key != "grid"}
    spec = yaml_spec.write(home / "spec.yaml", {**tables, "variants": [lopsided, *variants]})
    env = quick_env | {"RAY_ADDRESS": head.address}
    with driving("run", spec, "--out", "out", folder=home, env=env) as driver:
        until = time.monotonic() + WITHIN_S
        while driver.running() and time.monotonic() < until:
            look_at_sockets(driver, sockets)
            assert not head.ranks()
            time.sleep(0.2)
        assert driver.wait(within_s=1) == 1, driver.said()
        driver.seconds_until_gone()
    return home / "out"


def look_at_sockets(driver: Driver, seen: dict[str, set[str]]) -> None:
    for process in [driver.process, *driver.offspring()]:
        kind = "rank" if is_rank(process) else "process"
        seen.setdefault(f"{kind} {process.pid}", set()).update(listening(process))


def of_one_process(home: Path, env: dict[str, str]) -> Path:
    """The same jobs by one worker, without Ray."""
    spec = yaml_spec.write(home / "alone.yaml", spec_of(resources={"workers": 1}))
    with driving("run", spec, "--out", "alone", "--local", folder=home, env=env) as driver:
        assert driver.wait(within_s=WITHIN_S) == 0, driver.said()
    return home / "alone"


def tensors_of(folder: Path, key: str, file: str) -> dict[str, np.ndarray]:
    found: dict[str, np.ndarray] = load_file(RunFolder(folder).artifact(key) / file)
    return found


def test_two_workers_make_what_one_makes(
    undisturbed: Path, quick_env: dict[str, str], tmp_path: Path
) -> None:
    alone = of_one_process(tmp_path, quick_env)
    keys = set(Results(alone).runs()["run_key"])
    assert len(keys) == len(METHODS)
    ours, theirs = (Results(folder).runs().set_index("run_key") for folder in (undisturbed, alone))
    assert set(ours.loc[list(keys), "num_workers"]) == {2}
    assert set(theirs["num_workers"]) == {1}
    for key in keys:
        assert ours.loc[key, "status"] == "COMPLETED"
        assert ours.loc[key, "train_flops"] == pytest.approx(theirs.loc[key, "train_flops"], rel=1e-12)
        assert ours.loc[key, "peak_memory_bytes"] > 1e7
        masks, expected = (tensors_of(folder, key, "masks.safetensors") for folder in (undisturbed, alone))
        assert masks.keys() == expected.keys()
        for name, mask in masks.items():
            assert np.array_equal(mask, expected[name]), f"{key}: {name}"
        weights, expected = (tensors_of(folder, key, "model.safetensors") for folder in (undisturbed, alone))
        for name, weight in weights.items():
            np.testing.assert_allclose(weight, expected[name], rtol=1e-3, atol=1e-4, err_msg=f"{key}: {name}")
    mine, its = (_metrics(folder, keys) for folder in (undisturbed, alone))
    assert mine.keys() == its.keys()
    for name, value in mine.items():
        assert value == pytest.approx(its[name], rel=1e-3, abs=1e-4), name


def test_ranks_and_all_that_starts_them_listen_on_loopback_alone(
    undisturbed: Path, sockets: dict[str, set[str]]
) -> None:
    ranks = [found for name, found in sockets.items() if name.startswith("rank")]
    assert sum(len(found) > 2 for found in ranks) >= 4, "Ray's own, and one for each group of ranks"
    beyond = {name: beyond_loopback(found) for name, found in sockets.items()}
    assert not any(beyond.values()), beyond


def _metrics(folder: Path, keys: set[str]) -> dict[tuple[str, int, str, str], float]:
    found = Results(folder).metrics()
    rows = found[found["run_key"].isin(keys)]
    named = rows[["run_key", "step", "split", "name", "value"]].itertuples(index=False)
    return {(key, step, split, name): value for key, step, split, name, value in named}


def test_a_rank_that_raises_fails_its_trial_with_its_own_traceback(undisturbed: Path) -> None:
    runs = Results(undisturbed).runs()
    (failed,) = (row for _, row in runs[runs["status"] != "COMPLETED"].iterrows())
    assert failed["status"] == "FAILED"
    assert failed["num_workers"] == 2
    assert failed["error"].rstrip().endswith("RuntimeError: rank 1 alone <cannot> go on")
    assert "in factor" in failed["error"]
    assert "Connection closed" not in failed["error"]


def test_killed_and_stopped_trials_end_with_the_numbers_of_uninterrupted_ones(
    undisturbed: Path, head: SharedHead, tmp_path: Path
) -> None:
    """A rank is killed, then all are to stop; then the process is killed that listens to the ranks, which hold the machine."""
    patience = Patience(tmp_path, 0.15)
    spec, folder = yaml_spec.write(tmp_path / "spec.yaml", spec_of()), tmp_path / "out"

    with head.driving("run", spec, "--out", "out", folder=tmp_path, **patience.env) as driver:
        driver.wait_until(lambda: bool(in_the_middle(folder)) and len(head.ranks()) == 2, within_s=WITHIN_S)
        (first,) = in_the_middle(folder)
        head.ranks()[-1].kill()
        driver.wait_until(lambda: bool(in_the_middle(folder) - {first}), within_s=WITHIN_S)
        driver.send(signal.SIGINT)
        assert driver.wait(within_s=WITHIN_S) == 130, driver.said()
    stopped = Results(folder).runs().set_index("run_key")
    (second,) = set(stopped.index) - {first}
    assert set(stopped["status"]) == {"INTERRUPTED"}
    assert "rank" in stopped.loc[first, "error"]
    assert "died" in stopped.loc[first, "error"]
    assert not isinstance(stopped.loc[second, "error"], str)
    for key in (first, second):
        assert list(RunFolder(folder).checkpoints(key).glob("step-*"))

    before = checkpoints(folder)
    with head.driving("resume", "out", folder=tmp_path, **patience.env) as driver:
        driver.wait_until(lambda: bool(checkpoints(folder) - before), within_s=WITHIN_S)
        (actor,) = head.trials()
        actor.kill()
        patience.set(0)
        assert driver.wait(within_s=WITHIN_S) == 0, driver.said()
        assert "died; it resumes from its checkpoint" in driver.stderr
    assert set(completed(folder)) == {first, second}
    assert_same_numbers(folder, undisturbed)
    attempts = Store(RunFolder(folder)).runs(latest=False).to_pandas().sort_values("attempt")
    ends = [list(attempts[attempts["run_key"] == key]["status"]) for key in (first, second)]
    assert sorted(ends) == [["INTERRUPTED", "COMPLETED"], ["INTERRUPTED", "FAILED", "COMPLETED"]]
    assert set(attempts["num_workers"]) == {2}


def test_pruned_trials_end_their_ranks_and_make_room_for_others(head: SharedHead, tmp_path: Path) -> None:
    """Successive halving over trials of two workers."""
    tables = yaml_spec.spec_of(
        [{"name": "static", "density": 0.5}],
        name="halved",
        budget={"epochs": 4, "batch_size": 64},
        grid={"optimizer.lr": [0.2, 1e-6, 0.1]},
        scheduler={"name": "asha", "metric": "val/accuracy", "grace": 0.25, "reduction_factor": 2},
        resources=WORKERS,
    )
    head.run("run", yaml_spec.write(tmp_path / "spec.yaml", tables), "--out", "out", folder=tmp_path)
    results = Results(tmp_path / "out")
    runs = results.runs()
    assert len(runs) == 3
    assert set(runs["attempt"]) == {1}
    assert set(runs["num_workers"]) == {2}
    rates = runs["spec_json"].str.extract(r'"lr":([0-9.e-]+)')[0].astype(float)
    assert set(runs["status"][rates < 1e-3]) == {"PRUNED"}
    assert "COMPLETED" in set(runs["status"][rates > 1e-3])
    steps = results.metrics().groupby("run_key")["step"].max()
    assert set(steps[runs["run_key"][rates < 1e-3]]) == {17}, (
        "of four evaluations the first is their rung, and none goes on beyond it"
    )


def test_more_workers_than_the_cluster_has_are_refused_before_any_starts(head: SharedHead, tmp_path: Path) -> None:
    spec = yaml_spec.write(tmp_path / "spec.yaml", spec_of(resources={"workers": NUM_CPUS + 1}))
    driver = head.run("run", spec, "--out", "out", folder=tmp_path, code=2)
    wanted = f"wants {NUM_CPUS + 1} workers, each with 1 CPUs and 0 GPUs; there are {NUM_CPUS} CPUs"
    assert wanted in driver.stderr
    assert not len(Results(tmp_path / "out").runs())
