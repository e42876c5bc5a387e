"""Functions and scripts of the user's own as studies: grids, searches, early stopping, run keys, errors and the page."""

import json
import re
import sys
import textwrap
import threading
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from code_caches import forget_code
from in_process_command import Pruneyard
from study_contexts import context_in

import pruneyard as public
from pruneyard.orchestrator.artifacts.verification import verify_folder
from pruneyard.orchestrator.errors import ExitCode, SpecError, UsageError
from pruneyard.orchestrator.execution.attempt_runner import AttemptRunner
from pruneyard.orchestrator.planning.plan import make_plan
from pruneyard.orchestrator.results import Results
from pruneyard.orchestrator.spec.job import Job
from pruneyard.orchestrator.spec.load import load_spec
from pruneyard.reports.layout import RunFolder
from pruneyard.reports.store import Store
from pruneyard.workloads.function import handover
from pruneyard.workloads.function.context import FunctionContext
from pruneyard.workloads.user_code.registration import register
from pruneyard.workloads.workload import StillRunningError

MANUAL = Path(__file__).parents[2] / "workloads" / "README.md"


def climb(context: FunctionContext, lr: float, power: int = 1, epochs: int = 4) -> None:
    """Rises by its learning rate with every epoch."""
    height, first = 0.0, 1
    if (state := context.restore()) is not None:
        height, first = state["height"], state["epoch"] + 1
    for epoch in range(first, epochs + 1):
        height += lr**power
        context.report(step=epoch, height=height, accuracy=1 - 1 / (1 + height))
        context.checkpoint({"height": height, "epoch": epoch})


def keys(spec: dict[str, Any]) -> list[str]:
    return [job.key for job in load_spec({"name": "s", "kind": "function", **spec}).jobs]


def last(results: Results, measure: str) -> dict[str, float]:
    """Returns the last value of a measure by run key."""
    rows = results.metrics()
    rows = rows[(rows["split"].astype(str) + "/" + rows["name"].astype(str)) == measure].sort_values("step")
    return dict(zip(rows["run_key"].astype(str), rows["value"], strict=True))


def problems(spec: dict[str, Any]) -> str:
    with pytest.raises(SpecError) as caught:
        load_spec({"name": "s", "kind": "function", **spec})
    return str(caught.value)


def test_a_sweep_runs_every_combination_once_and_makes_a_page(tmp_path: Path) -> None:
    space = {"lr": [0.1, 0.5], "power": [1, 2], "epochs": 3}
    results = public.sweep(climb, space, seeds=2, out=tmp_path / "out", local=True)
    assert results.exit_code is ExitCode.FINISHED
    runs = results.runs()
    assert len(runs) == 8
    assert set(runs["kind"]) == {"function"}
    assert sorted(last(results, "val/height").values())[-1] == pytest.approx(1.5)
    started = set(runs["started_at"])
    again = public.sweep(climb, space, seeds=2, out=tmp_path / "out", local=True)
    assert set(again.runs()["started_at"]) == started
    summary = again.summary()
    assert {"arguments.lr", "arguments.power", "val/height"} <= set(summary.columns)
    page = again.report(tmp_path / "page.html").read_text()
    assert "learning-val-accuracy" in page
    assert "learning-val-height" in page
    assert "climb" in page


def test_a_function_that_does_not_end_leaves_its_record_and_stops_the_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(handover, "STOP_TIMEOUT_S", 0.05)

    may_end = tmp_path / "may_end"

    def lingers(context: FunctionContext) -> None:
        try:
            context.report(accuracy=0.5)
        finally:
            while not may_end.exists():
                time.sleep(0.01)

    spec = load_spec({"name": "s", "kind": "function", "function": register(lingers)})
    folder = RunFolder(tmp_path / "out")
    (planned,) = make_plan(spec, folder).attempts()
    runner = AttemptRunner(planned, context_in(folder, is_pruned=True))
    runner.advance()
    with pytest.raises(StillRunningError, match="lingers was stopped and has not ended"):
        runner.advance()
    may_end.touch()
    assert set(Store(folder).runs().to_pandas()["status"]) == {"PRUNED"}
    for left in [thread for thread in threading.enumerate() if thread.name == "function lingers"]:
        left.join()


