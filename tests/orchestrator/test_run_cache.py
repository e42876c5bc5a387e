"""Finished runs are found across studies, and nothing that is damaged, stale or half-written is taken for one."""

import json
import logging
import os
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from in_process_command import Pruneyard

from pruneyard.orchestrator.artifacts.run_cache import CachedRun, RunCache
from pruneyard.orchestrator.driver.run import run
from pruneyard.orchestrator.errors import UsageError
from pruneyard.orchestrator.results import Results
from pruneyard.reports import records
from pruneyard.reports.attempt import attempt_of, decode_record, encode_record
from pruneyard.reports.layout import RunFolder
from pruneyard.reports.location import Location
from pruneyard.reports.records import Status
from pruneyard.reports.store import Store

TRAINING = {
    "kind": "sparse",
    "data": {"name": "digits", "max_test": 90},
    "model": {"name": "mlp", "width": 8},
    "method": {"name": "static", "density": 0.5},
    "budget": {"steps": 10, "batch_size": 64},
}
CHAIN = {
    "name": "chain",
    "stages": {
        "train": {**TRAINING, "seeds": 2},
        "trust": {"kind": "calibrate", "input": {"from": "train"}, "method": {"name": "temperature"}},
    },
}


@pytest.fixture(scope="module")
def calm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns a folder with the results `out` of the chain, and the `cache` to which they were added."""
    home = tmp_path_factory.mktemp("calm")
    run(CHAIN, home / "out", local=True, cache=home / "cache")
    return home


@pytest.fixture
def cache(calm: Path, tmp_path: Path) -> RunCache:
    """Returns a copy of that cache."""
    shutil.copytree(calm / "cache", tmp_path / "cache")
    return RunCache(tmp_path / "cache")


def metrics(folder: Path) -> pd.DataFrame:
    """Returns all metric values of the newest attempts, without times."""
    order = ["run_key", "step", "split", "name"]
    frame = Results(folder).metrics()
    return frame[[*order, "value"]].sort_values(order, ignore_index=True)


def contents(folder: Path) -> dict[str, bytes]:
    """Returns the artifact files of all runs other than manifests and records, which name study and attempt."""
    files = sorted(path for path in (folder / "artifacts").rglob("*") if path.suffix in (".safetensors", ".parquet"))
    return {str(path.relative_to(folder)): path.read_bytes() for path in files if "checkpoints" not in path.parts}


def num_attempts(folder: Path) -> int:
    return len(Store(RunFolder(folder)).runs(latest=False))


def test_a_study_that_is_finished_in_a_cache_runs_nothing_and_holds_the_same(calm: Path, tmp_path: Path) -> None:
    found = run({**CHAIN, "name": "again"}, tmp_path, local=True, cache_from=[calm / "cache"])
    assert found.exit_code == 0
    in_order = ["run_key", "split", "name", "step"]  # rows are written in the order in which runs end
    ours, theirs = (metrics(folder).astype(dict.fromkeys(in_order[:3], str)) for folder in (tmp_path, calm / "out"))
    pd.testing.assert_frame_equal(*(rows.sort_values(in_order).reset_index(drop=True) for rows in (ours, theirs)))
    assert contents(tmp_path) == contents(calm / "out")
    ours, theirs = (runs.sort_values("run_key") for runs in (found.runs(), Results(calm / "out").runs()))
    assert set(ours["study"]) == {"again"}
    assert list(ours["started_at"]) == list(theirs["started_at"]), "the runs are those of before"
    assert list(ours["parent_key"].dropna()) == list(theirs["parent_key"].dropna())


def test_only_what_is_missing_in_the_cache_runs_and_is_added(cache: RunCache, tmp_path: Path) -> None:
    before = cache.run_keys()
    stages = {**CHAIN["stages"], "train": {**TRAINING, "seeds": 3}}  # type: ignore[dict-item]
    found = run({**CHAIN, "stages": stages}, tmp_path / "out", local=True, cache=cache.folder.path).runs()
    new = found[~found["run_key"].isin(before)]
    assert list(new["seed"]) == [2, 2]
    assert cache.run_keys() == before | set(new["run_key"])
    assert not [problem for key in cache.run_keys() for problem in cache.problems(key)]


def test_a_plan_counts_the_jobs_that_a_cache_has(calm: Path, tmp_path: Path, pruneyard: Pruneyard) -> None:
    stages = {**CHAIN["stages"], "train": {**TRAINING, "seeds": 3}}  # type: ignore[dict-item]
    (tmp_path / "chain.json").write_text(json.dumps({**CHAIN, "stages": stages}))
    options = ("plan", str(tmp_path / "chain.json"), "--out", str(tmp_path / "out"), "--cache-from", str(calm / "cache"))
    told = json.loads(pruneyard(*options, "--json").out)
    assert told["num_in_cache"] == 4
    assert sum(job["in_cache"] for job in told["jobs"]) == 4
    assert "4 of the jobs that are left are in the cache" in pruneyard(*options).out
    assert not (tmp_path / "out").exists()


def test_a_folder_of_results_serves_as_a_cache_and_is_not_changed(calm: Path, tmp_path: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in (calm / "out").rglob("*")}
    found = run({**TRAINING, "name": "one"}, tmp_path, local=True, cache_from=[calm / "out"]).runs()
    assert list(found["started_at"]) == list(Results(calm / "out").runs()["started_at"][:1])
    assert {path: path.stat().st_mtime_ns for path in (calm / "out").rglob("*")} == before


def test_a_cache_never_deletes_from_a_folder_of_results(calm: Path, tmp_path: Path, pruneyard: Pruneyard) -> None:
    """A run that is to be resumed has checkpoints and no manifest there; a cache would replace it."""
    with pytest.raises(UsageError, match="is the results folder of a study, from which no cache may delete; --cache-from reads"):
        run({**TRAINING, "name": "one"}, tmp_path / "out", local=True, cache=calm / "out")
    assert not (tmp_path / "out").exists()
    told = pruneyard("cache", "prune", str(calm / "out"), "--max-size", "0B")
    assert "is the results folder of a study" in told.err
    assert set(Results(calm / "out").runs()["status"]) == {"COMPLETED"}


def truncate(artifact: Path) -> None:
    weights = artifact / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-8])


def replace_by_pointer(artifact: Path) -> None:
    (artifact / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\n")


def flip_a_metric(artifact: Path) -> None:
    record = artifact / "record-1.json"
    record.write_text(record.read_text().replace('"accuracy"', '"accurate"', 1))


def drop_digests(artifact: Path) -> None:
    manifest = json.loads((artifact / "manifest.json").read_text())
    del manifest["sha256"], manifest["digest"]
    (artifact / "manifest.json").write_text(json.dumps(manifest))


def be_another_run(artifact: Path) -> None:
    other = next(path for path in artifact.parent.iterdir() if path != artifact and (path / "masks.safetensors").exists())
    shutil.rmtree(artifact)
    shutil.copytree(other, artifact)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (truncate, "model.safetensors is damaged"),
        (replace_by_pointer, "model.safetensors is damaged"),
        (lambda artifact: (artifact / "masks.safetensors").unlink(), "masks.safetensors is missing"),
        (lambda artifact: (artifact / "record-1.json").unlink(), "record-1.json is missing"),
        (flip_a_metric, "record-1.json is damaged"),
        (drop_digests, "its manifest has no digest of it"),
        (be_another_run, "is that of the run"),
        (lambda artifact: (artifact / "manifest.json").write_text("{"), "the manifest cannot be read"),
        (lambda artifact: (artifact / "manifest.json").unlink(), ""),
    ],
    ids=["truncated", "pointer", "missing", "no record", "record", "no digests", "another", "manifest", "unfinished"],
)
def test_what_is_not_a_whole_run_runs_again_and_is_replaced(
    damage: Callable[[Path], None], words: str, cache: RunCache, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    spec: dict[str, Any] = {**TRAINING, "name": "one"}
    (key,) = (run.attempt.run.run_key for run in map(cache.read, cache.run_keys()) if run and is_first_training(run))
    artifact = cache.folder.artifact(key)
    assert isinstance(artifact, Path)
    before = contents(tmp_path / "cache")
    damage(artifact)
    run(spec, tmp_path / "out", local=True, cache=cache.folder.path)
    assert words in caplog.text
    assert list(Results(tmp_path / "out").runs()["run_key"]) == [key]
    assert not list(cache.problems(key)), "the run that was not whole is replaced"
    assert contents(tmp_path / "cache") == before


def is_first_training(run: CachedRun) -> bool:
    return run.attempt.run.kind == "sparse" and run.attempt.run.seed == 0


def test_a_run_on_data_that_has_changed_is_not_taken(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    generator = np.random.default_rng(0)
    inputs, labels = generator.normal(size=(80, 6)).astype("float32"), generator.integers(0, 2, 80)
    spec = {**TRAINING, "name": "own", "data": {"name": "arrays", "path": str(tmp_path / "rows.npz")}}
    np.savez(tmp_path / "rows.npz", x_train=inputs, y_train=labels, x_test=inputs[:20], y_test=labels[:20])
    first = run(spec, tmp_path / "first", local=True, cache=tmp_path / "cache").runs()
    np.savez(tmp_path / "rows.npz", x_train=-inputs, y_train=labels, x_test=inputs[:20], y_test=labels[:20])
    second = run(spec, tmp_path / "second", local=True, cache_from=[tmp_path / "cache"]).runs()
    assert list(first["run_key"]) == list(second["run_key"])
    assert list(first["started_at"]) != list(second["started_at"])
    assert f"{tmp_path}/rows.npz has changed" in caplog.text


def test_a_run_is_taken_as_the_attempt_after_those_of_the_folder(cache: RunCache, tmp_path: Path) -> None:
    failing = {**TRAINING, "name": "one"}
    (tmp_path / "out").mkdir()
    first = run(failing, tmp_path / "out", local=True).runs()
    key = first["run_key"][0]
    _fail(tmp_path / "out", key)
    found = run(failing, tmp_path / "out", local=True, cache_from=[cache.folder.path]).runs()
    assert list(found["attempt"]) == [2]
    assert list(found["status"]) == ["COMPLETED"]
    assert num_attempts(tmp_path / "out") == 2
    # What was copied is whole by its own manifest, and can be added to a cache in its turn.
    assert RunCache(tmp_path / "second").add(key, RunFolder(tmp_path / "out"))


def _fail(folder: Path, key: str) -> None:
    """Turns the only attempt of a folder into one that failed, without artifacts."""
    cached = RunCache(folder).read(key)
    assert cached is not None
    shutil.rmtree(folder / "results")
    shutil.rmtree(folder / "artifacts")
    failed = replace(cached.attempt.run, status=Status.FAILED, error="RuntimeError: made up", artifact=None)
    Store(RunFolder(folder)).write(failed, [], [])


def test_a_cache_that_cannot_be_written_costs_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "cache").write_text("a file")
    assert run({**TRAINING, "name": "one"}, tmp_path / "out", local=True, cache=tmp_path / "cache").exit_code == 0
    assert f"no more runs are added to the cache: {tmp_path}/cache" in caplog.text


def test_the_command_lists_explains_verifies_and_prunes(
    cache: RunCache, tmp_path: Path, pruneyard: Pruneyard
) -> None:
    place = str(cache.folder.path)
    listed = json.loads(pruneyard("cache", "ls", place, "--json").out)
    assert {entry["run_key"] for entry in listed} == cache.run_keys()
    children = {entry["run_key"]: entry["parents"] for entry in listed if entry["kind"] == "calibrate"}
    child, (parent,) = next(iter(children.items()))
    told = pruneyard("cache", "explain", place, child[:8]).out
    assert parent in told
    assert '"name": "temperature"' in told
    assert pruneyard("cache", "verify", place).code == 0

    before = cache.run_keys()
    assert "would remove" in pruneyard("cache", "prune", place, "--max-size", "0B", "--dry-run").out
    assert cache.run_keys() == before
    # As large as the networks and one calibration: a network is older than its calibration, but needed by it.
    sizes = {entry["run_key"]: entry["size_bytes"] for entry in listed}
    num_bytes = sum(sizes.values()) - 1
    pruneyard("cache", "prune", place, "--max-size", f"{num_bytes}B")
    assert len(before - cache.run_keys()) == 1
    assert before - cache.run_keys() <= children.keys()
    pruneyard("cache", "prune", place, "--older-than", "1h")
    assert len(cache.run_keys()) == len(before) - 1
    truncate(Path(place) / "artifacts" / parent)
    assert pruneyard("cache", "verify", place).out.startswith("WRONG")
    pruneyard("cache", "prune", place, "--max-size", "0B")
    assert not cache.run_keys()


def test_a_folder_that_is_no_cache_and_a_size_without_unit_are_refused(tmp_path: Path, pruneyard: Pruneyard) -> None:
    assert "is no cache" in pruneyard("cache", "ls", str(tmp_path)).err
    assert "must be a number with kB" in pruneyard("cache", "prune", str(tmp_path), "--max-size", "20").err


def grow(folder: Path, *files: str) -> list[Path]:
    paths = [folder / file for file in files]
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("precious")
    return paths


@pytest.mark.parametrize("name", ["mymodel/weights.bin", f"{'0' * 16}/manifest.json", f"{'0' * 16}"])
def test_a_folder_that_no_cache_has_filled_is_not_pruned(name: str, tmp_path: Path, pruneyard: Pruneyard) -> None:
    (file,) = grow(tmp_path / "models" / "artifacts", name)
    told = pruneyard("cache", "prune", str(tmp_path / "models"), "--older-than", "0h")
    assert told.code == 2
    assert f"{tmp_path}/models: is no cache of finished runs: it has neither the file .pruneyard-cache.json" in told.err
    assert file.read_text() == "precious"


def test_pruning_removes_nothing_but_what_a_cache_has_written(cache: RunCache, tmp_path: Path, pruneyard: Pruneyard) -> None:
    foreign = "mymodel/weights.bin", f"{'0' * 16}/weights.bin", f"{'A' * 16}/manifest.json"
    resumable = f"{'1' * 16}/record-1.json", f"{'1' * 16}/checkpoints/1/state.pt"
    kept = grow(tmp_path / "cache/artifacts", *foreign, *resumable)
    for path in [*kept, *(tmp_path / "cache/artifacts").iterdir()]:
        os.utime(path, (0, 0))
    entries = [key for key in cache.run_keys() if cache.read(key)]
    told = pruneyard("cache", "prune", str(tmp_path / "cache"), "--max-size", "0B", "--older-than", "0h")
    assert told.out.count("removed") == len(entries) == 4
    assert all(path.read_text() == "precious" for path in kept)
    assert not cache.run_keys() & set(entries)


@pytest.mark.parametrize("has_marker", [True, False], ids=["marked", "of an earlier version"])
def test_a_cache_is_known_with_its_last_run_gone(has_marker: bool, cache: RunCache, pruneyard: Pruneyard) -> None:
    """By its marker, which pruning adds to caches of earlier versions."""
    if not has_marker:
        cache.folder.cache_marker.unlink()
    for code, num_removed in ((0, 4), (0, 0)):
        told = pruneyard("cache", "prune", str(cache.folder.path), "--max-size", "0B")
        assert (told.code, told.out.count("removed")) == (code, num_removed)


@pytest.mark.parametrize(
    ("hours", "options", "is_removed"),
    [
        (0, ["--max-size", "1TB"], False),
        (2, ["--max-size", "1TB"], True),
        (0, ["--older-than", "0h"], False),
        (2, ["--older-than", "3h"], False),
        (4, ["--older-than", "3h"], True),
    ],
)
def test_an_entry_that_is_just_being_written_is_not_pruned(
    hours: int, options: Sequence[str], is_removed: bool, cache: RunCache, pruneyard: Pruneyard
) -> None:
    key = next(key for key in sorted(cache.run_keys()) if (run := cache.read(key)) and run.parents)
    artifact = Path(str(cache.folder.artifact(key)))
    (artifact / "manifest.json").unlink()
    changed = time.time() - 3600 * hours
    for path in (*artifact.iterdir(), artifact):
        os.utime(path, (changed, changed))
    told = pruneyard("cache", "prune", str(cache.folder.path), *options)
    assert (f"removed {key}: is not whole" in told.out) is is_removed
    assert artifact.exists() is not is_removed


def test_files_in_the_place_of_a_run_are_not_replaced(calm: Path, tmp_path: Path) -> None:
    key = min(RunCache(calm / "out").run_keys())
    (file,) = grow(tmp_path / "artifacts" / key, "weights.bin")
    with pytest.raises(UsageError, match=f"{key} holds files that no cache has written"):
        RunCache(tmp_path).add(key, RunFolder(calm / "out"))
    assert file.read_text() == "precious"


def test_planning_finds_ten_thousand_entries_by_one_listing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "artifacts").mkdir()
    for number in range(10_000):
        (tmp_path / "artifacts" / f"{number:016x}").mkdir()
    with caplog.at_level(logging.WARNING):
        assert len(RunCache(tmp_path).run_keys()) == 10_000
        assert run({**TRAINING, "name": "one"}, tmp_path / "out", local=True, cache_from=[tmp_path]).exit_code == 0
    assert not caplog.records


def write_by_newer_version(cache: RunCache, run_key: str, monkeypatch: pytest.MonkeyPatch) -> Location:
    """Lets the record of an entry state a later schema; returns the record."""
    record = cache.folder.artifact(run_key) / "record-1.json"
    attempt = attempt_of(decode_record(record, record.read_bytes()))
    with monkeypatch.context() as patch:
        patch.setattr(records, "SCHEMA_VERSION", records.SCHEMA_VERSION + 1)
        record.write_bytes(encode_record(attempt))
    return record


def test_a_run_that_one_of_a_newer_version_was_made_from_is_not_pruned(
    cache: RunCache, pruneyard: Pruneyard, monkeypatch: pytest.MonkeyPatch
) -> None:
    by_key = {key: run for key in sorted(cache.run_keys()) if (run := cache.read(key))}
    child, (parent,) = next((key, run.parents) for key, run in by_key.items() if run.parents)
    write_by_newer_version(cache, child, monkeypatch)
    assert pruneyard("cache", "prune", str(cache.folder.path), "--max-size", "0B").out.count("removed") == 2
    assert cache.run_keys() == {child, parent}
    cache.folder.manifest(child).write_text('{"format": 2}')
    told = pruneyard("cache", "prune", str(cache.folder.path), "--max-size", "0B")
    assert f"{child}: was written by a newer version; prune with that version" in told.err
    assert cache.run_keys() == {child, parent}


def test_entries_of_a_newer_version_and_those_added_meanwhile_are_kept(
    calm: Path, tmp_path: Path, pruneyard: Pruneyard, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The record of one entry states a later schema; another entry is added after the others were read."""
    shutil.copytree(calm / "cache", tmp_path / "cache")
    cache = RunCache(tmp_path / "cache")
    newer, late, *_ = keys = sorted(cache.run_keys())
    record = write_by_newer_version(cache, newer, monkeypatch)
    written = record.read_bytes()
    shutil.move(cache.folder.artifact(late), tmp_path / late)
    sizes = RunCache.sizes

    def add_meanwhile(self: RunCache, runs: Any) -> dict[str, int]:
        shutil.move(tmp_path / late, cache.folder.artifact(late))
        return sizes(self, runs)

    monkeypatch.setattr(RunCache, "sizes", add_meanwhile)
    told = pruneyard("cache", "prune", str(tmp_path / "cache"), "--older-than", "1000d")
    assert "this pruneyard reads up to" in caplog.text
    assert "removed" not in told.out
    assert sorted(cache.run_keys()) == keys
    assert not cache.add(newer, RunFolder(calm / "out"))
    assert record.read_bytes() == written
