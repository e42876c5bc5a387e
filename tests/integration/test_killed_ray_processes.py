"""SIGKILL to Ray's own processes on the driver's node: said by name, exit 4 with what is finished, and no number lost.

As the system does when memory is short. Each process is killed at the start, in the middle and near the end of a study.
"""

import os
import time
from pathlib import Path

import psutil
import pytest
from comparing import assert_nothing_lost, assert_same_numbers
from driving import Driver, Patience, driving
from watching import completed, meet
from yaml_spec import FEW

from pruneyard.cluster.ray_processes import AGENTS, DISPENSABLE, HEAD
from pruneyard.orchestrator.results import Results
from pruneyard.reports.layout import RunFolder

pytestmark = pytest.mark.ray

STEP_S = 0.08
WITHIN_S = 300
ENDS_WITHIN_S = 90  # from the death to the end of the driver, which imports torch once more to print what is finished
PARTS = {"raylet": "raylet/raylet", **{name: part for part, name in (AGENTS | HEAD | DISPENSABLE).items()}}
TITLES = {"dashboard agent": "ray::DashboardAgent", "runtime environment agent": "ray::RuntimeEnvAgent"}
VITAL = ["raylet", *dict.fromkeys(AGENTS.values()), *HEAD.values()]


def named(driver: Driver, name: str) -> list[psutil.Process]:
    """The processes of this driver's cluster that have this part in Ray."""
    parts = [PARTS[name], TITLES.get(name, PARTS[name])]
    found = []
    for process in driver.offspring():
        try:
            line = " ".join(process.cmdline())
        except psutil.Error:
            continue
        # Its child inherits the command line of the raylet until it has its own.
        if any(part in line for part in parts) and (name == "raylet") == ("--raylet_socket_name" in line):
            found.append(process)
    return found


def kill(driver: Driver, name: str) -> float:
    """Kills the process; returns when."""
    (process, *_) = named(driver, name)
    process.kill()
    return time.monotonic()


def assert_ended_with_a_word(driver: Driver, killed: float, folder: Path, name: str) -> None:
    assert driver.wait(within_s=WITHIN_S) == 4, driver.said()
    took = time.monotonic() - killed
    print(f"{name}: from its death to the end of the driver {took:.1f} s")
    assert took < ENDS_WITHIN_S
    assert f"Ray's {name} on this node died (process " in driver.stderr, driver.said()
    assert "Traceback" not in driver.stderr, driver.said()
    assert f"resume with: pruneyard resume {os.path.basename(folder)}" in driver.said(), driver.said()
    driver.seconds_until_gone(within_s=90)


def resume(folder: Path, env: dict[str, str]) -> None:
    with driving("resume", "out", "--local", folder=folder, env=env) as driver:
        assert driver.wait(within_s=WITHIN_S) == 0, driver.said()


def kill_in_the_middle(name: str, spec: Path, env: dict[str, str], home: Path) -> None:
    patience = Patience(home, STEP_S)
    with driving("run", spec, "--out", "out", folder=home, env=env | patience.env) as driver:
        driver.wait_until(lambda: bool(completed(home / "out")), within_s=WITHIN_S)
        meet(driver, home / "out")
        finished = completed(home / "out")
        assert_ended_with_a_word(driver, kill(driver, name), home / "out", name)
        assert finished.items() <= completed(home / "out").items()
        if "not started" in driver.stdout:  # a driver that could leave its cluster prints what is finished
            assert RunFolder(home / "out").report.is_file()
    resume(home, env)


@pytest.mark.slow
def test_a_killed_agent_in_the_middle_is_named_and_costs_no_number(
    short_spec: Path, env: dict[str, str], short_reference: Path, tmp_path: Path
) -> None:
    kill_in_the_middle("dashboard agent", short_spec, env, tmp_path)
    assert_nothing_lost(tmp_path / "out", short_reference, twice=0)


@pytest.mark.nodes
@pytest.mark.parametrize("name", [name for name in VITAL if name != "dashboard agent"])
def test_a_killed_process_in_the_middle_is_named_and_costs_no_number(
    name: str, short_spec: Path, env: dict[str, str], short_reference: Path, tmp_path: Path
) -> None:
    kill_in_the_middle(name, short_spec, env, tmp_path)
    assert_nothing_lost(tmp_path / "out", short_reference, twice=0)


@pytest.mark.nodes
@pytest.mark.parametrize("name", VITAL)
def test_a_killed_process_at_the_start_is_an_end_in_time(
    name: str, short_spec: Path, env: dict[str, str], short_reference: Path, tmp_path: Path
) -> None:
    """Kills the process as soon as it exists, while Ray is still starting."""
    with driving("run", short_spec, "--out", "out", folder=tmp_path, env=env) as driver:
        driver.wait_until(lambda: bool(named(driver, name)), within_s=WITHIN_S)
        killed = kill(driver, name)
        assert driver.wait(within_s=WITHIN_S) == 4, driver.said()
        took = time.monotonic() - killed
        print(f"{name}: from its death to the end of the driver {took:.1f} s")
        assert took < 60
        assert "Traceback" not in driver.stderr, driver.said()
        assert "Ray" in driver.stderr
        driver.seconds_until_gone(within_s=90)
    resume(tmp_path, env)
    assert_same_numbers(tmp_path / "out", short_reference)


@pytest.mark.nodes
@pytest.mark.parametrize("name", VITAL)
def test_a_killed_process_near_the_end_keeps_what_is_finished(
    name: str, short_spec: Path, env: dict[str, str], short_reference: Path, tmp_path: Path
) -> None:
    """When one job is left; or the study has ended before the death counts."""
    patience = Patience(tmp_path, STEP_S)
    with driving("run", short_spec, "--out", "out", folder=tmp_path, env=env | patience.env) as driver:
        driver.wait_until(lambda: len(completed(tmp_path / "out")) >= len(FEW) - 1, within_s=WITHIN_S)
        finished = completed(tmp_path / "out")
        killed = kill(driver, name)
        code = driver.wait(within_s=WITHIN_S)
        assert code in (0, 4), driver.said()
        assert time.monotonic() - killed < ENDS_WITHIN_S
        assert finished.items() <= completed(tmp_path / "out").items()
    resume(tmp_path, env)
    assert_same_numbers(tmp_path / "out", short_reference)


@pytest.mark.nodes
@pytest.mark.parametrize("name", list(DISPENSABLE.values()))
def test_a_study_goes_on_without_a_dispensable_process(
    name: str, short_spec: Path, env: dict[str, str], short_reference: Path, tmp_path: Path
) -> None:
    patience = Patience(tmp_path, STEP_S)
    with driving("run", short_spec, "--out", "out", folder=tmp_path, env=env | patience.env) as driver:
        meet(driver, tmp_path / "out")
        kill(driver, name)
        driver.wait_until(lambda: f"Ray's {name} died" in driver.stderr, within_s=WITHIN_S)
        patience.set(0)
        assert driver.wait(within_s=WITHIN_S) == 0, driver.said()
    assert set(Results(tmp_path / "out").runs()["attempt"]) == {1}
    assert_same_numbers(tmp_path / "out", short_reference)
