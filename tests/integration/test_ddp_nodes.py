"""Trials whose workers lie on several nodes: one is killed under them, there is no room for all, memory is short."""

import re
import time
from pathlib import Path
from typing import Any

import pandas as pd
import psutil
import pytest
import yaml_spec
from comparing import assert_same_numbers
from driving import Patience, alive, driving, is_rank
from several_nodes import Node, holder, several_nodes
from watching import at_once, in_the_middle

from pruneyard.orchestrator.ray_backend.memory_requests import DRIVER_BYTES, REQUEST_UNIT, SAFETY_FACTOR
from pruneyard.orchestrator.results import Results
from pruneyard.reports.layout import RunFolder
from pruneyard.reports.store import Store

pytestmark = [pytest.mark.ray, pytest.mark.distributed]

RIGL = {"name": "rigl", "density": 0.2, "schedule": {"every": 5}}
WITHIN_S = 280


def pair(folder: Path, **tables: Any) -> Path:
    """A spec of one job of two workers with a core each."""
    resources = {"workers": 2, "cpus": 1, **tables.pop("resources", {})}
    return yaml_spec.write(
        folder / "spec.yaml", yaml_spec.spec_of([RIGL], name="pair", resources=resources, **tables)
    )


def ranks_of(node: Node) -> list[psutil.Process]:
    below = node.raylet.children(recursive=True)
    return [process for process in below if alive(process) and is_rank(process)]


def test_a_node_killed_under_its_rank_costs_time_alone(env: dict[str, str], tmp_path: Path) -> None:
    """A core on each of two nodes, so that each has a rank; the trial goes on when there is a node again."""
    spec, out, patience = pair(tmp_path), tmp_path / "out", Patience(tmp_path, 0.2)
    with driving("run", spec, "--out", "alone", "--local", folder=tmp_path, env=env) as driver:
        assert driver.wait(within_s=WITHIN_S) == 0, driver.said()
    with several_nodes(env | patience.env, head=0, one=1, two=1) as nodes:
        command = ("run", spec, "--out", out, "--address", nodes.address)
        with driving(*command, folder=tmp_path, env=nodes.env) as driver:
            driver.wait_until(lambda: bool(in_the_middle(out)), within_s=WITHIN_S)
            assert [len(ranks_of(nodes[name])) for name in ("one", "two")] == [1, 1]
            nodes["two"].kill()
            nodes.add(patience.env, three=1)
            driver.wait_until(lambda: bool(ranks_of(nodes["three"])), within_s=WITHIN_S)
            patience.set(0)
            assert driver.wait(within_s=WITHIN_S) == 0, driver.said()
            assert "it resumes from its checkpoint" in driver.stderr
            one, three = (f"1 on node {nodes[name].node_id[:8]}" for name in ("one", "three"))
            assert any(one in line and three in line for line in driver.stderr.splitlines()), driver.said()
    attempts = Store(RunFolder(out)).runs(latest=False).to_pandas().sort_values("attempt")
    assert attempts["status"].tolist() == ["FAILED", "COMPLETED"]
    assert attempts["error"].iloc[0].splitlines()[-1].endswith("died"), attempts["error"].iloc[0]
    assert_same_numbers(out, tmp_path / "alone")


def test_workers_without_room_fail_with_who_holds_what(env: dict[str, str], tmp_path: Path) -> None:
    """Two cores fit a trial of two workers, but somebody else holds one of them."""
    spec = pair(tmp_path, resources={"place_within_s": 15})
    with several_nodes(env, head=0, one=1, two=1) as nodes, holder(nodes):
        command = ("run", spec, "--out", "out", "--address", nodes.address)
        with driving(*command, folder=tmp_path, env=nodes.env) as driver:
            started = time.monotonic()
            assert driver.wait(within_s=WITHIN_S) == 1, driver.said()
            print(f"no room was told of after {time.monotonic() - started:.1f} s")
    (error,) = Results(tmp_path / "out").runs()["error"]
    assert "no room for 2 workers, each with 1 CPUs, within 15 s" in error
    assert "actor Holder of job " in error
    assert "holds 1 CPUs on " in error
    assert re.search(r"node [0-9a-f]{8} .* has 0 of 1 CPUs", error)


def test_workers_that_take_more_than_their_share_of_memory_leave_no_room_for_a_second_trial(
    env: dict[str, str], tmp_path: Path
) -> None:
    """Four cores would fit two trials, and do before anything is known; then they wait for each other, however long it takes."""
    patience = Patience(tmp_path, 1.2)
    budget = {"epochs": 1, "batch_size": 64, "checkpoint_every_s": 30}
    spec = pair(tmp_path, seeds=4, budget=budget, resources={"place_within_s": 15})
    memory = 2 * DRIVER_BYTES + 8 * REQUEST_UNIT
    with several_nodes(env | patience.env, memory=memory, head=4) as nodes:
        command = ("run", spec, "--out", "out", "--address", nodes.address)
        with driving(*command, folder=tmp_path, env=nodes.env) as driver:
            assert driver.wait(within_s=WITHIN_S) == 0, driver.said()
    runs = Results(tmp_path / "out").runs().sort_values("started_at")
    assert runs["status"].tolist() == ["COMPLETED"] * 4
    assert runs["peak_memory_bytes"].min() * SAFETY_FACTOR > 2 * REQUEST_UNIT, "a rank takes more than a quarter of what is left"
    trained = runs.assign(started_at=runs["ended_at"] - pd.to_timedelta(runs["train_s"], unit="s"))
    trained = trained.sort_values("started_at")
    print(trained[["started_at", "ended_at", "train_s"]])
    assert at_once(trained[:2]) == 2
    assert at_once(trained[2:]) == 1
