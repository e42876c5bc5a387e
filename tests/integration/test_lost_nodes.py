"""Nodes of a cluster that are killed under a study, its head among them: time is lost, never a number."""

import contextlib
import re
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from comparing import assert_nothing_lost, assert_same_numbers
from driving import Patience, driving
from several_nodes import Nodes, holder, several_nodes
from watching import completed, meet
from yaml_spec import few

from pruneyard.orchestrator.results import Results
from pruneyard.reports.layout import RunFolder
from pruneyard.reports.store import Store

pytestmark = pytest.mark.ray

STEP_S = 0.08
RAY_GIVES_UP = {"RAY_gcs_rpc_server_reconnect_timeout_s": "20"}  # of 60, which a driver waits for a head


@pytest.fixture(scope="module")
def bare_head(env: dict[str, str]) -> Iterator[Nodes]:
    """A head on which no trial has room."""
    with several_nodes(env, head=0) as nodes:
        yield nodes


@contextlib.contextmanager
def room(nodes: Nodes, patience: Patience, **cpus: int) -> Iterator[None]:
    """Further nodes for the length of the block."""
    try:
        nodes.add(patience.env, **cpus)
        yield
    finally:
        for name in cpus:
            nodes[name].kill()


def test_what_ran_on_a_killed_node_goes_on_elsewhere_from_its_checkpoint(
    bare_head: Nodes, short_reference: Path, tmp_path: Path
) -> None:
    folder, patience = tmp_path / "out", Patience(tmp_path, STEP_S)
    with room(bare_head, patience, one=1, two=1):
        command = ("run", few(tmp_path), "--out", "out", "--address", bare_head.address)
        with driving(*command, folder=tmp_path, env=bare_head.env) as driver:
            both = r"2 running.*, 1 on node [0-9a-f]{8}, 1 on node [0-9a-f]{8}"
            driver.wait_until(lambda: bool(re.search(both, driver.stderr)), within_s=120)
            bare_head["one"].kill_raylet()
            assert driver.wait(within_s=120) == 0, driver.said()
    assert_nothing_lost(folder, short_reference, twice=1)
    attempts = Store(RunFolder(folder)).runs(latest=False).to_pandas()
    (lost,) = attempts[attempts["status"] == "FAILED"]["error"]
    assert lost.endswith("\nthe node of this trial died")
    assert "died with its node; it resumes from its checkpoint" in driver.stderr
    assert "Traceback" not in driver.stderr
    assert "aylet" not in driver.stderr, "Ray's own words"


def test_trials_without_room_wait_for_a_node_to_come(
    bare_head: Nodes, short_reference: Path, tmp_path: Path
) -> None:
    folder, patience = tmp_path / "out", Patience(tmp_path, STEP_S)
    with room(bare_head, patience, three=1):
        command = ("run", few(tmp_path), "--out", "out", "--address", bare_head.address)
        with driving(*command, folder=tmp_path, env=bare_head.env) as driver:
            meet(driver, folder)
            bare_head["three"].kill()
            with room(bare_head, patience, four=1):
                assert driver.wait(within_s=120) == 0, driver.said()
    assert_nothing_lost(folder, short_reference, twice=1)


def test_no_room_for_too_long_is_an_end_that_names_who_holds_what(
    bare_head: Nodes, short_reference: Path, tmp_path: Path
) -> None:
    folder, patience = tmp_path / "out", Patience(tmp_path, STEP_S)
    with room(bare_head, patience, five=1):
        command = ("run", few(tmp_path, place_within_s=25), "--out", "out", "--address", bare_head.address)
        with driving(*command, folder=tmp_path, env=bare_head.env) as driver:
            meet(driver, folder)
            with room(bare_head, patience, six=1), holder(bare_head):
                started = time.monotonic()
                bare_head["five"].kill()
                assert driver.wait(within_s=90) == 4, driver.said()
                print(f"from the node's death to the end: {time.monotonic() - started:.1f} s")
                driver.seconds_until_gone()
        assert "nothing runs, and no trial has started for 25 s" in driver.stderr
        assert "each for 1 CPUs and 0 GPUs" in driver.stderr
        assert "is dead: " in driver.stderr
        assert "has neither CPUs nor GPUs for trials" in driver.stderr
        assert "has 0 of 1 CPUs, " in driver.stderr
        assert "actor Holder of job " in driver.stderr
        assert "holds 1 CPUs on " in driver.stderr
        assert "of this study waits for 1 CPUs" in driver.stderr
        assert "Traceback" not in driver.stderr
        assert "resume with: pruneyard resume out" in driver.stdout
        assert RunFolder(folder).report.is_file()

    with driving("resume", "out", "--local", folder=tmp_path, env=bare_head.env) as driver:
        assert driver.wait(within_s=120) == 0, driver.said()
    assert set(Results(folder).runs()["status"]) == {"COMPLETED"}
    assert_same_numbers(folder, short_reference)


def test_trials_of_a_killed_driver_end_by_themselves_and_a_second_call_goes_on(
    bare_head: Nodes, short_reference: Path, tmp_path: Path
) -> None:
    folder, patience = tmp_path / "out", Patience(tmp_path, STEP_S)
    with room(bare_head, patience, seven=2):
        env = bare_head.env
        with driving(
            "run", few(tmp_path), "--out", "out", "--address", bare_head.address, folder=tmp_path, env=env
        ) as driver:
            meet(driver, folder)
            assert bare_head["seven"].trials()
            driver.send(signal.SIGKILL)
            driver.wait(within_s=10)
            started = time.monotonic()
            while bare_head["seven"].trials():
                assert time.monotonic() - started < 30, "trials outlived their driver"
                time.sleep(0.1)
            print(f"driver killed to no trial left: {time.monotonic() - started:.1f} s")
        finished = completed(folder)
        patience.set(0)
        with driving("resume", "out", "--address", bare_head.address, folder=tmp_path, env=env) as driver:
            assert driver.wait(within_s=120) == 0, driver.said()
    assert_nothing_lost(folder, short_reference, twice=0)
    attempts = Results(folder).runs().set_index("run_key")["attempt"]
    assert all(attempts[key] == attempt for key, attempt in finished.items())


def test_a_study_whose_head_was_killed_says_so_and_goes_on_with_a_new_head(
    env: dict[str, str], short_reference: Path, tmp_path: Path
) -> None:
    folder, patience = tmp_path / "out", Patience(tmp_path, STEP_S)
    with several_nodes(env | patience.env, head=1) as nodes:
        told = nodes.env | RAY_GIVES_UP
        with driving(
            "run", few(tmp_path), "--out", "out", "--address", nodes.address, folder=tmp_path, env=told
        ) as driver:
            meet(driver, folder)
            started = time.monotonic()
            nodes["head"].kill()
            assert driver.wait(within_s=40) == 4, driver.said()
            print(f"from the head's death to the end: {time.monotonic() - started:.1f} s")
        assert "does not answer; waiting" in driver.stderr
        assert f"the head of the Ray cluster at {nodes.joined} is gone" in driver.stderr
        assert "resume with: pruneyard resume" in driver.said()
        assert "Traceback" not in driver.stderr
    patience.set(0)
    with (
        several_nodes(env | patience.env, head=1) as nodes,
        driving("resume", "out", "--address", nodes.address, folder=tmp_path, env=nodes.env) as driver,
    ):
        assert driver.wait(within_s=120) == 0, driver.said()
    assert_nothing_lost(folder, short_reference, twice=0)
