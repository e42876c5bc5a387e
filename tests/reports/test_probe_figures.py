"""Figures of probes and the section on merges: their numbers are those of the runs, and every probe with curves is drawn."""

import json

import numpy as np
import pytest
from made_up_study import metric, record
from scipy import stats

from pruneyard.reports.charts.probes import overlaps, paths, probe_figures, shifts
from pruneyard.reports.layout import RunFolder
from pruneyard.reports.merge_section import merge_table, merge_verdict
from pruneyard.reports.page import render
from pruneyard.reports.probe_tables import probe_tables
from pruneyard.reports.records import CurveRow
from pruneyard.reports.store import Store
from pruneyard.reports.study import Study

SEEDS = 3
LAYERS = {
    "heavy_tail": ["tail_exponent"],
    "information_plane": ["information_input", "information_label"],
    "feature_complexity": ["feature_information"],
}
POINTS = {"shift_accuracy": 0.9, "shift_ece": 0.05, "shift_nll": 0.4}


def curve(name, key, x, y):
    return CurveRow(name=name, step=1, key=key, x=float(x), y=float(y), count=10)


def curves_of(probe, seed, runs):
    """Returns what a probe leaves; `runs` are the keys of the runs that it measured."""
    rng = np.random.default_rng(seed)
    match probe:
        case "shift":
            return [
                curve(name, corruption, severity, start + 0.01 * severity + 0.001 * rng.normal())
                for name, start in POINTS.items()
                for corruption in ("fog", "rotation")
                for severity in (0, 1, 5)
            ]
        case "connectivity":
            return [
                curve("path_loss", f"{split}{suffix} {runs[0]}-{runs[1]}", x, height * (1 - abs(2 * x - 1)) + 0.1)
                for split in ("train", "test")
                for suffix, height in (("", 1.0), ("-matched", 0.2))
                for x in (0, 0.5, 1)
            ]
        case "mask_overlap":
            return [
                curve("mask_overlap", key, place, 1.0 if key == other else 0.25)
                for key in runs
                for place, other in enumerate(runs)
            ]
        case "attribution" | "lima":
            keys = ("gradient",) if probe == "attribution" else ("search", "gradient")
            return [curve(name, key, x, 0.1 + 0.8 * x) for name in ("insertion", "deletion") for key in keys for x in (0, 0.5, 1)]
        case "robust_explain":
            return [
                curve(name, key, 0.9 + 0.01 * place, 0.5 + 0.1 * place)
                for name in ("insertion_gain_of_runs", "shifted_accuracy_of_runs")
                for place, key in enumerate(runs)
            ]
        case "craft":
            return [curve("concept_importance", name, concept, concept / 10) for name in ("0", "1") for concept in range(3)]
        case "holistic_concepts":
            return [curve("strategy", name, concept, concept / 10) for name in ("0 1", "0 2") for concept in range(3)]
        case "heavy_tail" | "information_plane" | "feature_complexity":
            return [curve(name, f"layer{place}", place, place + seed / 10) for name in LAYERS[probe] for place in range(3)]
        case "diffroar":
            values = {("diffroar", "largest"): 0.8, ("diffroar", "smallest"): 0.4, ("diffroar_random", "largest"): 0.5}
            values["diffroar_random", "smallest"] = 0.7
            return [curve(*line, share, y + share + seed / 100) for line, y in values.items() for share in (0.1, 0.3)]
        case "inductive_bias":
            return [curve("hypothesis_loss", "hypotheses", place, 0.5 + place / 100 + seed / 10) for place in range(100)]
    return []


def write_probes(folder, probe):
    """Writes networks of two methods, and the probe of every one of them, or of all seeds together."""
    store, together = Store(RunFolder(folder)), probe in ("connectivity", "mask_overlap", "robust_explain")
    for method in ("rigl", "static"):
        parent = {"kind": "sparse", "method": {"name": method}}
        keys = [f"{method}{seed}" for seed in range(SEEDS)]
        for seed, key in enumerate(keys):
            run = record(key, seed=seed, stage="train", method=method, spec_json=json.dumps(parent))
            store.write(run, [metric(0.9 + 0.01 * seed)], [])
        spec = json.dumps({"kind": "probe", "input": {"runs": parent}, "method": {"name": probe}})
        for seed, of in enumerate([keys] if together else [[key] for key in keys]):
            run = record(
                f"p{method}{seed}", seed=seed, stage="probe", kind="probe", method=probe, density=None, parent_key=",".join(of),
                spec_json=spec,
            )  # fmt: skip
            store.write(run, [metric(0.5, name="accuracy", split="shift")], curves_of(probe, seed, of))
    return Study.read([folder])


