"""The view `results/final`: one row per run with fixed types, written at compaction, and what other programs read from it."""

import json
import re
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from made_up_study import metric, record, write_study

import pruneyard.reports
from pruneyard.reports.layout import RunFolder
from pruneyard.reports.records import LEFT_OUT_OF_FINAL, Status, schema
from pruneyard.reports.store import Store

MANUAL = Path(pruneyard.reports.__file__).parent / "README.md"
EXAMPLES = [text for text in re.findall(r"```python\n(.*?)```", MANUAL.read_text(encoding="utf-8"), re.S) if "results/" in text]


def test_the_last_values_of_the_newest_attempt_are_columns_with_types(tmp_path):
    store = Store(RunFolder(tmp_path))
    for seed, momentum in ((0, 0.9), (1, None)):
        optimizer = {"name": "sgd", "lr": 0.1 * (seed + 1), "nesterov": seed == 0, "momentum": momentum}
        spec = {"optimizer": optimizer, "widths": [seed]}
        first = record(f"k{seed}", seed=seed, status=Status.FAILED, error="boom", spec_json=json.dumps(spec))
        store.write(first, [metric(0.1, step=10)], [])
        run = record(f"k{seed}", seed=seed, attempt=2, spec_json=json.dumps(spec))
        store.write(run, [metric(0.2, step=10), metric(0.3 + seed, step=20)], [])
    store.write(record("k2", status=Status.PRUNED, spec_json="{}"), [], [])
    store.compact()
    store.compact()
    (path,) = (tmp_path / "results" / "final").iterdir()
    table = pq.read_table(path)
    rows = {row["run_key"]: row for row in table.to_pylist()}
    assert table.num_rows == 3
    assert (rows["k0"]["attempt"], rows["k0"]["test/accuracy"], rows["k1"]["test/accuracy"]) == (2, 0.3, 1.3)
    assert rows["k2"]["test/accuracy"] is None
    for field in schema("runs"):
        if field.name not in LEFT_OUT_OF_FINAL:
            assert table.schema.field(field.name).type == field.type
    types = {name: table.schema.field(name).type for name in table.column_names}
    assert types["test/accuracy"] == types["optimizer.lr"] == pa.float64()
    assert types["optimizer.nesterov"] == pa.bool_()
    assert types["widths"] == pa.string()


def test_a_folder_without_runs_gets_no_view(tmp_path):
    Store(RunFolder(tmp_path)).compact()
    assert not (tmp_path / "results" / "final").exists()


def test_the_manual_has_an_example_for_each_program():
    assert {name for text in EXAMPLES for name in ("pandas", "duckdb", "polars") if f"import {name}" in text} == {
        "pandas",
        "duckdb",
        "polars",
    }


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("home")
    folder = write_study(root / "out" / "sweep", methods=("dense", "rigl"), densities=(0.1,), evaluations=2)
    Store(RunFolder(folder)).compact()
    return root


@pytest.mark.parametrize("text", EXAMPLES, ids=lambda text: re.findall(r"import (\w+)", text)[-1])
def test_the_examples_of_the_manual_run(folder, monkeypatch, text):
    for name in re.findall(r"^import (\w+)", text, re.M):
        pytest.importorskip(name)
    monkeypatch.chdir(folder)
    exec(compile(text, "README.md", "exec"), {})
