"""Nodes, including the head, that are killed during a study: time is lost, and no number changes."""

import contextlib
import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from comparing import assert_nothing_lost, assert_same_numbers
from driving import StepDelay, driving
from several_nodes import Nodes, other_job_holding_a_cpu, several_nodes
from shared_head import SharedHead
from watching import wait_for_new_checkpoint, wait_for_progress
from yaml_spec import write_short_spec

from pruneyard.orchestrator.results import Results
from pruneyard.reports.layout import RunFolder
from pruneyard.reports.store import Store

pytestmark = [pytest.mark.ray, pytest.mark.nodes]

STEP_S = 0.08
SLOW_STEP_S = 0.6  # of a trial that is killed long before its end
WITHIN_S = 300  # for what takes seconds on an idle machine
PLACE_WITHIN_S = 8
# The process of a trial dies with its node, and whichever death Ray hears of first is the one it reports.
DIED_AND_RESUMES = r"\bdied( with its node)?; it resumes from its checkpoint"
RAY_GIVES_UP = {"RAY_gcs_rpc_server_reconnect_timeout_s": "20"}  # by default a driver waits 60 s for a head


@pytest.fixture(scope="module")
def head_without_cpus(env: dict[str, str]) -> Iterator[Nodes]:
    """Yields a cluster whose head has no CPUs for trials."""
    with several_nodes(env, head=0) as nodes:
        yield nodes


@contextlib.contextmanager
def further_nodes(nodes: Nodes, step_delay: StepDelay, **cpus: int) -> Iterator[None]:
    """Adds nodes to the cluster for the length of the block."""
    try:
        nodes.add(step_delay.env, **cpus)
        yield
    finally:
        for name in cpus:
            nodes[name].kill()


def test_trials_of_a_killed_node_resume_on_another_node_or_wait_for_one(
    head_without_cpus: Nodes, short_reference: Path, tmp_path: Path
) -> None:
    """One of two nodes is killed, then the other one, and a third one comes."""
    folder, step_delay = tmp_path / "out", StepDelay(tmp_path, SLOW_STEP_S)
    with further_nodes(head_without_cpus, step_delay, one=1, two=1):
        command = ("run", write_short_spec(tmp_path), "--out", "out", "--address", head_without_cpus.address)
        with driving(*command, folder=tmp_path, env=head_without_cpus.env) as driver:
            two_trials = r"2 running.*, 1 on node [0-9a-f]{8}, 1 on node [0-9a-f]{8}"
            driver.wait_until(lambda: bool(re.search(two_trials, driver.stderr)), within_s=WITHIN_S)
            head_without_cpus["one"].kill_raylet()
            driver.wait_until(lambda: ", 1 running" in driver.stderr.splitlines()[-1], within_s=WITHIN_S)
            step_delay.set(0)  # the trial is started again when the others have ended
            driver.wait_until(lambda: bool(re.search(DIED_AND_RESUMES, driver.stderr)), within_s=WITHIN_S)
            step_delay.set(SLOW_STEP_S)
            wait_for_progress(driver, folder)
            head_without_cpus["two"].kill_raylet()
            with further_nodes(head_without_cpus, step_delay, three=1):
                step_delay.set(0)
                assert driver.wait(within_s=WITHIN_S) == 0, driver.output()
    assert_nothing_lost(folder, short_reference, twice=None)
    attempts = Store(RunFolder(folder)).runs(latest=False).to_pandas()
    lost = attempts[attempts["status"] == "FAILED"]["error"]
    assert len(lost) == 2
    assert all(re.search(r"\nthe (node|process) of this trial died$", error) for error in lost), list(lost)
    assert "Traceback" not in driver.stderr
    assert "aylet" not in driver.stderr, "a message of Ray's own is shown"


def test_no_room_for_too_long_is_an_end_that_names_who_holds_what(
    head_without_cpus: Nodes, env: dict[str, str], short_reference: Path, tmp_path: Path
) -> None:
    folder, step_delay = tmp_path / "out", StepDelay(tmp_path, STEP_S)
    with further_nodes(head_without_cpus, step_delay, five=1):
        spec = write_short_spec(tmp_path, place_within_s=PLACE_WITHIN_S)
        command = ("run", spec, "--out", "out", "--address", head_without_cpus.address)
        with driving(*command, folder=tmp_path, env=head_without_cpus.env, report=True) as driver:
            wait_for_new_checkpoint(driver, folder)
            step_delay.set(3)  # so that a trial is still running when the other node has joined
            with further_nodes(head_without_cpus, step_delay, six=1), other_job_holding_a_cpu(head_without_cpus):
                head_without_cpus["five"].kill()
                assert driver.wait(within_s=WITHIN_S) == 4, driver.output()
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
        assert driver.wait(within_s=WITHIN_S) == 0, driver.output()
    assert set(Results(folder).runs()["status"]) == {"COMPLETED"}
    assert_same_numbers(folder, short_reference)


def test_a_study_reports_that_its_head_was_killed_and_resumes_on_another_head(
    env: dict[str, str], head: SharedHead, short_reference: Path, tmp_path: Path
) -> None:
    folder, step_delay = tmp_path / "out", StepDelay(tmp_path, STEP_S)
    with several_nodes(env | step_delay.env, head=1) as nodes:
        driver_env = nodes.env | RAY_GIVES_UP
        with driving(
            "run", write_short_spec(tmp_path), "--out", "out", "--address", nodes.address, folder=tmp_path, env=driver_env
        ) as driver:
            wait_for_new_checkpoint(driver, folder)
            step_delay.set(3)
            started = time.monotonic()
            nodes["head"].kill_gcs()  # the driver's own node, on which the head is, stays
            assert driver.wait(within_s=WITHIN_S) == 4, driver.output()
            print(f"from the kill of the head to the end: {time.monotonic() - started:.1f} s")
        assert "does not answer; waiting" in driver.stderr
        assert f"the head of the Ray cluster at {nodes.cluster_address} is gone" in driver.stderr
        assert "resume with: pruneyard resume" in driver.output()
        assert "Traceback" not in driver.stderr
    head.run("resume", "out", folder=tmp_path)
    assert_nothing_lost(folder, short_reference, twice=0)
