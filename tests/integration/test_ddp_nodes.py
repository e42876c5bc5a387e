"""Trials whose workers run on several nodes: one node is killed, there is no room for all, memory is short."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import psutil
import pytest
import yaml_spec
from comparing import assert_same_numbers
from driving import StepDelay, alive, driving, is_rank
from several_nodes import Node, Nodes, other_job_holding_a_cpu, several_nodes
from watching import checkpoints, max_concurrent, runs_in_progress

from pruneyard.orchestrator.ray_backend.memory_requests import DRIVER_BYTES, REQUEST_UNIT, SAFETY_FACTOR
from pruneyard.orchestrator.results import Results
from pruneyard.reports.layout import RunFolder
from pruneyard.reports.store import Store

pytestmark = [pytest.mark.ray, pytest.mark.distributed, pytest.mark.nodes]

RIGL = {"name": "rigl", "density": 0.2, "schedule": {"every": 5}}
WITHIN_S = 300  # for what takes seconds on an idle machine
PLACE_WITHIN_S = 8


def two_worker_spec(folder: Path, **tables: Any) -> Path:
    """Writes a spec of one job with two workers, with a core each."""
    resources = {"workers": 2, "cpus": 1, **tables.pop("resources", {})}
    return yaml_spec.write(
        folder / "spec.yaml", yaml_spec.spec_of([RIGL], name="pair", resources=resources, **tables)
    )


def ranks_of(node: Node) -> list[psutil.Process]:
    children = node.raylet.children(recursive=True)
    return [process for process in children if alive(process) and is_rank(process)]


@pytest.fixture(scope="module")
def nodes(env: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Nodes, StepDelay]]:
    """Yields a head without CPUs and a node with one, to which a test adds another node."""
    step_delay = StepDelay(tmp_path_factory.mktemp("step-delay"), 0)
    with several_nodes(env | step_delay.env, head=0, one=1) as started:
        yield started, step_delay


def test_a_node_killed_under_its_rank_costs_time_alone(
    nodes: tuple[Nodes, StepDelay], env: dict[str, str], tmp_path: Path
) -> None:
    """Each of two nodes has a rank; the trial resumes when there is a second node again."""
    cluster, step_delay = nodes
    spec, out = two_worker_spec(tmp_path), tmp_path / "out"
    with driving("run", spec, "--out", "alone", "--local", folder=tmp_path, env=env) as driver:
        assert driver.wait(within_s=WITHIN_S) == 0, driver.output()
    step_delay.set(0.2)
    cluster.add(two=1)
    command = ("run", spec, "--out", out, "--address", cluster.address)
    with driving(*command, folder=tmp_path, env=cluster.env) as driver:
        driver.wait_until(lambda: bool(runs_in_progress(out)), within_s=WITHIN_S)
        assert [len(ranks_of(cluster[name])) for name in ("one", "two")] == [1, 1]
        cluster["two"].kill()
        cluster.add(three=1)
        driver.wait_until(lambda: bool(ranks_of(cluster["three"])), within_s=WITHIN_S)
        step_delay.set(0)
        assert driver.wait(within_s=WITHIN_S) == 0, driver.output()
        assert "it resumes from its checkpoint" in driver.stderr
        one, three = (f"1 on node {cluster[name].node_id[:8]}" for name in ("one", "three"))
        assert any(one in line and three in line for line in driver.stderr.splitlines()), driver.output()
    cluster["three"].kill()
    attempts = Store(RunFolder(out)).runs(latest=False).to_pandas().sort_values("attempt")
    assert attempts["status"].tolist() == ["FAILED", "COMPLETED"]
    assert attempts["error"].iloc[0].splitlines()[-1].endswith("died"), attempts["error"].iloc[0]
    assert_same_numbers(out, tmp_path / "alone")


def test_workers_without_room_fail_with_who_holds_what(nodes: tuple[Nodes, StepDelay], tmp_path: Path) -> None:
    """Two cores fit a trial of two workers, but somebody else holds one of them."""
    cluster, _ = nodes
    spec = two_worker_spec(tmp_path, resources={"place_within_s": PLACE_WITHIN_S})
    cluster.add(four=1)
    with other_job_holding_a_cpu(cluster):
        command = ("run", spec, "--out", "out", "--address", cluster.address)
        with driving(*command, folder=tmp_path, env=cluster.env) as driver:
            assert driver.wait(within_s=WITHIN_S) == 1, driver.output()
    cluster["four"].kill()
    (error,) = Results(tmp_path / "out").runs()["error"]
    assert f"no room for 2 workers, each with 1 CPUs, within {PLACE_WITHIN_S} s" in error
    assert "actor Holder of job " in error
    assert "holds 1 CPUs on " in error
    assert re.search(r"node [0-9a-f]{8} .* has 0 of 1 CPUs", error)


def test_workers_that_take_more_than_their_share_of_memory_leave_no_room_for_a_second_trial(
    env: dict[str, str], tmp_path: Path
) -> None:
    """Four cores would fit two trials, and do before anything is known; then they wait for each other, however long it takes."""
    step_delay, out = StepDelay(tmp_path, 2), tmp_path / "out"
    budget = {"epochs": 1, "batch_size": 64, "checkpoint_every_s": 0.2}
    spec = two_worker_spec(tmp_path, seeds=4, budget=budget, resources={"place_within_s": PLACE_WITHIN_S})
    memory = 2 * DRIVER_BYTES + 8 * REQUEST_UNIT
    with several_nodes(env | step_delay.env, memory=memory, head=4) as nodes:
        command = ("run", spec, "--out", "out", "--address", nodes.address)
        with driving(*command, folder=tmp_path, env=nodes.env) as driver:
            driver.wait_until(lambda: len(keys_of(checkpoints(out))) == 2, within_s=WITHIN_S)
            step_delay.set(0.4)
            assert driver.wait(within_s=WITHIN_S) == 0, driver.output()
    runs = Results(out).runs().sort_values("started_at")
    assert runs["status"].tolist() == ["COMPLETED"] * 4
    peak_bytes = runs["peak_memory_bytes"].min()
    assert peak_bytes * SAFETY_FACTOR > 2 * REQUEST_UNIT, "a rank takes at most a quarter of the memory that is left"
    trainings = runs.assign(started_at=runs["ended_at"] - pd.to_timedelta(runs["train_s"], unit="s"))
    trainings = trainings.sort_values("started_at")
    assert max_concurrent(trainings[:2]) == 2
    assert max_concurrent(trainings[2:]) == 1


def keys_of(checkpoint_paths: set[Path]) -> set[str]:
    return {path.parent.parent.name for path in checkpoint_paths}
