"""A wall clock that is set forth and back under a study changes stamps in its records and nothing else."""

import signal
from pathlib import Path

import pytest
from clocks import FAKETIME, Clock
from comparing import assert_same_numbers
from driving import Patience, driving
from watching import checkpoints, in_the_middle
from yaml_spec import FEW

from pruneyard.orchestrator.results import Results
from pruneyard.reports.layout import RunFolder
from pruneyard.reports.store import Store


@pytest.mark.skipif(not FAKETIME, reason="libfaketime is not installed")
def test_clock_jumps_cost_neither_a_number_nor_an_attempt(
    short_spec: Path, short_reference: Path, env: dict[str, str], tmp_path: Path
) -> None:
    folder, clock, patience = tmp_path / "out", Clock(tmp_path), Patience(tmp_path, 0.1)
    told = clock.told(env | patience.env)
    clock.set(10)
    with driving("run", short_spec, "--out", "out", "--local", folder=tmp_path, env=told) as driver:
        driver.wait_until(lambda: bool(in_the_middle(folder)), within_s=120)
        clock.set(-10)
        before = checkpoints(folder)
        driver.wait_until(lambda: bool(checkpoints(folder) - before), within_s=60)
        clock.set(20)
        driver.send(signal.SIGTERM)
        assert driver.wait(within_s=60) == 3, driver.said()
    clock.set(-20)
    patience.set(0)
    with driving("resume", "out", "--local", folder=tmp_path, env=told) as driver:
        assert driver.wait(within_s=180) == 0, driver.said()
    assert_same_numbers(folder, short_reference)
    attempts = Store(RunFolder(folder)).runs(latest=False).to_pandas()
    assert sorted(attempts["status"]) == ["COMPLETED"] * len(FEW) + ["INTERRUPTED"]
    stopped = attempts[attempts["status"] == "INTERRUPTED"].iloc[0]
    newest = Results(folder).runs().set_index("run_key").loc[stopped["run_key"]]
    assert (newest["attempt"], newest["status"]) == (2, "COMPLETED")
    assert newest["ended_at"] < stopped["ended_at"], "the clock was not set back"
    assert (attempts["wall_s"] < 200).all(), "durations are read from the clock that was set"
    assert (attempts["wall_s"] > 0).all()
