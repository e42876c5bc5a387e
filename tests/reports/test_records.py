"""The schemas: written columns are the documented ones."""

import pyarrow as pa

from pruneyard.reports import records
from pruneyard.reports.records import TABLES, schema, schema_markdown
from pruneyard.testing.cases import each_case


@each_case("table", TABLES)
def test_every_column_says_what_it_means(table):
    for field in schema(table):
        assert len(field.metadata[b"description"]) > 10


def test_runs_have_plain_types_that_any_parquet_reader_knows():
    kinds = {field.name: field.type for field in schema("runs")}
    assert kinds["started_at"] == pa.timestamp("us", tz="UTC")
    assert kinds["density"] == pa.float64()
    assert kinds["attempt"] == pa.int64()
    assert kinds["status"] == pa.string()


def test_only_what_may_be_missing_is_nullable():
    nullable = {field.name for field in schema("runs") if field.nullable}
    assert {"error", "density", "ipc", "train_flops", "parent_key"} <= nullable
    assert not {"run_key", "attempt", "status", "seed", "spec_json", "ended_at"} & nullable
    assert {field.name for field in schema("curves") if field.nullable} == {"x", "count"}


def test_metrics_and_curves_name_the_run_and_its_attempt_first():
    for table in ("metrics", "curves"):
        assert schema(table).names[:2] == ["run_key", "attempt"]


def test_schema_states_its_version():
    assert schema("runs").metadata[records.VERSION_KEY] == str(records.SCHEMA_VERSION).encode()


def test_schema_page_has_a_line_for_every_column():
    page = schema_markdown()
    for table in TABLES:
        assert f"## {table}" in page
        for field in schema(table):
            assert f"| `{field.name}` |" in page