def test_the_time_of_an_attempt_begins_when_it_does_and_not_when_its_process_prepares_it(tmp_path: Path) -> None:
    spec = load_spec({"name": "s", "kind": "function", "function": register(climb), "arguments": {"lr": 0.1}})
    folder = RunFolder(tmp_path / "out")
    (planned,) = make_plan(spec, folder).attempts()
    runner = AttemptRunner(planned, context_in(folder))
    time.sleep(0.3)
    begun = datetime.now(UTC)
    while runner.advance().status is None:
        pass
    (row,) = Store(folder).runs().to_pylist()
    assert row["started_at"] >= begun
    assert row["wall_s"] <= (row["ended_at"] - begun).total_seconds() + 0.01


def test_an_argument_that_no_job_has_is_refused_with_the_nearest_one(tmp_path: Path) -> None:
    with pytest.raises(
        SpecError, match=r"arguments\.powr.* is no argument of .*climb.*; did you mean power\?"
    ):
        public.sweep(climb, {"lr": [0.1], "powr": [1, 2]}, out=tmp_path, local=True)
    with pytest.raises(UsageError, match=r"space.lr: is .*, which a search samples; give one"):
        public.sweep(climb, {"lr": {"low": 0.1, "high": 1.0}}, out=tmp_path, local=True)
    with pytest.raises(UsageError, match=r'^space: is "lr"; it must be a table of arguments, such as {"lr": '):
        public.sweep(climb, "lr", local=True)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match=r"arguments\.lr: is in the space too"):
        public.sweep(climb, {"lr": [0.1]}, arguments={"lr": 0.1}, out=tmp_path, local=True)


@pytest.mark.parametrize(
    ("search", "scheduler"),
    [
        (
            {"name": "random", "max_trials": 6},
            {"name": "asha", "metric": "accuracy", "grace": 0.25, "reduction_factor": 2},
        ),
        (
            {"name": "random", "max_trials": 6},
            {"name": "hyperband", "metric": "height", "mode": "max", "grace": 0.25},
        ),
        ({"name": "tpe", "max_trials": 6, "batch": 3, "metric": "accuracy"}, None),
        ({"name": "pbt", "max_trials": 4, "generations": 4, "metric": "accuracy"}, None),
    ],
    ids=lambda table: table and table["name"],
)
def test_searches_and_schedulers_work_on_arguments(
    search: dict[str, Any], scheduler: dict[str, Any] | None, tmp_path: Path
) -> None:
    space = {"lr": {"low": 0.01, "high": 1.0, "log": True}}
    results = public.sweep(climb, space, search=search, scheduler=scheduler, out=tmp_path, local=True)
    assert results.exit_code is ExitCode.FINISHED
    statuses = list(results.runs()["status"].astype(str))
    assert ("PRUNED" in statuses) == (scheduler is not None)
    finished = results.runs()[results.runs()["status"].astype(str) == "COMPLETED"]
    heights = last(results, "val/height")
    if search["name"] == "pbt":  # the members of the last generation have climbed through all parts
        assert len(finished) == 16
        steps = results.metrics().groupby("run_key", observed=True)["step"].agg(list)
        assert sorted(map(tuple, steps)) == sorted(4 * [(step, step) for step in (1, 2, 3, 4)])
    else:  # those that paused in between as well
        rates = load_rates(results)
        assert all(heights[key] == pytest.approx(4 * rates[key]) for key in finished["run_key"])


def load_rates(results: Results) -> dict[str, float]:
    runs = results.runs()
    return {
        key: json.loads(spec)["arguments"]["lr"]
        for key, spec in zip(runs["run_key"], runs["spec_json"], strict=True)
    }


def test_shares_of_unknown_numbers_of_steps_are_refused() -> None:
    def train(lr: float, context: FunctionContext) -> None: ...

    scheduler = {"name": "median", "metric": "val/accuracy"}
    reference = register(train)
    spec = {"function": reference, "arguments": {"lr": 1}, "scheduler": scheduler}
    assert "steps: is missing; scheduler median takes shares of the steps" in problems(spec)
    assert keys({**spec, "steps": 5})


