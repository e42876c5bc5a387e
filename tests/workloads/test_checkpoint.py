import json
import logging
import os
import shutil
from pathlib import Path

import pytest
import torch

from pruneyard.workloads.checkpoint import FORMAT_VERSION, Checkpoint, CheckpointFolder

CPU = torch.device("cpu")


def checkpoint(step: int) -> Checkpoint:
    return Checkpoint(
        step=step,
        tensors={"network/w": torch.full((2, 3), float(step)), "mask/w": torch.tensor([True, False])},
        state={
            "optimizer": {"state": {0: {"momentum_buffer": torch.arange(3.0)}}},
            "random": torch.get_rng_state(),
        },
        meta={"num_steps": 10, "metrics": [{"value": 0.1 + 0.2}]},
    )


@pytest.fixture
def folder(tmp_path: Path) -> CheckpointFolder:
    """Returns a folder with two good checkpoints, of steps 1 and 2."""
    made = CheckpointFolder(tmp_path / "checkpoints")
    made.save(checkpoint(1))
    made.save(checkpoint(2))
    return made


def newest(folder: CheckpointFolder) -> Path:
    return folder.path / "step-000000002"


def loaded_step(folder: CheckpointFolder) -> int | None:
    found = folder.load(CPU)
    return found.step if found else None


def test_a_folder_that_does_not_exist_has_no_checkpoint(tmp_path: Path) -> None:
    assert CheckpointFolder(tmp_path / "absent").load(CPU) is None
    assert not (tmp_path / "absent").exists()


def test_what_is_saved_is_read_back_bit_for_bit(folder: CheckpointFolder) -> None:
    saved, found = checkpoint(2), folder.load(CPU)
    assert found is not None
    assert found.step == 2
    assert all(torch.equal(found.tensors[name], tensor) for name, tensor in saved.tensors.items())
    assert found.tensors["mask/w"].dtype == torch.bool
    assert torch.equal(found.state["random"], saved.state["random"])
    assert torch.equal(found.state["optimizer"]["state"][0]["momentum_buffer"], torch.arange(3.0))
    assert found.meta["metrics"] == [{"value": 0.1 + 0.2}]


def test_a_tensor_of_another_memory_layout_keeps_its_values(tmp_path: Path) -> None:
    folder = CheckpointFolder(tmp_path)
    images = torch.rand(2, 3, 4, 4).to(memory_format=torch.channels_last)
    folder.save(Checkpoint(step=1, tensors={"network/w": images}, state={}, meta={}))
    found = folder.load(CPU)
    assert found is not None
    assert torch.equal(found.tensors["network/w"], images)


def test_the_newest_are_kept_and_older_ones_go(folder: CheckpointFolder) -> None:
    folder.save(checkpoint(11))
    assert sorted(path.name for path in folder.path.iterdir()) == ["step-000000002", "step-000000011"]
    assert loaded_step(folder) == 11


def test_the_same_step_saved_again_replaces_itself(folder: CheckpointFolder) -> None:
    folder.save(checkpoint(2))
    assert loaded_step(folder) == 2


@pytest.mark.parametrize("file", ["model.safetensors", "state.pt", "meta.json"])
@pytest.mark.parametrize("damage", ["missing", "empty", "truncated", "one bit", "foreign"])
def test_a_damaged_checkpoint_is_reported_and_the_one_before_it_is_used(
    folder: CheckpointFolder, file: str, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = newest(folder) / file
    content = path.read_bytes()
    if damage == "missing":
        path.unlink()
    elif damage == "one bit" and file == "meta.json":
        path.write_bytes(
            content.replace(b'"sha256": {"model.safetensors": "', b'"sha256": {"model.safetensors": "0', 1)
        )
    else:
        middle = len(content) // 2
        flipped = content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]
        path.write_bytes(
            {"empty": b"", "truncated": content[:middle], "one bit": flipped, "foreign": b"[1, 2]"}[damage]
        )
    with caplog.at_level(logging.WARNING):
        assert loaded_step(folder) == 1
    assert str(newest(folder)) in caplog.text
    assert "the one before it" in caplog.text


@pytest.mark.parametrize("version", [0, FORMAT_VERSION + 1, None])
def test_a_checkpoint_of_another_format_is_passed_over(
    folder: CheckpointFolder, version: int | None, caplog: pytest.LogCaptureFixture
) -> None:
    path = newest(folder) / "meta.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format": version}))
    assert loaded_step(folder) == 1
    assert f"format {version}" in caplog.text


def test_a_checkpoint_stays_where_those_of_later_steps_cannot_be_read(tmp_path: Path) -> None:
    folder = CheckpointFolder(tmp_path / "checkpoints")
    for step in (800, 900):
        folder.save(checkpoint(step))
        (folder.path / f"step-{step:09d}" / "state.pt").unlink()
    assert folder.load(CPU) is None
    for step in (50, 100):
        folder.save(checkpoint(step))
        assert loaded_step(folder) == step
    folder.save(checkpoint(150))
    steps = [int(path.name.removeprefix("step-")) for path in sorted(folder.path.iterdir())]
    assert steps == [100, 150, 800, 900]  # what could not be read may be readable again


def test_nothing_good_left_means_a_fresh_start(folder: CheckpointFolder) -> None:
    for path in folder.path.iterdir():
        (path / "state.pt").unlink()
    assert folder.load(CPU) is None


class _Malicious:
    """Creates a folder when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.mark),)


def test_a_pickle_with_good_digests_is_not_executed(
    folder: CheckpointFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    evil = Checkpoint(step=3, tensors={}, state={"optimizer": _Malicious(tmp_path / "executed")}, meta={})
    folder.save(evil)
    assert loaded_step(folder) == 2
    assert not (tmp_path / "executed").exists()


def test_what_a_kill_left_aside_is_ignored_and_swept_with_the_next_save(folder: CheckpointFolder) -> None:
    left = folder.path / ".step-000000009-4242"
    shutil.copytree(newest(folder), left)
    assert loaded_step(folder) == 2
    folder.save(checkpoint(3))
    assert not left.exists()
    assert loaded_step(folder) == 3
