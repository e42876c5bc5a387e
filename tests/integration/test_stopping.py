"""Ctrl-C and SIGTERM end a study gracefully, within seconds, and nothing is lost."""

import signal
import time
from pathlib import Path

import pytest
from comparing import assert_same_numbers
from driving import Driver, Patience, driving
from shared_head import SharedHead
from watching import checkpoints, completed, count, in_the_middle
from yaml_spec import FEW, NUM_STEPS

from pruneyard.orchestrator.results import Results
from pruneyard.reports.layout import RunFolder
from pruneyard.reports.records import Status
from pruneyard.reports.store import Store

WITHIN_S = 300  # of what takes seconds on an idle machine
STEP_S = 3.0  # of trainings that are stopped: to their end they would take longer than `WITHIN_S`


def assert_stopped_gracefully(folder: Path, driver: Driver) -> None:
    """Finished work kept, running trials INTERRUPTED with a checkpoint, the page written, nothing left."""
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


def wait_in_the_middle(driver: Driver, folder: Path, *, besides: set[Path] | None = None) -> None:
    """Waits until a training has a checkpoint that is not among `besides` and far from its end."""
    driver.wait_until(lambda: bool(in_the_middle(folder, besides=besides)), within_s=WITHIN_S)


@pytest.mark.ray
@pytest.mark.nodes
def test_every_way_to_stop_on_ray_is_orderly_and_resumes_bit_equal(
    short_spec: Path, env: dict[str, str], head: SharedHead, short_reference: Path, tmp_path: Path
) -> None:
    """Ctrl-C, once and twice, on clusters of the driver's own, whose processes receive it too; SIGTERM on a joined one."""
    folder = tmp_path / "out"
    patience = Patience(tmp_path, 0.08)
    slow = env | patience.env

    with driving("run", short_spec, "--out", "out", folder=tmp_path, env=slow, terminal=True) as driver:
        driver.wait_until(lambda: bool(completed(folder)) and bool(in_the_middle(folder)), within_s=WITHIN_S)
        patience.set(STEP_S)
        driver.type(b"\x03")  # reaches the whole process group, Ray's processes too
        assert driver.wait(within_s=WITHIN_S) == 130, driver.said()
        assert_stopped_gracefully(folder, driver)
        assert "\x1b[" in driver.stdout
        assert "starting" in driver.stdout or f"/{NUM_STEPS}" in driver.stdout, "no live table was drawn"
        assert "pruneyard resume" in driver.stdout
    finished = completed(folder)

    patience.set(0.2)
    before = checkpoints(folder)
    with head.driving("resume", "out", folder=tmp_path, **patience.env) as driver:
        wait_in_the_middle(driver, folder, besides=before)
        patience.set(STEP_S)
        driver.send(signal.SIGTERM)
        assert driver.wait(within_s=WITHIN_S) == 3, driver.said()
        assert_stopped_gracefully(folder, driver)

    patience.set(0.2)
    before = checkpoints(folder)
    with driving("resume", "out", folder=tmp_path, env=slow) as driver:
        wait_in_the_middle(driver, folder, besides=before)
        patience.set(60)  # a step in which no trial looks whether it is to stop
        time.sleep(1)
        driver.send_to_group(signal.SIGINT)
        time.sleep(1)
        driver.send_to_group(signal.SIGINT)
        started = time.monotonic()
        assert driver.wait(within_s=WITHIN_S) == 130, driver.said()
        print(f"from the second Ctrl-C to the end: {time.monotonic() - started:.1f} s")
        assert time.monotonic() - started < 45, "the trials were waited for"
        driver.seconds_until_gone(within_s=60)

    with driving("resume", "out", "--local", folder=tmp_path, env=env) as driver:
        assert driver.wait(within_s=WITHIN_S) == 0, driver.said()
    assert_same_numbers(folder, short_reference)
    attempts = Store(RunFolder(folder)).runs(latest=False).to_pandas()
    for key, attempt in finished.items():
        assert list(attempts[attempts["run_key"] == key]["attempt"]) == [attempt], "a finished job ran again"
    assert count(folder, Status.COMPLETED) == len(FEW)


@pytest.mark.slow
def test_every_way_to_stop_without_ray_is_orderly_and_resumes_bit_equal(
    short_spec: Path, env: dict[str, str], short_reference: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "out"
    patience = Patience(tmp_path, 0.05)
    slow = env | patience.env
    verbs: tuple[str | Path, ...] = ("run", short_spec, "--out", "out", "--local")
    for number, code in ((signal.SIGINT, 130), (signal.SIGTERM, 3)):
        before = checkpoints(folder)
        with driving(*verbs, folder=tmp_path, env=slow) as driver:
            wait_in_the_middle(driver, folder, besides=before)
            driver.send_to_group(number)
            assert driver.wait(within_s=WITHIN_S) == code, driver.said()
            assert_stopped_gracefully(folder, driver)
        verbs = ("resume", "out", "--local")

    before = checkpoints(folder)
    with driving("resume", "out", "--local", folder=tmp_path, env=slow) as driver:
        wait_in_the_middle(driver, folder, besides=before)
        patience.set(60)
        time.sleep(1)
        driver.send(signal.SIGINT)
        time.sleep(1)
        driver.send(signal.SIGINT)
        started = time.monotonic()
        assert driver.wait(within_s=WITHIN_S) == 130, driver.said()
        assert time.monotonic() - started < 45, "the training was waited for"

    with driving("resume", "out", "--local", folder=tmp_path, env=env) as driver:
        assert driver.wait(within_s=WITHIN_S) == 0, driver.said()
    assert_same_numbers(folder, short_reference)
