"""Successive halving on Ray: what falls behind is PRUNED in its middle, keeps its numbers, and is not run again."""

from pathlib import Path

import pytest
import yaml_spec
from driving import Patience, driving

from pruneyard.orchestrator.results import Results


@pytest.mark.ray
def test_trials_that_fall_behind_are_pruned_and_stay_so(env: dict[str, str], tmp_path: Path) -> None:
    tables = yaml_spec.spec_of(
        [{"name": "static", "density": 0.5}],
        name="halved",
        budget={"epochs": 8, "batch_size": 64},
        seeds=2,
        grid={"optimizer.lr": [0.2, 1e-6, 1e-7, 1e-8]},
        scheduler={"name": "asha", "metric": "val/accuracy", "grace": 0.25, "reduction_factor": 2},
    )
    spec = yaml_spec.write(tmp_path / "spec.yaml", tables)
    told = env | Patience(tmp_path, 0.02).env
    for _ in range(2):
        with driving("run", spec, "--out", "out", folder=tmp_path, env=told) as driver:
            assert driver.wait(within_s=300) == 0, driver.said()
            driver.seconds_until_gone()
    results = Results(tmp_path / "out")
    runs = results.runs()
    assert set(runs["attempt"]) == {1}
    rates = runs["spec_json"].str.extract(r'"lr":([0-9.e-]+)')[0].astype(float)
    assert set(runs.loc[rates > 0.1, "status"]) == {"COMPLETED"}
    pruned = runs.loc[runs["status"] == "PRUNED", "run_key"]
    assert len(pruned) >= 3, "of each of three at least the seed that came last to the rung"
    steps = results.metrics().groupby("run_key")["step"].max()
    assert (steps[pruned] >= 0.25 * steps.max()).all()
    assert (steps[pruned] < steps.max()).all()
