"""SIGKILL to Ray's own processes on the driver's node: it is named, the driver exits with 4 and a summary, and no number is lost.

The operating system kills processes so when memory is short. Each is killed at the start and in the middle of a study, and two
near its end.
"""

import contextlib
import os
import time
from pathlib import Path

import psutil
import pytest
from comparing import assert_nothing_lost, assert_same_numbers
from driving import AGENTS as LINGERING
from driving import Driver, StepDelay, driving
from watching import completed, wait_for_new_checkpoint, wait_for_progress
from yaml_spec import SHORT_METHODS

from pruneyard.cluster.ray_processes import AGENTS, DISPENSABLE, HEAD
from pruneyard.orchestrator.results import Results
from pruneyard.reports.layout import RunFolder

pytestmark = pytest.mark.ray

STEP_S = 0.08
SLOW_STEP_S = 0.6  # of the last job, which is to be running whenever a process is killed
WITHIN_S = 300
ENDS_WITHIN_S = 90  # from the kill to the end of the driver, which imports torch once more to print what is finished
PARTS = {"raylet": "raylet/raylet", **{name: part for part, name in (AGENTS | HEAD | DISPENSABLE).items()}}
TITLES = {"dashboard agent": "ray::DashboardAgent", "runtime environment agent": "ray::RuntimeEnvAgent"}
VITAL = ["raylet", *dict.fromkeys(AGENTS.values()), *HEAD.values()]


def processes_named(driver: Driver, name: str) -> list[psutil.Process]:
    """Returns the processes of the driver's cluster that are this component of Ray."""
    parts = [PARTS[name], TITLES.get(name, PARTS[name])]
    found = []
    for process in driver.live_processes():
        try:
            line = " ".join(process.cmdline())
        except psutil.Error:
            continue
        # A new child of the raylet has the raylet's command line until it has its own.
        if any(part in line for part in parts) and (name == "raylet") == ("--raylet_socket_name" in line):
            found.append(process)
    return found


def kill(driver: Driver, name: str) -> float:
    """Kills a process of that name; returns the time of the kill."""
    (process, *_) = processes_named(driver, name)
    process.kill()
    return time.monotonic()


def assert_driver_names_it_and_exits(driver: Driver, killed_at: float, folder: Path, name: str) -> None:
    assert driver.wait(within_s=WITHIN_S) == 4, driver.output()
    elapsed_s = time.monotonic() - killed_at
    print(f"{name}: from its kill to the end of the driver {elapsed_s:.1f} s")
    assert elapsed_s < ENDS_WITHIN_S
    assert f"Ray's {name} on this node died (process " in driver.stderr, driver.output()
    assert "Traceback" not in driver.stderr, driver.output()
    assert f"resume with: pruneyard resume {os.path.basename(folder)}" in driver.output(), driver.output()
    # Some agents look for the control service for a minute; the test of kills at the start waits until they have ended, too.
    driver.seconds_until_gone(within_s=90, exclude=LINGERING)


def resume(folder: Path, env: dict[str, str]) -> None:
    """Resumes the study without Ray, to its end."""
    with driving("resume", "out", "--local", folder=folder, env=env) as driver:
        assert driver.wait(within_s=WITHIN_S) == 0, driver.output()


@pytest.mark.nodes
def test_a_killed_process_in_the_middle_is_named_and_costs_no_number(
    short_spec: Path, env: dict[str, str], one_trial_env: dict[str, str], short_reference: Path, tmp_path: Path
) -> None:
    """Kills one process after the other, each on a new cluster that resumes the study; the raylet beside two trials."""
    out, delay = tmp_path / "out", StepDelay(tmp_path, STEP_S).env
    for name in VITAL:
        slow_env = delay | (env if name == "raylet" else one_trial_env)
        with driving("run", short_spec, "--out", "out", folder=tmp_path, env=slow_env, report=True) as driver:
            wait_for_new_checkpoint(driver, out)
            finished = completed(out)
            assert_driver_names_it_and_exits(driver, kill(driver, name), out, name)
            assert finished.items() <= completed(out).items()
            if "not started" in driver.stdout:  # a driver that could leave its cluster prints what is finished
                assert RunFolder(out).report.is_file()
    resume(tmp_path, one_trial_env)
    assert_nothing_lost(out, short_reference, twice=0)


