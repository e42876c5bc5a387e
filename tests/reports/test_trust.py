"""Calibrate runs on the page: paired by seed, not ranked with one seed, with noise floors, bins and samples."""

import html
import json
import math

import numpy as np
import pytest
from made_up_chain import write_chain
from made_up_study import metric, record

from pruneyard.reports.export import shown
from pruneyard.reports.layout import RunFolder
from pruneyard.reports.page import write_page
from pruneyard.reports.statistics.bins import bootstrap_band, floor_of_bins
from pruneyard.reports.store import Store
from pruneyard.reports.study import Study
from pruneyard.reports.summary import cells
from pruneyard.reports.trust.calibrated_cells import calibrated_cells
from pruneyard.reports.trust.calibrators import comparisons, ranking_table
from pruneyard.reports.trust.detection import coverage_table, detection_table
from pruneyard.testing.cases import each_case

HOSTILE = "<img src=x onerror=alert(1)>"


def test_differences_are_paired_by_seed_so_that_what_seeds_differ_in_cancels(tmp_path):
    study = write_chain(tmp_path)
    (comparison,) = comparisons(study, calibrated_cells(study))
    by_name = {entry.cell.calibrator: entry for entry in comparison.calibrators}
    assert by_name["temperature"].differences["test/nll"] == pytest.approx((-0.2, -0.2, -0.2))
    mean, low, high = by_name["temperature"].values["test/nll"]
    assert mean == pytest.approx(10.3)
    assert high - low > 20  # the interval of the mean holds all that seeds differ in
    assert by_name["none"].differences == {}


def test_calibrators_are_sorted_by_nll_with_bins_samples_and_noise_floor(tmp_path):
    study = write_chain(tmp_path)
    found = comparisons(study, calibrated_cells(study))
    table = ranking_table(study, found)
    assert [row[0].text for row in table.rows] == ["temperature", "isotonic", "none"]
    assert list(table.headers)[:6] == ["calibrator", "seeds", "samples", "NLL", "ECE (10 bins)", "noise floor of ECE"]
    assert table.rows[0][2].text == "100"
    assert found[0].after is not None
    assert found[0].after.calibrator == "temperature"


def test_a_calibrator_is_chosen_on_held_out_rows_and_evaluated_on_test(tmp_path):
    study = write_chain(tmp_path, val_nll={"none": 0.5, "temperature": 0.4, "isotonic": 0.3})
    (comparison,) = comparisons(study, calibrated_cells(study))
    assert comparison.chosen_by == "val/nll"
    assert comparison.after is not None
    assert comparison.after.calibrator == "isotonic", "temperature has the lowest NLL on test, by which nothing may be chosen"
    assert [entry.cell.calibrator for entry in comparison.calibrators] == ["isotonic", "temperature", "none"]


def test_nothing_is_ranked_without_a_split_to_choose_by(tmp_path):
    study = write_chain(tmp_path, val_nll=None)
    (comparison,) = comparisons(study, calibrated_cells(study))
    assert not comparison.is_ranked
    assert comparison.after is not None
    assert comparison.after.calibrator == "temperature", "the default, not what looks best on test"


def test_nothing_is_ranked_on_one_seed(tmp_path):
    study = write_chain(tmp_path, seeds=1)
    (comparison,) = comparisons(study, calibrated_cells(study))
    assert comparison.calibrators[0].cell.calibrator == "none"
    assert not comparison.is_ranked
    assert not any(
        value.is_best or value.half for row in ranking_table(study, [comparison]).rows for value in row
    )


def test_a_judged_run_without_nll_gave_a_label_no_probability_at_all(tmp_path):
    write_chain(tmp_path, seeds=2)
    spec = {
        "input": {"runs": {"kind": "sparse", "method": {"name": "dense"}}},
        "method": {"name": "bbq"},
        "num_bins": 10,
    }
    for seed in range(2):
        run = record(
            f"x{seed}",
            seed=seed,
            kind="calibrate",
            stage="judge",
            method="bbq",
            density=1.0,
            parent_key=f"p{seed}",
        )
        spec_json = json.dumps(spec | {"sets": [{"name": "aps", "alpha": 0.2}]})
        Store(RunFolder(tmp_path)).write(
            type(run)(**{**vars(run), "spec_json": spec_json}), [metric(0.9), metric(0.9, split="val")], []
        )
    study = Study.read([tmp_path])
    (comparison,) = comparisons(study, calibrated_cells(study))
    assert comparison.calibrators[-1].values["test/nll"] == (math.inf, math.inf, math.inf)
    assert ranking_table(study, [comparison]).rows[-1][3].text == "infinite"


def test_scores_are_shown_side_by_side_and_every_set_has_its_own_table(tmp_path):
    study = write_chain(tmp_path)
    table = detection_table(study, calibrated_cells(study), each_set=False)
    assert table is not None
    assert table.headers[-1] == "far AUROC"  # no run recorded another measure
    shown = [(row[0].text, row[1].text) for row in table.rows]
    assert shown == [*((name, "confidence") for name in ("none", "isotonic", "temperature")), ("any", "energy")]
    assert (table.rows[0][-1].text, table.rows[0][-1].half) == ("0.810", "0.025")
    of_sets = detection_table(study, calibrated_cells(study), each_set=True)
    assert of_sets is not None
    assert of_sets.headers[-1] == "noise AUROC"


