"""`export --network` and `latency` on the folder of a real study."""

import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from pruneyard.orchestrator.artifacts import network_export as exporting
from pruneyard.orchestrator.artifacts.reader import finished_network
from pruneyard.orchestrator.driver.run import run
from pruneyard.orchestrator.errors import UsageError
from pruneyard.orchestrator.reading.run_artifacts import load_network
from pruneyard.orchestrator.results import Results
from pruneyard.orchestrator.spec.load import load_spec
from pruneyard.reports.layout import RunFolder
from pruneyard.reports.predictions import read_predictions
from pruneyard.workloads.deploy.files import load, read_network
from pruneyard.workloads.deploy.timing import Latency

Pruneyard = Callable[..., Any]

SPEC = {
    "name": "small",
    "kind": "sparse",
    "data": {"name": "digits", "max_train": 100, "max_test": 50},
    "model": {"name": "mlp", "width": 16, "depth": 1},
    "budget": {"steps": 6, "batch_size": 16},
    "seeds": 2,
    "grid": {"method": [{"name": "dense"}, {"name": "static", "density": 0.25}]},
}
SMALL = {  # the blueprint of its static network
    "family": "models",
    "model": {"name": "mlp", "width": 16, "depth": 1, "dropout": 0.0},
    "image_shape": [1, 8, 8],
    "num_outputs": 10,
    "mean": [0.3],
    "std": [0.4],
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """Runs two seeds each of a dense and a static network."""
    out = tmp_path_factory.mktemp("study") / "out"
    run(SPEC, out=out, local=True)
    return RunFolder(out)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes latency measurements short."""
    whole = exporting.compare

    def short(*networks: Any) -> Latency:
        return whole(*networks, span_s=0.0)

    monkeypatch.setattr(exporting, "compare", short)
    monkeypatch.setattr("pruneyard.workloads.deploy.timing.WARM_UP_S", 0.0)


def key_of(folder: RunFolder, method: str) -> str:
    runs = Results(folder.path).runs()
    return str(runs.loc[(runs["method"] == method) & (runs["seed"] == 0), "run_key"].iloc[0])


def test_the_network_of_a_run_gives_the_logits_that_the_run_recorded(folder: RunFolder) -> None:
    key = key_of(folder, "static")
    network = finished_network(folder, key)
    images = load_spec(SPEC).jobs[0].workload.data.load().test.images
    blueprint = network.blueprint
    mean, std = (torch.tensor(values)[:, None, None] for values in (blueprint.mean, blueprint.std))
    _, _, recorded = read_predictions(folder.predictions(key))["test"]
    logits = network.network((torch.from_numpy(images).float() / 255 - mean) / std)
    torch.testing.assert_close(logits, torch.from_numpy(recorded), rtol=1e-5, atol=1e-5)
    assert network.density == pytest.approx(0.25, abs=0.01)


@pytest.mark.parametrize("form", ["dense", "csr", "gather"])
def test_an_exported_file_gives_what_the_run_would_give(
    pruneyard: Pruneyard, folder: RunFolder, form: str, tmp_path: Path
) -> None:
    key = key_of(folder, "static")
    result = pruneyard("export", folder.path, "--network", key, "--format", form, "--out", "net.safetensors")
    assert (result.code, result.out.strip()) == (0, "net.safetensors")
    whole, back = finished_network(folder, key), read_network(tmp_path / "net.safetensors")
    assert all(torch.equal(mask, back.masks[name]) for name, mask in whole.masks.items())
    images = whole.random_images(4)
    torch.testing.assert_close(load(tmp_path / "net.safetensors").run(images), whole.network(images))
    assert [path.name for path in tmp_path.iterdir()] == ["net.safetensors"]


@pytest.mark.parametrize(
    "arguments",
    [
        ("--network", "0123456789abcdef", "--out", "x"),
        ("--network", "../../etc", "--out", "x"),
        ("--network", "STATIC"),
        ("--network", "STATIC", "--table", "runs", "--out", "x"),
        ("--network", "STATIC", "--format", "csv", "--out", "x"),
        ("--network", "STATIC", "--format", "bsr", "--out", "x"),
        ("--network", "STATIC", "--format", "semi_structured", "--out", "x"),
        ("--network", "DENSE", "--format", "csr", "--out", "x"),
        ("--format", "csr"),
        ("--format", "nothing"),
    ],
    ids=" ".join,
)
def test_an_export_that_cannot_be_exits_with_2_and_writes_nothing(
    pruneyard: Pruneyard, folder: RunFolder, arguments: tuple[str, ...], tmp_path: Path
) -> None:
    keys = {"STATIC": key_of(folder, "static"), "DENSE": key_of(folder, "dense")}
    result = pruneyard("export", folder.path, *(keys.get(argument, argument) for argument in arguments))
    assert result.code == 2
    assert result.err
    assert "Traceback" not in result.err
    assert not list(tmp_path.iterdir())


@pytest.mark.usefixtures("quick")
def test_latency_measures_the_first_seed_of_each_setting_and_keeps_the_rows(
    pruneyard: Pruneyard, folder: RunFolder
) -> None:
    arguments = ("--format", "csr", "--format", "dense", "--batch-size", "1,3")
    result = pruneyard("latency", folder.path, *arguments, "--json")
    assert result.code == 0
    rows = {(row["run_key"], row["format"], row["batch_size"]): row for row in json.loads(result.out)}
    dense, static = key_of(folder, "dense"), key_of(folder, "static")
    assert rows.keys() == {
        (key, form, size)
        for key, form in ((dense, "dense"), (static, "dense"), (static, "csr"))
        for size in (1, 3)
    }
    assert f"{dense} csr: skipped, no layer can be sparse" in result.err
    row = rows[static, "csr", 3]
    assert 0 < row["low_s"] <= row["median_s"] <= row["high_s"]
    assert row["size_bytes"] < row["dense_size_bytes"]
    assert row["forward_flops"] / row["dense_forward_flops"] == pytest.approx(0.25, abs=0.01)
    assert json.loads(row["kernels"]) == {"hidden1.weight": "csr", "classifier.weight": "csr"}
    kept = Results(folder.path).latency()
    assert {
        tuple(k) for k in kept[["run_key", "format", "batch_size"]].itertuples(index=False)
    } == rows.keys()


@pytest.mark.usefixtures("quick")
def test_a_network_stored_as_values_and_index_is_loaded_exported_and_measured_like_one_with_masks(
    pruneyard: Pruneyard, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The two executions are two runs with the same numbers up to rounding."""
    for module in ("deferred", "layers"):
        monkeypatch.setattr(f"pruneyard.workloads.execution.{module}.MIN_SIZE", 1)  # entries of a weight that is stored so
    tables = {"grid": {"method": [{"name": "static", "density": 0.1}], "execution": ["masked", "sparse"]}, "seeds": 1}
    run(SPEC | tables, out=tmp_path / "out", local=True)
    folder = RunFolder(tmp_path / "out")
    runs = Results(folder.path).runs()
    executions = [json.loads(spec).get("execution", "masked") for spec in runs["spec_json"]]
    keys = dict(zip(executions, runs["run_key"], strict=True))
    assert len(set(keys.values())) == 2
    stored = {name: set(safetensors.torch.load_file(folder.artifact(key) / "model.safetensors")) for name, key in keys.items()}
    assert not any(":" in name for name in stored["masked"])
    assert any(name.endswith(":values") for name in stored["sparse"])
    masked, sparse = (finished_network(folder, keys[name]) for name in ("masked", "sparse"))
    assert all(torch.equal(mask, sparse.masks[name]) for name, mask in masked.masks.items())
    images = masked.random_images(4)
    torch.testing.assert_close(sparse.network(images), masked.network(images), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(load_network(folder.path, keys["sparse"])(images), sparse.network(images))
    for form in ("dense", "csr", "gather"):
        file = tmp_path / f"{form}.safetensors"
        assert pruneyard("export", folder.path, "--network", keys["sparse"], "--format", form, "--out", file).code == 0
        torch.testing.assert_close(load(file).run(images), sparse.network(images))
    assert pruneyard("latency", folder.path, "--format", "dense", "--format", "csr", "--batch-size", "1").code == 0


@pytest.mark.slow
@pytest.mark.usefixtures("quick")
def test_a_narrowed_network_is_loaded_exported_and_compared_with_the_whole_one(pruneyard: Pruneyard, tmp_path: Path) -> None:
    """The masks of its method apply to the channels that are left."""
    narrowed = {"narrow": {"flops": 0.5}, "grid": {"method": [{"name": "static", "density": 0.25}]}, "seeds": 1}
    run(SPEC | narrowed | {"model": {"name": "mlp", "width": 64, "depth": 1}}, out=tmp_path / "out", local=True)
    folder = RunFolder(tmp_path / "out")
    key = key_of(folder, "static")
    whole = finished_network(folder, key)
    assert whole.blueprint.model["name"] == "narrowed"
    images = whole.random_images(4)
    torch.testing.assert_close(load_network(folder.path, key)(images), whole.network(images))
    for form in ("dense", "csr", "gather"):
        file = tmp_path / f"{form}.safetensors"
        assert pruneyard("export", folder.path, "--network", key, "--format", form, "--out", file).code == 0
        torch.testing.assert_close(load(file).run(images), whole.network(images))
    result = pruneyard("latency", folder.path, "--format", "dense", "--format", "csr", "--batch-size", "1", "--json")
    assert result.code == 0
    macs = 64 * 64 + 64 * 10  # of the whole network
    for row in json.loads(result.out):
        assert row["dense_forward_flops"] == 2 * macs
        assert row["forward_flops"] < 0.5 * 0.3 * 2 * macs
        assert row["dense_size_bytes"] > 4 * macs > row["size_bytes"]


@pytest.mark.usefixtures("quick")
def test_measuring_again_replaces_the_row(pruneyard: Pruneyard, folder: RunFolder) -> None:
    key = key_of(folder, "static")
    for _ in range(2):
        arguments = ("--run-key", key, "--format", "gather", "--batch-size", "2")
        result = pruneyard("latency", folder.path, *arguments)
        assert result.code == 0
        assert "gather" in result.out
    kept = Results(folder.path).latency()
    assert len(kept[(kept["format"] == "gather") & (kept["batch_size"] == 2)]) == 1
    assert "Measured latency" in Results(folder.path).report(folder.report).read_text()


@pytest.mark.usefixtures("quick")
def test_all_seeds_are_measured_where_asked(pruneyard: Pruneyard, folder: RunFolder) -> None:
    arguments = ("--all-seeds", "--format", "dense", "--batch-size", "4", "--json")
    assert len(json.loads(pruneyard("latency", folder.path, *arguments).out)) == 4


@pytest.mark.parametrize(
    "arguments",
    [
        ("--run-key", "0123456789abcdef"),
        ("--batch-size", "0"),
        ("--batch-size", "1;2"),
        ("--threads", "0"),
        ("--format", "csv"),
        ("--format", "bsr"),
    ],
    ids=" ".join,
)
def test_a_latency_that_cannot_be_exits_with_2(
    pruneyard: Pruneyard, folder: RunFolder, arguments: tuple[str, ...]
) -> None:
    result = pruneyard("latency", folder.path, *arguments)
    assert result.code == 2
    assert result.err
    assert not result.out
    assert "Traceback" not in result.err


def test_a_folder_without_finished_runs_is_refused(pruneyard: Pruneyard, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    result = pruneyard("latency", tmp_path / "empty")
    assert (result.code, "no finished run" in result.err) == (2, True)


@pytest.mark.usefixtures("quick")
def test_a_wrong_export_is_never_written_nor_recorded(
    pruneyard: Pruneyard, folder: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pruneyard.workloads.deploy.formats.csr.Csr.tolerance", -1.0)
    key = key_of(folder, "static")
    result = pruneyard("export", folder.path, "--network", key, "--format", "csr", "--out", "net")
    assert (result.code, list(tmp_path.iterdir())) == (1, [])
    assert "off the dense ones" in result.err
    arguments = ("--run-key", key, "--format", "csr", "--batch-size", "9")
    result = pruneyard("latency", folder.path, *arguments)
    assert result.code == 1
    assert 9 not in set(Results(folder.path).latency()["batch_size"])


def damaged(folder: RunFolder, tmp_path: Path, **changes: object) -> RunFolder:
    """Copies the static run with fields of its manifest changed, or removed by None, and without digests, as in older runs."""
    key = key_of(folder, "static")
    other = RunFolder(tmp_path / "other")
    shutil.copytree(folder.artifact(key), other.artifact(key))
    path = other.artifact(key) / "manifest.json"
    manifest = {**json.loads(path.read_text()), "digest": None, "sha256": None, **changes}
    path.write_text(json.dumps({name: value for name, value in manifest.items() if value is not None}))
    return other


def test_an_older_manifest_without_a_blueprint_is_completed_from_its_spec_and_data(folder: RunFolder, tmp_path: Path) -> None:
    key = key_of(folder, "static")
    older = damaged(folder, tmp_path, network=None)
    assert finished_network(older, key).blueprint == finished_network(folder, key).blueprint


@pytest.mark.parametrize(
    "changes",
    [
        {"files": []},
        {"network": {}},
        {"network": None, "spec": {}},
        {"network": SMALL | {"image_shape": [1, 9, 9]}},
        {"network": SMALL | {"mean": [0.0, 0.0]}},
        {"network": SMALL | {"model": {"name": "mlp"}}},
        {"network": SMALL | {"family": "nodes.models"}},
    ],
    ids=str,
)
def test_an_artifact_that_does_not_fit_its_manifest_is_refused(
    folder: RunFolder, tmp_path: Path, changes: dict[str, object]
) -> None:
    with pytest.raises(UsageError):
        finished_network(damaged(folder, tmp_path, **changes), key_of(folder, "static"))


def test_reading_a_network_runs_nothing_of_the_artifact(folder: RunFolder, tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return exec, ("raise SystemExit('executed')",)

    other = damaged(folder, tmp_path)
    key = key_of(folder, "static")
    (other.artifact(key) / "model.safetensors").write_bytes(pickle.dumps(Trap()))
    with pytest.raises(UsageError, match="cannot be read"):
        finished_network(other, key)
    masks = safetensors.torch.load_file(folder.artifact(key) / "masks.safetensors")
    (other.artifact(key) / "model.safetensors").write_bytes(safetensors.torch.save(masks))
    with pytest.raises(UsageError, match="cannot be read"):
        finished_network(other, key)
