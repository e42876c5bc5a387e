"""Several folders as one study, and the names of their cells."""

import json
from datetime import timedelta

import pytest
from made_up_study import START, metric, record

from pruneyard.reports import series
from pruneyard.reports.layout import RunFolder
from pruneyard.reports.paired import against_baseline
from pruneyard.reports.records import CurveRow
from pruneyard.reports.store import Store
from pruneyard.reports.study import Study
from pruneyard.reports.tables import summary_table


def write(path, value, *, key="k", hours=1, step=10):
    path.mkdir(exist_ok=True)
    point = CurveRow(name="reliability", step=step, key="test", x=0.9, y=value, count=100)
    run = record(key, ended_at=START + timedelta(hours=hours))
    Store(RunFolder(path)).write(run, [metric(value, step=step)], [point])


@pytest.mark.parametrize("order", [("early", "late"), ("late", "early")])
def test_a_run_in_two_folders_is_read_from_the_one_where_it_ended_last(tmp_path, order):
    write(tmp_path / "early", 0.1, hours=1, step=20)
    write(tmp_path / "late", 0.7, hours=2, step=10)
    write(tmp_path / "early", 0.3, key="other", hours=1)
    study = Study.read([tmp_path / name for name in order])
    assert sorted(study.runs["run_key"].to_pylist()) == ["k", "other"]
    assert sorted(study.metrics["value"].to_pylist()) == [0.3, 0.7]
    assert sorted(study.curves["y"].to_pylist()) == [0.3, 0.7]


def test_a_run_in_two_folders_gives_its_reliability_counts_once(tmp_path):
    for name in ("a", "b"):
        write(tmp_path / name, 0.7)
    study = Study.read([tmp_path / "a", tmp_path / "b"])
    assert series.reliability(study.curves, study.labelled)["count"].tolist() == [100]


def labels(path, *specs):
    for number, spec in enumerate(specs):
        Store(RunFolder(path)).write(record(f"k{number}", spec_json=json.dumps(spec)), [], [])
    return Study.read([path]).cells["label"].tolist()


def test_a_setting_is_called_by_the_end_of_its_key(tmp_path):
    specs = [{"method": {"schedule": {"every": n}}, "data": {"batch_size": 32 * n}} for n in (3, 5)]
    assert labels(tmp_path, *specs) == ["every 3 · batch_size 96", "every 5 · batch_size 160"]


def test_settings_that_end_alike_keep_their_whole_key(tmp_path):
    specs = [{"method": {"every": n}, "growth": {"every": n}, "rule": {"name": f"r{n}"}} for n in (3, 5)]
    assert labels(tmp_path, *specs)[0] == "method.every 3 · growth.every 3 · rule r3"


def test_a_label_says_gradient_rule_and_optimizer_before_their_settings(tmp_path):
    plain = {"gradient": {"name": "plain"}, "optimizer": {"lr": 0.1, "momentum": 0.9, "name": "sgd"}}
    agent = {**plain, "gradient": {"gamma": 0.1, "name": "agent"}}
    slow = {**plain, "optimizer": {"lr": 0.01, "momentum": 0.9, "name": "sgd"}}
    adam = {**plain, "optimizer": {"beta": 0.99, "lr": 0.1, "name": "adamw"}}
    assert labels(tmp_path, plain, agent, slow, adam) == [
        "gradient plain · optimizer sgd · lr 0.1",
        "gradient agent · optimizer sgd · lr 0.1",
        "gradient plain · optimizer sgd · lr 0.01",
        "gradient plain · optimizer adamw · lr 0.1",
    ]


def test_a_setting_that_only_some_runs_record_is_shown_where_it_distinguishes_them(tmp_path):
    specs = [{"optimizer": {"name": "sgd"}}, {"optimizer": {"name": "sgd", "nesterov": True}}]
    assert labels(tmp_path, *specs) == ["rigl", "nesterov True"]


def test_settings_of_two_folders_that_look_alike_have_the_folder_as_a_column(tmp_path):
    """The settings are those of two versions of a plug-in, which differ in nothing that a label shows."""
    for version, accuracies in (("v1", (0.5, 0.6)), ("v2", (0.7, 0.8))):
        spec = json.dumps({"method": {"name": "mine", "source_code": version}})
        for seed, accuracy in enumerate(accuracies):
            run = record(f"{version}{seed}", method="mine", seed=seed, spec_json=spec)
            Store(RunFolder(tmp_path / "work" / version / "out")).write(run, [metric(accuracy)], [])
    study = Study.read([tmp_path / "work" / version / "out" for version in ("v1", "v2")])
    assert list(study.cells["folder"]) == ["v1/out", "v2/out"]
    assert list(study.cells["label"]) == ["folder v1/out", "folder v2/out"]
    table = against_baseline(study, {"folder": "v1/out"}, ["test/accuracy"])
    assert table[["num_pairs", "difference"]].to_dict("records") == [{"num_pairs": 2, "difference": pytest.approx(0.2)}]


def test_folders_tell_apart_no_settings_that_differ_or_share_runs_but_the_summary_names_them(tmp_path):
    for folder, method, seed in (("a", "rigl", 0), ("b", "rigl", 1), ("b", "set", 0)):
        spec = json.dumps({"method": {"name": method}})
        run = record(f"{method}{seed}", method=method, seed=seed, spec_json=spec)
        Store(RunFolder(tmp_path / folder)).write(run, [metric(0.5)], [])
    study = Study.read([tmp_path / "a", tmp_path / "b"])
    assert "folder" not in study.cells
    assert list(study.cells["num_seeds"]) == [2, 1]
    table = summary_table(study)
    place = table.headers.index("folder")
    assert [(row[0].text, row[place].text) for row in table.rows] == [("rigl", "a, b"), ("set", "b")]
    assert "folder" not in summary_table(Study.read([tmp_path / "a"])).headers
    told = against_baseline(study, {"method": "rigl"}, ["test/accuracy"])
    assert list(told[["a", "folder_a", "folder_b"]].iloc[0]) == ["set", "b", "a, b"]
