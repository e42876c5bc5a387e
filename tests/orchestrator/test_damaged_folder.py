"""A damaged file of a finished study: no job runs again, `doctor DIR` names the file, and nothing reads it as whole."""

import shutil
from pathlib import Path

import pandas as pd
import pytest
from in_process_command import Pruneyard
from made_up_study import metric, record

from pruneyard.orchestrator.artifacts.reader import finished_network, open_run
from pruneyard.orchestrator.driver.run import run
from pruneyard.orchestrator.errors import UsageError
from pruneyard.orchestrator.results import Results
from pruneyard.reports.layout import RunFolder
from pruneyard.reports.parquet import DamagedFileError
from pruneyard.reports.store import Store

SPEC = {
    "name": "two",
    "kind": "sparse",
    "data": {"name": "digits", "max_train": 100},
    "model": {"name": "mlp", "width": 8},
    "method": {"name": "static", "density": 0.5},
    "budget": {"steps": 4, "checkpoint_every_s": 0},
    "seeds": 2,
}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("finished") / "out"
    run(SPEC, folder, local=True)
    return folder


@pytest.fixture
def folder(finished: Path, tmp_path: Path) -> Path:
    """Returns a copy of the finished study, for a test to damage."""
    return Path(shutil.copytree(finished, tmp_path / "out"))


def flip(path: Path, place: int) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


def started(folder: Path) -> list[object]:
    runs = Results(folder).runs()
    return sorted(zip(runs["run_key"], runs["attempt"], runs["started_at"], strict=True))


@pytest.mark.parametrize("damage", ["flipped", "deleted"])
def test_no_job_runs_again_after_damage(folder: Path, damage: str, caplog: pytest.LogCaptureFixture) -> None:
    before, summary = started(folder), Results(folder).summary(columns="all")
    for table in ("runs", "metrics"):
        (path,) = RunFolder(folder).files_of_table(table)
        assert isinstance(path, Path)
        if damage == "flipped":
            flip(path, 500)
        else:
            path.unlink()
    run(SPEC, folder, local=True)
    assert started(folder) == before
    assert Results(folder).summary(columns="all").equals(summary)
    assert "compacted-" in caplog.text or damage == "deleted"


def test_new_jobs_run_beside_rows_that_were_damaged(folder: Path) -> None:
    before = started(folder)
    (path,) = RunFolder(folder).files_of_table("runs")
    assert isinstance(path, Path)
    flip(path, 500)
    run({**SPEC, "seeds": 3}, folder, local=True)
    after = started(folder)
    assert set(before) < set(after)
    assert len(after) == 3
    assert (path.parent / f"{path.name}.damaged").exists()


def test_doctor_verifies_a_folder_and_repairs_its_tables(folder: Path, pruneyard: Pruneyard) -> None:
    result = pruneyard("doctor", folder)
    assert result.code == 0, result.out
    assert "ok    tables: the rows of 2 runs" in result.out
    (path,) = RunFolder(folder).files_of_table("metrics")
    assert isinstance(path, Path)
    flip(path, 500)
    result = pruneyard("doctor", folder)
    assert result.code == 1
    assert f"WRONG tables: {path} is damaged" in result.out
    assert f"pruneyard doctor {folder} --repair" in result.out
    result = pruneyard("doctor", folder, "--repair")
    assert result.code == 0, result.out
    assert result.out.startswith(f"ok    repaired: {path} is damaged")
    assert pruneyard("doctor", folder).code == 0


def test_doctor_needs_a_folder_to_repair(pruneyard: Pruneyard) -> None:
    result = pruneyard("doctor", "--repair")
    assert result.code == 2
    assert "--repair needs the folder" in result.err


@pytest.mark.parametrize(
    "name", ["model.safetensors", "masks.safetensors", "predictions.parquet", "manifest.json", "record-1.json"]
)
def test_doctor_names_the_damaged_file_of_a_run(folder: Path, name: str, pruneyard: Pruneyard) -> None:
    path = next(RunFolder(folder).artifacts.iterdir()) / name
    flip(path, len(path.read_bytes()) - 20)
    result = pruneyard("doctor", folder)
    assert result.code == 1
    assert str(path) in result.out


def test_doctor_names_a_damaged_checkpoint(folder: Path, pruneyard: Pruneyard) -> None:
    path = next(RunFolder(folder).artifacts.glob("*/checkpoints/*/model.safetensors"))
    assert isinstance(path, Path)
    flip(path, len(path.read_bytes()) - 5)
    result = pruneyard("doctor", folder)
    assert result.code == 1
    assert str(path.parent) in result.out


def test_a_damaged_artifact_is_refused_where_it_is_used(folder: Path) -> None:
    artifact = next(RunFolder(folder).artifacts.iterdir())
    flip(artifact / "model.safetensors", len((artifact / "model.safetensors").read_bytes()) - 5)
    with pytest.raises(UsageError, match=r"model\.safetensors is damaged"):
        finished_network(RunFolder(folder), artifact.name)
    flip(artifact / "predictions.parquet", 100)
    with pytest.raises(DamagedFileError, match=r"predictions\.parquet is damaged"):
        open_run(str(artifact)).predictions()


def test_a_moved_folder_says_where_its_artifacts_are_now(folder: Path, tmp_path: Path) -> None:
    moved = folder.rename(tmp_path / "elsewhere")
    runs = Results(moved).runs()
    for key, artifact in zip(runs["run_key"], runs["artifact"], strict=True):
        assert artifact == str(moved / "artifacts" / key)
        assert (Path(artifact) / "manifest.json").is_file()
    stored = pd.read_parquet(moved / "results" / "runs")
    assert list(stored["artifact"]) == [f"artifacts/{key}" for key in stored["run_key"]]


def test_doctor_says_what_cannot_be_repaired(tmp_path: Path, pruneyard: Pruneyard) -> None:
    """A run of an earlier version has no record; one of its rows is in a damaged file."""
    folder = RunFolder(tmp_path)
    for key in ("aaaaaaaaaaaa", "bbbbbbbbbbbb"):
        Store(folder).write(record(key), [metric(0.5)], [])
        folder.manifest(key).write_text("{}")
    (tmp_path / "spec.yaml").write_text("name: x\n")
    (damaged,) = [path for path in folder.files_of_table("metrics") if path.name.startswith("aaaa")]
    content = damaged.read_bytes()
    damaged.write_bytes(content[:20] + bytes([content[20] ^ 255]) + content[21:])
    folder.attempt_record("aaaaaaaaaaaa", 1).unlink()
    told = pruneyard("doctor", str(tmp_path), "--repair")
    assert told.code == 1
    assert "WRONG repair: nothing was changed: a damaged file holds rows of 1 finished runs, aaaaaaaaaaaa first" in told.out
    assert "put a copy of the file back, or delete it to run them again" in told.out
