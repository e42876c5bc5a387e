"""The page's sentences about calibrators, the consistency test behind it, and intervals over rows of runs with a single seed."""

import numpy as np
import pytest
from made_up_chain import NLL, write_chain
from made_up_study import metric, record, write_study

from pruneyard.reports.layout import RunFolder
from pruneyard.reports.prose import answers, headline, summary_note
from pruneyard.reports.records import CurveRow
from pruneyard.reports.statistics.bins import chance_gaps, consistency_test, row_bootstrap
from pruneyard.reports.store import Store
from pruneyard.reports.study import Study
from pruneyard.reports.tables import summary_table
from pruneyard.reports.trust.calibrated_cells import calibrated_cells
from pruneyard.reports.trust.calibrators import comparisons
from pruneyard.reports.trust.verdicts import combined, verdicts

CONFIDENCE, COUNT = np.array([0.55, 0.75, 0.95]), np.array([100, 200, 700])


def test_a_calibrated_network_is_rejected_in_five_percent_of_cases_and_an_over_confident_one_always():
    rng = np.random.default_rng(0)
    truths = rng.binomial(COUNT, CONFIDENCE, size=(400, 3)) / COUNT
    found = [consistency_test(CONFIDENCE, share, COUNT, generator=rng, num_draws=400) for share in truths]
    assert np.mean(np.array(found) < 0.05) == pytest.approx(0.05, abs=3 * np.sqrt(0.05 * 0.95 / 400))
    assert consistency_test(CONFIDENCE, CONFIDENCE - 0.1, COUNT, generator=rng) == pytest.approx(1 / 2_001)


def test_the_p_value_of_one_bin_is_that_of_the_binomial_distribution():
    # 10 samples of confidence 0.5: |k - 5| >= 3 for k in 0, 1, 2, 8, 9, 10, together 112 of 1024.
    found = consistency_test([0.5], [0.8], [10], generator=np.random.default_rng(1), num_draws=40_000)
    assert found == pytest.approx(112 / 1024, abs=4 * np.sqrt(0.11 * 0.89 / 40_000))


def test_intervals_over_rows_cover_the_truth_of_the_rows():
    """In 200 samples of a network that is 0.06 over-confident, both intervals hold the truth in about 95%."""
    rng = np.random.default_rng(2)
    right = CONFIDENCE - 0.06
    accuracy, hits = (right * COUNT).sum() / COUNT.sum(), np.zeros(2)
    for _ in range(200):
        counts = rng.multinomial(1_000, COUNT / 1_000)
        share = rng.binomial(counts, right) / counts
        (low, high), (below, above) = row_bootstrap(CONFIDENCE, share, counts, generator=rng, num_draws=400)
        hits += [low <= accuracy <= high, below <= 0.06 <= above]
    assert (hits / 200 > 0.89).all()


def test_the_mean_ece_of_the_draws_is_the_noise_floor():
    rng = np.random.default_rng(3)
    drawn = np.abs(rng.binomial(COUNT, CONFIDENCE, size=(20_000, 3)) - CONFIDENCE * COUNT).sum(axis=1) / COUNT.sum()
    assert drawn.mean() == pytest.approx(chance_gaps(CONFIDENCE, COUNT).sum() / COUNT.sum(), rel=0.01)


def test_twice_the_median_joins_the_p_values_of_runs():
    assert combined([0.03]) == 0.03
    assert combined([0.01, 0.2, 0.9]) == 0.4
    assert combined([0.6, 0.9]) == 1.0
    assert np.isnan(combined([]))


def write_calibrators(path, *, gains, miscalibration, last=None):
    """Writes four networks and three calibrators on each; gains: mean change of NLL against none, by calibrator.

    last: the NLL of temperature scaling on the last network, in place of the one with its gain.
    """
    study = write_chain(path, seeds=4)
    rng = np.random.default_rng(4)
    store = Store(RunFolder(path))
    for run in study.runs.to_pylist():
        if run["kind"] != "calibrate":
            continue
        place = list(NLL).index(run["method"])
        nll = run["seed"] + gains[run["method"]] + 0.001 * rng.normal()
        if last is not None and (run["method"], run["seed"]) == ("temperature", 3):
            nll = last
        rows = [metric(nll, step=20, name="nll"), metric(nll, step=20, name="nll", split="val")]
        rows += [metric(0.9, step=20), metric(0.1 + 0.001 * rng.normal(), step=20, name="ece")]
        curves = [CurveRow(name="reliability", step=20, key="test", x=0.9, y=0.9 - miscalibration[place], count=1000)]
        kept = ("seed", "stage", "kind", "method", "density", "parent_key", "spec_json")
        changed = record(run["run_key"], **{name: run[name] for name in kept})
        store.write(changed, rows, curves)
    return Study.read([path])