@pytest.mark.nodes
def test_a_killed_process_at_the_start_is_an_end_in_time(
    short_spec: Path, one_trial_env: dict[str, str], short_reference: Path, tmp_path: Path
) -> None:
    """Kills each process as soon as it exists, while Ray is still starting. All that Ray started ends by itself."""
    with contextlib.ExitStack() as drivers:
        started = []
        for name in VITAL:
            driver = drivers.enter_context(driving("run", short_spec, "--out", "out", folder=tmp_path, env=one_trial_env))
            started.append(driver)
            driver.wait_until(lambda name=name, driver=driver: bool(processes_named(driver, name)), within_s=WITHIN_S)
            killed_at = kill(driver, name)
            assert driver.wait(within_s=WITHIN_S) == 4, driver.output()
            elapsed_s = time.monotonic() - killed_at
            print(f"{name}: from its kill to the end of the driver {elapsed_s:.1f} s")
            assert elapsed_s < 60
            assert "Traceback" not in driver.stderr, driver.output()
            assert "Ray" in driver.stderr
        for driver in started:  # agents look for the control service for a minute, beside the next studies
            driver.seconds_until_gone(within_s=90)
    resume(tmp_path, one_trial_env)
    assert_same_numbers(tmp_path / "out", short_reference)


@pytest.mark.nodes
def test_a_killed_process_near_the_end_keeps_what_is_finished(
    short_spec: Path, one_trial_env: dict[str, str], short_reference: Path, tmp_path: Path
) -> None:
    """Kills a process when one job is left; the study may end before the driver notices. A raylet dies with its agents."""
    out, step_delay = tmp_path / "out", StepDelay(tmp_path, STEP_S)
    for name in ("raylet", *HEAD.values()):
        with driving("run", short_spec, "--out", "out", folder=tmp_path, env=one_trial_env | step_delay.env) as driver:
            driver.wait_until(lambda: len(completed(out)) >= len(SHORT_METHODS) - 1, within_s=WITHIN_S)
            step_delay.set(SLOW_STEP_S)
            wait_for_progress(driver, out)
            finished = completed(out)
            killed_at = kill(driver, name)
            code = driver.wait(within_s=WITHIN_S)
            # The driver may notice that the head is gone only when the last job has ended.
            assert code == 4 or (name in HEAD.values() and code == 0), driver.output()
            assert time.monotonic() - killed_at < ENDS_WITHIN_S
            assert finished.items() <= completed(out).items()
    resume(tmp_path, one_trial_env)
    assert_same_numbers(out, short_reference)


@pytest.mark.nodes
def test_a_study_continues_without_dispensable_processes(
    short_spec: Path, one_trial_env: dict[str, str], short_reference: Path, tmp_path: Path
) -> None:
    step_delay = StepDelay(tmp_path, STEP_S)
    with driving("run", short_spec, "--out", "out", folder=tmp_path, env=one_trial_env | step_delay.env) as driver:
        wait_for_new_checkpoint(driver, tmp_path / "out")
        for name in DISPENSABLE.values():
            kill(driver, name)
            driver.wait_until(lambda name=name: f"Ray's {name} died" in driver.stderr, within_s=WITHIN_S)
        step_delay.set(0)
        assert driver.wait(within_s=WITHIN_S) == 0, driver.output()
    assert set(Results(tmp_path / "out").runs()["attempt"]) == {1}
    assert_same_numbers(tmp_path / "out", short_reference)
