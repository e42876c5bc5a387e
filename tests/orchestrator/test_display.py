"""The display of a running study."""

import io
import os
import signal
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from pruneyard.orchestrator.driver.run import run
from pruneyard.orchestrator.execution.report import Report
from pruneyard.orchestrator.planning.attempt import PlannedAttempt
from pruneyard.orchestrator.progress.display import LineDisplay, render, summary_line
from pruneyard.orchestrator.progress.monitor import Monitor, TrialPlace
from pruneyard.orchestrator.spec.load import load_spec
from pruneyard.reports.records import Status

SPEC: dict[str, Any] = {
    "name": "shown",
    "kind": "sparse",
    "data": {"name": "digits", "max_train": 100, "max_test": 50},
    "model": {"name": "mlp", "width": 8, "depth": 1},
    "method": {"name": "set", "density": 0.5},
    "budget": {"steps": 6, "batch_size": 16},
    "seeds": 3,
}


@pytest.fixture
def monitor() -> Monitor:
    """Returns a monitor of three jobs, one of which is halfway."""
    jobs = load_spec(SPEC).jobs
    monitor = Monitor(total=3, num_already_done=0)
    monitor.expect([PlannedAttempt(job=job, attempt=1) for job in jobs])
    monitor.start(jobs[0].key)
    monitor.record(Report(run_key=jobs[0].key, step=3, num_steps=6, metrics={"val/accuracy": 0.5}))
    return monitor


def rendered(monitor: Monitor) -> tuple[str, str]:
    """Returns the live display and the plain line."""
    live, lines = (Console(file=io.StringIO(), width=200) for _ in range(2))
    live.print(render(monitor))
    LineDisplay(lines).show(monitor)
    return live.file.getvalue(), lines.file.getvalue()  # type: ignore[attr-defined]


def test_the_time_left_is_shown_until_a_stop_was_asked_for(monitor: Monitor) -> None:
    assert all(" left" in text for text in rendered(monitor))
    monitor.stopping = True
    for text in rendered(monitor):
        assert " left" not in text
        assert "0/3 done, 1 running, stopping" in text


def test_jobs_that_have_yet_to_begin_are_counted(monitor: Monitor) -> None:
    assert all("0/3 done, 1 running, 2 waiting" in text for text in rendered(monitor))
    first, second, _ = monitor.labels
    monitor.record(Report(run_key=first, status=Status.COMPLETED))
    monitor.start(second)
    assert all("1/3 done, 1 running, 1 waiting" in text for text in rendered(monitor))


def test_nodes_are_named_where_trials_run_on_several(monitor: Monitor) -> None:
    first, second, _ = monitor.labels
    monitor.set_place(first, TrialPlace(nodes=("a1b2c3d4",), gpu_bytes=None))
    assert all("a1b2c3d4" not in text for text in rendered(monitor)), "there is but one"
    monitor.start(second)
    monitor.set_place(second, TrialPlace(nodes=("e5f6a7b8",), gpu_bytes=None))
    live, line = rendered(monitor)
    assert "a1b2c3d4" in live
    assert "e5f6a7b8" in live
    assert "GPU" not in live + line, "nobody has one"
    assert "1 on node a1b2c3d4, 1 on node e5f6a7b8" in line
    monitor.record(Report(run_key=first, status=Status.COMPLETED))
    live, line = rendered(monitor)
    assert "a1b2c3d4" not in live + line
    assert ", 1 on node e5f6a7b8" in line


def test_a_trial_of_several_workers_is_shown_on_all_their_nodes(monitor: Monitor) -> None:
    first, second, _ = monitor.labels
    monitor.set_place(first, TrialPlace(nodes=("a1b2c3d4", "e5f6a7b8"), gpu_bytes=None))
    live, line = rendered(monitor)
    assert "a1b2c3d4 and 1 more" in live
    assert "1 on node a1b2c3d4, 1 on node e5f6a7b8" in line
    monitor.start(second)
    monitor.set_place(second, TrialPlace(nodes=("e5f6a7b8",), gpu_bytes=None))
    live, line = rendered(monitor)
    assert [row.split("  ")[0] for row in live.splitlines() if "e5f6a7b8" in row] == [second[:8]]
    assert "2 on node e5f6a7b8, 1 on node a1b2c3d4" in line


@pytest.mark.parametrize("nodes", [("a1b2c3d4",), ()], ids=["on Ray", "without Ray"])
def test_the_memory_of_gpus_is_shown_where_there_is_one_node_or_none(
    monitor: Monitor, nodes: tuple[str, ...]
) -> None:
    first, *_ = monitor.labels
    monitor.set_place(first, TrialPlace(nodes=nodes, gpu_bytes=3 * 2**29))
    live, line = rendered(monitor)
    assert "1.50 GiB" in live
    assert "up to 1.50 GiB of a GPU" in line
    assert "node" not in live + line


def test_the_memory_that_trials_hold_of_gpus_is_shown(monitor: Monitor) -> None:
    first, second, _ = monitor.labels
    monitor.start(second)
    monitor.set_place(first, TrialPlace(nodes=("a1b2c3d4",), gpu_bytes=3 * 2**29))
    monitor.set_place(second, TrialPlace(nodes=("e5f6a7b8",), gpu_bytes=2**28))
    live, line = rendered(monitor)
    assert "1.50 GiB" in live
    assert "0.25 GiB" in live
    assert "up to 1.50 GiB of a GPU" in line


def test_a_run_that_was_asked_to_stop_says_so(tmp_path: Path) -> None:
    seen = []

    class TerminatingDisplay:
        """A display that requests the end when it is first shown something."""

        def show(self, monitor: Monitor) -> None:
            seen.append(summary_line(monitor))
            if len(seen) == 1:
                os.kill(os.getpid(), signal.SIGTERM)

    run(SPEC, tmp_path / "out", local=True, display=TerminatingDisplay())
    assert "stopping" not in seen[0]
    assert all("stopping" in line for line in seen[1:])
    assert len(seen) > 1
