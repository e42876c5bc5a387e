"""The page's comparison with the natural baseline: what it says and where it says nothing, with the numbers of the runs."""

import json

import numpy as np
import pytest
from made_up_study import metric, record, write_study
from scipy import stats

from pruneyard.orchestrator.results import Results
from pruneyard.reports.comparison_section import comparisons
from pruneyard.reports.layout import RunFolder
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
