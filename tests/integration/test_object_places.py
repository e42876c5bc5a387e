"""Names, checkpoints, journals and leases in an object store, against a real server: what is not whole is not read."""

import json
import logging
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from object_store import BUCKET, ObjectStore, environment, object_store, wire_to

from orchestrator import lease, marks
from orchestrator.errors import UsageError
from orchestrator.journal import ENTRIES_PER_PIECE, Journal
from orchestrator.lease import exclusive
from orchestrator.marks import Marks
from orchestrator.object_checkpoints import ObjectCheckpoints, checkpoints_in
from orchestrator.object_preflight import try_store
from reports.durable import write_durably
from reports.location import located, remove_tree
from reports.objects import ObjectPath
from reports.storage import StorageError
from workloads.checkpoint import Checkpoint, CheckpointFolder

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def store() -> Iterator[ObjectStore]:
    with object_store() as started, environment(started.env):
        yield started


@pytest.fixture
def folder(store: ObjectStore, request: pytest.FixtureRequest) -> ObjectPath:
    """An empty one for each test."""
    return ObjectPath(BUCKET, request.node.name)


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
    assert not (folder / "a" / "b").exists(), "the beginning of a name was taken for a name"
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


def test_more_names_than_one_answer_holds_are_all_seen(folder: ObjectPath, store: ObjectStore) -> None:
    client: Any = store.client()
    for number in range(1005):
        client.put_object(Bucket=BUCKET, Key=f"{folder.key}/{number:04d}", Body=b"")
    assert len(list(folder.iterdir())) == len(list(folder.files())) == 1005


