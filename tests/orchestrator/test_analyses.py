"""Analyses of whole studies against what was planted in them: importances, aggregates, targets, variances and fronts."""

import itertools
import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from made_up_study import metric, record
from scipy import stats

from pruneyard.orchestrator.errors import UsageError
from pruneyard.orchestrator.reading.analyses import ANALYSES, analysis
from pruneyard.orchestrator.results import Results
from pruneyard.reports.analysis.aggregates import common_scores
from pruneyard.reports.charts.catalog import figure_named
from pruneyard.reports.layout import RunFolder
from pruneyard.reports.records import Status
from pruneyard.reports.store import Store
from pruneyard.reports.study import Study

LEVELS = (0.1, 0.2, 0.3, 0.4)


@pytest.fixture(scope="module")
def grid(tmp_path_factory):
    """Writes a grid of three hyperparameters on which accuracy depends as 3 lr + wd, and not at all on the third."""
    folder = tmp_path_factory.mktemp("grid")
    store = Store(RunFolder(folder))
    for number, (lr, wd, name) in enumerate(itertools.product(LEVELS, LEVELS, ("a", "b"))):
        spec = {"optimizer": {"name": name, "lr": lr, "wd": wd}, "method": {"name": "rigl"}}
        store.write(record(f"g{number}", spec_json=json.dumps(spec)), [metric(0.3 * lr + 0.1 * wd), metric(lr, name="odd")], [])
    return Study.read([folder])


@pytest.mark.parametrize(("evaluator", "least"), [("fanova", 0.8), ("ped_anova", 0.5)])
def test_importances_are_the_shares_of_the_planted_variance(grid, evaluator, least):
    """Two independent uniform factors, one scaled by 3, have shares of the variance of 9 to 1."""
    table = analysis(grid, "importance", metric="test/accuracy", evaluator=evaluator)
    shares = dict(zip(table["setting"], table["importance"], strict=True))
    assert next(iter(table["setting"])) == "optimizer.lr"
    assert sum(shares.values()) == pytest.approx(1)
    assert shares["optimizer.lr"] > least
    assert shares["optimizer.name"] < 0.05
    if evaluator == "fanova":
        assert shares["optimizer.lr"] == pytest.approx(0.9, abs=0.06)
    assert table.loc[0, ["num_values", "num_settings"]].tolist() == [4, 32]


def test_what_matters_for_being_good_needs_a_known_direction(grid):
    assert len(analysis(grid, "importance", metric="test/odd", evaluator="fanova")) == 3
    with pytest.raises(UsageError, match="test/odd: it is not known whether larger is better"):
        analysis(grid, "importance", metric="test/odd", evaluator="ped_anova")


def test_an_importance_is_a_chart_too(grid):
    figure = figure_named(grid, "importance")
    assert "optimizer.lr 0." in figure.panels[0].words
    assert "fANOVA over 32 settings" in figure.caption


TASKS, SEEDS = (0.2, 0.1, 0.05), range(4)


def value_of(method, density, seed):
    return 0.7 + 0.02 * (method == "rigl") + 0.1 * density + 0.01 * seed * (1 if method == "rigl" else -1) / 3


@pytest.fixture(scope="module")
def sweep(tmp_path_factory):
    """Writes two methods at three densities with four seeds; accuracy rises by a tenth of its end per epoch. One is pruned."""
    folder = tmp_path_factory.mktemp("sweep")
    store = Store(RunFolder(folder))
    for method, density, seed in itertools.product(("rigl", "static"), TASKS, SEEDS):
        end = value_of(method, density, seed)
        is_pruned = (method, density, seed) == ("rigl", 0.05, 3)
        epochs = range(1, 4 if is_pruned else 11)
        rows = [metric(end * epoch / 10, step=10 * epoch, split="val") for epoch in epochs]
        rows += [] if is_pruned else [metric(end, step=100)]
        spec = json.dumps({"method": {"name": method, "density": density}})
        status = Status.PRUNED if is_pruned else Status.COMPLETED
        active = int(1000 * density) * (1 if method == "rigl" else 2)
        settings = {"method": method, "density": density, "seed": seed, "num_active": active}
        store.write(record(f"{method}{density}{seed}", spec_json=spec, status=status, **settings), rows, [])
    return Study.read([folder])


def test_aggregates_are_those_of_the_tasks_and_seeds_that_all_methods_have(sweep):
    scores = common_scores(sweep, "test/accuracy")
    assert {name: each.shape for name, each in scores.items()} == {"rigl": (3, 3), "static": (3, 3)}  # seed 3 was pruned once
    table = analysis(sweep, "aggregates").set_index("method")
    own = [value_of("rigl", density, seed) for density in TASKS for seed in range(3)]
    assert table.loc["rigl", "mean"] == pytest.approx(np.mean(own))
    assert table.loc["rigl", "iqm"] == pytest.approx(stats.trim_mean(own, 0.25))
    assert table.loc["rigl", "iqm_low"] < table.loc["rigl", "iqm"] < table.loc["rigl", "iqm_high"]
    sides = [[[value_of(method, density, seed) for seed in range(3)] for method in ("rigl", "static")] for density in TASKS]
    wins = [stats.mannwhitneyu(ours, theirs).statistic / 9 for ours, theirs in sides]
    assert table.loc["rigl", "probability_better"] == pytest.approx(np.mean(wins))
    assert math.isnan(table.loc["static", "probability_better"])


def test_a_profile_counts_tasks_and_seeds_above_each_threshold(sweep):
    table = analysis(sweep, "profile")
    own = np.array([value_of("static", density, seed) for density in TASKS for seed in range(3)])
    for _, row in table[table["method"] == "static"].iterrows():
        assert row["share"] == pytest.approx((own > row["threshold"]).mean())
        assert row["share_low"] <= row["share"] + 1e-9
        assert row["share"] <= row["share_high"] + 1e-9


