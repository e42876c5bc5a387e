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
from driving import Patience, alive, driving, is_rank
from several_nodes import Node, Nodes, holder, several_nodes
from watching import at_once, checkpoints, in_the_middle

from pruneyard.orchestrator.ray_backend.memory_requests import DRIVER_BYTES, REQUEST_UNIT, SAFETY_FACTOR
from pruneyard.orchestrator.results import Results
from pruneyard.reports.layout import RunFolder
from pruneyard.reports.store import Store

pytestmark = [pytest.mark.ray, pytest.mark.distributed, pytest.mark.nodes]

RIGL = {"name": "rigl", "density": 0.2, "schedule": {"every": 5}}
WITHIN_S = 300  # of what takes seconds on an idle machine
PLACE_WITHIN_S = 8


def pair(folder: Path, **tables: Any) -> Path:
    """A spec of one job of two workers with a core each."""
    resources = {"workers": 2, "cpus": 1, **tables.pop("resources", {})}
    return yaml_spec.write(
        folder / "spec.yaml", yaml_spec.spec_of([RIGL], name="pair", resources=resources, **tables)
    )


def ranks_of(node: Node) -> list[psutil.Process]:
    below = node.raylet.children(recursive=True)
    return [process for process in below if alive(process) and is_rank(process)]


@pytest.fixture(scope="module")
def nodes(env: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Nodes, Patience]]:
    """A head without CPUs and a node with one, to which a test adds another."""
    patience = Patience(tmp_path_factory.mktemp("patience"), 0)
    with several_nodes(env | patience.env, head=0, one=1) as started:
        yield started, patience


def test_a_node_killed_under_its_rank_costs_time_alone(
    nodes: tuple[Nodes, Patience], env: dict[str, str], tmp_path: Path
) -> None:
    """Each of two nodes has a rank; the trial resumes when there is a second node again."""
    cluster, patience = nodes
    spec, out = pair(tmp_path), tmp_path / "out"
    with driving("run", spec, "--out", "alone", "--local", folder=tmp_path, env=env) as driver:
        assert driver.wait(within_s=WITHIN_S) == 0, driver.said()
    patience.set(0.2)
    cluster.add(two=1)
    command = ("run", spec, "--out", out, "--address", cluster.address)
    with driving(*command, folder=tmp_path, env=cluster.env) as driver:
        driver.wait_until(lambda: bool(in_the_middle(out)), within_s=WITHIN_S)
        assert [len(ranks_of(cluster[name])) for name in ("one", "two")] == [1, 1]
        cluster["two"].kill()
        cluster.add(three=1)
        driver.wait_until(lambda: bool(ranks_of(cluster["three"])), within_s=WITHIN_S)
        patience.set(0)
        assert driver.wait(within_s=WITHIN_S) == 0, driver.said()
        assert "it resumes from its checkpoint" in driver.stderr
        one, three = (f"1 on node {cluster[name].node_id[:8]}" for name in ("one", "three"))
        assert any(one in line and three in line for line in driver.stderr.splitlines()), driver.said()
    cluster["three"].kill()
    attempts = Store(RunFolder(out)).runs(latest=False).to_pandas().sort_values("attempt")
    assert attempts["status"].tolist() == ["FAILED", "COMPLETED"]
    assert attempts["error"].iloc[0].splitlines()[-1].endswith("died"), attempts["error"].iloc[0]
    assert_same_numbers(out, tmp_path / "alone")


def test_workers_without_room_fail_with_who_holds_what(nodes: tuple[Nodes, Patience], tmp_path: Path) -> None:
    """Two cores fit a trial of two workers, but somebody else holds one of them."""
    cluster, _ = nodes
    spec = pair(tmp_path, resources={"place_within_s": PLACE_WITHIN_S})
    cluster.add(four=1)
    with holder(cluster):
        command = ("run", spec, "--out", "out", "--address", cluster.address)
        with driving(*command, folder=tmp_path, env=cluster.env) as driver:
            assert driver.wait(within_s=WITHIN_S) == 1, driver.said()
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
    patience, out = Patience(tmp_path, 2), tmp_path / "out"
    budget = {"epochs": 1, "batch_size": 64, "checkpoint_every_s": 0.2}
    spec = pair(tmp_path, seeds=4, budget=budget, resources={"place_within_s": PLACE_WITHIN_S})
    memory = 2 * DRIVER_BYTES + 8 * REQUEST_UNIT
    with several_nodes(env | patience.env, memory=memory, head=4) as nodes:
        command = ("run", spec, "--out", "out", "--address", nodes.address)
        with driving(*command, folder=tmp_path, env=nodes.env) as driver:
            driver.wait_until(lambda: len(keys_of(checkpoints(out))) == 2, within_s=WITHIN_S)
            patience.set(0.4)
            assert driver.wait(within_s=WITHIN_S) == 0, driver.said()
    runs = Results(out).runs().sort_values("started_at")
    assert runs["status"].tolist() == ["COMPLETED"] * 4
    assert runs["peak_memory_bytes"].min() * SAFETY_FACTOR > 2 * REQUEST_UNIT, "a rank takes more than a quarter of what is left"
    trained = runs.assign(started_at=runs["ended_at"] - pd.to_timedelta(runs["train_s"], unit="s"))
    trained = trained.sort_values("started_at")
    assert at_once(trained[:2]) == 2
    assert at_once(trained[2:]) == 1


def keys_of(found: set[Path]) -> set[str]:
    return {path.parent.parent.name for path in found}