def test_a_calibrator_that_helps_is_named_and_one_that_harms_too(tmp_path):
    study = write_calibrators(tmp_path, gains={"none": 0, "temperature": -0.1, "isotonic": 0.1}, miscalibration=(0.1, 0, 0.1))
    nll, ece, floor = verdicts(study, comparisons(study, calibrated_cells(study)))
    how = "(paired by run, Holm over 4 comparisons)"
    assert nll.text == nll.short == f"Test NLL is better than with none for temperature {how}; worse for isotonic."
    assert ece.text.startswith("Nothing beats none in test ECE (paired by run")
    assert floor.short.startswith("No evidence of miscalibration for 1 of 3, whose ECE is at the noise floor (consis")
    assert floor.text == f"{floor.short} These are: temperature."
    assert answers(study, [], [nll, ece, floor])[-3:] == [nll.short, ece.short, floor.short]
    assert "Mean test accuracy" in headline(study), "the networks themselves are in the study"


@pytest.mark.parametrize("nll", [float("inf"), float("nan")])
def test_a_calibrator_without_a_finite_nll_on_one_network_is_called_neither_better_nor_worse(tmp_path, nll):
    gains = {"none": 0, "temperature": -0.1, "isotonic": 0.1}
    study = write_calibrators(tmp_path, gains=gains, miscalibration=(0, 0, 0), last=nll)
    told, *_ = verdicts(study, comparisons(study, calibrated_cells(study)))
    assert told.text.startswith("Nothing beats none in test NLL")
    assert "worse for isotonic" in told.text


def test_every_ece_may_be_above_the_floor(tmp_path):
    study = write_calibrators(tmp_path, gains={"none": 0, "temperature": 0, "isotonic": 0}, miscalibration=(0.1, 0.1, 0.1))
    nll, _, floor = verdicts(study, comparisons(study, calibrated_cells(study)))
    assert nll.text.startswith("Nothing beats none in test NLL")
    assert floor.text.startswith("No calibrator's ECE is at the noise floor")


def test_one_seed_is_no_evidence_and_has_an_interval_over_rows_that_is_named_so(tmp_path):
    study = write_study(tmp_path, methods=("rigl", "static"), densities=(0.1,), seeds=1, evaluations=2, troubles=False)
    read = Study.read([study])
    (low, high) = read.row_intervals[0, "test/ece"]
    assert low < read.by_run["test/ece"].iloc[0] + 0.01
    assert high > low
    remarks = [value.remark for row in summary_table(read).rows for value in row]
    assert sum(text.startswith("over rows 0.") for text in remarks) == 2  # of the ECE: these bins have not the recorded accuracy
    assert "95% bootstrap over the test samples of this one network" in summary_note(read)
    assert not Study.read([write_study(tmp_path / "three", methods=("rigl",), densities=(0.1,), evaluations=2)]).row_intervals


def test_the_head_of_a_page_of_many_calibrators_answers_in_a_line_a_question(tmp_path):
    """Twelve calibrators, some better and some worse than none: each answer names three and fits on a line of the page."""
    names = ["none", *(f"calibrator_{place}" for place in range(12))]
    store, rng = Store(RunFolder(tmp_path)), np.random.default_rng(5)
    for seed in range(4):
        for place, name in enumerate(names):
            nll = 0.5 - 0.05 * (place % 3 - 1) * (place > 0) + 0.001 * rng.normal()
            columns = {"stage": None, "kind": "calibrate", "parent_key": f"p{seed}", "method": name}
            spec = f'{{"input": {{"path": "x.npz", "calib_fraction": 0.5, "split_seed": 0}}, "method": {{"name": "{name}"}}}}'
            run = record(f"c{seed}{place}", seed=seed, spec_json=spec, **columns)
            rows = [metric(nll, name="nll"), metric(0.1 + 0.01 * rng.normal(), name="ece"), metric(0.9)]
            curves = [CurveRow(name="reliability", step=10, key="test", x=0.9, y=0.9, count=1000)]
            store.write(run, rows, curves)
    study = Study.read([tmp_path])
    told = answers(study, [], verdicts(study, comparisons(study, calibrated_cells(study))))
    assert len(told) == 3
    assert max(map(len, told)) < 200
    assert "and 1 more" in told[0]
    assert headline(study) == "52 of 52 runs completed in 13 settings."
