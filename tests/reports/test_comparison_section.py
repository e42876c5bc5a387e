"""The page's comparison with the natural baseline: what it says and where it says nothing, with the numbers of the runs."""

import hashlib
import json

import numpy as np
import pytest
from made_up_study import metric, record, write_study
from scipy import stats

from pruneyard.orchestrator.results import Results
from pruneyard.reports.comparison_section import comparisons
from pruneyard.reports.layout import RunFolder
from pruneyard.reports.paired import against_baseline
from pruneyard.reports.planned import write_plan
from pruneyard.reports.store import Store
from pruneyard.reports.study import Study


def write_runs(folder, accuracies, *, kind="sparse"):
    """Writes one run for each method and seed of `accuracies`."""
    for method, values in accuracies.items():
        spec = json.dumps({"kind": kind, "method": {"name": method}})
        for seed, value in enumerate(values):
            run = record(f"{method}{seed}", kind=kind, method=method, seed=seed, density=None, spec_json=spec)
            Store(RunFolder(folder)).write(run, [metric(value)], [])
    return Study.read([folder])


def test_numbers_of_the_table_are_those_of_the_runs_by_another_way(tmp_path):
    write_study(tmp_path)
    (found,) = comparisons(Study.read([tmp_path]))
    final = Results(tmp_path).final()
    final = final[final["status"] == "COMPLETED"].set_index(["method", "density", "seed"])["test/accuracy"].sort_index()
    shown = {row[0].text: row for row in found.table.rows}
    p_values = {}
    for method, density in [(method, density) for method in ("rigl", "set") for density in (0.2, 0.1, 0.05)]:
        differences = (final[method, density] - final["static", density]).to_numpy()
        row = shown[f"{method} · density {density}"]
        assert float(row[2].text) == pytest.approx(differences.mean(), abs=0.5 * 10 ** -len(row[2].text.partition(".")[2]))
        assert row[4].text == f"{(differences > 0).sum()} of 3"
        p_values[row[0].text] = stats.ttest_1samp(differences, 0).pvalue
    smallest = min(p_values, key=p_values.get)
    num_tests = sum(row[3].text != "n/a" for row in found.table.rows)
    assert float(shown[smallest][3].text) <= num_tests * p_values[smallest] * 1.05
    assert not any(row[0].text.startswith("dense") for row in found.table.rows)


def test_the_sentence_counts_settings_and_names_the_best_first(tmp_path):
    write_study(tmp_path)
    (found,) = comparisons(Study.read([tmp_path]))
    assert found.sentence == (
        "Against static, paired by seed, in test accuracy: rigl is better in all 4 settings; set is better in 2 of 4 settings."
    )


def test_what_cannot_be_separated_is_not_called_better(tmp_path):
    rng = np.random.default_rng(0)
    found = comparisons(write_runs(tmp_path, {"static": rng.normal(size=4), "rigl": rng.normal(size=4)}))
    assert found[0].sentence == "Against static, paired by seed, in test accuracy: rigl is not separable from it."
    (row,) = found[0].table.rows
    assert row[-1].text.startswith("not separable with 4 seeds")
    assert row[-1].tone == "quiet"


def test_distilled_data_are_compared_with_random_images(tmp_path):
    study = write_runs(tmp_path, {"random": (0.5, 0.51, 0.49), "dm": (0.7, 0.72, 0.69)}, kind="distill")
    assert [(each.baseline, each.table.rows[0][-1].text) for each in comparisons(study)] == [("random", "better")]


@pytest.mark.parametrize(
    "accuracies",
    [
        {"static": (0.5,), "rigl": (0.6,)},  # one seed
        {"rigl": (0.5, 0.6), "set": (0.6, 0.7)},  # no baseline
        {"static": (0.5, 0.6)},  # nothing to compare with it
    ],
)
def test_without_a_baseline_or_two_seeds_there_is_no_comparison(tmp_path, accuracies):
    assert comparisons(write_runs(tmp_path, accuracies)) == []


NOISE = (0.01, 0.02, 0.0, -0.02)


def write_setting(folder, value, *, kind="sparse", method="rigl", stage=None, metrics=(), **spec):
    """Writes four runs of one setting with test accuracies around `value`, and further metrics (split, name, value)."""
    method = {"name": method, **spec.pop("method_keys", {})}
    text = json.dumps({"kind": kind, "method": method, **spec})
    for seed, noise in enumerate(NOISE):
        key = hashlib.blake2b(f"{stage}{text}{seed}".encode(), digest_size=8).hexdigest()
        run = record(key, kind=kind, method=method["name"], seed=seed, density=None, stage=stage, spec_json=text)
        rows = [metric(value * (1 + noise)), *(metric(number, split=split, name=name) for split, name, number in metrics)]
        Store(RunFolder(folder)).write(run, rows, [])