def test_the_source_of_a_function_is_part_of_its_key_unless_a_version_stands_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    def key_of(text: str, helper: str = "X = 1\n", **spec: Any) -> str:
        for name, content in (("shifted", text), ("shifted_by", helper)):
            (tmp_path / f"{name}.py").write_text(content)
            for loaded in [module for module in sys.modules if module.rpartition(".")[2] == name]:
                del sys.modules[loaded]
        forget_code()
        (key,) = keys({"function": "shifted.py:main", **spec})
        return key

    plain = "from shifted_by import X\ndef main(a=1):\n    return {'a': a + X}\n"
    first = key_of(plain)
    assert key_of(plain) == first
    assert (
        len({first, key_of(plain + "# more\n"), key_of(plain, "X = 2\n"), key_of(plain, arguments={"a": 1})})
        == 4
    )
    pinned = key_of(plain, version="1")
    assert key_of(plain + "# more\n", version="1") == pinned != key_of(plain, version="2")
    assert key_of(plain, steps=3) == first


def test_failures_are_kept_apart_and_their_reports_too(tmp_path: Path) -> None:
    def sometimes(lr: float, context: FunctionContext) -> dict[str, float]:
        context.report(step=1, accuracy=lr)
        if lr > 1:
            raise ValueError(f"lr is {lr}, which diverges")
        return {"test/accuracy": lr}

    results = public.sweep(sometimes, {"lr": [0.5, 2.0]}, out=tmp_path, local=True)
    assert results.exit_code is ExitCode.FAILED
    runs = results.runs().set_index("status")
    assert "ValueError: lr is 2.0, which diverges" in runs.loc["FAILED", "error"]
    assert sorted(last(results, "val/accuracy").values()) == [0.5, 2.0]
    assert list(last(results, "test/accuracy").values()) == [0.5]


def test_a_metric_that_no_run_reports_stops_nothing_and_is_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    scheduler = {"name": "asha", "metric": "val/accurcy", "mode": "max"}
    public.sweep(climb, {"lr": [0.1, 0.2]}, scheduler=scheduler, out=tmp_path, local=True)
    (said,) = [record.getMessage() for record in caplog.records if "did not report" in record.getMessage()]
    assert "scheduler.metric is val/accurcy" in said
    assert "did you mean val/accuracy?" in said


def test_the_examples_of_the_manual_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pruneyard: Pruneyard
) -> None:
    blocks = MANUAL.read_text().split("\n## Training functions\n")[1].split("\n## ")[0].split("```")
    train, call, spec, script, script_spec = (text.partition("\n")[2] for text in blocks[1::2])
    for name, text in (
        ("train.py", train),
        ("train_script.py", script),
        ("train.yaml", spec),
        ("script.yaml", script_spec),
    ):
        (tmp_path / name).write_text(text)
    exec(call.replace("seeds=3", "seeds=3, local=True"))
    results = Results("out/train")
    assert len(results.runs()) == 9
    assert results.exit_code is ExitCode.FINISHED
    assert {"accuracy", "ece"} <= set(results.metrics()["name"])
    asha = pruneyard("run", "train.yaml", "--local", "--out", "out/train", "--add")
    assert asha.code == 0
    assert len(Results("out/train").runs()) == 9
    assert pruneyard("run", "script.yaml", "--local").code == 0
    losses = last(Results("out/script"), "train/loss")
    assert sorted(losses.values())[0] == pytest.approx(0.9**10)
    assert len(losses) == 4


def script_study(tmp_path: Path, text: str, command: str, **spec: Any) -> Results:
    (tmp_path / "work.py").write_text(textwrap.dedent(text))
    return public.run(
        {"name": "s", "kind": "function", "command": command, **spec}, tmp_path / "out", local=True
    )


def damages(results: Results) -> list[str]:
    """Returns what `pruneyard doctor` says of the folder."""
    return [problem for _, _, problems in verify_folder(results.folder) for problem in problems]


