"""A failed trial affects no other one, whatever state it leaves in a process that is reused."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml_spec
from comparing import assert_same_numbers
from driving import StepDelay, driving
from shared_head import NUM_CPUS, SharedHead

from pruneyard.orchestrator.results import Results
from pruneyard.reports.layout import RunFolder

WITHIN_S = 300
STATE_RECORDERS = [{"name": "state_recorder", "density": 0.3}, {"name": "state_recorder", "density": 0.1}]
ERROR = "RuntimeError: polluted <script>everything</script> [bold]here[/bold]"


def polluting_spec(methods: list[dict[str, Any]], rates: list[float]) -> dict[str, Any]:
    """Returns a spec with two seeds. A trial takes all of the shared head, so one process runs all of them, in order."""
    return yaml_spec.spec_of(
        methods, name="polluting", grid={"optimizer.lr": rates}, seeds=2, resources={"cpus": NUM_CPUS}
    )


@pytest.fixture(scope="module")
def clean(env: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs the state recorders alone, in a fresh process."""
    home = tmp_path_factory.mktemp("clean")
    spec = yaml_spec.write(home / "spec.yaml", polluting_spec(STATE_RECORDERS, [0.1]))
    run_env = env | {"STATE_RECORDS": str(home / "states.jsonl")}
    with driving("run", spec, "--out", "out", "--local", folder=home, env=run_env) as driver:
        assert driver.wait(within_s=WITHIN_S) == 0, driver.output()
    return home


@pytest.fixture(
    scope="module",
    params=[
        pytest.param("on Ray", marks=[pytest.mark.ray, pytest.mark.slow]),
        "in one process",
    ],
)
def polluted(
    request: pytest.FixtureRequest, env: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """Runs state recorders before and after trials that raise, pollute their process, or diverge."""
    home = tmp_path_factory.mktemp("polluted")
    methods = [STATE_RECORDERS[0], {"name": "polluting", "density": 0.5}, STATE_RECORDERS[1]]
    command = ("run", yaml_spec.write(home / "spec.yaml", polluting_spec(methods, [0.1, 1e30])), "--out", "out")
    variables = {"STATE_RECORDS": str(home / "states.jsonl")}
    if request.param == "on Ray":
        running_driver = request.getfixturevalue("head").driving(*command, folder=home, report=True, **variables)
    else:
        running_driver = driving(*command, "--local", folder=home, env=env | variables, report=True)
    with running_driver as driver:
        code = driver.wait(within_s=WITHIN_S)
        home.joinpath("output").write_text(driver.output())
        home.joinpath("code").write_text(str(code))
        driver.seconds_until_gone()
    return home


def recorded_states(home: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in home.joinpath("states.jsonl").read_text().splitlines()]


def test_the_others_complete_and_the_exit_code_says_that_some_failed(polluted: Path) -> None:
    assert polluted.joinpath("code").read_text() == "1", polluted.joinpath("output").read_text()
    runs = Results(polluted / "out").runs()
    assert len(runs) == 12
    lr = runs["spec_json"].map(lambda text: json.loads(text)["optimizer"]["lr"])
    should_fail = (runs["method"] == "polluting") | (lr > 1)
    assert set(runs[should_fail]["status"]) == {"FAILED"}
    assert set(runs[~should_fail]["status"]) == {"COMPLETED"}
    assert (~should_fail).sum() == 4


def test_a_failed_run_has_its_traceback(polluted: Path) -> None:
    runs = Results(polluted / "out").runs()
    for error in runs[runs["method"] == "polluting"]["error"]:
        assert error.startswith("Traceback (most recent call last)")
        assert error.rstrip().endswith(ERROR)
    diverged = runs[(runs["status"] == "FAILED") & (runs["method"] == "state_recorder")]["error"]
    assert len(diverged) == 4
    assert all("NonFiniteError: train/loss is" in error for error in diverged)


def test_the_error_is_said_plainly_and_escaped_on_the_page(polluted: Path) -> None:
    page = RunFolder(polluted / "out").report.read_text()
    assert "polluted &lt;script&gt;everything&lt;/script&gt;" in page
    assert "<script>everything" not in page
    assert ERROR in polluted.joinpath("output").read_text()


def test_one_process_ran_them_all_and_was_like_new_for_each(polluted: Path, clean: Path) -> None:
    states = recorded_states(polluted)
    assert len({entry["pid"] for entry in states}) == 1
    assert [entry["who"] for entry in states] == ["state_recorder"] * 4 + ["polluting"] * 4 + ["state_recorder"] * 4
    recorded = [entry["seen"] for entry in states if entry["who"] == "state_recorder"]
    for state in recorded:
        state["environment"].pop("TORCHINDUCTOR_CACHE_DIR", None)  # torch sets it when it first needs it
    for state in recorded[1:]:
        assert state == recorded[0]
    fresh = recorded_states(clean)[0]["seen"]
    compared = recorded[0].keys() - {"folder", "environment"}
    assert {name: recorded[0][name] for name in compared} == {name: fresh[name] for name in compared}


def test_a_trial_after_a_dirty_one_has_the_numbers_of_a_fresh_process(polluted: Path, clean: Path) -> None:
    assert_same_numbers(polluted / "out", clean / "out")


@pytest.mark.ray
@pytest.mark.slow
def test_fail_fast_stops_the_others(head: SharedHead, tmp_path: Path) -> None:
    methods = [{"name": "polluting", "density": 0.5}, {"name": "static", "density": 0.5}]
    tables = yaml_spec.spec_of(methods, name="fast", seeds=4, resources={"cpus": NUM_CPUS})
    spec = yaml_spec.write(tmp_path / "spec.yaml", tables)
    variables = {"STATE_RECORDS": str(tmp_path / "states.jsonl"), **StepDelay(tmp_path, 0.2).env}
    head.run("run", spec, "--out", "out", "--fail-fast", folder=tmp_path, code=1, report=True, **variables)
    runs = Results(tmp_path / "out").runs()
    assert list(runs["status"]).count("FAILED") == 1
    assert set(runs["status"]) <= {"FAILED", "INTERRUPTED"}
    assert RunFolder(tmp_path / "out").report.is_file()
