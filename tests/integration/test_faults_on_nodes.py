"""Faults of storage, clocks, folders and specs under studies on several nodes of a Ray cluster: a word for each, no number lost.

Nodes and heads that die are in `test_lost_nodes.py`.
"""

import json
import shutil
import signal
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from clocks import FAKETIME, Clock
from comparing import assert_nothing_lost
from disks import turned_read_only, unmounted_after
from driving import Driver, Patience, driving
from object_store import BUCKET, ObjectStore, Wire, wire_to
from several_nodes import Nodes, several_nodes
from watching import checkpoints, completed, count, meet, with_two_checkpoints
from yaml_spec import FEW, few

from pruneyard.reports.layout import RunFolder
from pruneyard.reports.objects import ObjectPath
from pruneyard.reports.records import Status
from pruneyard.reports.store import Store

pytestmark = pytest.mark.ray

STEP_S = 0.05


@dataclass(frozen=True)
class Site:
    """A cluster, how slow trainings on it are, and the wire by which it reaches the object store."""

    nodes: Nodes
    patience: Patience
    wire: Wire

    def driving(
        self, *arguments: str | Path, folder: Path, clock: Clock | None = None
    ) -> AbstractContextManager[Driver]:
        """A driver that joins the cluster."""
        env = self.nodes.env if clock is None else clock.told(self.nodes.env)
        return driving(*arguments, "--address", self.nodes.address, folder=folder, env=env)


@pytest.fixture(scope="module")
def cluster(
    env: dict[str, str], store: ObjectStore, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Site]:
    """A head without CPUs and two nodes with one each, with the object store's credentials in their environment."""
    patience = Patience(tmp_path_factory.mktemp("patience"), 0)
    with wire_to(store) as wire:
        told = env | patience.env | store.env_at(wire.port)
        with several_nodes(told, head=0, one=1, two=1) as nodes:
            yield Site(nodes, patience, wire)


@pytest.fixture
def site(cluster: Site) -> Iterator[Site]:
    """The same for every test: slow trainings and a quick store."""
    cluster.patience.set(STEP_S)
    yield cluster
    cluster.wire.delay_s = 0.0


