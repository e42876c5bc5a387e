"""Full or read-only disks and damaged checkpoints: a clear message, no job is blamed, nothing runs twice."""

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml_spec
from click.testing import CliRunner
from comparing import assert_nothing_lost, assert_same_numbers
from disks import make_read_only, mount_or_skip, unmounted_after
from driving import StepDelay, driving
from shared_head import SharedHead
from watching import completed, wait_for_new_checkpoint
from yaml_spec import write_short_spec

from pruneyard.orchestrator.cli import cli
from pruneyard.orchestrator.coordination.stop_request import StudyStoppedError
from pruneyard.orchestrator.driver.run import run
from pruneyard.orchestrator.progress.monitor import Monitor
from pruneyard.reports.layout import RunFolder
from pruneyard.reports.storage import StorageError
from pruneyard.reports.store import Store

SPEC = yaml_spec.spec_of(
    [
        {"name": "dense"},
        {"name": "rigl", "density": 0.2, "schedule": {"every": 5}},
        {"name": "static", "density": 0.5},
    ],
    name="three",
    schedule={"name": "cosine"},
    budget={"epochs": 2, "batch_size": 64, "checkpoint_every_s": 0.001},
)
ALL_COMPLETED = [("dense", 1, "COMPLETED"), ("rigl", 1, "COMPLETED"), ("static", 1, "COMPLETED")]
DISK_BYTES = 4 * 2**20
WITHIN_S = 300  # for what takes seconds on an idle machine


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs the spec where nothing fails; returns its results."""
    folder = tmp_path_factory.mktemp("reference") / "out"
    run(SPEC, folder, local=True)
    return folder


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """Yields a separate file system with room for the whole study and little more."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount_or_skip("-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", folder)
    with unmounted_after(folder):
        yield folder


def fill_disk(disk: Path, *, free_bytes: int) -> Path:
    """Writes a file that leaves so much free space on the disk; returns its path."""
    filler = disk / "filler"
    filler.write_bytes(b"")
    status = os.statvfs(disk)
    with filler.open("wb") as file:
        file.write(b"x" * (status.f_bavail * status.f_frsize - free_bytes))
    return filler


def attempts(folder: Path) -> list[tuple[str, int, str]]:
    rows = Store(RunFolder(folder)).runs(latest=False).to_pylist()
    return sorted((row["method"], row["attempt"], row["status"]) for row in rows)


class ActionDisplay:
    """A display that calls a function once: when the second job starts, or after so many of its evaluations."""

    def __init__(self, action: Callable[[], None], *, evaluations: int = 0) -> None:
        self._action, self._left = action, evaluations + 1

    def show(self, monitor: Monitor) -> None:
        """Calls the function when it is due."""
        if monitor.running and monitor.done == 1:
            self._left -= 1
            if not self._left:
                self._action()


@pytest.mark.parametrize("free_kib", [0, 32, 160, 240])
def test_a_full_disk_stops_the_study_and_room_repairs_it(free_kib: int, disk: Path, reference: Path) -> None:
    """Before anything is written, and in the middle: with 240 KiB after the first job."""
    folder = disk / "out"
    filler = fill_disk(disk, free_bytes=free_kib * 1024)
    with pytest.raises(StudyStoppedError if free_kib == 240 else StorageError) as caught:
        run(SPEC, folder, local=True)
    message = str(caught.value)
    assert message.startswith(str(folder))
    assert "no space left on device; free some space there, then give the same command again" in message
    assert {row[1:] for row in attempts(folder)} <= {(1, "COMPLETED")}, "a job was recorded as failed"
    assert attempts(folder) or free_kib < 240
    filler.unlink()
    assert run(SPEC, folder, local=True).exit_code == 0
    assert_same_numbers(folder, reference)
    assert attempts(folder) == ALL_COMPLETED
    hidden_files = [path.name for path in folder.rglob(".*") if path.name != ".driver"]
    assert hidden_files == [], "a partly written file is left"


@pytest.mark.slow
def test_a_report_that_has_no_room_takes_no_result_away(disk: Path, tmp_path: Path) -> None:
    spec = yaml_spec.write(tmp_path / "spec.yaml", SPEC)
    run(SPEC, disk / "out", local=True)
    fill_disk(disk, free_bytes=64 * 1024)
    arguments = ["run", str(spec), "--out", str(disk / "out"), "--local"]
    result = CliRunner().invoke(cli, arguments, standalone_mode=False, catch_exceptions=False)
    assert result.return_value == 0
    page = RunFolder(disk / "out").report
    assert f"pruneyard: there is no report, because of {page}: no space left on device" in result.stderr
    assert "rigl" in result.stdout, "the summary is missing"
    assert not page.exists()


