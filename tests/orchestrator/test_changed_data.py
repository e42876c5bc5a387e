"""Results do not outlive their data: changed data is refused by name, and never averaged with the data before it."""

import io
import json
import logging
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from in_process_command import Pruneyard
from PIL import Image

from pruneyard.orchestrator.artifacts.reader import open_run
from pruneyard.orchestrator.driver.run import run
from pruneyard.orchestrator.errors import SpecError, UsageError
from pruneyard.orchestrator.results import Results
from pruneyard.orchestrator.spec.load import load_spec
from pruneyard.workloads.data.dataset import Source
from pruneyard.workloads.data.sources.image_folder import ImageFolder

CLASSES = ("cat", "dog")


def write_pictures(folder: Path, *, of_each: int = 30, shift: int = 0) -> None:
    """Writes dark cats and bright dogs of 6x6 pixels, in files of one size and time, as when an archive is unpacked."""
    generator = np.random.default_rng(shift)
    for number, name in enumerate(CLASSES):
        (folder / "train" / name).mkdir(parents=True, exist_ok=True)
        for index in range(of_each):
            pixels = generator.integers(90 * number, 90 * number + 120, (6, 6), dtype=np.uint8)
            file = folder / "train" / name / f"{shift + index:03}.bmp"
            Image.fromarray(pixels).save(file)
            os.utime(file, (1_700_000_000, 1_700_000_000))


def swap_classes(folder: Path) -> None:
    """Renames the folders of the two classes: no file's content, size or time changes."""
    (folder / "train" / "cat").rename(folder / "train" / "other")
    (folder / "train" / "dog").rename(folder / "train" / "cat")
    (folder / "train" / "other").rename(folder / "train" / "dog")


def spec(path: Path | str, **fields: Any) -> dict[str, Any]:
    return {
        "name": "pets",
        "kind": "sparse",
        "data": {"name": "image_folder", "path": str(path)},
        "model": {"name": "mlp", "width": 8},
        "method": {"name": "static", "density": 0.5},
        "budget": {"steps": 20, "batch_size": 16},
        "seeds": 2,
        **fields,
    }


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PRUNEYARD_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def pets(tmp_path: Path) -> Path:
    write_pictures(tmp_path / "pets")
    return tmp_path / "pets"


def fingerprint(path: Path) -> str:
    return ImageFolder(path=str(path)).load().fingerprint


def refusal(tables: Mapping[str, Any], out: Path) -> str:
    with pytest.raises(UsageError) as caught:
        run(tables, out, local=True)
    return str(caught.value)


def test_pictures_that_change_places_are_refused_with_folder_and_both_fingerprints(pets: Path, tmp_path: Path) -> None:
    out, before = tmp_path / "out", fingerprint(pets)
    first = run(spec(pets), out, local=True)
    swap_classes(pets)
    after = fingerprint(pets)
    assert after != before
    assert refusal(spec(pets), out).splitlines() == [
        f"data: {pets} has changed: 2 runs in {out} were computed on data {before}, and it now holds {after}",
        "restore the data, or the version of the library that decodes it if no file has changed; "
        "or give another --out for the new data, and the runs stay as they are",
    ]
    assert len(Results(out).runs()) == 2
    swap_classes(pets)
    assert run(spec(pets), out, local=True).runs().equals(first.runs())


def test_more_seeds_on_more_pictures_are_refused_before_anything_is_touched(pets: Path, tmp_path: Path) -> None:
    out, before = tmp_path / "out", fingerprint(pets)
    run(spec(pets), out, local=True)
    written = (out / "spec.yaml").read_text()
    write_pictures(pets, shift=30)
    message = refusal(spec(pets, seeds=4), out)
    assert before in message
    assert fingerprint(pets) in message
    assert len(Results(out).runs()) == 2
    assert (out / "spec.yaml").read_text() == written
    assert run(spec(pets, seeds=4), tmp_path / "new", local=True).exit_code == 0


