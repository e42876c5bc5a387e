"""`pruneyard compare`: the comparison with a baseline as a table, as JSON, and as gates that end with exit code 5."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from made_up_study import metric, record
from scipy import stats

from pruneyard.orchestrator.errors import UsageError
from pruneyard.orchestrator.reading.comparison import Gate
from pruneyard.orchestrator.results import Results
from pruneyard.reports.layout import RunFolder
from pruneyard.reports.paired import verdict
from pruneyard.reports.store import Store

ACCURACY = {  # by method and density; five seeds
    ("static", 0.1): (0.80, 0.82, 0.81, 0.79, 0.83),
    ("rigl", 0.1): (0.901, 0.919, 0.911, 0.889, 0.931),  # 0.1 above, plus or minus 0.001
    ("set", 0.1): (0.85, 0.76, 0.86, 0.75, 0.84),  # 0.002 above on average
    ("static", 0.05): (0.70, 0.71, 0.69, 0.72, 0.70),
    ("rigl", 0.05): (0.65, 0.66, 0.64, 0.67, 0.651),  # 0.05 below
    ("dense", 1.0): (0.95, 0.95, 0.95, 0.95, 0.95),
}


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """Writes five seeds of three methods at two densities and of a dense network; returns the folder."""
    store = Store(RunFolder(tmp_path))
    for (method, density), values in ACCURACY.items():
        spec = json.dumps({"method": {"name": method, "density": density}})
        for seed, value in enumerate(values):
            run = record(
                f"{method}{density}{seed}",
                method=method,
                density=density,
                seed=seed,
                spec_json=spec,
                train_flops=2e9 if method == "rigl" else 1e9,
            )
            store.write(run, [metric(value), metric(1 - value, name="nll")], [])
    return tmp_path


def test_every_setting_is_compared_with_the_baseline_of_its_density(study: Path) -> None:
    """The natural baseline of sparse training is static masks; the dense network competes with nothing."""
    table = Results(study).against(metric="test/accuracy").set_index(["a", "b"])
    assert set(table.index) == {
        ("rigl · density 0.1", "static · density 0.1"),
        ("set · density 0.1", "static · density 0.1"),
        ("rigl · density 0.05", "static · density 0.05"),
    }
    pairs = [("rigl", 0.1), ("set", 0.1), ("rigl", 0.05)]
    better, unclear, worse = (table.loc[(f"{a} · density {d}", f"static · density {d}")] for a, d in pairs)
    assert better["difference"] == pytest.approx(0.1002)
    assert (better["verdict"], better["num_won"], better["flops_ratio"]) == ("better", 5, 2.0)
    assert (worse["verdict"], worse["num_won"]) == ("worse", 0)
    assert unclear["verdict"].startswith("not separable with 5 seeds; about ")
    assert unclear["num_won"] == 3
    # Holm: the smallest of three p-values times three, the largest as it is.
    by_size = table.sort_values("p_value")
    assert by_size["p_corrected"].iloc[0] == pytest.approx(3 * by_size["p_value"].iloc[0])
    assert by_size["p_corrected"].iloc[2] == pytest.approx(by_size["p_value"].iloc[2])


def test_a_dense_baseline_is_compared_with_every_density(study: Path) -> None:
    table = Results(study).against("dense", metric="test/accuracy", only={"method": "rigl"})
    assert table[["a", "b"]].to_dict("records") == [
        {"a": "rigl · density 0.1", "b": "dense"},
        {"a": "rigl · density 0.05", "b": "dense"},
    ]


def test_the_command_prints_table_json_and_formats(study: Path, pruneyard: Callable[..., Any]) -> None:
    found = pruneyard("compare", study, "--metric", "test/accuracy", "--where", "density=0.1")
    assert found.code == 0
    (row,) = [line for line in found.out.splitlines() if line.startswith("rigl")]
    assert "0.1002 ± 0.0014" in row
    assert "5/5" in row
    assert row.rstrip().endswith("better")
    rows = json.loads(pruneyard("compare", study, "--baseline", "method=set", "--json").out)["rows"]
    assert {(row["a"], row["b"]) for row in rows} == {
        ("rigl · density 0.1", "set · density 0.1"),
        ("static · density 0.1", "set · density 0.1"),
    }
    assert pruneyard("compare", study, "--format", "markdown").out.startswith("| a ")


@pytest.mark.parametrize(
    ("gate", "code", "failure"),
    [
        ("test/accuracy >= baseline - 0.06", 0, None),
        ("test/accuracy >= baseline", 5, "rigl · density 0.05 has 0.6542; the limit is 0.704"),
        ("test/nll < 0.36", 0, None),
        ("test/nll<0.3", 5, "rigl · density 0.05 has 0.3458; the limit is 0.3"),
        ("lower(test/accuracy) >= baseline - 0.07", 0, None),
        (
            "lower(test/accuracy) >= baseline - 0.05",
            5,
            "set · density 0.1: the lower end of the interval of the difference from the baseline is -0.0609464",
        ),
        ("upper( test/nll ) < 0.36", 0, None),
        ("lower(test/accuracy) > 0.7", 5, "rigl · density 0.05: the lower end of the interval of its mean is 0.640141"),
    ],
)
def test_a_gate_decides_the_exit_code(
    study: Path, pruneyard: Callable[..., Any], gate: str, code: int, failure: str | None
) -> None:
    found = pruneyard("compare", study, "--gate", gate)
    assert found.code == code
    assert f"gate {'failed' if code else 'holds'}: {gate}" in found.err
    assert failure is None or failure in found.err


def test_a_gate_that_cannot_be_judged_fails(tmp_path: Path, pruneyard: Callable[..., Any]) -> None:
    store = Store(RunFolder(tmp_path))
    for method, seed in (("static", 0), ("rigl", 1)):
        spec = json.dumps({"method": {"name": method}})
        store.write(record(f"{method}{seed}", method=method, seed=seed, spec_json=spec), [metric(0.5)], [])
    found = pruneyard("compare", tmp_path, "--gate", "test/accuracy >= 0")
    assert found.code == 5
    assert "rigl and the baseline have no common seed" in found.err


def test_ends_of_intervals_are_those_of_scipy_and_one_seed_has_none(study: Path, tmp_path: Path) -> None:
    (row,) = Results(study).against(metric="test/accuracy", only={"method": "set"}).to_dict("records")
    ours, theirs = (np.array(ACCURACY[method, 0.1]) for method in ("set", "static"))
    for values, low in ((ours - theirs, row["difference_low"]), (ours, row["mean_a_low"])):
        assert low == pytest.approx(stats.ttest_1samp(values, 0).confidence_interval(0.95).low)
    one = pd.DataFrame([{**row, "num_pairs": 1, "difference_low": math.nan}])
    assert Gate.parse("lower(test/accuracy) >= baseline").failures(one) == [
        "set · density 0.1 has 1 common seeds with the baseline; an interval needs two"
    ]


def test_a_margin_tells_equivalent_settings_from_those_that_are_not_separable(
    study: Path, pruneyard: Callable[..., Any]
) -> None:
    found = json.loads(pruneyard("compare", study, "--margin", "0.2", "--json").out)["rows"]
    verdicts = {row["a"]: row["verdict"] for row in found}
    assert verdicts == {
        "rigl · density 0.1": "better, by less than 0.2",
        "set · density 0.1": "equivalent within ± 0.2",
        "rigl · density 0.05": "worse, by less than 0.2",
    }
    assert "not separable" in pruneyard("compare", study, "--margin", "0.01", "--where", "method=set", "--json").out
    refused = pruneyard("compare", study, "--margin", "-1")
    assert (refused.code, "margin is -1; it must be above 0" in refused.err) == (2, True)


def test_each_row_has_the_sign_flip_test_and_the_probability_of_improvement(study: Path) -> None:
    table = Results(study).against(metric=["test/accuracy", "test/nll"]).set_index(["a", "metric"])
    for name in ("test/accuracy", "test/nll"):
        better, unclear = (table.loc[(f"{method} · density 0.1", name)] for method in ("rigl", "set"))
        assert better["p_sign_flip"] == 2 / 2**5
        assert better["probability_better"] == 1.0
        wins = stats.mannwhitneyu(ACCURACY["set", 0.1], ACCURACY["static", 0.1]).statistic / 25
        assert unclear["probability_better"] == pytest.approx(wins)


@pytest.mark.parametrize(
    "text",
    [
        "lower(test/accuracy > 0.5",
        "mean(test/accuracy) > 0.5",
        "test/accuracy",
        "test/accuracy => 0.5",
        "test/accuracy >= base",
        "accuracy >= 1 2",
    ],
)
def test_what_is_no_gate_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="it must be METRIC, then one of >=, <=, >, <, then a number, or baseline"):
        Gate.parse(text)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--baseline", "static"], "--baseline static: it must be KEY=VALUE, as in method=static"),
        (["--baseline", "method=stattic"], "the baseline wants method 'stattic', which no setting has there"),
        (["--metric", "test/acc"], "test/acc: no run has it"),
        (["--where", "method=static"], "no other setting agrees with the baseline method=static"),
    ],
)
def test_what_cannot_be_compared_is_refused(
    study: Path, pruneyard: Callable[..., Any], arguments: list[str], words: str
) -> None:
    found = pruneyard("compare", study, *arguments)
    assert found.code == 2
    assert words in found.err


def test_what_only_the_correction_makes_unclear_is_told_apart() -> None:
    """Three differences of about 0.3 with a p-value of 0.03: alone they are clear, among six rows they are not."""
    row = pd.Series({"num_pairs": 3, "better": None, "p_value": 0.03, "p_corrected": 0.15, "pairs_needed": 3.0})
    assert verdict(row) == "not separable after correction for all rows"
    assert verdict(pd.Series({**row, "p_value": 0.15})) == "not separable with 3 seeds"


def test_the_summary_is_exported_with_chosen_columns_and_bold_where_clear(study: Path, pruneyard: Callable[..., Any]) -> None:
    text = pruneyard("export", study, "--columns", "method,density,test/accuracy", "--format", "latex").out
    assert r"method & density & test/accuracy \\" in text
    assert r"dense & 1 & \textbf{0.9500 $\pm$ 0}" in text
    assert text.count(r"\textbf") == 1
    refused = pruneyard("export", study, "--columns", "metod")
    assert (refused.code, "did you mean method?" in refused.err) == (2, True)
    assert "only of the summary" in pruneyard("export", study, "--columns", "seed", "--table", "runs").err


@pytest.fixture
def curves(tmp_path: Path) -> Path:
    """Writes two methods: static is better after five epochs, rigl after ten, and costs twice the FLOPs per epoch."""
    store = Store(RunFolder(tmp_path / "curves"))
    for method, gain, flops in (("rigl", 0.05, 2e9), ("static", 0.03, 1e9)):
        for seed in range(3):
            late = 0.3 if method == "static" else 0.2
            rows = []
            for epoch in range(1, 11):
                value = late + gain * epoch + 0.001 * seed * (1 if method == "rigl" else -1)
                rows.append(metric(value, step=10 * epoch, split="val"))
                rows.append(metric(flops * epoch, step=10 * epoch, split="train", name="flops"))
            run = record(f"{method}{seed}", method=method, seed=seed, spec_json=json.dumps({"method": {"name": method}}))
            store.write(run, rows, [])
    return tmp_path / "curves"


@pytest.mark.parametrize(
    ("budget", "difference"),
    [
        (None, 0.1),  # 0.2 + 10 * 0.05 against 0.3 + 10 * 0.03
        ("epochs=4", -0.02),  # 0.2 + 4 * 0.05 against 0.3 + 4 * 0.03
        ("steps=45", -0.02),
        ("time=4.5", -0.02),
        ("flops=10e9", -0.15),  # 0.2 + 5 * 0.05 against 0.3 + 10 * 0.03
    ],
)
def test_settings_are_compared_at_an_equal_budget(
    curves: Path, pruneyard: Callable[..., Any], budget: str | None, difference: float
) -> None:
    arguments = [] if budget is None else ["--budget", budget]
    found = pruneyard("compare", curves, "--metric", "val/accuracy", "--json", *arguments)
    (row,) = json.loads(found.out)["rows"]
    assert row["difference"] == pytest.approx(difference + 0.002, abs=1e-9)
    assert (row["flops_ratio"] is None) == (budget is not None)


@pytest.mark.parametrize(
    ("budget", "words"),
    [
        ("epochs=99", "no run has spent it; the most that one has is 10"),
        ("hours=3", "budget 'hours' is unknown; it must be one of steps, epochs, time, flops"),
        ("epochs=many", "budget epochs=many: must be steps=NUMBER or"),
        ("epochs=-1", "the amount must be above 0"),
    ],
)
def test_a_budget_that_cannot_be_matched_is_refused(
    curves: Path, pruneyard: Callable[..., Any], budget: str, words: str
) -> None:
    found = pruneyard("compare", curves, "--metric", "val/accuracy", "--budget", budget)
    assert found.code == 2
    assert words in found.err


def test_a_run_that_ended_before_the_budget_has_no_value(curves: Path, pruneyard: Callable[..., Any]) -> None:
    """At 15e9 FLOPs only rigl, which has spent 20e9, is known: static ended at 10e9."""
    found = pruneyard("compare", curves, "--metric", "val/accuracy", "--budget", "flops=15e9", "--json")
    assert json.loads(found.out)["rows"][0]["verdict"] == "no pair has both values"


def test_a_page_of_an_equal_budget_says_so_and_needs_a_place_of_its_own(
    curves: Path, tmp_path: Path, pruneyard: Callable[..., Any]
) -> None:
    assert "needs --out" in pruneyard("report", curves, "--budget", "epochs=4").err
    assert pruneyard("report", curves, "--budget", "epochs=4", "--out", tmp_path / "page.html").code == 0
    assert "within an equal budget of epochs 4" in (tmp_path / "page.html").read_text(encoding="utf-8")


def test_two_folders_are_compared_in_every_format_and_each_side_names_its_folder(
    study: Path, tmp_path_factory: pytest.TempPathFactory, pruneyard: Callable[..., Any]
) -> None:
    other = tmp_path_factory.mktemp("other")
    for seed, value in enumerate((0.84, 0.85, 0.86, 0.84, 0.85)):
        spec = json.dumps({"method": {"name": "snfs", "density": 0.1}})
        run = record(f"snfs{seed}", method="snfs", density=0.1, seed=seed, spec_json=spec)
        Store(RunFolder(other)).write(run, [metric(value)], [])
    asked = ("compare", study, other, "--baseline", "method=static", "--where", "method=snfs")
    (row,) = json.loads(pruneyard(*asked, "--json").out)["rows"]
    assert (row["folder_a"], row["folder_b"]) == (other.name, study.name)
    values = np.array((0.84, 0.85, 0.86, 0.84, 0.85)) - np.array(ACCURACY["static", 0.1])
    assert row["difference"] == pytest.approx(values.mean())
    drawn = np.random.default_rng(1).choice(values, size=(20_000, 5)).mean(axis=1)
    assert row["bootstrap_low"] == pytest.approx(np.quantile(drawn, 0.025), abs=0.003)
    assert row["bootstrap_high"] == pytest.approx(np.quantile(drawn, 0.975), abs=0.003)
    for form, start in (("csv", "a,b,"), ("markdown", "| a "), ("latex", "\\begin{tabular}"), ("html", "<table")):
        printed = pruneyard(*asked, "--format", form).out
        assert printed.lstrip().startswith(start), form
        assert other.name in printed, form
