"""Ctrl-C and SIGTERM end a study gracefully, within seconds, and nothing is lost."""

import signal
import time
from pathlib import Path

import pytest
from comparing import assert_same_numbers
from driving import Driver, StepDelay, driving
from shared_head import SharedHead
from watching import checkpoints, completed, count, runs_in_progress
from yaml_spec import NUM_STEPS, SHORT_METHODS

from pruneyard.orchestrator.results import Results
from pruneyard.reports.layout import RunFolder
from pruneyard.reports.records import Status
from pruneyard.reports.store import Store

WITHIN_S = 300  # for what takes seconds on an idle machine
STEP_S = 3.0  # for trainings that are stopped: with it they would not end within `WITHIN_S`


def assert_stopped_gracefully(folder: Path, driver: Driver) -> None:
    """Checks that finished work is kept, running trials are INTERRUPTED with a checkpoint, and the page is written."""
    driver.seconds_until_gone(within_s=60)
    runs = Results(folder).runs()
    interrupted = runs[runs["status"] == "INTERRUPTED"]
    assert len(interrupted)
    for key in interrupted["run_key"]:
        assert list(RunFolder(folder).checkpoints(key).glob("step-*"))
    assert not (runs["status"] == "FAILED").any()
    assert RunFolder(folder).report.stat().st_mtime > runs["ended_at"].max().timestamp()
    assert not list(folder.glob(".stop*"))
    assert not (folder / ".scheduler").exists()


def wait_for_checkpoint(driver: Driver, folder: Path, *, exclude: set[Path] | None = None) -> None:
    """Waits until a training has a checkpoint that is not in `exclude` and far from its end."""
    driver.wait_until(lambda: bool(runs_in_progress(folder, exclude=exclude)), within_s=WITHIN_S)


@pytest.mark.ray
@pytest.mark.nodes
def test_every_way_to_stop_on_ray_is_orderly_and_resumes_bit_equal(
    short_spec: Path, env: dict[str, str], head: SharedHead, short_reference: Path, tmp_path: Path
) -> None:
    """Ctrl-C, once and twice, on clusters of the driver's own, whose processes receive it too; SIGTERM on a joined one."""
    folder = tmp_path / "out"
    step_delay = StepDelay(tmp_path, 0.08)
    slow_env = env | step_delay.env

    with driving("run", short_spec, "--out", "out", folder=tmp_path, env=slow_env, terminal=True, report=True) as driver:
        driver.wait_until(lambda: bool(completed(folder)) and bool(runs_in_progress(folder)), within_s=WITHIN_S)
        step_delay.set(STEP_S)
        driver.type_keys(b"\x03")  # reaches the whole process group, Ray's processes too
        assert driver.wait(within_s=WITHIN_S) == 130, driver.output()
        assert_stopped_gracefully(folder, driver)
        assert "\x1b[" in driver.stdout
        assert "starting" in driver.stdout or f"/{NUM_STEPS}" in driver.stdout, "no live table was drawn"
        assert "pruneyard resume" in driver.stdout
    finished = completed(folder)

    step_delay.set(0.2)
    before = checkpoints(folder)
    with head.driving("resume", "out", folder=tmp_path, report=True, **step_delay.env) as driver:
        wait_for_checkpoint(driver, folder, exclude=before)
        step_delay.set(STEP_S)
        driver.send_signal(signal.SIGTERM)
        assert driver.wait(within_s=WITHIN_S) == 3, driver.output()
        assert_stopped_gracefully(folder, driver)

    step_delay.set(0.2)
    before = checkpoints(folder)
    with driving("resume", "out", folder=tmp_path, env=slow_env) as driver:
        wait_for_checkpoint(driver, folder, exclude=before)
        step_delay.set(60)  # a step during which no trial checks for a stop request
        time.sleep(1)
        driver.send_signal_to_group(signal.SIGINT)
        time.sleep(1)
        driver.send_signal_to_group(signal.SIGINT)
        started = time.monotonic()
        assert driver.wait(within_s=WITHIN_S) == 130, driver.output()
        print(f"from the second Ctrl-C to the end: {time.monotonic() - started:.1f} s")
        assert time.monotonic() - started < 45, "the driver waited for the trials"
        driver.seconds_until_gone(within_s=60)

    with driving("resume", "out", "--local", folder=tmp_path, env=env) as driver:
        assert driver.wait(within_s=WITHIN_S) == 0, driver.output()
    assert_same_numbers(folder, short_reference)
    attempts = Store(RunFolder(folder)).runs(latest=False).to_pandas()
    for key, attempt in finished.items():
        assert list(attempts[attempts["run_key"] == key]["attempt"]) == [attempt], "a finished job ran again"
    assert count(folder, Status.COMPLETED) == len(SHORT_METHODS)


@pytest.mark.slow
def test_every_way_to_stop_without_ray_is_orderly_and_resumes_bit_equal(
    short_spec: Path, env: dict[str, str], short_reference: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "out"
    step_delay = StepDelay(tmp_path, 0.05)
    slow_env = env | step_delay.env
    command: tuple[str | Path, ...] = ("run", short_spec, "--out", "out", "--local")
    for number, code in ((signal.SIGINT, 130), (signal.SIGTERM, 3)):
        before = checkpoints(folder)
        with driving(*command, folder=tmp_path, env=slow_env, report=True) as driver:
            wait_for_checkpoint(driver, folder, exclude=before)
            driver.send_signal_to_group(number)
            assert driver.wait(within_s=WITHIN_S) == code, driver.output()
            assert_stopped_gracefully(folder, driver)
        command = ("resume", "out", "--local")

    before = checkpoints(folder)
    with driving("resume", "out", "--local", folder=tmp_path, env=slow_env) as driver:
        wait_for_checkpoint(driver, folder, exclude=before)
        step_delay.set(60)
        time.sleep(1)
        driver.send_signal(signal.SIGINT)
        time.sleep(1)
        driver.send_signal(signal.SIGINT)
        started = time.monotonic()
        assert driver.wait(within_s=WITHIN_S) == 130, driver.output()
        assert time.monotonic() - started < 45, "the driver waited for the training"

    with driving("resume", "out", "--local", folder=tmp_path, env=env) as driver:
        assert driver.wait(within_s=WITHIN_S) == 0, driver.output()
    assert_same_numbers(folder, short_reference)
