"""Training functions of a script, sent to Ray by value: the numbers of a run without Ray, whatever is killed."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from driving import POLL_EVERY_S, StepDelay
from shared_head import SharedHead
from study_of_functions import EPOCHS
from watching import checkpoints, completed, step_of

from pruneyard.orchestrator.results import Results
from pruneyard.reports.layout import RunFolder
from pruneyard.reports.store import Store

pytestmark = pytest.mark.ray

SCRIPT = Path(__file__).parent / "study_of_functions.py"
WITHIN_S = 600  # a pair of workers takes up to two minutes to start on a busy machine


@contextlib.contextmanager
def running(study: str, out: Path, address: str, *, env: dict[str, str]) -> Iterator["subprocess.Popen[str]"]:
    """Yields the process of a copy of the script, from which nothing else can import; kills it after the block."""
    script = out.parent / "my_study.py"
    shutil.copy(SCRIPT, script)
    with (out.parent / f"{out.name}.log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, str(script), study, str(out), address],
            cwd=out.parent,
            env=env,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def end_of(process: "subprocess.Popen[str]", out: Path) -> int:
    """Waits for the end of the script; returns the exit code of the study, which it prints."""
    stdout, _ = process.communicate(timeout=WITHIN_S)
    assert process.returncode == 0, (out.parent / f"{out.name}.log").read_text()
    return int(stdout.splitlines()[-1])


def run(study: str, out: Path, address: str, *, env: dict[str, str]) -> int:
    """Runs a study of the script to its end; returns its exit code."""
    with running(study, out, address, env=env) as process:
        return end_of(process, out)


def rows(folder: Path) -> dict[str, list[Any]]:
    """Returns the metrics of the newest attempt of every run, by run key."""
    results = Results(folder)
    newest = results.runs().set_index("run_key")["attempt"]
    found: dict[str, list[Any]] = {key: [] for key in newest.index}
    for row in results.metrics().itertuples():
        if row.attempt == newest[row.run_key]:
            found[row.run_key].append((row.step, row.epoch, row.split, row.name, row.value))
    return found


def arguments(results: Results) -> dict[str, dict[str, Any]]:
    """Returns the arguments of every run, by run key."""
    runs = results.runs()
    return {
        key: json.loads(spec)["arguments"]
        for key, spec in zip(runs["run_key"], runs["spec_json"], strict=True)
    }


@pytest.mark.slow
def test_a_function_of_a_script_gives_under_asha_what_it_gives_without_ray(
    head: SharedHead, env: dict[str, str], tmp_path: Path
) -> None:
    ours, expected = tmp_path / "out", tmp_path / "local"
    assert run("asha", ours, head.address, env=head.env({})) == 0
    assert run("asha", expected, "local", env=env) == 0
    assert rows(ours) == rows(expected)
    statuses = Store(RunFolder(ours)).statuses()
    assert statuses == Store(RunFolder(expected)).statuses()
    assert sorted(status.value for status, _ in statuses.values()).count("PRUNED") == 2
    assert len(statuses) == 6
    best = Results(ours).best("accuracy")
    assert best["arguments.lr"] == 0.5
    head.wait_until_idle()


@pytest.mark.slow
def test_a_killed_trial_resumes_from_the_checkpoint_of_its_function_and_ends_bit_equal(
    head: SharedHead, env: dict[str, str], tmp_path: Path
) -> None:
    ours, expected, starts = tmp_path / "out", tmp_path / "local", tmp_path / "starts.jsonl"
    step_delay = StepDelay(tmp_path, 0.5)
    variables = {**step_delay.env, "STARTS_FILE": str(starts)}
    with running("walk", ours, head.address, env=head.env(variables)) as process:
        deadline = time.monotonic() + WITHIN_S
        while not any(step_of(path) >= 2 for path in checkpoints(ours)):
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(POLL_EVERY_S)
        assert not completed(ours)
        # The first to start has a checkpoint; another may have a process, and not yet its first step.
        os.kill(json.loads(starts.read_text().splitlines()[0])["process"], signal.SIGKILL)
        step_delay.set(0)
        assert end_of(process, ours) == 0
    assert run("walk", expected, "local", env=env) == 0
    assert rows(ours) == rows(expected)
    attempts = Store(RunFolder(ours)).runs(latest=False).to_pandas().sort_values("attempt")
    counts = attempts["run_key"].value_counts()
    (twice,) = counts[counts > 1].index
    first, second = (row for _, row in attempts[attempts["run_key"] == twice].iterrows())
    assert (first["status"], second["status"]) == ("FAILED", "COMPLETED")
    assert "process of this trial died" in first["error"]
    (killed_rate,) = {given["lr"] for key, given in arguments(Results(ours)).items() if key == twice}
    told = [json.loads(line) for line in starts.read_text().splitlines()]
    began, resumed = [start["first"] for start in told if start["lr"] == killed_rate]
    assert began == 0
    assert 1 <= resumed < EPOCHS
    head.wait_until_idle()


@pytest.mark.slow
def test_a_member_that_is_replaced_resumes_from_the_checkpoint_of_the_better_one(
    head: SharedHead, env: dict[str, str], tmp_path: Path
) -> None:
    ours, expected = tmp_path / "out", tmp_path / "local"
    assert run("pbt", ours, head.address, env=head.env({})) == 0
    assert run("pbt", expected, "local", env=env) == 0
    found = rows(ours)
    assert found == rows(expected)
    results = Results(ours)
    runs, rates = results.runs().set_index("run_key"), {k: a["lr"] for k, a in arguments(results).items()}
    assert len(runs) == 12
    heights = {key: [r[4] for r in values if r[3] == "height"] for key, values in found.items()}
    first_rates = {key: next(r[4] for r in values if r[3] == "first_rate") for key, values in found.items()}
    children = runs[runs["parent_key"].notna()]
    assert len(children) == 8
    for key, parent in children["parent_key"].items():
        assert heights[key][0] == heights[parent][-1] + rates[key]
        assert first_rates[key] == first_rates[parent]
        assert parent in set(results.lineage(key)["run_key"])
    assert children["parent_key"].duplicated().any(), "no member was replaced by a better one"
    head.wait_until_idle()


@pytest.mark.slow
@pytest.mark.distributed
def test_two_workers_make_one_record_and_a_rank_that_raises_fails_its_run(
    head: SharedHead, tmp_path: Path
) -> None:
    out, starts = tmp_path / "out", tmp_path / "starts.jsonl"
    assert run("ranks", out, head.address, env=head.env({"STARTS_FILE": str(starts)})) == 1
    results = Results(out)
    by_fails = {arguments(results)[row.run_key]["fails"]: row for row in results.runs().itertuples()}
    whole, failed = by_fails[False], by_fails[True]
    assert len(results.runs()) == 2
    assert {(row.attempt, row.num_workers) for row in by_fails.values()} == {(1, 2)}
    assert whole.status == "COMPLETED", whole.error
    assert [(step, f"{split}/{name}", value) for step, _, split, name, value in rows(out)[whole.run_key]] == [
        *((step, f"val/{name}", value) for step in (1, 2, 3) for name, value in (("total", 11.0 * step), ("own_rank", 0.0))),
        (3, "test/size", 2.0),
        (3, "test/total", 33.0),
    ]
    assert [path.name for path in RunFolder(out).artifact(whole.run_key).glob("record-*.json")] == ["record-1.json"]
    assert failed.status == "FAILED"
    assert "in sum_over_ranks" in failed.error
    assert failed.error.rstrip().endswith("LookupError: rank 1 alone has no more rows")
    assert "Connection closed" not in failed.error
    told = [json.loads(line) for line in starts.read_text().splitlines()]
    assert sorted(start["rank"] for start in told) == [0, 0, 1, 1]
    # The second trial may take over the processes of the first one, each as the rank that it was.
    assert len({start["pid"] for start in told}) == len({(start["pid"], start["rank"]) for start in told})
    head.wait_until_idle()
