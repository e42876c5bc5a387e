"""Ctrl-C and SIGTERM end a study in order, within seconds, and nothing is lost."""

import signal
import time
from pathlib import Path

import pytest
from comparing import assert_same_numbers
from driving import Driver, Patience, driving
from watching import checkpoints, completed, count, in_the_middle
from yaml_spec import FEW, NUM_STEPS

from pruneyard.orchestrator.results import Results
from pruneyard.reports.layout import RunFolder
from pruneyard.reports.records import Status
from pruneyard.reports.store import Store

ENDS_WITHIN_S = 10.0


def assert_stopped_in_order(folder: Path, driver: Driver, *, started: float) -> None:
    """Finished work kept, running trials INTERRUPTED with a checkpoint, the page written, nothing left."""
    print(f"from the signal to the end: {time.monotonic() - started:.1f} s")
    assert time.monotonic() - started < ENDS_WITHIN_S
    assert driver.seconds_until_gone() < 5
    runs = Results(folder).runs()
    interrupted = runs[runs["status"] == "INTERRUPTED"]
    assert len(interrupted)
    for key in interrupted["run_key"]:
        assert list(RunFolder(folder).checkpoints(key).glob("step-*"))
    assert not (runs["status"] == "FAILED").any()
    assert RunFolder(folder).report.stat().st_mtime > runs["ended_at"].max().timestamp()
    assert not list(folder.glob(".stop*"))
    assert not (folder / ".scheduler").exists()


@pytest.mark.ray
def test_every_way_to_stop_on_ray_is_orderly_and_resumes_bit_equal(
    short_spec: Path, env: dict[str, str], reference: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "out"
    patience = Patience(tmp_path, 0.08)
    slow = env | patience.env

    with driving("run", short_spec, "--out", "out", folder=tmp_path, env=slow, terminal=True) as driver:
        driver.wait_until(lambda: bool(completed(folder)) and bool(in_the_middle(folder)), within_s=180)
        driver.type(b"\x03")  # reaches the whole process group, Ray's processes too
        started = time.monotonic()
        assert driver.wait(within_s=180) == 130, driver.said()
        assert_stopped_in_order(folder, driver, started=started)
        assert "\x1b[" in driver.stdout
        assert "starting" in driver.stdout or f"/{NUM_STEPS}" in driver.stdout, "no live table was drawn"
        assert "pruneyard resume" in driver.stdout
    finished = completed(folder)

    patience.set(0.4)
    for number, code in ((signal.SIGTERM, 3), (signal.SIGINT, 130)):
        before = checkpoints(folder)
        with driving("resume", "out", folder=tmp_path, env=slow) as driver:
            driver.wait_until(lambda before=before: bool(in_the_middle(folder, besides=before)), within_s=180)
            driver.send(number)
            started = time.monotonic()
            assert driver.wait(within_s=180) == code, driver.said()
            assert_stopped_in_order(folder, driver, started=started)

    patience.set(2)
    before = checkpoints(folder)
    with driving("resume", "out", folder=tmp_path, env=slow) as driver:
        driver.wait_until(lambda: bool(in_the_middle(folder, besides=before)), within_s=180)
        driver.send_to_group(signal.SIGINT)
        time.sleep(0.5)
        driver.send_to_group(signal.SIGINT)
        started = time.monotonic()
        assert driver.wait(within_s=180) == 130, driver.said()
        print(f"from the second Ctrl-C to the end: {time.monotonic() - started:.1f} s")
        assert time.monotonic() - started < 5
        driver.seconds_until_gone(within_s=10)

    with driving("resume", "out", "--local", folder=tmp_path, env=env) as driver:
        assert driver.wait(within_s=180) == 0, driver.said()
    assert_same_numbers(folder, reference)
    attempts = Store(RunFolder(folder)).runs(latest=False).to_pandas()
    for key, attempt in finished.items():
        assert list(attempts[attempts["run_key"] == key]["attempt"]) == [attempt], "a finished job ran again"
    assert count(folder, Status.COMPLETED) == len(FEW)


def test_every_way_to_stop_without_ray_is_orderly_and_resumes_bit_equal(
    short_spec: Path, env: dict[str, str], reference: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "out"
    patience = Patience(tmp_path, 0.05)
    slow = env | patience.env
    verbs: tuple[str | Path, ...] = ("run", short_spec, "--out", "out", "--local")
    for number, code in ((signal.SIGINT, 130), (signal.SIGTERM, 3)):
        before = checkpoints(folder)
        with driving(*verbs, folder=tmp_path, env=slow) as driver:
            driver.wait_until(lambda before=before: bool(in_the_middle(folder, besides=before)), within_s=180)
            driver.send_to_group(number)
            started = time.monotonic()
            assert driver.wait(within_s=180) == code, driver.said()
            assert_stopped_in_order(folder, driver, started=started)
        verbs = ("resume", "out", "--local")

    patience.set(1)
    before = checkpoints(folder)
    with driving("resume", "out", "--local", folder=tmp_path, env=slow) as driver:
        driver.wait_until(lambda: bool(in_the_middle(folder, besides=before)), within_s=180)
        driver.send(signal.SIGINT)
        time.sleep(0.1)
        driver.send(signal.SIGINT)
        started = time.monotonic()
        assert driver.wait(within_s=180) == 130, driver.said()
        assert time.monotonic() - started < 3

    with driving("resume", "out", "--local", folder=tmp_path, env=env) as driver:
        assert driver.wait(within_s=180) == 0, driver.said()
    assert_same_numbers(folder, reference)
