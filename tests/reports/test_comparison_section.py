"""The page's comparison with the natural baseline: what it says and where it says nothing, with the numbers of the runs."""

import hashlib
import json

import numpy as np
import pytest
from made_up_study import metric, record, write_study
from scipy import stats

from pruneyard.orchestrator.results import Results
from pruneyard.reports.analysis.aggregates import aggregates
from pruneyard.reports.analysis.reaching import natural_targets
from pruneyard.reports.comparison_section import comparisons
from pruneyard.reports.layout import RunFolder
from pruneyard.reports.paired import against_baseline
from pruneyard.reports.planned import write_plan
from pruneyard.reports.records import Status
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


def write_setting(folder, value, *, kind="sparse", method="rigl", split="test", metrics=(), num_seeds=4, columns=None, **spec):
    """Writes runs of one setting with accuracies around `value`, and further metrics (split, name, value).

    columns: of the record, such as the stage.
    """
    own = {"kind": kind, "method": method, "density": None, "data": spec.get("data", {}).get("name", "digits"), **(columns or {})}
    text = json.dumps({"kind": kind, "method": {"name": method, "density": own["density"]}, **spec})
    for seed, noise in enumerate(NOISE[:num_seeds]):
        key = hashlib.blake2b(f"{own.get('stage')}{text}{seed}".encode(), digest_size=8).hexdigest()
        rows = [metric(value * (1 + noise), split=split)]
        rows += [metric(number, split=part, name=name) for part, name, number in metrics]
        Store(RunFolder(folder)).write(record(key, seed=seed, spec_json=text, **own), rows, [])


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
            write_setting(folder, 0.9, columns={"stage": "tune"}, gradient={"name": name}, optimizer={"lr": tried})
        write_setting(folder, value, columns={"stage": "fresh"}, gradient={"name": name}, optimizer={"lr": rate})
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


def test_a_leader_was_evaluated_on_val_with_two_seeds_and_finished(tmp_path):
    """On other data nobody was evaluated on val; of three settings the best one has one seed, the next was stopped early."""
    for name, on_val, num_seeds, status in (
        ("snfs", 0.95, 1, "COMPLETED"),
        ("itop", 0.9, 4, "PRUNED"),
        ("rigl", 0.8, 4, "COMPLETED"),
        ("set", 0.7, 4, "COMPLETED"),
    ):
        ended, on_both = {"status": Status(status)}, [("val", "accuracy", on_val)]
        write_setting(tmp_path, on_val, method=name, num_seeds=num_seeds, columns=ended, metrics=on_both)
        write_setting(tmp_path, on_val, method=name, num_seeds=num_seeds, data={"name": "other"})
    (found,) = comparisons(Study.read([tmp_path]))
    assert {row[1].text for row in found.table.rows} == {"digits · rigl"}
    assert {row[0].text: row[-1].text for row in found.table.rows}["digits · set"] == "worse"


def test_what_chose_the_leader_does_not_judge_it(tmp_path):
    for name, value in (("set", 0.7), ("rigl", 0.6)):
        write_setting(tmp_path, value, method=name, split="val")
    assert comparisons(Study.read([tmp_path])) == []


def test_dense_networks_are_compared_with_dense_ones_alone(tmp_path):
    for method in ("dense", "rigl"):
        for value, name in ((0.5, "cross_entropy"), (0.6, "focal")):
            write_setting(tmp_path, value, method=method, objective={"name": name})
    (found,) = comparisons(Study.read([tmp_path]))
    sides = {(row[0].text, row[1].text) for row in found.table.rows}
    assert sides == {(f"{name} · objective focal", f"{name} · objective cross_entropy") for name in ("dense", "rigl")}


def test_settings_chosen_from_a_folder_need_not_agree_in_a_spec_without_stages(tmp_path):
    for name, rate, value in (("plain", 0.1, 0.5), ("agent", 0.2, 0.6)):
        write_setting(tmp_path, value, gradient={"name": name}, optimizer={"lr": rate})
    folder = RunFolder(tmp_path)
    write_plan(folder, sorted(Store(folder).statuses()), chosen_per={"": ["gradient.name"]})
    (found,) = comparisons(Study.read([tmp_path]))
    assert [row[-1].text for row in found.table.rows] == ["better"]
    assert "in all other columns but those that were chosen for each side on its own: mean over" in found.note


def test_each_method_has_the_target_and_the_rival_of_its_own(tmp_path):
    """Plain RigL ends above SET with AGENT, which ends above plain SET."""
    for density in (0.1, 0.02):
        for method, plain, agent in (("set", 0.5, 0.6), ("rigl", 0.8, 0.9)):
            for name, value in (("plain", plain), ("agent", agent)):
                write_setting(tmp_path, value, method=method, columns={"density": density}, gradient={"name": name})
    study = Study.read([tmp_path])
    better = aggregates(study, "test/accuracy").set_index("method")["probability_better"]
    assert better["set · gradient agent"] == better["rigl · gradient agent"] == 1
    label_of = dict(zip(study.cells["cell"], study.cells["label"], strict=True))
    targets = {label_of[cell]: value for cell, value in natural_targets(study, "test/accuracy").items()}
    for method, plain in (("set", 0.5), ("rigl", 0.8)):
        for name in ("plain", "agent"):
            assert targets[f"{method} · density 0.1 · gradient {name}"] == pytest.approx(plain * (1 + np.mean(NOISE)))


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


def test_rows_are_ranked_by_difference_at_each_size(tmp_path):
    for density in (0.1, 0.02):
        for name, value in (("static", 0.5), ("set", 0.6), ("rigl", 0.7), ("magnitude", 0.65)):
            write_setting(tmp_path, value - density, method=name, columns={"density": density})
    (found,) = comparisons(Study.read([tmp_path]))
    shown = [row[0].text for row in found.table.rows]
    assert shown == [f"{name} · density {size}" for size in (0.1, 0.02) for name in ("rigl", "magnitude", "set")]
    cells = dict(zip(Study.read([tmp_path]).cells["label"], Study.read([tmp_path]).cells["cell"], strict=True))
    assert [pair[0] for pair in found.table.cells] == [cells[label] for label in shown]
