"""Names, checkpoints, journals and control files in an object store, against a real server: incomplete objects are not read."""

import json
import logging
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
from object_store import BUCKET, ObjectStore, environment_variables, object_store, start_proxy

from pruneyard.orchestrator.artifacts.checkpoint_store import ObjectCheckpoints, checkpoints_in
from pruneyard.orchestrator.artifacts.run_cache import RunCache
from pruneyard.orchestrator.coordination import control_files
from pruneyard.orchestrator.coordination.control_files import ControlFiles
from pruneyard.orchestrator.coordination.journal import ENTRIES_PER_OBJECT, Journal
from pruneyard.orchestrator.coordination.lease import hold_lease
from pruneyard.orchestrator.driver.run import run
from pruneyard.orchestrator.ray_backend.claims import claim, take_back
from pruneyard.orchestrator.remote.storage_check import check_store
from pruneyard.reports import objects
from pruneyard.reports.durable import write_durably
from pruneyard.reports.layout import RunFolder
from pruneyard.reports.location import located, remove_tree
from pruneyard.reports.objects import ObjectPath
from pruneyard.reports.storage import StorageError
from pruneyard.workloads.checkpoint import Checkpoint, CheckpointFolder

CPU = torch.device("cpu")
TRAINING = {
    "name": "one",
    "kind": "sparse",
    "data": {"name": "digits", "max_test": 90},
    "model": {"name": "mlp", "width": 8},
    "method": {"name": "static", "density": 0.5},
    "budget": {"steps": 10, "batch_size": 64},
}


def checkpoint(step: int) -> Checkpoint:
    return Checkpoint(
        step=step,
        tensors={"network/w": torch.full((2, 3), float(step))},
        state={"random": torch.get_rng_state()},
        meta={"metrics": [{"value": 0.1 + 0.2}]},
    )


def test_names_behave_as_paths_do(folder: ObjectPath) -> None:
    file = folder / "a" / "b.tar.gz"
    assert (file.name, file.stem, file.suffix, file.parent.name) == ("b.tar.gz", "b.tar", ".gz", "a")
    assert str(file) == f"s3://{BUCKET}/{folder.key}/a/b.tar.gz"
    assert located(str(file)) == file.resolve() == file.absolute() == file.expanduser()
    assert not file.exists()
    assert not folder.is_dir()
    write_durably(file, b"one")
    write_durably(file, b"two")
    assert (file.read_bytes(), file.read_text()) == (b"two", "two")
    assert [file.is_file(), file.is_dir(), folder.is_dir(), folder.is_file()] == [True, False, True, False]
    assert not (folder / "a" / "b").exists(), "a prefix of a name counts as a name"
    (folder / ".hidden").touch()
    (folder / "c").write_text("three")
    assert sorted(path.name for path in folder.iterdir()) == [".hidden", "a", "c"]
    assert [path.name for path in folder.glob("[!.]*")] == ["a", "c"]
    assert sorted(path.name for path in folder.files()) == [".hidden", "b.tar.gz", "c"]
    remove_tree(folder / "a")
    assert not (folder / "a").exists()
    (folder / "c").unlink()
    (folder / "c").unlink(missing_ok=True)
    with pytest.raises(FileNotFoundError):
        (folder / "c").read_bytes()


@pytest.mark.slow
def test_a_listing_of_more_than_one_page_is_complete(folder: ObjectPath, store: ObjectStore) -> None:
    client: Any = store.client()
    for number in range(1005):
        client.put_object(Bucket=BUCKET, Key=f"{folder.key}/{number:04d}", Body=b"")
    assert len(list(folder.iterdir())) == len(list(folder.files())) == 1005


