"""`plan.json` of a folder: every run that the newest spec planned, so that a report can say how many are missing."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from pruneyard.orchestrator.driver.run import run
from pruneyard.orchestrator.progress.monitor import Monitor
from pruneyard.orchestrator.results import Results
from pruneyard.orchestrator.spec.load import load_spec
from pruneyard.reports.layout import RunFolder

SPEC: dict[str, Any] = {
    "name": "planned",
    "kind": "sparse",
    "data": {"name": "digits", "max_train": 100, "max_test": 50},
    "model": {"name": "mlp", "width": 8, "depth": 1},
    "method": {"name": "static", "density": 0.5},
    "budget": {"steps": 2, "batch_size": 16},
    "seeds": 3,
}


class PlanReader:
    """A display that reads the plan while runs are missing."""

    def __init__(self, folder: RunFolder) -> None:
        self._folder = folder
        self.seen: list[str] = []

    def show(self, monitor: Monitor) -> None:
        """Keeps the plan as it is when the first trial runs."""
        if monitor.running and not self.seen:
            self.seen = json.loads(self._folder.plan.read_bytes())["run_keys"]


def test_the_plan_is_there_before_the_first_run_ends_and_names_every_job(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "out")
    display = PlanReader(folder)
    run(SPEC, folder.path, local=True, display=display)
    assert display.seen == [job.key for job in load_spec(SPEC).jobs]


def test_a_larger_spec_replaces_the_plan_and_the_page_counts_by_it(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "out")
    run(SPEC, folder.path, local=True)
    run(SPEC, folder.path, local=True, overrides={"seeds": [7]})
    assert len(json.loads(folder.plan.read_bytes())["run_keys"]) == 1
    page = Results(folder.path).report(tmp_path / "report.html")
    text = Path(page).read_text(encoding="utf-8")
    assert "1 of 1 planned run completed in 1 setting." in text
    assert "3 further runs in the same folder were planned by an earlier spec." in text


def test_the_exit_code_is_read_from_the_plan_without_importing_torch(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "out")
    run(SPEC, folder.path, local=True)
    plan = json.loads(folder.plan.read_bytes())
    more_runs = {**plan, "run_keys": [*plan["run_keys"], "never started"]}
    for planned, code in ((plan, 0), (more_runs, 3), ({**plan, "is_complete": False}, 3)):
        folder.plan.write_text(json.dumps(planned))
        program = f"""
import sys
from pruneyard.orchestrator.results import Results
assert Results({str(folder.path)!r}).exit_code == {code}
assert "torch" not in sys.modules
"""
        subprocess.run([sys.executable, "-c", program], check=True)


def test_the_exit_code_is_that_of_the_spec_where_an_older_plan_does_not_say_whether_it_is_complete(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "out")
    run(SPEC, folder.path, local=True)
    plan = json.loads(folder.plan.read_bytes())
    del plan["is_complete"]
    folder.plan.write_text(json.dumps(plan))
    assert Results(folder.path).exit_code == 0