@pytest.mark.parametrize(
    ("spec", "told"),
    [
        ([{"gradient": {"name": "plain"}}, {"gradient": {"name": "agent"}}], "gradient plain"),
        ([{"objective": {"name": "cross_entropy"}}, {"objective": {"name": "focal"}}], "objective cross_entropy"),
    ],
)
def test_gradient_rules_and_losses_are_compared_with_the_plain_one(tmp_path, spec, told):
    for value, tables in zip((0.5, 0.6), spec, strict=True):
        write_setting(tmp_path, value, **tables)
    (found,) = comparisons(Study.read([tmp_path]))
    assert found.baseline == told
    assert found.name == "against-" + told.replace(" ", "-").replace("_", "-")
    assert found.short.startswith(f"Against {told}, paired by seed, in test accuracy: ")
    assert [row[-1].text for row in found.table.rows] == ["better"]


def write_tuned(folder):
    """A search over the rate in stage `tune`, of which plain gradients and AGENT each got the best, and fresh seeds of both."""
    for name, rate, value in (("plain", 0.1, 0.5), ("agent", 0.2, 0.6)):
        for tried in (0.1, 0.2):
            write_setting(folder, 0.9, stage="tune", gradient={"name": name}, optimizer={"lr": tried})
        write_setting(folder, value, stage="fresh", gradient={"name": name}, optimizer={"lr": rate})
    return RunFolder(folder)


def test_what_was_chosen_for_each_side_need_not_agree_and_the_runs_of_the_choice_are_no_results(tmp_path):
    folder = write_tuned(tmp_path)
    keys = sorted(Store(folder).statuses())
    write_plan(folder, keys, chosen_from=["tune"], chosen_per={"fresh": ["gradient.name"]})
    study = Study.read([tmp_path])
    (found,) = comparisons(study)
    (row,) = found.table.rows
    sides = ["fresh · gradient agent · lr 0.2", "fresh · gradient plain · lr 0.1"]
    assert [row[place].text for place in (0, 1, -1)] == [*sides, "better"]
    assert float(row[2].text) == pytest.approx(0.1 * (1 + np.mean(NOISE)), abs=1e-3)
    # In `tune` each rate is a setting of its own.
    rows = against_baseline(study, {"gradient.name": "plain"}, ["test/accuracy"])
    assert sorted(rows["a"]) == [sides[0], "tune · gradient agent · lr 0.1", "tune · gradient agent · lr 0.2"]


def test_rates_of_a_grid_must_agree(tmp_path):
    folder = write_tuned(tmp_path)
    write_plan(folder, sorted(Store(folder).statuses()), chosen_from=["tune"])
    assert comparisons(Study.read([tmp_path])) == []


def test_without_a_natural_baseline_settings_are_compared_with_the_leader_on_val(tmp_path):
    for name, on_test, on_val in (("set", 0.7, 0.5), ("rigl", 0.6, 0.8), ("dense", 0.9, 0.9)):
        write_setting(tmp_path, on_test, method=name, metrics=[("val", "accuracy", on_val)])
    (found,) = comparisons(Study.read([tmp_path]))
    assert found.name == "against-the-leader"
    assert found.sentence == "Against the leader in val accuracy, rigl, paired by seed, in test accuracy: set is better."
    assert [(row[0].text, row[1].text) for row in found.table.rows] == [("set", "rigl")]


def test_a_leader_is_never_chosen_on_test(tmp_path):
    for name, value in (("set", 0.7), ("rigl", 0.6)):
        write_setting(tmp_path, value, method=name)
    assert comparisons(Study.read([tmp_path])) == []


def test_two_kinds_of_jobs_with_one_baseline_have_sections_of_their_own(tmp_path):
    for kind in ("nodes", "sparse"):
        for value, name in ((0.5, "cross_entropy"), (0.6, "focal")):
            write_setting(tmp_path, value, kind=kind, objective={"name": name})
    names = [each.name for each in comparisons(Study.read([tmp_path]))]
    assert names == ["against-objective-cross-entropy", "against-objective-cross-entropy-sparse"]