def test_coverage_is_shown_next_to_its_target_and_is_red_where_it_is_missed(tmp_path):
    study = write_chain(tmp_path)
    table = coverage_table(study, calibrated_cells(study))
    assert table is not None
    row = dict(zip(table.headers, table.rows[0], strict=True))
    assert row["target coverage"].text == "0.8"
    assert row["coverage"].tone == "bad"


def test_the_section_is_on_the_page_escaped_and_only_where_calibrate_runs_are(tmp_path):
    write_chain(tmp_path / "a", seeds=2, unknown=HOSTILE)
    text = write_page([tmp_path / "a"], tmp_path / "a.html").read_text(encoding="utf-8")
    assert "Calibration and uncertainty" in text
    assert 'id="trust-reliability"' in text
    assert "10 bins, 2 runs with n = 100 each" in text
    assert "Nothing beats none in test NLL (paired by run, Holm over 4 comparisons)" in text
    assert HOSTILE not in text
    assert html.escape(HOSTILE) in text
    assert text.count('<div class="still"') == text.count('<script type="application/json">') > 5
    Store(RunFolder(tmp_path / "b")).write(record(), [metric(0.5)], [])
    assert "Calibration and uncertainty" not in write_page([tmp_path / "b"], tmp_path / "b.html").read_text(
        encoding="utf-8"
    )


def test_stages_are_shown_in_the_order_of_their_start_with_the_stages_that_they_consume(tmp_path):
    write_chain(tmp_path, seeds=2)
    store = Store(RunFolder(tmp_path))
    table = cells(store.runs(), store.metrics())
    assert list(table["stage"]) == ["train", "judge", "judge", "judge"]
    study = Study.read([tmp_path])
    assert study.columns == ["stage", "method"]
    assert [label for label in study.cells["label"] if "judge" in label] == [
        "isotonic · judge",
        "none · judge",
        "temperature · judge",
    ]


def test_exports_for_people_call_settings_of_earlier_runs_as_the_page_does(tmp_path):
    study = write_chain(tmp_path, seeds=1)
    frame = study.cells.assign(**{"input.runs.objective.name": "focal"})
    assert "input's objective" in shown(frame).columns


def test_the_floor_of_bins_is_what_perfect_calibration_shows_on_as_many_rows():
    confidence, count = np.array([0.35, 0.6, 0.97]), np.array([7, 40, 300])
    draws = np.random.default_rng(0).binomial(count, confidence, size=(20_000, 3))
    errors = (np.abs(draws / count - confidence) * count).sum(axis=1) / count.sum()
    assert floor_of_bins(confidence, count) == pytest.approx(
        errors.mean(), abs=4 * errors.std() / 20_000**0.5
    )
    assert floor_of_bins([0.5], [1]) == pytest.approx(0.5)
    assert floor_of_bins([0.0, 1.0], [5, 5]) == 0.0
    with pytest.raises(ValueError, match="counts above 0"):
        floor_of_bins([0.5], [0])


def test_the_band_is_that_of_rows_drawn_again():
    generator = np.random.default_rng(0)
    confidence = generator.uniform(0.2, 1, size=400)
    correct = generator.random(400) < confidence**2
    index = np.minimum((confidence * 5).astype(int), 4)
    num = np.bincount(index)[1:]
    share = np.bincount(index, weights=correct)[1:] / num
    rows = generator.integers(400, size=(4000, 400))
    drawn = np.stack([[correct[row][index[row] == b].mean() for b in range(1, 5)] for row in rows])
    low, high = bootstrap_band(share, num, num_draws=4000)
    assert low == pytest.approx(np.quantile(drawn, 0.025, axis=0), abs=0.012)
    assert high == pytest.approx(np.quantile(drawn, 0.975, axis=0), abs=0.012)


def test_a_band_covers_the_true_accuracy_about_as_often_as_it_says():
    truth, num = np.array([0.3, 0.7, 0.9]), np.array([100, 200, 400])
    found = np.random.default_rng(1).binomial(num, truth, size=(400, 3)) / num
    bands = [bootstrap_band(share, num, num_draws=400) for share in found]
    covered = np.mean([(low <= truth) & (truth <= high) for low, high in bands], axis=0)
    assert (np.abs(covered - 0.95) < 0.04).all()  # 3.7 deviations of 400 draws, and what the percentile rule misses


def test_a_bin_without_errors_has_a_band_none_the_less():
    low, high = bootstrap_band([1.0, 0.0, 0.5], [10, 20, 50])
    assert high[0] == 1.0
    assert low[0] ** 10 == pytest.approx(0.025)
    assert low[1] == 0.0
    assert (1 - high[1]) ** 20 == pytest.approx(0.025)
    assert low[2] < 0.5 < high[2]
    again = bootstrap_band([1.0, 0.0, 0.5], [10, 20, 50])
    assert np.array_equal(again, (low, high))


@each_case(
    ("share", "num"), [([0.5], [0]), ([1.5], [3]), ([0.5, 0.5], [3]), ([], []), ([np.nan], [3])]
)
def test_what_is_no_bin_is_refused(share, num):
    with pytest.raises(ValueError, match="must"):
        bootstrap_band(share, num)
