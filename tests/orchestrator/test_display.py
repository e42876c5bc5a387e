"""What a user sees of a running study."""

import io
import os
import signal
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from orchestrator.display import Lines, headline, picture
from orchestrator.monitor import Monitor
from orchestrator.population import run
from orchestrator.spec import load_spec
from orchestrator.trial import Order, Report

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
    """One of three jobs is halfway."""
    jobs = load_spec(SPEC).jobs
    monitor = Monitor(total=3, already=0)
    monitor.expect([Order(job=job, attempt=1) for job in jobs])
    monitor.start(jobs[0].key)
    monitor.hear(Report(run_key=jobs[0].key, step=3, num_steps=6, metrics={"val/accuracy": 0.5}))
    return monitor


def drawn(monitor: Monitor) -> tuple[str, str]:
    """The live picture and the plain line."""
    live, lines = (Console(file=io.StringIO(), width=200) for _ in range(2))
    live.print(picture(monitor))
    Lines(lines).show(monitor)
    return live.file.getvalue(), lines.file.getvalue()  # type: ignore[attr-defined]


def test_the_time_left_is_shown_until_a_stop_was_asked_for(monitor: Monitor) -> None:
    assert all(" left" in text for text in drawn(monitor))
    monitor.stopping = True
    for text in drawn(monitor):
        assert " left" not in text
        assert "0/3 done, 1 running, stopping" in text


def test_a_run_that_was_asked_to_stop_says_so(tmp_path: Path) -> None:
    seen = []

    class Terminates:
        """A display that asks for the end on the first look."""

        def show(self, monitor: Monitor) -> None:
            seen.append(headline(monitor))
            if len(seen) == 1:
                os.kill(os.getpid(), signal.SIGTERM)

    run(SPEC, tmp_path / "out", local=True, display=Terminates())
    assert "stopping" not in seen[0]
    assert all("stopping" in line for line in seen[1:])
    assert len(seen) > 1
