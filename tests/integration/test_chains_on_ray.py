"""A chain on Ray: jobs start after their own inputs, many short jobs per trial, and a process that crashes among them."""

import random
import signal
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from driving import driving
from shared_head import SharedHead
from watching import completed
from yaml_spec import write

from pruneyard.orchestrator.results import Results
from pruneyard.reports.layout import RunFolder
from pruneyard.reports.store import Store

pytestmark = [pytest.mark.ray, pytest.mark.slow]

CHAIN: dict[str, Any] = {
    "name": "chain",
    "stages": {
        "train": {
            "kind": "sparse",
            "data": {"name": "digits", "max_train": 400, "max_test": 100},
            "model": {"name": "mlp", "width": 16},
            "method": {"name": "static", "density": 0.5},
            "budget": {"epochs": 2, "batch_size": 32},
            "seeds": 5,
        },
        "calibrate": {
            "kind": "calibrate",
            "input": {"from": "train"},
            "grid": {"method": ["none", "fatal", "vector", "isotonic"]},
        },
    },
}


PLAIN = {
    "name": "plain",
    "stages": {
        "train": CHAIN["stages"]["train"],
        "tune": {**CHAIN["stages"]["train"], "initial": {"from": "train"}, "seeds": [7]},
        "calibrate": {"kind": "calibrate", "input": {"from": "tune"}, "grid": {"method": ["none", "vector", "isotonic"]}},
    },
}


def values(folder: Path) -> pd.Series:
    """Returns the metrics of the newest attempts, without what is measured in seconds."""
    results = Results(folder)
    rows = results.metrics().merge(results.runs()[["run_key", "attempt"]], on=["run_key", "attempt"])
    names = ["run_key", "split", "name"]  # their categories depend on the order of the files
    return rows.astype(dict.fromkeys(names, str)).set_index([*names, "step"])["value"].sort_index()


def test_a_bundle_whose_process_crashes_loses_nothing_and_repeats_nothing(
    env: dict[str, str], head: SharedHead, tmp_path: Path
) -> None:
    spec = write(tmp_path / "chain.yaml", CHAIN)
    killed = tmp_path / "killed"
    head.run("run", spec, "--out", "out", folder=tmp_path, KILLED_FILE=str(killed))
    assert killed.exists()
    attempts = Store(RunFolder(tmp_path / "out")).runs(latest=False).to_pandas()
    assert set(Results(tmp_path / "out").runs()["status"]) == {"COMPLETED"}
    failed = attempts[attempts["status"] == "FAILED"]
    assert [(row["method"], row["seed"]) for _, row in failed.iterrows()] == [("fatal", 2)]
    counts = attempts["run_key"].value_counts()
    assert counts.drop(failed["run_key"].item()).eq(1).all()
    assert attempts["stage"].value_counts().to_dict() == {"train": 5, "calibrate": 21}
    ended = attempts.set_index("run_key")["ended_at"]
    consumers = attempts[attempts["stage"] == "calibrate"]
    assert all(row["started_at"] >= ended[row["parent_key"]] for _, row in consumers.iterrows())
    with driving("run", spec, "--out", "alone", "--local", folder=tmp_path, env=env | {"KILLED_FILE": str(killed)}) as driver:
        assert driver.wait(within_s=300) == 0, driver.output()
    ours, theirs = values(tmp_path / "out"), values(tmp_path / "alone")
    assert len(ours) > 500
    pd.testing.assert_series_equal(ours, theirs, check_exact=True)


def test_a_chain_whose_driver_is_killed_at_any_moment_resumes_with_the_same_runs_and_numbers(
    env: dict[str, str], head: SharedHead, tmp_path: Path
) -> None:
    spec, folder = write(tmp_path / "plain.yaml", PLAIN), tmp_path / "out"
    num_jobs = 5 + 5 + 15
    moment = random.randrange(1, num_jobs - 5)
    with head.driving("run", spec, "--out", "out", folder=tmp_path) as driver:
        driver.wait_until(lambda: len(completed(folder)) >= moment, within_s=300)
        driver.send_signal(signal.SIGKILL)
        driver.wait(within_s=60)
        head.wait_until_idle()
    finished = completed(folder)
    head.run("resume", "out", folder=tmp_path)
    with driving("run", spec, "--out", "alone", "--local", folder=tmp_path, env=env) as driver:
        assert driver.wait(within_s=300) == 0, driver.output()
    ours, theirs = values(folder), values(tmp_path / "alone")
    assert Results(folder).runs()["run_key"].nunique() == num_jobs
    pd.testing.assert_series_equal(ours, theirs, check_exact=True)
    attempts = Results(folder).runs().set_index("run_key")["attempt"]
    assert all(attempts[key] == attempt for key, attempt in finished.items()), f"ran twice, killed after {moment} runs"