@pytest.mark.ray
@pytest.mark.nodes
def test_a_full_disk_stops_the_study_on_ray_gracefully(
    disk: Path, reference: Path, head: SharedHead, tmp_path: Path
) -> None:
    spec = yaml_spec.write(tmp_path / "spec.yaml", SPEC)
    filler = fill_disk(disk, free_bytes=240 * 1024)
    driver = head.run("run", spec, "--out", disk / "out", folder=tmp_path, code=3, report=True)
    assert f"pruneyard: the study stopped, because of {disk}/out" in driver.stderr
    assert "no space left on device; free some space there, then give the same command again" in driver.stderr
    assert "Traceback" not in driver.output()
    assert {row[1:] for row in attempts(disk / "out")} <= {(1, "COMPLETED")}
    filler.unlink()
    assert run(SPEC, disk / "out", local=True).exit_code == 0
    assert_same_numbers(disk / "out", reference)
    assert attempts(disk / "out") == ALL_COMPLETED


@pytest.mark.ray
@pytest.mark.nodes
@pytest.mark.parametrize("part", ["artifacts", "results"])
def test_a_study_on_ray_stops_when_storage_becomes_read_only_and_resumes_when_it_is_writable(
    part: str, env: dict[str, str], head: SharedHead, short_reference: Path, tmp_path: Path
) -> None:
    """Trials write to `artifacts` and the driver to `results`."""
    folder, step_delay = tmp_path / "out", StepDelay(tmp_path, 0.05)
    spec = write_short_spec(tmp_path)
    with head.driving("run", spec, "--out", "out", folder=tmp_path, **step_delay.env) as driver:
        driver.wait_until(lambda: bool(completed(folder)), within_s=WITHIN_S)
        wait_for_new_checkpoint(driver, folder)
        make_read_only(folder / part)
        with unmounted_after(folder / part):
            step_delay.set(0)
            assert driver.wait(within_s=WITHIN_S) == 3, driver.output()
            finished = completed(folder)
    assert f"pruneyard: the study stopped, because of {folder / part}/" in driver.stderr
    assert "read-only file system; make it writable for this user" in driver.stderr
    assert "Traceback" not in driver.output()
    assert {status for _, _, status in attempts(folder)} == {"COMPLETED"}, "a job was recorded as failed"
    with driving("resume", "out", "--local", folder=tmp_path, env=env) as driver:
        assert driver.wait(within_s=WITHIN_S) == 0, driver.output()
    assert_nothing_lost(folder, short_reference, twice=0)
    assert finished.items() <= completed(folder).items(), "a finished job ran again"


def test_a_read_only_disk_is_said_before_anything_starts(
    disk: Path, tmp_path: Path, env: dict[str, str]
) -> None:
    mount_or_skip("-o", "remount,ro", disk)
    spec = yaml_spec.write(tmp_path / "spec.yaml", SPEC)
    with driving("run", spec, "--out", disk / "out", "--local", folder=tmp_path, env=env) as driver:
        assert driver.wait(within_s=WITHIN_S) == 2, driver.output()
    message = driver.stderr.splitlines()[-1]
    assert message.startswith(f"pruneyard: {disk}/out: read-only file system; make it writable for this user")
    assert "Traceback" not in driver.stderr


@pytest.mark.parametrize("part", ["artifacts", "results"])
def test_a_disk_that_becomes_read_only_stops_the_study(part: str, disk: Path, reference: Path) -> None:
    folder = disk / "out"
    read_only = folder / part
    with pytest.raises(StudyStoppedError) as caught:
        run(SPEC, folder, local=True, display=ActionDisplay(lambda: make_read_only(read_only)))
    with unmounted_after(read_only):
        assert str(caught.value).startswith(f"{read_only}/")
        assert "read-only file system; make it writable for this user" in str(caught.value)
        assert attempts(folder) == ALL_COMPLETED[:1]
    assert run(SPEC, folder, local=True).exit_code == 0
    assert_same_numbers(folder, reference)
    assert attempts(folder) == ALL_COMPLETED


def interrupt() -> None:
    """Ends the study as a second Ctrl-C does: at once, with nothing written."""
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ("cut short", "is damaged: state.pt does not have the digest"),
        ("another format", "has format 99, this version reads"),
    ],
)
@pytest.mark.parametrize("how_many", ["the newest", "all"])
def test_a_checkpoint_that_is_no_good_costs_steps_and_no_number(
    damage: str, message: str, how_many: str, reference: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        run(SPEC, folder, local=True, display=ActionDisplay(interrupt, evaluations=1))
    (key,) = {path.parent.name for path in folder.glob("artifacts/*/checkpoints")} - set(
        Store(RunFolder(folder)).statuses()
    )
    found = sorted(RunFolder(folder).checkpoints(key).glob("step-*"), key=str)
    damaged = found[-1:] if how_many == "the newest" else found
    for path in damaged:
        if damage == "cut short":
            (path / "state.pt").write_bytes((path / "state.pt").read_bytes()[:-9])
        else:
            meta = json.loads((path / "meta.json").read_text())
            (path / "meta.json").write_text(json.dumps({**meta, "format": 99}))
    caplog.clear()
    assert run(SPEC, folder, local=True).exit_code == 0
    assert f"checkpoint {damaged[0]} {message}" in caplog.text
    fallback = "trying the one before it" if len(damaged) < len(found) else "the job starts from its beginning"
    assert fallback in caplog.text
    assert_same_numbers(folder, reference)
    assert attempts(folder) == ALL_COMPLETED
