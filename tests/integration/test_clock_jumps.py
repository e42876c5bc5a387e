"""A wall clock that jumps during a study changes time stamps in its records and nothing else."""

import signal
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from clocks import FAKETIME, Clock
from comparing import assert_nothing_lost, assert_same_numbers
from driving import Patience, driving
from several_nodes import several_nodes
from watching import checkpoints, in_the_middle, meet
from yaml_spec import FEW, few

from pruneyard.orchestrator.results import Results
from pruneyard.reports.layout import RunFolder
from pruneyard.reports.store import Store

pytestmark = pytest.mark.skipif(not FAKETIME, reason="libfaketime is not installed")

WITHIN_S = 300  # of what takes seconds on an idle machine


@pytest.mark.slow
def test_clock_jumps_change_no_number_and_cost_no_attempt(
    short_spec: Path, short_reference: Path, env: dict[str, str], tmp_path: Path
) -> None:
    folder, clock, patience = tmp_path / "out", Clock(tmp_path), Patience(tmp_path, 0.1)
    told = clock.told(env | patience.env)
    clock.set(10)
    with driving("run", short_spec, "--out", "out", "--local", folder=tmp_path, env=told) as driver:
        driver.wait_until(lambda: bool(in_the_middle(folder)), within_s=WITHIN_S)
        clock.set(-10)
        before = checkpoints(folder)
        driver.wait_until(lambda: bool(checkpoints(folder) - before), within_s=WITHIN_S)
        clock.set(20)
        driver.send(signal.SIGTERM)
        assert driver.wait(within_s=WITHIN_S) == 3, driver.said()
    clock.set(-20)
    patience.set(0)
    with driving("resume", "out", "--local", folder=tmp_path, env=told) as driver:
        assert driver.wait(within_s=WITHIN_S) == 0, driver.said()
    assert_same_numbers(folder, short_reference)
    attempts = Store(RunFolder(folder)).runs(latest=False).to_pandas()
    assert sorted(attempts["status"]) == ["COMPLETED"] * len(FEW) + ["INTERRUPTED"]
    stopped = attempts[attempts["status"] == "INTERRUPTED"].iloc[0]
    newest = Results(folder).runs().set_index("run_key").loc[stopped["run_key"]]
    assert (newest["attempt"], newest["status"]) == (2, "COMPLETED")
    assert newest["ended_at"] < stopped["ended_at"], "the clock was not set back"
    assert (attempts["wall_s"] < 2000).all(), "durations are read from the clock that was set"
    assert (attempts["wall_s"] > 0).all()


@pytest.mark.ray
@pytest.mark.nodes
def test_clock_jumps_of_a_node_and_of_the_driver_change_no_number_and_cost_no_attempt(
    env: dict[str, str], short_reference: Path, tmp_path: Path
) -> None:
    """Two nodes run trials: one has the clock of the head, the other one that of the driver."""
    folder, clock, patience = tmp_path / "out", Clock(tmp_path), Patience(tmp_path, 0.1)
    clock.set(10)
    with several_nodes(env | patience.env, head=1) as nodes:
        nodes.add(clock.told(nodes.env), other=1)
        command = ("run", few(tmp_path), "--out", "out", "--address", nodes.address)
        with driving(*command, folder=tmp_path, env=clock.told(nodes.env)) as driver:
            meet(driver, folder)
            clock.set(-10)
            meet(driver, folder)
            clock.set(20)
            patience.set(0)
            assert driver.wait(within_s=WITHIN_S) == 0, driver.said()
    assert_nothing_lost(folder, short_reference, twice=0)
    runs = Store(RunFolder(folder)).runs().to_pandas()
    off = (runs["ended_at"] - datetime.now(UTC)).abs() > timedelta(days=5)
    assert off.any(), "no trial saw another clock"
    assert not off.all(), "every trial did"
    assert runs["wall_s"].between(0, 2000).all(), "durations are read from the clock that was set"