def test_a_script_may_write_its_metrics_and_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    text = """
        import sys
        from pathlib import Path
        metrics, artifact = map(Path, sys.argv[1:3])
        print('{"accuracy": 7}')
        (artifact / "words.txt").write_text(sys.argv[3])
        (artifact / "manifest.parquet").write_text("in a form of its own")
        metrics.write_text('{"accuracy": 0.25}\\n{"step": 5, "val/loss": 2}')
    """
    results = script_study(
        tmp_path, text, "python work.py {metrics} {artifact} {words}", arguments={"words": "two words; $HOME"}
    )
    assert [(row.step, row.name, row.value) for row in results.metrics().itertuples()] == [
        (1, "accuracy", 0.25),
        (5, "loss", 2.0),
    ]
    (artifact,) = results.runs()["artifact"]
    assert (Path(artifact) / "files" / "words.txt").read_text() == "two words; $HOME"
    assert damages(results) == []
    (Path(artifact) / "files" / "manifest.parquet").write_text("changed")
    assert ["damaged" in said for said in damages(results)] == [True]


@pytest.mark.parametrize(
    ("command", "text"),
    [
        ("python work.py", "import json, os\nprint(json.dumps({'drawn': int(os.environ['PRUNEYARD_SEED'])}))"),
        ("python work.py {seed}", "import json, sys\nprint(json.dumps({'drawn': int(sys.argv[1])}))"),
    ],
)
def test_a_script_gets_its_seed_by_its_environment_or_by_its_command(
    command: str, text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    results = script_study(tmp_path, text, command, seeds=[3, 7])
    assert sorted(last(results, "val/drawn").values()) == [3, 7]


def test_a_script_that_fails_is_a_failed_run_with_the_end_of_its_output(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    text = "print('{\"accuracy\": 0.5}')\nprint('opening')\nraise SystemExit('no such disk')\n"
    results = script_study(tmp_path, text, "python work.py")
    assert results.exit_code is ExitCode.FAILED
    (error,) = results.runs()["error"]
    assert "ended with exit code 1; the last lines of its output:" in error
    assert "opening\nno such disk" in error
    assert list(last(results, "val/accuracy").values()) == [0.5]


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        (
            {"command": "python work.py {lrr}", "arguments": {"lr": 1}},
            "command: has the placeholder {lrr}, .*did you mean {lr}",
        ),
        (
            {"command": "python work.py", "arguments": {"lr": 1}},
            "arguments.lr: is not used: the command has no {lr}",
        ),
        ({"command": "python gone.py"}, "command: names gone.py, but there is no such file"),
        ({"command": "no-such-program"}, "command: starts with no-such-program, which is no program"),
        ({"command": "python 'work.py"}, "command: is .*; it cannot be split into words"),
        (
            {"command": "python work.py", "function": "a:b"},
            "command: is 'python work.py' beside the function a:b",
        ),
        (
            {"command": "python work.py", "seeds": 2},
            "seeds: is more than one, but the command has no {seed}, .*put {seed} into the command, or let the script read",
        ),
        (
            {"command": "python work.py {lr}", "seeds": [0, 3], "grid": {"arguments.lr": [1, 2]}},
            "^[^;]*seeds: is more than one[^;]*; put {seed} [^;]*$",
        ),
        ({}, "function: is missing; it must be package.module:name"),
    ],
)
def test_a_command_that_does_not_fit_is_refused_with_its_key(
    spec: dict[str, Any], words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "work.py").touch()
    assert re.search(words, problems(spec))


@pytest.mark.parametrize("command", ["python work.py {lr} {bar}", ["python", "work.py"]])
def test_a_function_is_not_missed_where_a_command_is_wrong(
    command: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "work.py").touch()
    said = problems({"command": command, "arguments": {"lr": 1}})
    assert "command: " in said
    assert "function: " not in said


def test_jobs_with_axes_over_arguments_have_labels_that_tell_them_apart() -> None:
    spec = {"function": register(climb), "grid": {"arguments.lr": [0.1, 0.2]}, "seeds": 2}
    jobs: tuple[Job, ...] = load_spec({"name": "s", "kind": "function", **spec}).jobs
    assert [job.label for job in jobs] == ["lr=0.1 seed=0", "lr=0.1 seed=1", "lr=0.2 seed=0", "lr=0.2 seed=1"]