def cells_of(study, probe):
    return study.cells[study.cells["method"] == probe]


def data_of(panel):
    """Returns the rows of a panel's first data set."""
    spec = json.loads(panel.spec)
    return next(iter(spec["datasets"].values())) if "datasets" in spec else spec["data"]["values"]


def test_lines_over_severity_are_means_over_corruptions_and_seeds(tmp_path):
    study = write_probes(tmp_path, "shift")
    (figure,) = shifts(study, cells_of(study, "shift"))
    assert [panel.title for panel in figure.panels] == ["accuracy", "ECE", "NLL"]
    assert [panel.title for panel in figure.folded] == ["fog", "rotation"]
    assert len(figure.legend) == 2
    found = {(row["name"], row["x"]): row for row in data_of(figure.panels[0])}
    label = next(name for name, _ in found if "rigl" in name)
    by_seed = [
        np.mean([row.y for row in curves_of("shift", seed, []) if row.name == "shift_accuracy" and row.x == 5])
        for seed in range(SEEDS)
    ]
    assert found[label, 5]["mean"] == pytest.approx(np.mean(by_seed), rel=1e-5)
    low, _ = stats.t.interval(0.95, SEEDS - 1, np.mean(by_seed), stats.sem(by_seed))
    assert found[label, 5]["low"] == pytest.approx(low, rel=1e-5)


def test_segments_have_a_line_before_and_after_matching_and_no_training_rows(tmp_path):
    study = write_probes(tmp_path, "connectivity")
    (figure,) = paths(study, cells_of(study, "connectivity"))
    assert len(figure.panels) == 2
    assert {(row["name"], row["x"]): row["mean"] for row in data_of(figure.panels[0])} == {
        **{("as trained", x): y for x, y in ((0, 0.1), (0.5, 1.1), (1, 0.1))},
        **{("after matching", x): pytest.approx(y) for x, y in ((0, 0.1), (0.5, 0.3), (1, 0.1))},
    }


def test_overlaps_are_a_matrix_whose_squares_name_both_networks(tmp_path):
    study = write_probes(tmp_path, "mask_overlap")
    (figure,) = overlaps(study, cells_of(study, "mask_overlap"))
    rows = data_of(figure.panels[0])
    assert len(rows) == SEEDS * SEEDS
    assert {(row["row"], row["column"]): row["value"] for row in rows}[2, 3] == 0.25
    named = {(row["row"], row["column"]): (row["one"], row["other"]) for row in rows}[1, 2]
    assert [text.partition(" · ")[2] for text in named] == ["seed 0", "seed 1"]
    assert "0.250 to 0.250" in figure.panels[0].words


@pytest.mark.parametrize("probe", LAYERS)
def test_curves_over_layers_are_means_over_seeds_in_the_order_of_the_network(tmp_path, probe):
    study = write_probes(tmp_path, probe)
    (figure,) = probe_figures(study, probe, cells_of(study, probe))
    assert len(figure.panels) == len(LAYERS[probe])
    for panel in figure.panels:
        found = {row["x"]: row["mean"] for row in data_of(panel) if "rigl" in row["name"]}
        assert found == {1: pytest.approx(0.1), 2: pytest.approx(1.1), 3: pytest.approx(2.1)}


def test_retraining_on_the_first_the_last_and_random_pixels_is_drawn_over_their_share(tmp_path):
    study = write_probes(tmp_path, "diffroar")
    (figure,) = probe_figures(study, "diffroar", cells_of(study, "diffroar"))
    assert len(figure.panels) == 2
    assert {(row["name"], row["x"]): row["mean"] for row in data_of(figure.panels[0])} == {
        (name, share): pytest.approx(mean + share + 0.01)
        for name, mean in (("largest gradients", 0.8), ("smallest gradients", 0.4), ("at random", 0.6))
        for share in (0.1, 0.3)
    }


