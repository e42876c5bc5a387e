"""A notebook in a real kernel: one line of progress per study, which ends with how it ended, and results with their chart."""

from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

from pruneyard.orchestrator.progress import notebook
from pruneyard.orchestrator.progress.monitor import Monitor
from pruneyard.orchestrator.progress.notebook import NotebookDisplay
from pruneyard.reports.records import Status

CELLS = (
    """import pruneyard
SPEC = {
    "name": "cells", "kind": "sparse", "data": {"name": "digits", "max_train": 100, "max_test": 50},
    "model": {"name": "mlp", "width": 8}, "budget": {"epochs": 2, "batch_size": 32}, "seeds": 2,
    "grid": {"method": [{"name": "rigl"}, {"name": "static"}], "method.density": [0.5, 0.2]},
}
results = pruneyard.run(SPEC, out="out", local=True)""",
    "results",
    "results.plot()",
    """import asyncio
await asyncio.sleep(0)
pruneyard.run(SPEC, out="out", local=True, overrides={"seeds": 3}).exit_code""",
    'pruneyard.run(SPEC, out="out", local=True, overrides={"seeds": 3}).exit_code',
    """try:
    pruneyard.run(SPEC, out="elsewhere", local=True, overrides={"data": {"name": "image_folder", "path": "nowhere"}})
except ValueError as error:
    print(type(error).__name__)""",
)


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> list[list[dict[str, Any]]]:
    """Runs the cells in a kernel, and returns the final outputs of each."""
    folder = tmp_path_factory.mktemp("notebook")
    document = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in CELLS])
    NotebookClient(document, timeout=300, kernel_name="python3", resources={"metadata": {"path": str(folder)}}).execute()
    return [cell["outputs"] for cell in document["cells"]]


@pytest.mark.slow
def test_a_run_shows_one_line_that_ends_with_the_counts(outputs: list[list[dict[str, Any]]]) -> None:
    line, _ = outputs[0]
    assert line["output_type"] == "display_data"
    assert line["data"]["text/plain"].startswith("finished in ")
    assert ": 8/8 done, best val/accuracy 0." in line["data"]["text/plain"]
    assert '<progress max="1" value="1.0000"' in line["data"]["text/html"]


@pytest.mark.slow
def test_a_warning_about_jobs_is_shown_once(outputs: list[list[dict[str, Any]]]) -> None:
    _, warning = outputs[0]
    assert warning["name"] == "stderr"
    assert warning["text"] == "method.schedule.every is 100, but the budget has 4 steps: masks will never be updated\n"


@pytest.mark.slow
def test_results_show_their_table_and_chart(outputs: list[list[dict[str, Any]]]) -> None:
    (shown,) = outputs[1]
    assert "<table" in shown["data"]["text/html"]
    assert "<svg" in shown["data"]["text/html"]
    assert "Results('out')" in shown["data"]["text/plain"]
    (chart,) = outputs[2]
    assert "vegaEmbed" in chart["data"]["text/html"]


@pytest.mark.slow
def test_a_cell_that_awaits_runs_what_is_missing_and_a_finished_study_shows_nothing(
    outputs: list[list[dict[str, Any]]],
) -> None:
    line, _, code = outputs[3]
    assert ": 12/12 done" in line["data"]["text/plain"]
    assert "FINISHED" in code["data"]["text/plain"]
    (code,) = outputs[4]
    assert "FINISHED" in code["data"]["text/plain"]


@pytest.mark.slow
def test_a_study_that_cannot_start_ends_its_line_with_the_error(outputs: list[list[dict[str, Any]]]) -> None:
    line, printed = outputs[5]
    assert line["data"]["text/plain"].startswith(f"stopped ({printed['text'].strip()}) in ")


class Shown(list[str]):
    """Takes the place of `IPython.display.display`, and keeps what it is given."""

    def __call__(self, line: object, display_id: bool) -> "Shown":
        self.append(repr(line))
        return self

    def update(self, line: Any) -> None:
        self.append(line._repr_html_())


def test_updates_are_rare_and_the_last_one_names_and_escapes_failures(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(notebook.time, "monotonic", lambda: now[0])
    shown, monitor = Shown(), Monitor(total=2, num_already_done=0, labels={"aaaaaaaa": "<b>rigl"})
    display = NotebookDisplay(shown)
    for _ in range(10):
        now[0] += 0.1
        display.show(monitor)
    assert len(shown) == 2
    monitor.time_left.expect("aaaaaaaa", None)
    monitor.end("aaaaaaaa", Status.FAILED, "ValueError: <i>")
    display.close(word="finished")
    assert len(shown) == 3
    assert "0/2 done" in shown[-1]
    assert "<br>FAILED aaaaaaaa (&lt;b&gt;rigl): ValueError: &lt;i&gt;" in shown[-1]
