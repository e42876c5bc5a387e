"""Successive halving over trials of two workers: their ranks end with them, and make room, beside another Ray cluster."""

import os
from pathlib import Path

import pytest
import yaml_spec
from driving import driving
from ray_head import ray_head

from pruneyard.orchestrator.results import Results

NUM_CPUS = os.cpu_count() or 1


@pytest.mark.ray
@pytest.mark.distributed
def test_pruned_trials_end_their_ranks_and_make_room_for_others(env: dict[str, str], tmp_path: Path) -> None:
    tables = yaml_spec.spec_of(
        [{"name": "static", "density": 0.5}],
        name="halved",
        budget={"epochs": 4, "batch_size": 64},
        grid={"optimizer.lr": [0.2, 1e-6, 1e-7, 0.1]},
        scheduler={"name": "asha", "metric": "val/accuracy", "grace": 0.25, "reduction_factor": 2},
        resources={"workers": 2, "cpus": max(1, NUM_CPUS // 2)},
    )
    spec = yaml_spec.write(tmp_path / "spec.yaml", tables)
    quick = env | {"RAY_worker_niceness": "0"}
    with ray_head(quick), driving("run", spec, "--out", "out", folder=tmp_path, env=quick) as driver:
        assert driver.wait(within_s=290) == 0, driver.said()
        driver.seconds_until_gone()
    results = Results(tmp_path / "out")
    runs = results.runs()
    assert len(runs) == 4
    assert set(runs["attempt"]) == {1}
    assert set(runs["num_workers"]) == {2}
    rates = runs["spec_json"].str.extract(r'"lr":([0-9.e-]+)')[0].astype(float)
    behind = runs["run_key"][rates < 1e-3]
    assert set(runs.loc[behind.index, "status"]) == {"PRUNED"}
    assert "COMPLETED" in set(runs.loc[rates > 1e-3, "status"])
    steps = results.metrics().groupby("run_key")["step"].max()
    assert set(steps[behind]) == {17}, (
        "of four evaluations the first is their rung, and none goes on beyond it"
    )
