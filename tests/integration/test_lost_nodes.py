"""Nodes, including the head, that are killed during a study: time is lost, and no number changes."""

import contextlib
import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from comparing import assert_nothing_lost, assert_same_numbers
from driving import Patience, driving
from several_nodes import Nodes, holder, several_nodes
from shared_head import SharedHead
from watching import meet
from yaml_spec import few

from pruneyard.orchestrator.results import Results
from pruneyard.reports.layout import RunFolder
from pruneyard.reports.store import Store

pytestmark = [pytest.mark.ray, pytest.mark.nodes]

STEP_S = 0.08
WITHIN_S = 300  # of what takes seconds on an idle machine
PLACE_WITHIN_S = 8
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


def test_trials_of_a_killed_node_resume_on_another_node_or_wait_for_one(
    bare_head: Nodes, short_reference: Path, tmp_path: Path
) -> None:
    """One of two nodes is killed, then the other one, and a third one comes."""
    folder, patience = tmp_path / "out", Patience(tmp_path, STEP_S)
    with room(bare_head, patience, one=1, two=1):
        command = ("run", few(tmp_path), "--out", "out", "--address", bare_head.address)
        with driving(*command, folder=tmp_path, env=bare_head.env) as driver:
            both = r"2 running.*, 1 on node [0-9a-f]{8}, 1 on node [0-9a-f]{8}"
            driver.wait_until(lambda: bool(re.search(both, driver.stderr)), within_s=WITHIN_S)
            bare_head["one"].kill_raylet()
            died = "died with its node; it resumes from its checkpoint"
            driver.wait_until(lambda: died in driver.stderr, within_s=WITHIN_S)
            meet(driver, folder)
            bare_head["two"].kill()
            with room(bare_head, patience, three=1):
                patience.set(0)
                assert driver.wait(within_s=WITHIN_S) == 0, driver.said()
    assert_nothing_lost(folder, short_reference, twice=None)
    attempts = Store(RunFolder(folder)).runs(latest=False).to_pandas()
    lost = attempts[attempts["status"] == "FAILED"]["error"]
    assert len(lost) == 2
    assert all(error.endswith("\nthe node of this trial died") for error in lost)
    assert "Traceback" not in driver.stderr
    assert "aylet" not in driver.stderr, "Ray's own words"


def test_no_room_for_too_long_is_an_end_that_names_who_holds_what(
    bare_head: Nodes, env: dict[str, str], short_reference: Path, tmp_path: Path
) -> None:
    folder, patience = tmp_path / "out", Patience(tmp_path, STEP_S)
    with room(bare_head, patience, five=1):
        spec = few(tmp_path, place_within_s=PLACE_WITHIN_S)
        command = ("run", spec, "--out", "out", "--address", bare_head.address)
        with driving(*command, folder=tmp_path, env=bare_head.env) as driver:
            meet(driver, folder)
            patience.set(3)  # so that it is under way when the other node has come
            with room(bare_head, patience, six=1), holder(bare_head):
                bare_head["five"].kill()
                assert driver.wait(within_s=WITHIN_S) == 4, driver.said()
                driver.seconds_until_gone()
        assert f"nothing runs, and no trial has started for {PLACE_WITHIN_S} s" in driver.stderr
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

    with driving("resume", "out", "--local", folder=tmp_path, env=env) as driver:
        assert driver.wait(within_s=WITHIN_S) == 0, driver.said()
    assert set(Results(folder).runs()["status"]) == {"COMPLETED"}
    assert_same_numbers(folder, short_reference)


def test_a_study_reports_that_its_head_was_killed_and_resumes_on_another_head(
    env: dict[str, str], head: SharedHead, short_reference: Path, tmp_path: Path
) -> None:
    folder, patience = tmp_path / "out", Patience(tmp_path, STEP_S)
    with several_nodes(env | patience.env, head=1) as nodes:
        told = nodes.env | RAY_GIVES_UP
        with driving(
            "run", few(tmp_path), "--out", "out", "--address", nodes.address, folder=tmp_path, env=told
        ) as driver:
            meet(driver, folder)
            patience.set(3)
            started = time.monotonic()
            nodes["head"].kill()
            assert driver.wait(within_s=WITHIN_S) == 4, driver.said()
            print(f"from the head's death to the end: {time.monotonic() - started:.1f} s")
        assert "does not answer; waiting" in driver.stderr
        assert f"the head of the Ray cluster at {nodes.joined} is gone" in driver.stderr
        assert "resume with: pruneyard resume" in driver.said()
        assert "Traceback" not in driver.stderr
    head.run("resume", "out", folder=tmp_path)
    assert_nothing_lost(folder, short_reference, twice=0)
