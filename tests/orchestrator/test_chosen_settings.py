"""The key `settings`: what a stage trains that takes the settings of the best runs, with fresh seeds, and what is refused."""

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from in_process_command import Pruneyard

from pruneyard import run
from pruneyard.orchestrator.errors import ExitCode, SpecError
from pruneyard.orchestrator.planning.plan import make_plan
from pruneyard.orchestrator.results import Results
from pruneyard.orchestrator.spec.load import load_spec
from pruneyard.reports.layout import RunFolder
from pruneyard.reports.prose import headline
from pruneyard.reports.study import Study
from pruneyard.reports.tables import summary_table
from pruneyard.testing.cases import each_case

TUNE: dict[str, Any] = {
    "kind": "sparse",
    "model": {"name": "mlp", "width": 8},
    "method": {"name": "static"},
    "budget": {"epochs": 2, "batch_size": 20},
    "seeds": 2,
    "grid": {"method.density": [0.5, 0.2]},
    "search": {"name": "sobol", "max_trials": 2, "space": {"optimizer.lr": {"low": 1e-6, "high": 0.1, "log": True}}},
}
BEST = {"metric": "val/nll", "per": "method.density"}


def chain(fresh: dict[str, Any] | None = None, **settings: Any) -> dict[str, Any]:
    given = {"kind": "sparse", "seeds": [7, 8, 9], "settings": {"from": "tune", "best": BEST} | settings} | (fresh or {})
    return {
        "name": "chain",
        "data": {"name": "digits", "max_train": 200, "max_test": 60},
        "stages": {"tune": TUNE, "fresh": given},
    }


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("settings") / "out"
    assert run(chain(), folder, local=True).exit_code == ExitCode.FINISHED
    return folder


def runs_of(folder: Path) -> pd.DataFrame:
    results = Results(folder)
    specs = results.runs().set_index("run_key")["spec_json"].map(json.loads)
    final = results.final().astype({"density": float})
    return final.assign(lr=final["run_key"].map(lambda key: specs[key]["optimizer"]["lr"]))


def test_the_best_setting_of_each_value_is_trained_with_fresh_seeds(trained: Path) -> None:
    runs = runs_of(trained)
    tune, fresh = runs[runs["stage"] == "tune"], runs[runs["stage"] == "fresh"]
    means = tune.groupby(["density", "lr"])["val/nll"].mean()
    assert means.unstack().max(axis=1).gt(means.unstack().min(axis=1)).all()  # otherwise there is nothing to choose
    expected = {(density, means[density].idxmin(), seed) for density in (0.5, 0.2) for seed in (7, 8, 9)}
    assert set(fresh[["density", "lr", "seed"]].itertuples(index=False, name=None)) == expected
    assert len(runs) == 8 + 6


def test_runs_that_settings_were_chosen_by_come_last_and_are_no_results(trained: Path) -> None:
    study = Study.read([trained])
    assert study.chosen_from == {"tune"}
    assert study.tuned_columns("fresh") == {"optimizer.lr"}
    assert study.tuned_columns("tune") == frozenset()
    table = summary_table(study)
    stages = [row[table.headers.index("stage")].text for row in table.rows]
    assert stages == ["fresh"] * 2 + ["tune"] * 4
    assert "ranges from" in headline(study)
    assert "tune" not in headline(study)


def test_its_jobs_are_those_of_any_spec_with_these_settings(trained: Path) -> None:
    """They do not consume the runs that the choice was made by, so a cache finds them."""
    fresh = Results(trained).runs()
    fresh = fresh[fresh["stage"] == "fresh"]
    assert fresh["parent_key"].isna().all()
    for row in fresh.itertuples():
        tables = {name: table for name, table in json.loads(row.spec_json).items() if name != "seed"}
        (job,) = load_spec({"name": "alone", "kind": "sparse", "seeds": [row.seed], **tables}).jobs
        assert job.key == row.run_key


def test_the_spec_as_run_gives_the_same_jobs(trained: Path) -> None:
    plan = make_plan(load_spec(trained / "spec.yaml"), RunFolder(trained))
    assert {job.key for job in plan.spec.jobs} == set(Results(trained).runs()["run_key"])


def test_a_plan_says_what_the_jobs_wait_for(pruneyard: Pruneyard, tmp_path: Path) -> None:
    (tmp_path / "chain.yaml").write_text(json.dumps(chain()))
    said = pruneyard("plan", "chain.yaml").out
    assert "fresh gets its jobs while the study runs: the best val/nll of tune is known once all its runs" in said


def test_settings_of_a_folder_are_those_of_its_best_runs(trained: Path) -> None:
    """Without a metric every setting is taken."""
    table = {"from": str(trained), "where": {"method.density": 0.5}}
    one = load_spec({"name": "more", "kind": "sparse", "seeds": [11], "settings": {**table, "best": "val/nll"}})
    assert len(one.jobs) == 1
    assert len(load_spec({"name": "more", "kind": "sparse", "seeds": [11], "settings": table}).jobs) == 2


@each_case(
    ("spec", "said"),
    [
        (chain(over="seed"), "settings.over: is unknown; known are from, where, best"),
        (chain({"settings": "tune"}), "settings: is "),
        (chain({"model": {"name": "mlp"}}), "model: stands beside settings: settings gives all tables of the jobs"),
        (chain({"kind": "calibrate"}), "which has runs of kind sparse; they must be of the stage's kind, calibrate"),
        (chain(**{"from": "later"}), "settings.from: is \"later\"; there is no such folder, and no earlier stage of that name ("),
        (chain(best="test/nll"), "settings.best.metric"),
    ],
)
def test_what_is_wrong_is_said(spec: dict[str, Any], said: str) -> None:
    with pytest.raises(SpecError) as caught:
        load_spec(spec)
    assert said in str(caught.value)