def test_a_run_that_was_stopped_before_the_target_counts_as_censored(sweep):
    """Runs reach 0.35, about half of their end, in epoch 5; the one that was stopped in epoch 3 never shows whether it would."""
    table = analysis(sweep, "time-to-target", target=0.35).set_index("setting")
    stopped = table.loc["rigl · density 0.05"]
    assert stopped[["num_runs", "num_reached", "median"]].tolist() == [4, 3, 5.0]
    steps = analysis(sweep, "time-to-target", target=0.35, cost="steps").set_index("setting")
    assert steps.loc["static · density 0.2", "median"] == 50
    never = analysis(sweep, "time-to-target", target=0.99)
    assert never["num_reached"].sum() == 0
    assert never["median"].isna().all()


def test_without_a_target_the_baseline_of_the_same_density_sets_it(sweep):
    table = analysis(sweep, "time-to-target").set_index("setting")
    for density in TASKS:
        target = np.mean([value_of("static", density, seed) for seed in SEEDS])
        assert table.loc[f"rigl · density {density:g}", "target"] == pytest.approx(target)


def test_variances_of_a_chain_are_those_of_its_levels(tmp_path):
    """Four networks with three trainings on each: the values are network + training, and the variances those of the two."""
    rng = np.random.default_rng(0)
    store, scores = Store(RunFolder(tmp_path)), rng.normal(size=(4, 1)) + 0.1 * rng.normal(size=(4, 3))
    for place, row in enumerate(scores):
        spec = {"method": {"name": "dense"}}
        store.write(record(f"p{place}", seed=place, method="dense", stage="a", spec_json=json.dumps(spec)), [metric(0.5)], [])
        for seed, value in enumerate(row):
            run = record(f"c{place}{seed}", seed=seed, stage="b", parent_key=f"p{place}", spec_json="{}")
            store.write(run, [metric(float(value))], [])
    table = analysis(Study.read([tmp_path]), "variance")
    own = table[table["setting"].str.startswith("rigl")].set_index("level")
    within = scores.var(axis=1, ddof=1).mean()
    assert own.loc[2, "variance"] == pytest.approx(within)
    assert own.loc[1, "variance"] == pytest.approx(scores.mean(axis=1).var(ddof=1) - within / 3)
    assert own["share"].sum() == pytest.approx(1)


def test_a_front_has_the_settings_that_nothing_dominates(sweep):
    """static has twice the active parameters at each density, and lower accuracy."""
    table = analysis(sweep, "front").set_index("setting")
    assert table["on_front"].to_dict() == {
        f"{method} · density {density:g}": method == "rigl" for method in ("rigl", "static") for density in TASKS
    }
    volumes = analysis(sweep, "hypervolume").set_index("method")
    assert volumes.loc["rigl", "hypervolume"] > volumes.loc["static", "hypervolume"]
    assert volumes["num_on_front"].to_dict() == {"rigl": 3, "static": 0}


@pytest.mark.parametrize("name", ["time-to-target", "pareto", "profile", "accuracy-density"])
def test_each_is_a_chart_of_the_figure_command(sweep, name):
    assert figure_named(sweep, name).panels


@pytest.mark.parametrize(
    ("kind", "options", "words"),
    [
        ("importance", {}, "importances need 10 settings and two hyperparameters"),
        ("importants", {}, "it must be one of importance, aggregates"),
        ("front", {"target": 0.5}, "target: analysis front takes cost"),
        ("aggregates", {"cost": "steps"}, "takes no option beside the metric"),
        ("front", {"cost": "money"}, "cost is 'money'; it must be one of num_active, train_flops, train_s"),
        ("time-to-target", {"cost": "money"}, "it must be one of steps, epochs, time, flops"),
        ("front", {"metric": "test/acuracy"}, "did you mean test/accuracy?"),
    ],
)
def test_what_cannot_be_analyzed_is_refused(sweep, kind, options, words):
    with pytest.raises(UsageError) as caught:
        analysis(sweep, kind, **options)
    assert words in str(caught.value)


def test_the_command_prints_an_analysis_in_each_format(sweep, pruneyard):
    folder = sweep.folders[0].path
    assert pruneyard("analyze", folder, "--kind", "front").out.startswith("| setting |")
    assert pruneyard("analyze", folder, "--kind", "hypervolume", "--format", "csv").out.startswith("method,field,")
    assert Results(folder).analyze("variance")["level"].eq(1).all()
    refused = pruneyard("analyze", folder, "--kind", "fronts")
    assert (refused.code, "Did you mean front?" in refused.err) == (2, True)
    assert set(ANALYSES) == {"importance", "aggregates", "profile", "time-to-target", "variance", "front", "hypervolume"}


def test_the_front_of_a_stage_has_its_own_settings_only(tmp_path: Path) -> None:
    for key, stage, method, rate, accuracy in (
        ("slow", "tune", "rigl", 0.1, 0.80),
        ("fast", "tune", "rigl", 0.2, 0.85),
        ("teacher", "teacher", "dense", 0.3, 0.99),
    ):
        spec = json.dumps({"kind": "sparse", "optimizer": {"lr": rate}})
        row = record(key, stage=stage, method=method, density=None, spec_json=spec)
        Store(RunFolder(tmp_path)).write(row, [replace(metric(accuracy), split="val")], [])
    front = Results(tmp_path).pareto({"val/accuracy": "max"}, stage="tune")
    assert front["val/accuracy"].tolist() == [0.85]
    assert Results(tmp_path).pareto({"val/accuracy": "max"})["val/accuracy"].tolist() == [0.99]
