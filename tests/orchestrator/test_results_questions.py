"""Tests the answers of `Results` about a folder: choices, comparisons, lineages, charts, networks; and its refusals."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from made_up_study import LAYERS, metric, record, write_study

import pruneyard
from pruneyard import Results
from pruneyard.orchestrator.errors import UsageError
from pruneyard.reports.charts import catalog
from pruneyard.reports.layout import RunFolder
from pruneyard.reports.records import Status
from pruneyard.reports.store import Store

DIGITS: dict[str, Any] = {
    "name": "trained",
    "kind": "sparse",
    "data": {"name": "digits", "max_train": 200, "max_test": 60},
    "model": {"name": "mlp", "width": 16},
    "method": {"name": "rigl", "density": 0.3},
    "budget": {"epochs": 2, "batch_size": 32},
}


@pytest.fixture(scope="module")
def made_up(tmp_path_factory: pytest.TempPathFactory) -> Results:
    """Dense, RigL, SET and static at four densities; the smallest of SET failed, was pruned, and was interrupted."""
    return Results(write_study(tmp_path_factory.mktemp("made-up") / "out"))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Results:
    """One training."""
    return pruneyard.run(DIGITS, tmp_path_factory.mktemp("trained") / "out", local=True)


def test_final_has_each_run_once_with_the_value_of_its_last_step(made_up: Results) -> None:
    final, metrics = made_up.final(), made_up.metrics()
    assert sorted(final["run_key"]) == sorted(made_up.runs()["run_key"])
    for row in final.to_dict("records"):
        own = metrics[(metrics["run_key"] == row["run_key"]) & (metrics["split"] == "val") & (metrics["name"] == "nll")]
        assert row["val/nll"] == own.sort_values("step")["value"].iloc[-1]
    assert set(final[final["status"] != "COMPLETED"]["test/accuracy"].isna()) == {True}


def test_best_is_the_completed_run_with_the_best_last_value_in_the_known_direction(made_up: Results) -> None:
    completed = made_up.final().query("status == 'COMPLETED'")
    assert made_up.best()["val/accuracy"] == made_up.best("accuracy")["val/accuracy"] == completed["val/accuracy"].max()
    assert made_up.best("val/nll")["val/nll"] == completed["val/nll"].min()
    assert made_up.best("nll", mode="max")["val/nll"] == completed["val/nll"].max()
    assert made_up.best("num_active")["num_active"] == completed["num_active"].min()


@pytest.mark.parametrize(
    ("metric", "mode", "words"),
    [
        ("test/accuracy", None, "settings chosen on the test split cannot be tested on it"),
        ("val/acuracy", None, "val/acuracy: no run has it.*did you mean val/accuracy"),
        ("val/accuracy", "highest", "'highest'; it must be max or min"),
    ],
)
def test_best_refuses_what_cannot_be_chosen_by(made_up: Results, metric: str, mode: str | None, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        made_up.best(metric, mode=mode)


def test_best_wants_the_direction_of_a_metric_that_is_not_known(tmp_path: Path) -> None:
    store = Store(RunFolder(tmp_path))
    for key, value in (("aaaaaaaa", 1.0), ("bbbbbbbb", 2.0)):
        store.write(record(key, seed=int(value)), [metric(value, name="throughput", split="val")], [])
    results = Results(tmp_path)
    with pytest.raises(UsageError, match="val/throughput: it is not known whether larger is better"):
        results.best("throughput")
    assert results.best("throughput", mode="max")["run_key"] == "bbbbbbbb"


def test_a_summary_is_narrow_unless_columns_are_named(made_up: Results) -> None:
    narrow, everything = made_up.summary(), made_up.summary(columns="all")
    assert set(narrow.columns) < set(everything.columns)
    assert narrow.equals(everything[list(narrow.columns)])
    assert list(narrow.columns)[:6] == ["method", "density", "num_seeds", "censored", "failed", "interrupted"]
    chosen = made_up.summary(columns=["density", "val/nll", "val/nll_low"])
    assert list(chosen.columns) == ["density", "val/nll", "val/nll_low"]
    dense = made_up.final().query("method == 'dense'")
    assert chosen["val/nll"].iloc[0] == pytest.approx(dense["val/nll"].mean())
    with pytest.raises(UsageError, match="testaccuracy: is no column of the summary; did you mean test/accuracy"):
        made_up.summary(columns="testaccuracy")


def test_compare_pairs_equal_densities_by_seed(made_up: Results) -> None:
    table = made_up.compare("rigl", "static", metric="test/accuracy")
    assert list(table["a"]) == [f"rigl · density {density}" for density in (0.2, 0.1, 0.05, 0.02)]
    assert list(table["num_pairs"]) == [3] * 4
    final = made_up.final()
    at = final[final["density"] == 0.1].set_index(["method", "seed"])["test/accuracy"]
    differences = (at["rigl"] - at["static"]).to_numpy()
    row = table.iloc[1]
    assert row["difference"] == pytest.approx(differences.mean())
    half = 4.302653 * differences.std(ddof=1) / np.sqrt(3)  # the 97.5% quantile of t with two degrees of freedom
    assert (row["difference_low"], row["difference_high"]) == pytest.approx(
        (differences.mean() - half, differences.mean() + half), rel=1e-5
    )
    assert row["better"] == "a"
    swapped = made_up.compare("static", "rigl", metric="test/accuracy").iloc[1]
    assert (swapped["difference"], swapped["better"]) == (pytest.approx(-row["difference"]), "b")


def test_the_dense_network_is_compared_with_every_density_and_no_other_setting_is(made_up: Results) -> None:
    table = made_up.compare("rigl", "dense", metric=["test/accuracy", "test/nll"])
    assert len(table) == 8
    assert set(table["b"]) == {"dense"}
    one = made_up.compare({"method": "rigl", "density": 0.1}, {"method": "set"}, metric="test/nll")
    assert one[["a", "b"]].to_dict("records") == [{"a": "rigl · density 0.1", "b": "set · density 0.1"}]
    across = made_up.compare({"method": "rigl", "density": 0.05}, {"method": "set", "density": 0.1}, metric="test/nll")
    assert across[["a", "b"]].to_dict("records") == [{"a": "rigl · density 0.05", "b": "set · density 0.1"}]


def test_a_pair_needs_two_completed_runs(made_up: Results) -> None:
    lost = made_up.compare({"method": "rigl", "density": 0.02}, "set", metric="test/accuracy").iloc[0]
    assert lost["num_pairs"] == 0
    assert lost[["difference", "difference_low", "better"]].isna().all()


@pytest.mark.parametrize(
    ("a", "b", "metric", "words"),
    [
        ("rigl", "prune", "test/accuracy", "b wants method 'prune', which no setting has there; it must be one of dense, rigl"),
        ({"algorithm": "rigl"}, "set", "test/accuracy", "a names column 'algorithm'; it must be one of"),
        ("rigl", "set", "test/acc", "test/acc: no run has it"),
        (
            {"method": "rigl", "density": 0.1},
            {"method": "rigl", "density": 0.1},
            "test/nll",
            "no setting of a agrees with one of b",
        ),
    ],
)
def test_compare_says_what_it_cannot_compare(made_up: Results, a: Any, b: Any, metric: str, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        made_up.compare(a, b, metric=metric)


def test_calibrators_are_paired_by_their_network_and_not_by_seed(tmp_path: Path) -> None:
    store = Store(RunFolder(tmp_path))
    values = {"none": (0.10, 0.20, 0.30), "temperature": (0.05, 0.15, 0.24), "platt": (0.05, 0.15, 0.25)}
    for seed in range(3):
        store.write(record(f"network{seed}", seed=seed), [metric(0.9)], [])
        for method, errors in values.items():
            spec = json.dumps({"kind": "calibrate", "method": {"name": method}})
            run = record(f"{method}{seed}", kind="calibrate", method=method, seed=0, parent_key=f"network{seed}", spec_json=spec)
            store.write(run, [metric(errors[seed], name="ece")], [])
    row = Results(tmp_path).compare("temperature", "none", metric="test/ece").iloc[0]
    assert row["num_pairs"] == 3
    half = 4.302653 * np.std([0.05, 0.05, 0.06], ddof=1) / np.sqrt(3)
    assert (row["difference"], row["difference_low"]) == pytest.approx((-0.16 / 3, -0.16 / 3 - half))
    assert row["better"] == "a"
    equal = Results(tmp_path).compare("platt", "none", metric="test/ece").iloc[0]
    assert equal["difference"] == pytest.approx(-0.05)
    assert equal["better"] is None, "equal differences say nothing about their spread"


def test_a_lineage_ends_with_the_run_and_names_parents_of_other_folders(tmp_path: Path) -> None:
    store = Store(RunFolder(tmp_path))
    store.write(record("aaaaaaaa", kind="distill", parent_key="elsewhere"), [], [])
    store.write(record("bbbbbbbb", parent_key="aaaaaaaa"), [], [])
    store.write(record("cccccccc", kind="calibrate", parent_key="bbbbbbbb,aaaaaaaa"), [], [])
    table = Results(tmp_path).lineage("cccccccc")
    assert list(table["run_key"]) == ["elsewhere", "aaaaaaaa", "bbbbbbbb", "cccccccc"]
    assert list(table["generation"]) == [3, 2, 1, 0]
    assert table["kind"].isna().tolist() == [True, False, False, False]


def test_a_circle_of_damaged_records_ends(tmp_path: Path) -> None:
    store = Store(RunFolder(tmp_path))
    store.write(record("aaaaaaaa", parent_key="bbbbbbbb"), [], [])
    store.write(record("bbbbbbbb", parent_key="aaaaaaaa"), [], [])
    assert set(Results(tmp_path).lineage("aaaaaaaa")["run_key"]) == {"aaaaaaaa", "bbbbbbbb"}


def test_a_network_gives_the_logits_that_the_run_recorded(trained: Results) -> None:
    (run,) = trained.runs().to_dict("records")
    network, test = trained.network(run["run_key"][:8]), trained.predictions(run["run_key"])["test"]
    (job,) = pruneyard.load_spec(DIGITS).jobs
    data = job.workload.data.load()
    rows = [int(np.flatnonzero(data.test.row_ids == row)[0]) for row in test.row_ids]
    mean, std = (torch.tensor(values)[:, None, None] for values in (data.mean, data.std))
    images = (torch.from_numpy(data.test.images[rows]).float() / 255 - mean) / std
    torch.testing.assert_close(network(images).numpy(), test.logits, atol=1e-5, rtol=1e-5)
    active = sum(int((weight != 0).sum()) for name, weight in network.named_parameters() if name.endswith("weight"))
    assert active <= run["num_active"]


def test_one_run_is_opened_by_its_folder_or_that_of_its_artifacts(trained: Results) -> None:
    artifact = trained.runs()["artifact"].iloc[0]
    for place in (trained, trained.folder.path, str(trained.folder.path), artifact):
        assert set(pruneyard.predictions(place)) == {"val", "calib", "test"}
        assert not pruneyard.load_network(place).training


def test_runs_that_are_not_there_are_refused(trained: Results, made_up: Results, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="key 0123456789: is no run in"):
        trained.network("0123456789")
    with pytest.raises(UsageError, match="has 36 completed runs; give the run key of one"):
        pruneyard.predictions(made_up)
    with pytest.raises(UsageError, match="has no predictions in"):
        made_up.predictions(made_up.best()["run_key"])
    with pytest.raises(UsageError, match="there is no such folder"):
        pruneyard.load_network(tmp_path / "nowhere")


def test_a_plot_is_the_chart_of_the_page_with_legends_of_its_own(made_up: Results, tmp_path: Path) -> None:
    made_up.plot().save(tmp_path / "chart.json")
    spec = json.loads((tmp_path / "chart.json").read_text())
    assert spec["title"] == {"subtitle": ["dashed: dense (reference)"], "text": "Test accuracy versus density"}
    legends = [layer["encoding"]["color"]["legend"] for layer in spec["layer"] if "scale" in layer["encoding"].get("color", {})]
    assert legends == [{"symbolOpacity": 1, "title": None}] * len(legends) != []
    panels = made_up.plot("learning", metric="val/nll").to_dict()["concat"]
    assert [panel["title"] for panel in panels] == ["rigl", "set", "static"]
    assert LAYERS[0] in json.dumps(made_up.plot("layers").to_dict())
    assert "val NLL" in json.dumps(made_up.plot("density", metric="val/nll").to_dict())


@pytest.mark.parametrize(
    ("chart", "metric", "words"),
    [
        ("histogram", None, "there is no chart 'histogram'; it must be one of density, ipc"),
        ("latency", None, "has no data for chart latency"),
        ("layers", "test/nll", "only density, ipc, learning, cost, time-to-target, .* show a chosen metric"),
        (None, "test/accuarcy", "did you mean test/accuracy"),
    ],
)
def test_a_plot_that_there_is_not_is_refused(made_up: Results, chart: str | None, metric: str | None, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        made_up.plot(chart, metric=metric)


def test_a_notebook_shows_table_and_chart_without_scripts_and_escaped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "<b>out"
    store = Store(RunFolder(folder))
    spec = {"method": {"name": "<script>x"}, "kind": "sparse"}
    for seed, density in ((0, 0.1), (1, 0.2)):
        run = record(f"{seed}aaaaaaa", seed=seed, method="<script>x", density=density, spec_json=json.dumps(spec))
        store.write(run, [metric(0.9)], [])
    page = Results(folder)._repr_html_()
    assert "<table" in page
    assert '<svg xmlns="http://www.w3.org/2000/svg"' in page
    assert "&lt;script&gt;x" in page
    assert "&lt;b&gt;out" in page
    assert "<script" not in page
    assert "<b>out" not in page

    def fail(study: object) -> None:
        raise RecursionError("Maximum call stack size exceeded")

    monkeypatch.setattr(catalog, "figure_named", fail)
    without = Results(folder)._repr_html_()
    assert "<table" in without
    assert "<svg" not in without
    assert Results(tmp_path / "<i>")._repr_html_() == f"<pre>{tmp_path}/&lt;i&gt;: there is no such folder</pre>"


def test_a_study_that_failed_has_a_table_and_no_chart(tmp_path: Path) -> None:
    Store(RunFolder(tmp_path)).write(record("aaaaaaaa", status=Status.FAILED, error="no"), [], [])
    results = Results(tmp_path)
    assert list(results.summary().columns) == ["method", "density", "num_seeds", "failed"]
    assert "<svg" not in results._repr_html_()
    with pytest.raises(UsageError, match="has no data for any chart"):
        results.plot()
    with pytest.raises(UsageError, match="no run has it"):
        results.best()


def test_a_row_with_run_key_chooses_a_run(trained: Results) -> None:
    best, (row,) = trained.best(), trained.runs().to_dict("records")
    assert trained.lineage(best)["run_key"].tolist() == [row["run_key"]]
    assert trained.network(best).state_dict().keys() == trained.network(row["run_key"]).state_dict().keys()
    assert trained.predictions(row).keys() == pruneyard.predictions(trained, best).keys()


@pytest.mark.parametrize("chosen", ["final", "status", 12345678])
def test_what_is_no_row_with_run_key_chooses_no_run(chosen: Any, trained: Results) -> None:
    given = {"final": trained.final(), "status": trained.best()[["status"]]}.get(chosen, chosen)
    with pytest.raises(UsageError, match=r"key: is a (DataFrame|Series|int); it must be a run key, .* or one row with"):
        trained.network(given)


def test_objectives_are_a_list(made_up: Results) -> None:
    with pytest.raises(UsageError, match="objectives is 'val/accuracy'; it must be a list, or a table"):
        made_up.pareto("val/accuracy")
