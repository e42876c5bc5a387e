"""References that choose the best setting of a stage or folder: what is chosen, when it is known, and what is refused."""

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml
from in_process_command import Pruneyard

from pruneyard import run
from pruneyard.orchestrator.errors import ExitCode, UsageError
from pruneyard.orchestrator.planning.plan import make_plan
from pruneyard.orchestrator.progress.monitor import Monitor
from pruneyard.orchestrator.results import Results
from pruneyard.orchestrator.spec.load import load_spec
from pruneyard.reports.layout import RunFolder
from pruneyard.reports.planned import plan_is_complete
from pruneyard.testing.cases import each_case

TRAIN: dict[str, Any] = {
    "kind": "sparse",
    "model": {"name": "mlp", "width": 8},
    "method": {"name": "static"},
    "budget": {"epochs": 4, "batch_size": 20},
    "seeds": 2,
    "grid": {"method.density": [0.5, 0.2], "optimizer.lr": [0.1, 1e-6]},
}
TRUST: dict[str, Any] = {"kind": "calibrate", "grid": {"method": ["none", "temperature"]}}


def chain(best: Any, **after: Any) -> dict[str, Any]:
    trust = {**TRUST, "input": {"from": "train", "over": "seed", "best": best}}
    return {
        "name": "chain",
        "data": {"name": "digits", "max_train": 200, "max_test": 60},
        "stages": {"train": TRAIN, "trust": trust, **after},
    }


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the chain with the best rate per density has run."""
    folder = tmp_path_factory.mktemp("best") / "out"
    tables = chain({"metric": "val/accuracy", "per": "method.density"})
    assert run(tables, folder, local=True).exit_code == ExitCode.FINISHED
    return folder


def parents_of(folder: Path, stage: str) -> list[set[str]]:
    return [
        set(job.parents)
        for job in make_plan(load_spec(folder / "spec.yaml"), RunFolder(folder)).spec.jobs
        if job.stage == stage
    ]


def trainings(folder: Path) -> pd.DataFrame:
    """Returns density, rate and measures of the runs of the first stage."""
    results = Results(folder)
    specs = results.runs().set_index("run_key")["spec_json"].map(json.loads)
    finals = results.final()
    finals = finals[finals["stage"] == "train"].astype({"density": float})
    return finals.assign(lr=finals["run_key"].map(lambda key: specs[key]["optimizer"]["lr"]))


def test_the_best_setting_is_kept_for_each_value_with_all_its_seeds(trained: Path) -> None:
    train = trainings(trained)
    means = train.groupby(["density", "lr"])["val/accuracy"].mean()
    expected = [
        set(train[(train["density"] == density) & (train["lr"] == means[density].idxmax())]["run_key"])
        for density in (0.5, 0.2)
    ]
    assert (
        means.unstack().max(axis=1).gt(means.unstack().min(axis=1)).all()
    )  # otherwise there is nothing to choose
    assert sorted(map(sorted, parents_of(trained, "trust"))) == sorted(map(sorted, expected * 2))
    assert len(Results(trained).runs()) == 8 + 4


def test_jobs_are_not_known_before_the_runs_have_ended_and_plan_says_so(
    pruneyard: Pruneyard, tmp_path: Path
) -> None:
    spec = load_spec(chain("val/accuracy"))
    assert [len(stage.jobs) for stage in spec.stages] == [8, 0]
    (tmp_path / "chain.yaml").write_text(yaml.safe_dump(chain("val/accuracy")))
    said = pruneyard("plan", "chain.yaml").out
    assert (
        "trust gets its jobs while the study runs: the best val/accuracy of train is known once all its runs"
        in said
    )
    assert [
        "trust",
        "calibrate",
        "at",
        "most",
        "8",
        "not",
        "known",
        "yet",
        "<-",
        "train",
        "(2",
        "runs",
        "per",
        "job)",
    ] in [line.split() for line in said.splitlines()]


def test_a_second_run_computes_nothing_and_the_spec_as_run_gives_the_same_jobs(trained: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in (trained / "artifacts").rglob("manifest.json")}
    again = run(trained / "spec.yaml", trained, local=True)
    assert again.exit_code == ExitCode.FINISHED
    assert {
        path: path.stat().st_mtime_ns for path in (trained / "artifacts").rglob("manifest.json")
    } == before
    assert plan_is_complete(RunFolder(trained)) is True
    assert "best" in yaml.safe_load((trained / "spec.yaml").read_text())["stages"]["trust"]["input"]


def test_the_best_of_a_folder_is_known_when_the_spec_is_read(trained: Path) -> None:
    where = {"kind": "sparse"}
    tables = {
        **TRUST,
        "name": "trust",
        "input": {"from": str(trained), "over": "seed", "where": where, "best": "val/nll"},
    }
    train = trainings(trained)
    best = train.groupby(["density", "lr"], observed=True)["val/nll"].mean().idxmin()
    expected = set(train.set_index(["density", "lr"]).loc[[best], "run_key"])
    spec = load_spec(tables)
    assert [set(job.parents) for job in spec.jobs] == [expected, expected]
    assert spec.stages[0].waits_for == ""


class KeepsMonitor:
    """A display that shows nothing and keeps what it is given."""

    monitor: Monitor

    def show(self, monitor: Monitor) -> None:
        self.monitor = monitor


def test_later_stages_follow_the_choice(tmp_path: Path) -> None:
    """So does a stage that refers to the stage that chooses, in two steps. The time of its jobs is estimated, too."""
    tune = {
        **TRAIN,
        "grid": {},
        "initial": {"from": "train", "best": "val/accuracy"},
        "method": {"name": "static", "density": 0.5},
    }
    tables = chain("val/accuracy", tune=tune, check={**TRUST, "input": {"from": "tune"}})
    display = KeepsMonitor()
    results = run(tables, tmp_path, local=True, display=display)
    assert results.exit_code == ExitCode.FINISHED
    trainings = results.runs().query("kind == 'sparse'")["run_key"]
    assert all(display.monitor.time_left.is_weighed(key) for key in trainings)
    counts = results.runs()["stage"].value_counts().to_dict()
    assert counts == {"train": 8, "trust": 2, "tune": 4, "check": 8}
    listed = json.loads((tmp_path / "plan.json").read_text())
    assert len(listed["run_keys"] if isinstance(listed, dict) else listed) == 22


def test_a_setting_with_a_failed_run_is_not_chosen(tmp_path: Path) -> None:
    tables = chain("val/accuracy")
    tables["stages"]["train"] = {
        **TRAIN,
        "grid": {"optimizer.lr": [1e30, 1e-6]},
        "method": {"name": "static", "density": 0.5},
    }
    results = run(tables, tmp_path, local=True)
    assert results.exit_code == ExitCode.FAILED
    runs = results.runs()
    assert set(runs[runs["status"] == "FAILED"]["stage"]) == {"train"}
    completed = set(runs[(runs["stage"] == "train") & (runs["status"] == "COMPLETED")]["run_key"])
    assert parents_of(tmp_path, "trust") == [completed] * 2


def test_a_metric_that_no_run_reports_leaves_the_stage_without_jobs(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tables = chain({"metric": "val/beauty", "mode": "max"})
    tables["stages"]["train"] = {**TRAIN, "grid": {"method.density": [0.5]}, "seeds": 1}
    results = run(tables, tmp_path, local=True)
    assert results.exit_code == ExitCode.PARTIAL
    assert "stage trust has no jobs yet: input.best chooses by val/beauty, which run" in caplog.text


@each_case(
    ("best", "message"),
    [
        ("test/accuracy", "settings chosen on the test split cannot be tested on it"),
        ("val/beauty", "mode: is missing; metric val/beauty is not known"),
        ({"metric": "val/accuracy", "per": "method.depth"}, "none of the 8 runs has a value at method.depth"),
        ({"metric": "val/accuracy", "pre": "seed"}, "did you mean per?"),
        (3, "stages.trust.input.best"),
    ],
)
def test_a_choice_that_cannot_be_made_is_refused(best: Any, message: str) -> None:
    with pytest.raises(UsageError) as raised:
        load_spec(chain(best))
    assert message in str(raised.value)


def test_an_adaptive_search_on_a_choice_is_refused() -> None:
    space = {"optimizer.lr": {"low": 0.01, "high": 1.0}}
    search = {"name": "pbt", "max_trials": 4, "metric": "val/accuracy", "space": space}
    tune = {**TRAIN, "grid": {}, "initial": {"from": "train", "best": "val/accuracy"}, "search": search}
    with pytest.raises(
        UsageError, match=r"stages.tune.search: proposes jobs whose parents are not known in advance"
    ):
        load_spec(chain("val/accuracy", tune={**tune, "method": {"name": "static", "density": 0.5}}))


def test_a_choice_among_runs_of_a_cache_is_made_and_its_jobs_are_taken_too(
    trained: Path, tmp_path: Path
) -> None:
    tables = chain({"metric": "val/accuracy", "per": "method.density"})
    results = run(tables, tmp_path, local=True, cache_from=[trained])
    assert results.exit_code == ExitCode.FINISHED
    columns = ["run_key", "started_at"]
    taken, there = (
        found.runs()[columns].sort_values("run_key").to_numpy().tolist()
        for found in (results, Results(trained))
    )
    assert taken == there