def test_losses_of_random_networks_are_quantiles_and_means_over_seeds(tmp_path):
    study = write_probes(tmp_path, "inductive_bias")
    (figure,) = probe_figures(study, "inductive_bias", cells_of(study, "inductive_bias"))
    rows = {row["x"]: row["mean"] for row in data_of(figure.panels[0]) if "rigl" in row["name"]}
    assert (len(rows), rows[0], rows[1]) == (41, pytest.approx(0.6), pytest.approx(0.6 + 0.99))
    assert rows[0.5] == pytest.approx(0.6 + 0.495)


@pytest.mark.parametrize("probe", ["lima", "robust_explain", "holistic_concepts"])
def test_probes_with_curves_are_drawn(tmp_path, probe):
    study = write_probes(tmp_path, probe)
    (figure,) = probe_figures(study, probe, cells_of(study, probe))
    assert figure.panels, figure.caption
    assert all(panel.words and "<svg" in panel.still for panel in figure.panels)


@pytest.mark.slow
@pytest.mark.parametrize("probe", ["shift", "attribution", "craft", "curvature"])
def test_a_section_of_the_page_has_the_table_and_the_figures_of_a_probe(tmp_path, probe):
    study = write_probes(tmp_path, probe)
    (section,) = probe_tables(study)
    page = render(study)
    assert section.name == probe
    for figure in section.figures:
        assert page.count(f'<h3 id="{figure.name}">') == 1
    assert bool(section.figures) == (probe != "curvature")


def write_merges(folder, differences):
    """Writes soups whose accuracy exceeds that of the ensemble by these numbers, one for each seed."""
    store = Store(RunFolder(folder))
    spec = json.dumps({"kind": "merge", "method": {"name": "uniform"}})
    for seed, difference in enumerate(differences):
        run = record(f"m{seed}", seed=seed, kind="merge", method="uniform", density=0.1, spec_json=spec)
        rows = [metric(0.9 + 0.05 * seed + difference), metric(0.9 + 0.05 * seed, split="test@ensemble")]
        rows += [metric(0.5 + 0.05 * seed, split="test@mean_member")]
        store.write(run, rows, [])
    return Study.read([folder])


def test_merges_are_compared_with_their_members_and_ensemble_on_the_same_runs(tmp_path):
    differences = [-0.010, -0.012, -0.011]
    table = merge_table(write_merges(tmp_path, differences))
    assert table is not None
    # No run recorded its best member.
    assert table.headers[-5:] == ["measure", "seeds", "merge", "minus mean member", "minus ensemble"]
    (row,) = table.rows
    seeds, own, mean_member, ensemble = row[-4:]
    assert seeds.text == "3"
    low, high = stats.t.interval(0.95, 2, np.mean(differences), stats.sem(differences))
    assert float(ensemble.text) == pytest.approx(-0.011, abs=1e-4)
    assert float(ensemble.half) == pytest.approx((high - low) / 2, rel=0.05)
    assert (ensemble.tone, mean_member.tone, own.tone) == ("bad", "good", "")


def test_the_verdict_on_merges_names_measures_and_sides_after_correction(tmp_path):
    """Against the ensemble the merge is lower by 0.011 in each seed, against its mean member higher by about 0.4."""
    told = merge_verdict(write_merges(tmp_path / "clear", [-0.010, -0.012, -0.011]))
    assert told == (
        "Merges (paired by run, Holm over 2 comparisons): against the mean member, accuracy is better; "
        "against the ensemble, accuracy is worse."
    )
    unclear = merge_verdict(write_merges(tmp_path / "unclear", [-0.01, 0.02, -0.01]))
    assert unclear.endswith("against the mean member, accuracy is better; against the ensemble, no evidence.")
    assert merge_verdict(write_merges(tmp_path / "single", [0.01])) == ""
    assert merge_verdict(write_probes(tmp_path / "none", "heavy_tail")) == ""


def test_an_interval_that_holds_0_has_no_colour_and_a_study_without_merges_no_section(tmp_path):
    table = merge_table(write_merges(tmp_path / "merges", [-0.01, 0.02, -0.01]))
    assert table is not None
    assert table.rows[0][-1].tone == ""
    assert merge_table(write_probes(tmp_path / "probes", "heavy_tail")) is None
