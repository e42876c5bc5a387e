"""A wall clock that jumps during a study changes time stamps in its records and nothing else."""

import signal
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from clocks import FAKETIME, Clock
from comparing import assert_nothing_lost, assert_same_numbers
from driving import StepDelay, driving
from several_nodes import several_nodes
from watching import checkpoints, runs_in_progress, wait_for_new_checkpoint
from yaml_spec import SHORT_METHODS, write_short_spec

from pruneyard.orchestrator.results import Results
from pruneyard.reports.layout import RunFolder
from pruneyard.reports.store import Store

pytestmark = pytest.mark.skipif(not FAKETIME, reason="libfaketime is not installed")

WITHIN_S = 300  # for what takes seconds on an idle machine


@pytest.mark.slow
def test_clock_jumps_change_no_number_and_cost_no_attempt(
    short_spec: Path, short_reference: Path, env: dict[str, str], tmp_path: Path
) -> None:
    folder, clock, step_delay = tmp_path / "out", Clock(tmp_path), StepDelay(tmp_path, 0.1)
    clock_env = clock.environment(env | step_delay.env)
    clock.set(10)
    with driving("run", short_spec, "--out", "out", "--local", folder=tmp_path, env=clock_env) as driver:
        driver.wait_until(lambda: bool(runs_in_progress(folder)), within_s=WITHIN_S)
        clock.set(-10)
        before = checkpoints(folder)
        driver.wait_until(lambda: bool(checkpoints(folder) - before), within_s=WITHIN_S)
        clock.set(20)
        driver.send_signal(signal.SIGTERM)
        assert driver.wait(within_s=WITHIN_S) == 3, driver.output()
    clock.set(-20)
    step_delay.set(0)
    with driving("resume", "out", "--local", folder=tmp_path, env=clock_env) as driver:
        assert driver.wait(within_s=WITHIN_S) == 0, driver.output()
    assert_same_numbers(folder, short_reference)
    attempts = Store(RunFolder(folder)).runs(latest=False).to_pandas()
    assert sorted(attempts["status"]) == ["COMPLETED"] * len(SHORT_METHODS) + ["INTERRUPTED"]
    stopped = attempts[attempts["status"] == "INTERRUPTED"].iloc[0]
    newest = Results(folder).runs().set_index("run_key").loc[stopped["run_key"]]
    assert (newest["attempt"], newest["status"]) == (2, "COMPLETED")
    assert newest["ended_at"] < stopped["ended_at"], "the clock was not set back"
    assert (attempts["wall_s"] < 2000).all(), "durations come from the wall clock, which was set"
    assert (attempts["wall_s"] > 0).all()


@pytest.mark.ray
@pytest.mark.nodes
def test_clock_jumps_of_a_node_and_of_the_driver_change_no_number_and_cost_no_attempt(
    env: dict[str, str], short_reference: Path, tmp_path: Path
) -> None:
    """The head, a second node and the driver have a clock each; those of the node and the driver jump.

    The driver's clock stays behind that of the machine: Ray's own code waits with absolute deadlines in the kernel, whose clock
    libfaketime does not move. Ahead by days, the driver would wait for days in its shutdown.
    """
    folder, step_delay = tmp_path / "out", StepDelay(tmp_path, 0.5)
    of_node, of_driver = Clock(tmp_path / "node"), Clock(tmp_path / "driver")
    of_node.set(10)
    of_driver.set(-20)
    with several_nodes(env | step_delay.env, head=1) as nodes:
        nodes.add(of_node.environment(nodes.env), other=1)
        command = ("run", write_short_spec(tmp_path), "--out", "out", "--address", nodes.address)
        with driving(*command, folder=tmp_path, env=of_driver.environment(nodes.env)) as driver:
            driver.wait_until(lambda: len(runs_in_progress(folder)) == 2, within_s=WITHIN_S)  # one on each node
            step_delay.set(0.1)
            of_node.set(-10)
            of_driver.set(-40)
            wait_for_new_checkpoint(driver, folder)
            of_node.set(20)
            of_driver.set(-10)
            step_delay.set(0)
            assert driver.wait(within_s=WITHIN_S) == 0, driver.output()
    assert_nothing_lost(folder, short_reference, twice=0)
    runs = Store(RunFolder(folder)).runs().to_pandas()
    is_shifted = (runs["ended_at"] - datetime.now(UTC)).abs() > timedelta(days=5)
    assert is_shifted.any(), "no trial used another clock"
    assert not is_shifted.all(), "every trial used another clock"
    assert runs["wall_s"].between(0, 2000).all(), "durations come from the wall clock, which was set"
