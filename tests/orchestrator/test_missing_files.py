"""A file that a spec names and that is missing: the message says which spec, line, key and value, and how to get the file."""

import dataclasses
from pathlib import Path

import pytest
from in_process_command import Pruneyard

from pruneyard.testing.cases import each_case
from pruneyard.workloads.data.dataset import DataNotFoundError, Source
from pruneyard.workloads.data.folders import FileSource
from pruneyard.workloads.nodes.graph_files import GraphFile
from pruneyard.workloads.plugins import find, names

TRAINING = """\
name: missing
kind: sparse
data: {data}
model: {{name: mlp, width: 8}}
method: {{name: dense}}
budget: {{epochs: 1}}
"""
CHAIN = """\
name: missing
data: {name: arrays, path: gone.npz}
stages:
  own:
    kind: sparse
    data: {name: digits}
    model: {name: mlp}
    method: {name: dense}
    budget: {epochs: 1}
  shared:
    kind: sparse
    model: {name: mlp}
    method: {name: dense}
    budget: {epochs: 1}
"""
FILES = [
    (family, name)
    for family in ("data.sources", "nodes.sources")
    for name in names(family)
    if issubclass(find(family, name), FileSource | GraphFile)
]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PRUNEYARD_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("PRUNEYARD_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_all_of_our_sources_of_files_are_tried() -> None:
    users_own, published = {"arrays", "table", "image_folder", "image_parquet", "npz"}, {"mnist", "cifar10", "svhn", "cora"}
    assert {name for _, name in FILES} >= users_own | published


@each_case(("family", "name"), FILES)
def test_a_source_names_the_key_that_names_its_files(family: str, name: str) -> None:
    cls = find(family, name)
    fields = {field.name for field in dataclasses.fields(cls)}
    source: Source = cls(**{key: value for key, value in {"path": "gone.csv", "target": "y"}.items() if key in fields})
    with pytest.raises(DataNotFoundError) as raised:
        source.load()
    subject = "path is 'gone.csv'" if "path" in fields else f"name is '{name}'"
    assert str(raised.value).startswith(subject)
    assert "none of the folders" in str(raised.value)
    assert "; put " in str(raised.value) or "set download: true" in str(raised.value)
    assert raised.value.source is source


@each_case(
    ("data", "message"),
    [
        ("{name: table, path: gone.csv, target: y}", "data.path: is 'gone.csv', which is in none of the folders .,"),
        ("{name: arrays, path: /gone/own.npz}", "data.path: is '/gone/own.npz', which does not exist; put a .npz or"),
        ("{name: mnist}", "data.name: is 'mnist'; none of the folders"),
        ("{name: corrupted, base: mnist, corruption: gaussian_noise}", "data.base.name: is 'mnist'; none of the folders"),
        (
            "{name: synthetic, base: digits, path: gone.safetensors}",
            "data.path: is 'gone.safetensors', which cannot be read in",
        ),
    ],
)
def test_a_missing_file_is_reported_with_spec_line_key_and_value(
    data: str, message: str, folder: Path, pruneyard: Pruneyard
) -> None:
    (folder / "missing.yaml").write_text(TRAINING.format(data=data))
    result = pruneyard("run", "missing.yaml", "--local")
    assert result.code == 2
    assert f"missing.yaml:3: {message}" in result.err


def test_a_table_that_stages_share_is_reported_where_it_stands(folder: Path, pruneyard: Pruneyard) -> None:
    (folder / "missing.yaml").write_text(CHAIN)
    assert "missing.yaml:2: data.path: is 'gone.npz'" in pruneyard("run", "missing.yaml", "--local").err
    result = pruneyard("run", "missing.yaml", "--local", "--set", "own.data.name=mnist")
    assert "missing.yaml: data.name: is 'mnist'" in result.err
    assert result.err.rstrip().endswith("(from an override)")
