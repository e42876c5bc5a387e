"""Another Ray cluster on the machine: no study joins it unasked, and none disturbs it."""

import time
from pathlib import Path

import pytest
import yaml_spec
from driving import StepDelay, driving
from shared_head import SharedHead

from pruneyard.orchestrator.results import Results

pytestmark = [pytest.mark.ray, pytest.mark.slow]

WITHIN_S = 300  # for what takes seconds on an idle machine


def test_successive_halving_on_a_second_cluster_does_not_use_the_first(
    head: SharedHead, env: dict[str, str], tmp_path: Path
) -> None:
    """A trial that falls behind is PRUNED during its training, keeps its numbers, and does not run again."""
    spec = yaml_spec.write(tmp_path / "spec.yaml", yaml_spec.halving_spec())
    driver_env = env | StepDelay(tmp_path, 0.02).env | {"RAY_ADDRESS": head.address}
    with driving("run", spec, "--out", "out", folder=tmp_path, env=driver_env) as driver:
        driver.wait_until(lambda: bool(driver.actors()), within_s=WITHIN_S)
        assert not head.trials()
        assert driver.wait(within_s=WITHIN_S) == 0, driver.output()
        driver.seconds_until_gone()
    with driving("run", spec, "--out", "out", folder=tmp_path, env=driver_env) as driver:
        assert driver.wait(within_s=WITHIN_S) == 0, driver.output()
    results = Results(tmp_path / "out")
    runs = results.runs()
    assert len(runs) == 4
    assert set(runs["attempt"]) == {1}
    rates = runs["spec_json"].str.extract(r'"lr":([0-9.e-]+)')[0].astype(float)
    assert set(runs.loc[rates > 0.1, "status"]) == {"COMPLETED"}
    pruned = runs.loc[runs["status"] == "PRUNED", "run_key"]
    assert len(pruned), "the last one to reach the rung is pruned at least"
    steps = results.metrics().groupby("run_key")["step"].max()
    assert (steps[pruned] >= 0.25 * steps.max()).all()
    assert (steps[pruned] < steps.max()).all()


def test_auto_is_refused_in_seconds_by_a_cluster_whose_token_is_another_one(
    head: SharedHead, env: dict[str, str], tmp_path: Path
) -> None:
    spec = yaml_spec.write(tmp_path / "spec.yaml", yaml_spec.spec_of([{"name": "dense"}], name="small"))
    # were it the only cluster of the machine, `auto` would find it without RAY_ADDRESS
    driver_env = env | {"RAY_AUTH_TOKEN": "another", "RAY_ADDRESS": head.address}
    started = time.monotonic()
    with driving("run", spec, "--out", "out", "--address", "auto", folder=tmp_path, env=driver_env) as driver:
        assert driver.wait(within_s=WITHIN_S) == 4, driver.output()
    print(f"auto was refused after {time.monotonic() - started:.1f} s")
    assert "no token, or a wrong one, for the Ray cluster at " in driver.stderr
    assert "Traceback" not in driver.stderr
    assert not (tmp_path / "out" / "artifacts").exists()


def test_auto_joins_the_cluster_of_this_machine(head: SharedHead, tmp_path: Path) -> None:
    spec = yaml_spec.write(tmp_path / "spec.yaml", yaml_spec.spec_of([{"name": "dense"}], name="small"))
    driver_env = head.env({}) | {"RAY_ADDRESS": head.address}
    with driving("run", spec, "--out", "out", "--address", "auto", folder=tmp_path, env=driver_env) as driver:
        assert driver.wait(within_s=WITHIN_S) == 0, driver.output()
    assert list(Results(tmp_path / "out").runs()["status"]) == ["COMPLETED"]
