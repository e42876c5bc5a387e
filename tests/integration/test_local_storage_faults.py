"""Full or read-only disks and damaged checkpoints: a clear message, no job is blamed, nothing runs twice."""

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml_spec
from click.testing import CliRunner
from comparing import assert_nothing_lost, assert_same_numbers
from disks import mounted, turned_read_only, unmounted_after
from driving import Patience, driving
from shared_head import SharedHead
from watching import completed, meet
from yaml_spec import few

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
ALL = [("dense", 1, "COMPLETED"), ("rigl", 1, "COMPLETED"), ("static", 1, "COMPLETED")]
DISK_BYTES = 4 * 2**20
WITHIN_S = 300  # of what takes seconds on an idle machine


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The results of that spec where nothing fails."""
    folder = tmp_path_factory.mktemp("here") / "out"
    run(SPEC, folder, local=True)
    return folder


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own with room for the whole study and little more."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted("-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", folder)
    with unmounted_after(folder):
        yield folder


def filled(disk: Path, *, free_bytes: int) -> Path:
    """A file that leaves so much of the disk."""
    filler = disk / "filler"
    filler.write_bytes(b"")
    status = os.statvfs(disk)
    with filler.open("wb") as file:
        file.write(b"x" * (status.f_bavail * status.f_frsize - free_bytes))
    return filler


def attempts(folder: Path) -> list[tuple[str, int, str]]:
    rows = Store(RunFolder(folder)).runs(latest=False).to_pylist()
    return sorted((row["method"], row["attempt"], row["status"]) for row in rows)


class Acts:
    """A display that does something once: when the second job starts, or after so many of its evaluations."""

    def __init__(self, act: Callable[[], None], *, evaluations: int = 0) -> None:
        self._act, self._left = act, evaluations + 1

    def show(self, monitor: Monitor) -> None:
        """Once."""
        if monitor.running and monitor.done == 1:
            self._left -= 1
            if not self._left:
                self._act()


@pytest.mark.parametrize("free_kib", [0, 32, 160, 240])
def test_a_full_disk_stops_the_study_and_room_repairs_it(free_kib: int, disk: Path, here: Path) -> None:
    """Before anything is written, and in the middle: with 240 KiB after the first job."""
    folder = disk / "out"
    filler = filled(disk, free_bytes=free_kib * 1024)
    with pytest.raises(StudyStoppedError if free_kib == 240 else StorageError) as caught:
        run(SPEC, folder, local=True)
    said = str(caught.value)
    assert said.startswith(str(folder))
    assert "no space left on device; free some space there, then give the same command again" in said
    assert {row[1:] for row in attempts(folder)} <= {(1, "COMPLETED")}, "a job was blamed for its storage"
    assert attempts(folder) or free_kib < 240
    filler.unlink()
    assert run(SPEC, folder, local=True).exit_code == 0
    assert_same_numbers(folder, here)
    assert attempts(folder) == ALL
    hidden = [path.name for path in folder.rglob(".*") if path.name != ".driver"]
    assert hidden == [], "what could not be written to its end stays behind"


@pytest.mark.slow
def test_a_report_that_has_no_room_takes_no_result_away(disk: Path, tmp_path: Path) -> None:
    spec = yaml_spec.write(tmp_path / "spec.yaml", SPEC)
    run(SPEC, disk / "out", local=True)
    filled(disk, free_bytes=64 * 1024)
    words = ["run", str(spec), "--out", str(disk / "out"), "--local"]
    answer = CliRunner().invoke(cli, words, standalone_mode=False, catch_exceptions=False)
    assert answer.return_value == 0
    page = RunFolder(disk / "out").report
    assert f"pruneyard: there is no report, because of {page}: no space left on device" in answer.stderr
    assert "rigl" in answer.stdout, "no summary"
    assert not page.exists()


@pytest.mark.ray
@pytest.mark.nodes
def test_a_full_disk_stops_the_study_on_ray_gracefully(
    disk: Path, here: Path, head: SharedHead, tmp_path: Path
) -> None:
    spec = yaml_spec.write(tmp_path / "spec.yaml", SPEC)
    filler = filled(disk, free_bytes=240 * 1024)
    driver = head.run("run", spec, "--out", disk / "out", folder=tmp_path, code=3)
    assert f"pruneyard: the study stopped, because of {disk}/out" in driver.stderr
    assert "no space left on device; free some space there, then give the same command again" in driver.stderr
    assert "Traceback" not in driver.said()
    assert {row[1:] for row in attempts(disk / "out")} <= {(1, "COMPLETED")}
    filler.unlink()
    assert run(SPEC, disk / "out", local=True).exit_code == 0
    assert_same_numbers(disk / "out", here)
    assert attempts(disk / "out") == ALL


@pytest.mark.ray
@pytest.mark.nodes
@pytest.mark.parametrize("part", ["artifacts", "results"])
def test_a_study_on_ray_stops_when_storage_becomes_read_only_and_resumes_when_it_is_writable(
    part: str, env: dict[str, str], head: SharedHead, short_reference: Path, tmp_path: Path
) -> None:
    """Trials write to `artifacts` and the driver to `results`."""
    folder, patience = tmp_path / "out", Patience(tmp_path, 0.05)
    spec = few(tmp_path)
    with head.driving("run", spec, "--out", "out", folder=tmp_path, **patience.env) as driver:
        driver.wait_until(lambda: bool(completed(folder)), within_s=WITHIN_S)
        meet(driver, folder)
        turned_read_only(folder / part)
        with unmounted_after(folder / part):
            patience.set(0)
            assert driver.wait(within_s=WITHIN_S) == 3, driver.said()
            finished = completed(folder)
    assert f"pruneyard: the study stopped, because of {folder / part}/" in driver.stderr
    assert "read-only file system; make it writable for this user" in driver.stderr
    assert "Traceback" not in driver.said()
    assert {status for _, _, status in attempts(folder)} == {"COMPLETED"}, "a job was blamed"
    with driving("resume", "out", "--local", folder=tmp_path, env=env) as driver:
        assert driver.wait(within_s=WITHIN_S) == 0, driver.said()
    assert_nothing_lost(folder, short_reference, twice=0)
    assert finished.items() <= completed(folder).items(), "what had finished ran again"


def test_a_read_only_disk_is_said_before_anything_starts(
    disk: Path, tmp_path: Path, env: dict[str, str]
) -> None:
    mounted("-o", "remount,ro", disk)
    spec = yaml_spec.write(tmp_path / "spec.yaml", SPEC)
    with driving("run", spec, "--out", disk / "out", "--local", folder=tmp_path, env=env) as driver:
        assert driver.wait(within_s=WITHIN_S) == 2, driver.said()
    said = driver.stderr.splitlines()[-1]
    assert said.startswith(f"pruneyard: {disk}/out: read-only file system; make it writable for this user")
    assert "Traceback" not in driver.stderr


@pytest.mark.parametrize("part", ["artifacts", "results"])
def test_a_disk_that_becomes_read_only_stops_the_study(part: str, disk: Path, here: Path) -> None:
    folder = disk / "out"
    turned = folder / part
    with pytest.raises(StudyStoppedError) as caught:
        run(SPEC, folder, local=True, display=Acts(lambda: turned_read_only(turned)))
    with unmounted_after(turned):
        assert str(caught.value).startswith(f"{turned}/")
        assert "read-only file system; make it writable for this user" in str(caught.value)
        assert attempts(folder) == ALL[:1]
    assert run(SPEC, folder, local=True).exit_code == 0
    assert_same_numbers(folder, here)
    assert attempts(folder) == ALL


def die() -> None:
    """As a second Ctrl-C does: at once, with nothing written."""
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        ("cut short", "is damaged: state.pt does not have the digest"),
        ("another format", "has format 99, this version reads"),
    ],
)
@pytest.mark.parametrize("how_many", ["the newest", "all"])
def test_a_checkpoint_that_is_no_good_costs_steps_and_no_number(
    damage: str, words: str, how_many: str, here: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        run(SPEC, folder, local=True, display=Acts(die, evaluations=1))
    (begun,) = {path.parent.name for path in folder.glob("artifacts/*/checkpoints")} - set(
        Store(RunFolder(folder)).statuses()
    )
    found = sorted(RunFolder(folder).checkpoints(begun).glob("step-*"), key=str)
    damaged = found[-1:] if how_many == "the newest" else found
    for path in damaged:
        if damage == "cut short":
            (path / "state.pt").write_bytes((path / "state.pt").read_bytes()[:-9])
        else:
            meta = json.loads((path / "meta.json").read_text())
            (path / "meta.json").write_text(json.dumps({**meta, "format": 99}))
    caplog.clear()
    assert run(SPEC, folder, local=True).exit_code == 0
    assert f"checkpoint {damaged[0]} {words}" in caplog.text
    instead = "trying the one before it" if len(damaged) < len(found) else "the job starts from its beginning"
    assert instead in caplog.text
    assert_same_numbers(folder, here)
    assert attempts(folder) == ALL