def test_a_large_object_goes_up_in_parts_and_comes_back_whole(folder: ObjectPath) -> None:
    content = bytes(range(256)) * (70 * 2**20 // 256)
    (folder / "large").write_bytes(content)
    assert (folder / "large").read_bytes() == content


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


def test_checkpoints_come_back_bit_for_bit_and_old_ones_go(folder: ObjectPath) -> None:
    kept = checkpoints_in(folder)
    assert isinstance(kept, ObjectCheckpoints)
    assert kept.load(CPU) is None
    for step in (1, 2, 3):
        kept.save(checkpoint(step))
    found = kept.load(CPU)
    assert found is not None
    assert found.step == 3
    assert torch.equal(found.tensors["network/w"], checkpoint(3).tensors["network/w"])
    assert torch.equal(found.state["random"], torch.get_rng_state())
    assert found.meta["metrics"] == [{"value": 0.1 + 0.2}]
    assert [path.name.split("-")[1] for path in sorted(folder.iterdir())] == ["000000002", "000000003"]


def test_a_checkpoint_saved_again_replaces_itself_under_another_name(folder: ObjectPath) -> None:
    kept = ObjectCheckpoints(folder)
    kept.save(checkpoint(1))
    kept.save(checkpoint(2))
    before = {path.name for path in folder.iterdir()}
    kept.save(checkpoint(2))
    after = {path.name for path in folder.iterdir()}
    assert len(after) == 2
    assert len(after & before) == 1
    found = kept.load(CPU)
    assert found is not None
    assert found.step == 2


def test_an_upload_that_broke_off_is_never_read_and_swept_with_the_next(
    folder: ObjectPath, store: ObjectStore
) -> None:
    kept, client = ObjectCheckpoints(folder), store.client()
    kept.save(checkpoint(1))
    whole = next(folder.glob("step-000000001-*"))
    half = folder / "step-000000002-half"  # its meta.json, which comes last, never came
    for name in ("model.safetensors", "state.pt"):
        (half / name).write_bytes((whole / name).read_bytes())
    opened: Any = client.create_multipart_upload(
        Bucket=BUCKET, Key=(folder / "step-000000003-x/meta.json").key
    )  # type: ignore[attr-defined]
    client.upload_part(  # type: ignore[attr-defined]
        Bucket=BUCKET, Key=opened["Key"], UploadId=opened["UploadId"], PartNumber=1, Body=b"{" * 2**20
    )
    found = kept.load(CPU)
    assert found is not None
    assert found.step == 1
    kept.save(checkpoint(4))
    assert sorted(path.name.split("-")[1] for path in folder.iterdir()) == ["000000001", "000000004"]


@pytest.mark.parametrize("damage", ["cut short", "gone", "of another format"])
def test_a_damaged_checkpoint_is_named_and_the_one_before_it_used(
    damage: str, folder: ObjectPath, caplog: pytest.LogCaptureFixture
) -> None:
    kept = ObjectCheckpoints(folder)
    kept.save(checkpoint(1))
    kept.save(checkpoint(2))
    newest = next(folder.glob("step-000000002-*"))
    if damage == "cut short":
        (newest / "state.pt").write_bytes((newest / "state.pt").read_bytes()[:-9])
    elif damage == "gone":
        (newest / "model.safetensors").unlink()
    else:
        meta = json.loads((newest / "meta.json").read_text())
        (newest / "meta.json").write_text(json.dumps({**meta, "format": 99}))
    with caplog.at_level(logging.WARNING):
        found = kept.load(CPU)
    assert found is not None
    assert found.step == 1
    assert f"checkpoint {newest} " in caplog.text
    assert "trying the one before it" in caplog.text


def test_a_store_that_cannot_be_reached_is_no_missing_checkpoint(
    folder: ObjectPath, store: ObjectStore
) -> None:
    kept = ObjectCheckpoints(folder)
    with wire_to(store) as wire, environment(store.env_at(wire.port)):
        kept.save(checkpoint(1))
        wire.cut()
        with pytest.raises(StorageError, match="the store cannot be reached"):
            kept.load(CPU)
        with pytest.raises(StorageError, match="the store cannot be reached"):
            kept.save(checkpoint(2))
        wire.mend()
        found = kept.load(CPU)
    assert found is not None
    assert found.step == 1


def test_a_local_place_keeps_checkpoints_in_a_folder(tmp_path: Path) -> None:
    assert checkpoints_in(tmp_path) == CheckpointFolder(tmp_path)


def test_a_journal_goes_on_where_it_ended(folder: ObjectPath) -> None:
    entries = [{"n": n} for n in range(ENTRIES_PER_PIECE + 3)]
    first = Journal(folder / "x.jsonl")
    for entry in entries[:-2]:
        first.append(entry)
    for entry in entries[-2:]:
        Journal(folder / "x.jsonl").append(entry)
    assert Journal(folder / "x.jsonl").lines() == entries
    assert len(list((folder / "x.jsonl").iterdir())) == 2
    assert Journal(folder / "none.jsonl").lines() == []


def test_marks_are_seen_after_a_while_and_asked_for_seldom(
    folder: ObjectPath, store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(marks, "LOOK_EVERY_S", 0.5)
    seen = Marks(folder)
    assert not seen.has("one")
    (folder / "one").touch()
    assert not seen.has("one"), "asked the store again at once"
    time.sleep(0.6)
    assert seen.has("one")
    assert not seen.has("on")
    with wire_to(store) as wire, environment(store.env_at(wire.port)):
        wire.cut()
        time.sleep(0.6)
        assert seen.has("one"), "what was seen is forgotten where the store cannot be reached"


HOLDER = """
import sys, time
from orchestrator import lease
from reports.location import located
lease.RENEW_S = 0.3
with lease.exclusive(located(sys.argv[1])) as held:
    held.when_lost = lambda text: print(text, flush=True)
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def brisk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leases that change and end in tests' time."""
    monkeypatch.setattr(lease, "RENEW_S", 0.3)
    monkeypatch.setattr(lease, "STALE_S", 3.0)
    monkeypatch.setattr(lease, "_LOOK_S", 0.1)


@pytest.fixture(params=["shared folder", "object store"])
def place(request: pytest.FixtureRequest, store: ObjectStore, tmp_path: Path) -> Any:
    """Where two machines could meet."""
    return tmp_path if request.param == "shared folder" else ObjectPath(BUCKET, request.node.name)


@pytest.fixture
def holder(place: Any, brisk: None) -> "Iterator[subprocess.Popen[str]]":
    """A process that has the lease, as of a machine whose locks do not reach here and whose processes are not seen here."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(place)], stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "held\n"
            if isinstance(place, Path):
                (place / ".driver").unlink()  # a lock on another file than ours, so none to us
            yield process
        finally:
            process.kill()


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """This process takes itself for one of another machine."""
    monkeypatch.setattr(lease, "_kernel", lambda: "another")


def test_a_holder_on_another_machine_is_seen_to_live(
    place: Any, holder: "subprocess.Popen[str]", elsewhere: None
) -> None:
    started = time.monotonic()
    with pytest.raises(
        UsageError, match=rf"another pruneyard is running in this folder \(process {holder.pid} on "
    ):
        exclusive(place).__enter__()
    assert time.monotonic() - started < lease.STALE_S


def test_a_holder_on_another_machine_that_died_is_replaced_in_a_while_and_what_is_done_is_said(
    place: Any, holder: "subprocess.Popen[str]", elsewhere: None, caplog: pytest.LogCaptureFixture
) -> None:
    holder.kill()
    holder.wait()
    started = time.monotonic()
    with exclusive(place) as held:
        assert lease.STALE_S <= time.monotonic() - started < 3 * lease.STALE_S
        assert held.lost is None
    assert f"{place}: a driver was at work here (process {holder.pid} on " in caplog.text
    assert "waiting up to 3 s to see whether it still is" in caplog.text
    with exclusive(place):
        assert caplog.text.count("was at work here") == 1, "a lease that was let go is waited for"


def test_a_holder_on_this_machine_that_died_is_replaced_at_once(
    place: Any, holder: "subprocess.Popen[str]", caplog: pytest.LogCaptureFixture
) -> None:
    holder.kill()
    holder.wait()
    with exclusive(place):
        assert caplog.text == ""


def test_a_holder_that_was_replaced_learns_of_it(
    place: Any, holder: "subprocess.Popen[str]", elsewhere: None
) -> None:
    taken = lease.Holder(token="other")
    where = place / ".driver.json"
    for _ in range(50):  # its holder renews it all the while
        if isinstance(where, Path):
            write_durably(where, taken.content())
            break
        if where.put_if(taken.content(), tag=where.read_tagged()[1]) is not None:
            break
    assert holder.stdout is not None
    assert holder.stdout.readline().startswith(
        "another pruneyard has taken the folder of results over (process "
    )


def test_two_that_take_over_at_once_do_not_both_get_it(
    store: ObjectStore, brisk: None, folder: ObjectPath
) -> None:
    (folder / ".driver.json").write_bytes(lease.Holder(kernel="gone", token="dead").content())
    rivals = [
        subprocess.Popen(
            [
                sys.executable,
                "-c",
                "from orchestrator import lease\nlease.STALE_S = 3.0\n" + HOLDER,
                str(folder),
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        for _ in range(3)
    ]
    try:
        deadline = time.monotonic() + 120
        while sum(rival.poll() is not None for rival in rivals) < 2:
            assert time.monotonic() < deadline
            time.sleep(0.2)
        (winner,) = [rival for rival in rivals if rival.poll() is None]
        assert winner.stdout is not None
        assert winner.stdout.readline() == "held\n"
    finally:
        for rival in rivals:
            rival.kill()
            rival.wait()
            if rival.stdout is not None:
                rival.stdout.close()


def test_a_store_that_heeds_no_conditions_is_said(
    store: ObjectStore, folder: ObjectPath, caplog: pytest.LogCaptureFixture
) -> None:
    assert try_store(folder).startswith(f"{folder} is writable and heeds conditions")
    assert not folder.exists(), "the probe stays behind"
    with wire_to(store) as wire, environment(store.env_at(wire.port)):
        wire.deaf_to = "If-None-Match"
        with pytest.raises(StorageError, match="two drivers in one folder are not told apart"):
            try_store(folder)
        assert not folder.exists()
        with exclusive(folder) as held:
            assert f"{folder}: this store ignores If-None-Match" in caplog.text
            assert held.lost is None


def test_a_holder_in_a_container_whose_processes_are_not_seen_here_is_not_taken_for_dead(
    folder: ObjectPath, brisk: None
) -> None:
    command = ["unshare", "--pid", "--fork", "--kill-child", "--", sys.executable, "-c", HOLDER, str(folder)]
    if subprocess.run([*command[:5], "true"], capture_output=True, check=False).returncode:
        pytest.skip("processes cannot be set apart here")
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "held\n"
            with pytest.raises(
                UsageError, match=r"another pruneyard is running in this folder \(process 1 on "
            ):
                exclusive(folder).__enter__()
        finally:
            process.kill()