def test_plan_refuses_and_explain_names_what_differs(pets: Path, tmp_path: Path, pruneyard: Pruneyard) -> None:
    file = tmp_path / "pets.yaml"
    file.write_text(json.dumps(spec(pets, seeds=1)))
    out, before = tmp_path / "out", fingerprint(pets)
    run(spec(pets, seeds=1), out, local=True)
    assert "finished; it will not run again" in pruneyard("explain", file, "--out", out).out
    write_pictures(pets, shift=30)
    planned = pruneyard("plan", file, "--out", out)
    assert planned.code == 2
    assert f"{pets} has changed" in planned.err
    told = pruneyard("explain", file, "--out", out)
    assert told.code == 0
    assert "ended COMPLETED on other data; it is neither kept nor resumed here" in told.out
    assert f"data: {pets}: {before} then, {fingerprint(pets)} now" in told.out
    assert pruneyard("report", out).code == 0


def test_the_same_path_under_another_data_folder_is_other_data(
    pets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PRUNEYARD_DATA", str(tmp_path))
    run(spec("pets"), tmp_path / "out", local=True)
    shutil.copytree(pets, tmp_path / "elsewhere" / "pets")
    monkeypatch.setenv("PRUNEYARD_DATA", str(tmp_path / "elsewhere"))
    assert run(spec("pets"), tmp_path / "out", local=True).exit_code == 0
    swap_classes(tmp_path / "elsewhere" / "pets")
    assert f"{tmp_path}/elsewhere/pets has changed" in refusal(spec("pets"), tmp_path / "out")


def test_changed_rows_of_parquet_files_are_refused(tmp_path: Path) -> None:
    def write(labels: list[int]) -> None:
        images = []
        for index in range(40):
            buffer = io.BytesIO()
            Image.fromarray(np.full((6, 6), 5 * index, dtype=np.uint8)).save(buffer, format="PNG")
            images.append(buffer.getvalue())
        (tmp_path / "rows").mkdir(exist_ok=True)
        pd.DataFrame({"img": images, "label": labels}).to_parquet(tmp_path / "rows" / "train.parquet")

    tables = spec("unused", data={"name": "image_parquet", "path": str(tmp_path / "rows")}, seeds=1)
    write([0, 1] * 20)
    run(tables, tmp_path / "out", local=True)
    write([1, 0] * 20)
    assert f"{tmp_path}/rows has changed: run " in refusal(tables, tmp_path / "out")


def test_a_changed_graph_is_refused(tmp_path: Path) -> None:
    def write(edge: float) -> None:
        ring = np.arange(300)
        np.savez(
            tmp_path / "graph.npz",
            adj_data=np.array([1.0] * 299 + [edge]),
            adj_indices=(ring + 1) % 300,
            adj_indptr=np.arange(301),
            adj_shape=np.array([300, 300]),
            attr_data=np.ones(300),
            attr_indices=ring % 4,
            attr_indptr=np.arange(301),
            attr_shape=np.array([300, 4]),
            labels=(ring % 3 == 0).astype(np.int64),
        )

    tables = {
        "name": "ring",
        "kind": "nodes",
        "data": {"name": "npz", "path": str(tmp_path / "graph.npz")},
        "minority": 1,
        "method": "plain",
        "split": {"name": "drawn", "num_val": 60, "num_test": 60, "num_calib": 60},
        "budget": {"steps": 2},
    }
    write(1.0)
    assert run(tables, tmp_path / "out", local=True).exit_code == 0
    assert run(tables, tmp_path / "out", local=True).exit_code == 0
    write(0.0)  # the ring is open now
    assert f"{tmp_path}/graph.npz has changed" in refusal(tables, tmp_path / "out")


def test_a_changed_set_of_unknown_inputs_is_refused_by_its_key(pets: Path, tmp_path: Path) -> None:
    write_pictures(tmp_path / "others", shift=100)
    tables = spec(pets, ood=[{"name": "image_folder", "path": str(tmp_path / "others")}], seeds=1)
    out = tmp_path / "out"
    (row,) = run(tables, out, local=True).runs().to_dict("records")
    then = fingerprint(tmp_path / "others")
    assert json.loads(row["data_read"]) == {"data": fingerprint(pets), "ood[0]": then}
    write_pictures(tmp_path / "others", shift=200)
    message = refusal(tables, out)
    assert message.startswith(f"ood[0]: {tmp_path}/others has changed: run {row['run_key']} in {out} was computed on")
    assert then in message


def test_scores_do_not_read_changed_pictures_beside_an_old_network(pets: Path, tmp_path: Path) -> None:
    trained, before = tmp_path / "out", fingerprint(pets)
    results = run(spec(pets, seeds=1), trained, local=True)
    key = results.runs()["run_key"][0]
    shape = [1, 6, 6]
    tables = {"name": "trust", "kind": "calibrate", "input": {"from": str(trained)}}
    scored = {**tables, "scores": [{"name": "knn", "k": 5}], "far": [{"name": "noise", "shape": shape}]}
    assert run(scored, tmp_path / "scored", local=True).exit_code == 0
    write_pictures(pets, shift=30)
    message = refusal(scored, tmp_path / "scored again")
    assert message.splitlines()[0] == (
        f"data: {pets} has changed: run {key} in {trained} was computed on data {before}, "
        f"and it now holds {fingerprint(pets)}"
    )
    # On a machine that holds other data than the driver's, the job itself refuses.
    with pytest.raises(ValueError, match=f"{key} was trained on data {before}, and it now holds {fingerprint(pets)}"):
        open_run(str(trained / "artifacts" / key)).training_data(lambda source: source.load())
    # Stored outputs are those of the old data, whatever the pictures are now.
    (row,) = run(tables, tmp_path / "calibrated", local=True).runs().to_dict("records")
    assert json.loads(row["data_read"]) == {"input": before}


def test_unchanged_data_is_not_loaded_to_be_compared(
    pets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(spec(pets), tmp_path / "out", local=True)

    def load(source: Source) -> Any:
        raise AssertionError(f"{source} was loaded")

    monkeypatch.setattr(ImageFolder, "load", load)
    assert run(spec(pets), tmp_path / "out", local=True).exit_code == 0


def test_data_that_is_not_here_is_said_not_to_be_compared(
    pets: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run(spec(pets), tmp_path / "out", local=True)
    shutil.rmtree(pets)
    with caplog.at_level(logging.WARNING):
        assert run(spec(pets), tmp_path / "out", local=True).exit_code == 0
    assert f"the data of 2 runs in {tmp_path / 'out'} cannot be compared: path is '{pets}'; {pets}/train does not" in caplog.text


def test_runs_on_different_data_are_neither_averaged_nor_taken_together(pets: Path, tmp_path: Path) -> None:
    before, out, other = fingerprint(pets), tmp_path / "out", tmp_path / "other"
    run(spec(pets, seeds=[0, 1]), out, local=True)
    write_pictures(pets, shift=30)
    run(spec(pets, seeds=[2, 3]), other, local=True)
    for table in ("runs", "metrics", "curves"):
        for file in (other / "results" / table).glob("*.parquet"):
            shutil.copy(file, out / "results" / table / f"other-{file.name}")
    shutil.copytree(other / "artifacts", out / "artifacts", dirs_exist_ok=True)
    summary = Results(out).summary()
    assert list(summary["num_seeds"]) == [2, 2]
    assert set(summary["data.fingerprint"]) == {before, fingerprint(pets)}
    ensemble = {"name": "trust", "kind": "calibrate", "input": {"from": str(out), "over": "seed"}}
    with pytest.raises(SpecError, match=rf"input\.over: takes runs together .* \(seed 0\) on {before} and .* \(seed 2\) on"):
        load_spec(ensemble)


def test_one_run_on_different_data_in_two_folders_is_not_reported_as_one(
    pets: Path, tmp_path: Path, pruneyard: Pruneyard
) -> None:
    before = fingerprint(pets)
    run(spec(pets), tmp_path / "out", local=True)
    write_pictures(pets, shift=30)
    run(spec(pets), tmp_path / "other", local=True)
    result = pruneyard("report", tmp_path / "out", tmp_path / "other", "--out", tmp_path / "page.html")
    assert result.code == 2
    assert f"was computed on data {before} in {tmp_path / 'out'} and on {fingerprint(pets)} in" in result.err
