"""Merges compared with trainings, by seed: soups of siblings against single networks of equal density."""

import json

import pytest
from made_up_study import metric, record
from scipy import stats

from pruneyard.reports.layout import RunFolder
from pruneyard.reports.paired import against_baseline, paired_differences
from pruneyard.reports.store import Store
from pruneyard.reports.study import Study

SOUPS = {"uniform": (0.93, 0.94, 0.92), "greedy": (0.92, 0.93, 0.91)}
IMP = (0.90, 0.92, 0.91)


def write_study(folder):
    """Writes soups of one density and IMP of two, three seeds of each; soups rest on other first runs than IMP."""
    store = Store(RunFolder(folder))
    siblings = {"kind": "sparse", "method": {"name": "one_shot", "density": 0.02}, "model": {"width": 64}}
    for method, values in SOUPS.items():
        spec = json.dumps({"kind": "merge", "input": {"runs": siblings}, "method": {"name": method}})
        for seed, value in enumerate(values):
            run = record(
                f"{method}{seed}", kind="merge", stage="soup", method=method, seed=seed, density=0.02, parent_key=f"d{seed}",
                spec_json=spec,
            )  # fmt: skip
            store.write(run, [metric(value)], [])
    for density, shift in ((0.02, 0.0), (0.5, 0.05)):
        spec = json.dumps({"kind": "sparse", "method": {"name": "imp", "density": density}, "model": {"width": 64}})
        for seed, value in enumerate(IMP):
            run = record(f"imp{density}{seed}", stage="imp", method="imp", seed=seed, density=density, spec_json=spec)
            store.write(run, [metric(value + shift)], [])
    return Study.read([folder])


def test_a_named_stage_may_have_another_kind_of_jobs(tmp_path):
    study = write_study(tmp_path)
    rows = against_baseline(study, {"stage": "imp"}, ["test/accuracy"], only={"stage": "soup"})
    assert [label.partition(" ")[0] for label in rows["a"]] == ["greedy", "uniform"]
    assert all("0.02" in label for label in rows["b"]), "densities must agree"
    differences = [one - other for one, other in zip(SOUPS["uniform"], IMP, strict=True)]
    row = rows.iloc[1]
    assert row["num_pairs"] == 3
    assert row["difference"] == pytest.approx(sum(differences) / 3)
    assert row["p_value"] == pytest.approx(stats.ttest_1samp(differences, 0).pvalue)
    again = paired_differences(study, {"stage": "soup", "method": "uniform"}, {"stage": "imp"}, ["test/accuracy"])
    assert again["difference"].tolist() == [pytest.approx(row["difference"])]


def test_settings_of_one_kind_still_agree_in_their_method(tmp_path):
    study = write_study(tmp_path)
    rows = against_baseline(study, {"stage": "imp"}, ["test/accuracy"])
    assert not any(label.startswith("imp") for label in rows["a"])
    with pytest.raises(ValueError, match="no other setting agrees"):
        against_baseline(study, {"method": "imp"}, ["test/accuracy"])
