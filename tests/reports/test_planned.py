"""The planned runs of a folder, and the counts of the page."""

import logging

import pytest
from made_up_study import metric, record, write_study
from test_page import read

from pruneyard.reports.layout import RunFolder
from pruneyard.reports.page import write_page
from pruneyard.reports.planned import read_plan, write_plan
from pruneyard.reports.store import Store
from pruneyard.reports.study import Study


def page(*folders, out):
    return read(write_page(list(folders), out / "report.html"))[1].text


def test_a_plan_is_read_back(tmp_path):
    folder = RunFolder(tmp_path)
    assert read_plan(folder) is None
    write_plan(folder, ["a", "b"])
    assert read_plan(folder) == {"a", "b"}


@pytest.mark.parametrize("text", ["", "[]", '{"run_keys": "ab"}', '{"run_keys": [1]}', "\x00\xff"])
def test_a_damaged_plan_is_left_out_with_a_warning(tmp_path, caplog, text):
    folder = RunFolder(tmp_path)
    folder.plan.write_text(text, encoding="latin-1")
    with caplog.at_level(logging.WARNING):
        assert read_plan(folder) is None
    assert "plan.json: it must be a JSON object" in caplog.text


def test_the_page_says_how_many_of_the_planned_runs_are_completed(tmp_path):
    store = Store(RunFolder(tmp_path))
    for key, status in (("a", "COMPLETED"), ("b", "FAILED"), ("older", "COMPLETED")):
        store.write(record(key, seed=ord(key[0]), status=status), [metric(0.9)], [])
    write_plan(RunFolder(tmp_path), ["a", "b", "c", "d"])
    text = page(tmp_path, out=tmp_path)
    assert "1 of 4 planned runs completed in 1 setting." in text
    assert "2 have not started." in text
    assert "1 further run in the same folder was planned by an earlier spec." in text
    assert "2 not started" in text


def test_without_a_plan_the_page_counts_what_is_there(tmp_path):
    folder = write_study(tmp_path / "out", methods=("dense",), seeds=2)
    text = page(folder, out=tmp_path)
    assert "2 of 2 runs completed" in text
    assert "planned" not in text
    assert "not started" not in text


def test_runs_of_a_folder_without_a_plan_count_as_planned_next_to_a_folder_with_one(tmp_path):
    for name, keys in (("first", ("a", "b")), ("second", ("c",))):
        for key in keys:
            Store(RunFolder(tmp_path / name)).write(record(key, seed=ord(key)), [metric(0.9)], [])
    write_plan(RunFolder(tmp_path / "second"), ["c", "d"])
    study = Study.read([tmp_path / "first", tmp_path / "second"])
    assert study.planned == {"a", "b", "c", "d"}
    assert "3 of 4 planned runs completed" in page(tmp_path / "first", tmp_path / "second", out=tmp_path)


def test_an_empty_folder_with_a_plan_says_how_much_is_to_come(tmp_path):
    write_plan(RunFolder(tmp_path), ["a", "b"])
    assert "None of 2 planned runs has finished in" in page(tmp_path, out=tmp_path)