@pytest.fixture(scope="module")
def stopped(cluster: Site, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study that was stopped when trainings of both nodes had left two checkpoints."""
    cluster.patience.set(STEP_S)
    folder = tmp_path_factory.mktemp("stopped")
    with cluster.driving("run", few(folder), "--out", "out", folder=folder) as driver:
        driver.wait_until(lambda: len(with_two_checkpoints(folder / "out")) == 2, within_s=120)
        driver.send(signal.SIGTERM)
        assert driver.wait(within_s=60) == 3, driver.said()
    assert count(folder / "out", Status.INTERRUPTED) == 2
    return folder / "out"


@pytest.fixture
def unfinished(stopped: Path, site: Site, tmp_path: Path) -> Path:
    """The folder of that study, for this test alone."""
    site.patience.set(0)
    return Path(shutil.copytree(stopped, tmp_path / "out"))


def go_on(site: Site, folder: Path) -> Driver:
    """The study to its end."""
    site.patience.set(0)
    with site.driving("resume", folder.name, folder=folder.parent) as driver:
        assert driver.wait(within_s=120) == 0, driver.said()
    return driver


def contents(folder: Path) -> dict[Path, bytes]:
    """Of every file that is not about who is at work there."""
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and ".driver" not in path.name}


def test_of_a_checkpoint_of_another_version_the_one_before_it_is_taken(
    unfinished: Path, site: Site, short_reference: Path
) -> None:
    rewritten = []
    for key in with_two_checkpoints(unfinished):
        before, newest = sorted(path for path in checkpoints(unfinished) if path.parent.parent.name == key)
        meta = json.loads((newest / "meta.json").read_text())
        (newest / "meta.json").write_text(json.dumps({**meta, "format": 99}))
        rewritten.append(newest)
        assert before.exists()
    assert len(rewritten) == 2
    driver = go_on(site, unfinished)
    for path in rewritten:
        assert f"checkpoint {path} has format 99, this version reads" in driver.stderr
    assert driver.stderr.count("trying the one before it") == 2
    assert "Traceback" not in driver.stderr
    assert_nothing_lost(unfinished, short_reference, twice=2)


def test_a_spec_that_was_changed_is_refused_with_the_fields_and_nothing_is_lost(
    unfinished: Path, site: Site, short_reference: Path, tmp_path: Path
) -> None:
    spec, other, finished = unfinished / "spec.yaml", tmp_path / "other.yaml", completed(unfinished)
    as_run = spec.read_text()
    changed = as_run.replace("width: 32", "width: 33")
    assert changed != as_run
    other.write_text(changed)
    for changed_by_hand in (True, False):
        spec.write_text(changed if changed_by_hand else as_run)
        before = contents(unfinished)
        words = ("resume", "out") if changed_by_hand else ("run", other, "--out", "out")
        with site.driving(*words, folder=tmp_path) as driver:
            assert driver.wait(within_s=60) == 2, driver.said()
        left = len(FEW) - len(finished)
        assert f"holds a study of {len(FEW)} jobs, {left} of which are not finished" in driver.stderr
        assert "\n  model.width: 32 there, 33 here\n" in driver.stderr
        assert "Traceback" not in driver.stderr
        assert contents(unfinished) == before, "the refused call wrote to the folder"
    go_on(site, unfinished)
    assert_nothing_lost(unfinished, short_reference, twice=2)
    assert finished.items() <= completed(unfinished).items(), "what had finished ran again"


def test_a_second_driver_on_the_folder_is_refused_with_the_first_s_process_and_harms_nothing(
    site: Site, short_reference: Path, tmp_path: Path
) -> None:
    command = ("run", few(tmp_path), "--out", "out")
    with site.driving(*command, folder=tmp_path) as first:
        meet(first, tmp_path / "out")
        with site.driving(*command, folder=tmp_path) as second:
            assert second.wait(within_s=60) == 2, second.said()
        assert first.running(), "the first had ended before the second was refused"
        who = f"out: another pruneyard is running in this folder (process {first.process.pid} on "
        assert who in second.stderr
        assert "Traceback" not in second.stderr
        site.patience.set(0)
        assert first.wait(within_s=120) == 0, first.said()
    assert_nothing_lost(tmp_path / "out", short_reference, twice=0)


@pytest.mark.parametrize("part", ["artifacts", "results"])
def test_storage_that_becomes_read_only_stops_the_study_and_one_that_is_mended_goes_on(
    part: str, site: Site, short_reference: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "out"
    with site.driving("run", few(tmp_path), "--out", "out", folder=tmp_path) as driver:
        driver.wait_until(lambda: bool(completed(folder)), within_s=120)
        meet(driver, folder)
        turned_read_only(folder / part)
        with unmounted_after(folder / part):
            assert driver.wait(within_s=60) == 3, driver.said()
            finished = completed(folder)
    assert f"pruneyard: the study stopped, because of {folder / part}/" in driver.stderr
    assert "read-only file system; make it writable for this user" in driver.stderr
    assert "Traceback" not in driver.said()
    assert set(Store(RunFolder(folder)).runs(latest=False).to_pandas()["status"]) == {"COMPLETED"}, "a job was blamed"
    go_on(site, folder)
    assert_nothing_lost(folder, short_reference, twice=0)
    assert finished.items() <= completed(folder).items(), "what had finished ran again"


@pytest.mark.skipif(not FAKETIME, reason="libfaketime is not installed")
def test_clocks_of_a_node_and_of_the_driver_that_jump_cost_neither_a_number_nor_an_attempt(
    site: Site, short_reference: Path, tmp_path: Path
) -> None:
    folder, clock = tmp_path / "out", Clock(tmp_path)
    clock.set(10)
    site.nodes.add(clock.told(site.nodes.env), three=1)
    try:
        with site.driving("run", few(tmp_path), "--out", "out", folder=tmp_path, clock=clock) as driver:
            meet(driver, folder)
            clock.set(-10)
            meet(driver, folder)
            clock.set(20)
            assert driver.wait(within_s=120) == 0, driver.said()
    finally:
        site.nodes["three"].kill()
    assert_nothing_lost(folder, short_reference, twice=0)
    runs = Store(RunFolder(folder)).runs().to_pandas()
    off = (runs["ended_at"] - datetime.now(UTC)).abs() > timedelta(days=5)
    assert off.any(), "no trial saw another clock"
    assert not off.all(), "every trial did"
    assert runs["wall_s"].between(0, 200).all(), "durations are read from the clock that was set"


def test_results_in_a_slow_object_store_cost_time_and_nothing_else(
    site: Site, short_reference: Path, tmp_path: Path
) -> None:
    uri = f"s3://{BUCKET}/slow-nodes"
    site.patience.set(0)
    site.wire.delay_s = 0.1
    with site.driving("run", few(tmp_path), "--out", uri, folder=tmp_path) as driver:
        assert driver.wait(within_s=200) == 0, driver.said()
    assert site.wire.delayed >= 10 * len(FEW), "the nodes did not write by the slow wire"
    assert "Traceback" not in driver.stderr
    assert {path.name for path in ObjectPath.of(uri).iterdir()} == {
        *("artifacts", "plan.json", "report.html", "results", "spec.yaml")
    }
    assert_nothing_lost(uri, short_reference, twice=0)