def test_a_large_object_is_uploaded_in_parts_and_read_back_whole(folder: ObjectPath) -> None:
    content = bytes(range(256)) * (70 * 2**20 // 256)
    (folder / "large").write_bytes(content)
    assert (folder / "large").read_bytes() == content


def test_a_cache_of_finished_runs_is_filled_read_and_pruned(folder: ObjectPath, tmp_path: Path) -> None:
    first = run(TRAINING, tmp_path / "first", local=True, cache=folder).runs()
    second = run(TRAINING, tmp_path / "second", local=True, cache_from=[folder]).runs()
    assert list(first["run_key"]) == list(second["run_key"])
    assert list(first["started_at"]) == list(second["started_at"]), "it did not run again"
    cache = RunCache(folder)
    (key,) = cache.run_keys()
    found = cache.read(key)
    assert found is not None
    requests: list[str] = []
    objects._client().meta.events.register("before-call.s3", lambda model, **_: requests.append(model.name))
    size = cache.sizes({key: found})[key]
    assert requests == ["ListObjectsV2"], "sizes cost one listing, not a request for each file"
    assert size == sum(len((folder / "artifacts" / key / name).read_bytes()) for name in found.file_names)
    assert not list(cache.problems(key))
    cache.check_is_cache()
    assert cache.folder.cache_marker.is_file()
    cache.folder.manifest(key).unlink()
    (folder / "artifacts" / ("0" * 16) / "weights.bin").write_bytes(b"precious")
    changed = cache.unfinished_since(key)
    assert changed is not None
    assert abs(datetime.now(UTC) - changed) < timedelta(hours=1)
    assert cache.unfinished_since("0" * 16) is None
    cache.remove(key)
    assert cache.run_keys() == {"0" * 16}


def test_a_put_with_a_condition_changes_nothing_where_it_is_not_met(folder: ObjectPath) -> None:
    file = folder / "lease"
    first = file.put_if(b"1", tag=None)
    assert first is not None
    assert file.put_if(b"2", tag=None) is None
    second = file.put_if(b"3", tag=first)
    assert second is not None
    assert file.put_if(b"4", tag=first) is None
    assert file.read_tagged() == (b"3", second)
    file.unlink()
    assert file.put_if(b"5", tag=second) is None
    assert not file.exists()


def test_of_a_trial_and_the_driver_that_claim_a_job_at_once_one_wins(folder: ObjectPath) -> None:
    with ThreadPoolExecutor(4) as pool:
        for place in range(1, 6):
            assert sum(pool.map(lambda _, place=place: claim(RunFolder(folder), "t", place), range(4))) == 1
    assert take_back(RunFolder(folder), "t", num_jobs=8) == 6


def test_a_claim_that_is_put_again_since_its_answer_was_lost_is_kept(
    folder: ObjectPath, monkeypatch: pytest.MonkeyPatch
) -> None:
    put = ObjectPath.put_if

    def put_twice(path: ObjectPath, content: bytes, *, tag: str | None) -> str | None:
        put(path, content, tag=tag)
        return put(path, content, tag=tag)

    monkeypatch.setattr(ObjectPath, "put_if", put_twice)
    assert claim(RunFolder(folder), "t", 1)
    assert not claim(RunFolder(folder), "t", 1)
    assert take_back(RunFolder(folder), "t", num_jobs=3) == 2


def test_checkpoints_come_back_bit_for_bit_and_old_ones_go(folder: ObjectPath) -> None:
    checkpoints = checkpoints_in(folder)
    assert isinstance(checkpoints, ObjectCheckpoints)
    assert checkpoints.load(CPU) is None
    for step in (1, 2, 3):
        checkpoints.save(checkpoint(step))
    found = checkpoints.load(CPU)
    assert found is not None
    assert found.step == 3
    assert torch.equal(found.tensors["network/w"], checkpoint(3).tensors["network/w"])
    assert torch.equal(found.state["random"], torch.get_rng_state())
    assert found.meta["metrics"] == [{"value": 0.1 + 0.2}]
    assert [path.name.split("-")[1] for path in sorted(folder.iterdir())] == ["000000002", "000000003"]


def test_a_checkpoint_stays_where_that_of_a_later_step_cannot_be_read(folder: ObjectPath) -> None:
    checkpoints = ObjectCheckpoints(folder)
    for step in (800, 900):
        checkpoints.save(checkpoint(step))
        for place in folder.glob(f"step-000000{step}-*"):
            (place / "state.pt").unlink()
    checkpoints.save(checkpoint(50))
    found = checkpoints.load(CPU)
    assert found is not None
    assert found.step == 50
    assert sorted(path.name.split("-")[1] for path in folder.iterdir()) == ["000000050", "000000800", "000000900"]


def test_a_checkpoint_saved_again_replaces_itself_under_another_name(folder: ObjectPath) -> None:
    checkpoints = ObjectCheckpoints(folder)
    checkpoints.save(checkpoint(1))
    checkpoints.save(checkpoint(2))
    before = {path.name for path in folder.iterdir()}
    checkpoints.save(checkpoint(2))
    after = {path.name for path in folder.iterdir()}
    assert len(after) == 2
    assert len(after & before) == 1
    found = checkpoints.load(CPU)
    assert found is not None
    assert found.step == 2


def test_an_upload_that_broke_off_is_never_read_and_swept_with_the_next(
    folder: ObjectPath, store: ObjectStore
) -> None:
    checkpoints, client = ObjectCheckpoints(folder), store.client()
    checkpoints.save(checkpoint(1))
    complete = next(folder.glob("step-000000001-*"))
    incomplete = folder / "step-000000002-half"  # without meta.json, which is written last
    for name in ("model.safetensors", "state.pt"):
        (incomplete / name).write_bytes((complete / name).read_bytes())
    upload: Any = client.create_multipart_upload(
        Bucket=BUCKET, Key=(folder / "step-000000003-x/meta.json").key
    )  # type: ignore[attr-defined]
    client.upload_part(  # type: ignore[attr-defined]
        Bucket=BUCKET, Key=upload["Key"], UploadId=upload["UploadId"], PartNumber=1, Body=b"{" * 2**20
    )
    found = checkpoints.load(CPU)
    assert found is not None
    assert found.step == 1
    checkpoints.save(checkpoint(4))
    assert sorted(path.name.split("-")[1] for path in folder.iterdir()) == ["000000001", "000000004"]


@pytest.mark.parametrize("damage", ["cut short", "gone", "of another format"])
def test_a_damaged_checkpoint_is_named_and_the_one_before_it_used(
    damage: str, folder: ObjectPath, caplog: pytest.LogCaptureFixture
) -> None:
    checkpoints = ObjectCheckpoints(folder)
    checkpoints.save(checkpoint(1))
    checkpoints.save(checkpoint(2))
    newest = next(folder.glob("step-000000002-*"))
    if damage == "cut short":
        (newest / "state.pt").write_bytes((newest / "state.pt").read_bytes()[:-9])
    elif damage == "gone":
        (newest / "model.safetensors").unlink()
    else:
        meta = json.loads((newest / "meta.json").read_text())
        (newest / "meta.json").write_text(json.dumps({**meta, "format": 99}))
    with caplog.at_level(logging.WARNING):
        found = checkpoints.load(CPU)
    assert found is not None
    assert found.step == 1
    assert f"checkpoint {newest} " in caplog.text
    assert "trying the one before it" in caplog.text


def test_a_store_that_cannot_be_reached_is_no_missing_checkpoint(
    folder: ObjectPath, store: ObjectStore
) -> None:
    checkpoints = ObjectCheckpoints(folder)
    with start_proxy(store) as proxy, environment_variables(store.env_for_port(proxy.port)):
        checkpoints.save(checkpoint(1))
        proxy.cut()
        with pytest.raises(StorageError, match="the store cannot be reached"):
            checkpoints.load(CPU)
        with pytest.raises(StorageError, match="the store cannot be reached"):
            checkpoints.save(checkpoint(2))
        proxy.restore()
        found = checkpoints.load(CPU)
    assert found is not None
    assert found.step == 1


def test_a_local_place_keeps_checkpoints_in_a_folder(tmp_path: Path) -> None:
    assert checkpoints_in(tmp_path) == CheckpointFolder(tmp_path)


def test_a_journal_continues_after_its_last_entry(folder: ObjectPath) -> None:
    entries = [{"n": n} for n in range(ENTRIES_PER_OBJECT + 3)]
    first = Journal(folder / "x.jsonl")
    for entry in entries[:-2]:
        first.append(entry)
    for entry in entries[-2:]:
        Journal(folder / "x.jsonl").append(entry)
    assert Journal(folder / "x.jsonl").lines() == entries
    assert len(list((folder / "x.jsonl").iterdir())) == 2
    assert Journal(folder / "none.jsonl").lines() == []


def test_control_files_are_seen_after_a_while_and_polled_rarely(
    folder: ObjectPath, store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(control_files, "LIST_EVERY_S", 0.5)
    files = ControlFiles(folder)
    assert not files.has("one")
    (folder / "one").touch()
    assert not files.has("one"), "the store was listed again at once"
    time.sleep(0.6)
    assert files.has("one")
    assert not files.has("on")
    with start_proxy(store) as proxy, environment_variables(store.env_for_port(proxy.port)):
        proxy.cut()
        time.sleep(0.6)
        assert files.has("one"), "a file that was seen is forgotten when the store cannot be reached"


def test_a_store_that_heeds_no_conditions_is_said(
    store: ObjectStore, folder: ObjectPath, caplog: pytest.LogCaptureFixture
) -> None:
    assert check_store(folder).startswith(f"{folder} is writable and heeds conditions")
    assert not folder.exists(), "the file of the check is left"
    with start_proxy(store) as proxy, environment_variables(store.env_for_port(proxy.port)):
        proxy.hidden_header = "If-None-Match"
        with pytest.raises(StorageError, match="two drivers in one folder cannot exclude each other"):
            check_store(folder)
        assert not folder.exists()
        with hold_lease(folder) as held:
            assert f"{folder}: this store ignores If-None-Match" in caplog.text
            assert held.lost is None


def test_credentials_that_the_store_refuses_are_said_without_being_shown() -> None:
    with object_store() as server, environment_variables(server.env):
        server.revoke_credentials()
        with pytest.raises(StorageError) as caught:
            (ObjectPath(BUCKET, "a") / "b").write_bytes(b"")
        message = str(caught.value)
        assert message.startswith(f"s3://{BUCKET}/a/b: the store refuses the credentials (InvalidAccessKeyId)")
        assert "an-id-of-tests" not in message
        assert "a-secret-of-tests" not in message
