"""120 short trials on nodes and in processes that are killed repeatedly: all results exist once and are right."""

import random
import time
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml_spec
from driving import POLL_EVERY_S, StepDelay, driving
from several_nodes import Nodes, several_nodes

from pruneyard.orchestrator.results import Results
from pruneyard.reports.layout import RunFolder
from pruneyard.reports.store import Store

NUM_TRIALS = 120
KILL_EVERY_S = 4.0
MAX_NODES_KILLED = 8
WITHIN_S = 900.0  # takes about a minute on two idle cores


def kill_something(nodes: Nodes, rng: random.Random, num_killed: dict[str, int]) -> None:
    """Kills a node, which a new one replaces, in one of four calls, and otherwise a process in which a trial runs."""
    alive = [name for name in nodes.by_name if name != "head"]
    if num_killed["node"] < MAX_NODES_KILLED and rng.random() < 0.25:
        name = rng.choice(alive)
        nodes[name].kill_raylet()
        nodes[name].kill()
        del nodes.by_name[name]
        num_killed["node"] += 1
        nodes.add(**{f"new{num_killed['node']}": 1})
    elif trials := nodes[rng.choice(alive)].trials():
        rng.choice(trials).kill()
        num_killed["trial"] += 1


@pytest.mark.ray
@pytest.mark.soak
def test_no_result_of_120_trials_is_lost_or_wrong_when_processes_are_killed(
    env: dict[str, str], tmp_path: Path
) -> None:
    tables = yaml_spec.methods_spec(yaml_spec.SHORT_METHODS, name="soak")
    tables |= {
        "data": {"name": "digits", "max_train": 200, "max_test": 100},
        "model": {"name": "mlp", "width": 8, "depth": 1},
        "budget": {"steps": 12, "batch_size": 32, "checkpoint_every_s": 0.1},
        "seeds": NUM_TRIALS // len(yaml_spec.SHORT_METHODS),
    }
    spec = yaml_spec.write(tmp_path / "spec.yaml", tables)
    with driving("run", spec, "--out", "expected", "--local", folder=tmp_path, env=env) as driver:
        assert driver.wait(within_s=300) == 0, driver.output()

    step_delay = StepDelay(tmp_path, 0.02)
    rng, num_killed, started = random.Random(6), {"node": 0, "trial": 0}, time.monotonic()
    with (
        several_nodes(env | step_delay.env, head=0, one=1, two=1) as nodes,
        driving(
            "run", spec, "--out", "out", "--address", nodes.address, folder=tmp_path, env=nodes.env
        ) as driver,
    ):
        driver.wait_until(lambda: bool(nodes["one"].trials()), within_s=120)
        next_kill_at = time.monotonic()
        while driver.is_running():
            time.sleep(POLL_EVERY_S)
            if time.monotonic() >= next_kill_at:
                kill_something(nodes, rng, num_killed)
                next_kill_at = time.monotonic() + rng.uniform(0.5, 1.5) * KILL_EVERY_S
            assert time.monotonic() - started < WITHIN_S, driver.output()
        assert driver.wait(within_s=1) == 0, driver.output()
    attempts = Store(RunFolder(tmp_path / "out")).runs(latest=False).to_pandas()
    print(f"{time.monotonic() - started:.0f} s, {num_killed}, {len(attempts)} attempts")
    assert num_killed["node"] >= 2
    assert num_killed["trial"] >= 3
    assert not attempts.duplicated(["run_key", "attempt"]).any()
    assert (attempts["status"] == "COMPLETED").sum() == NUM_TRIALS
    assert len(attempts) > NUM_TRIALS
    assert set(Results(tmp_path / "out").runs()["status"]) == {"COMPLETED"}
    pd.testing.assert_frame_equal(numbers(tmp_path / "out"), numbers(tmp_path / "expected"), check_exact=True)
    for key in attempts["run_key"].unique():
        ours, theirs = (
            RunFolder(tmp_path / name).artifact(key) / "model.safetensors" for name in ("out", "expected")
        )
        assert ours.read_bytes() == theirs.read_bytes()


def numbers(folder: Path) -> pd.DataFrame:
    """Returns the metrics of every run's newest attempt, without what is measured in seconds."""
    results = Results(folder)
    newest: Any = results.runs()[["run_key", "attempt"]]
    rows = results.metrics().merge(newest, on=["run_key", "attempt"])
    columns = ["run_key", "step", "split", "name", "value"]
    return rows[columns].sort_values(columns[:-1]).reset_index(drop=True)
