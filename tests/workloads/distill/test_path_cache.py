"""Cached steps of networks that jobs share: equal to computed ones, bounded in size, ignored when damaged."""

import os
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from distilling import context, states
from torch import Tensor

from pruneyard.workloads.distill import matching
from pruneyard.workloads.distill.distiller import DistillContext
from pruneyard.workloads.distill.methods.acc_dd import AccDD
from pruneyard.workloads.distill.methods.idc import IDC
from pruneyard.workloads.distill.network_training import NetworkTraining
from pruneyard.workloads.distill.path_cache import ABANDONED_AFTER_S, WRITING, PathCache

FIELDS: dict[str, Any] = {
    "ipc": 1,
    "iterations": 2,  # paths, the second of which begins anew
    "steps": 2,
    "real_batch": 6,
    "network": NetworkTraining(num_images=20),
    "cache_mb": 100,
    "trajectory_seed": 1,
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PRUNEYARD_CACHE", str(tmp_path))
    return tmp_path / "distill-paths"


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Returns a list that grows with every batch whose first-order gradient is computed."""
    counted: list[int] = []
    compute = matching.chunked_gradient

    def counting(*given: Any, **named: Any) -> list[Tensor]:
        counted.append(1)
        return compute(*given, **named)

    monkeypatch.setattr(matching, "chunked_gradient", counting)
    return counted


def at(seed: int = 0, data: str = "digits") -> DistillContext:
    return replace(context(seed), data=data)


def moved(seed: int = 0, kind: type[IDC] = IDC, data: str = "digits", **fields: Any) -> Tensor:
    return states(kind(**FIELDS | fields), at(seed, data))[-1].tensors["images"]


def test_a_second_job_computes_no_real_gradient_and_comes_to_the_same(
    folder: Path, passes: list[int]
) -> None:
    alone = moved(cache_mb=0)
    assert (
        len(passes) == 4 * 10 + 2 * 1
    )  # ten classes a step, a batch of training after all steps but the last of a path
    assert torch.equal(moved(), alone)
    passes.clear()
    assert torch.equal(moved(), alone)
    assert not passes


@pytest.mark.parametrize(
    "other",
    [{"ipc": 3}, {"seed": 5}, {"factor": 1}, {"distance": "absolute"}, {"lr": 0.1}, {"iterations": 1}],
)
def test_what_the_path_does_not_depend_on_shares_it(
    folder: Path, passes: list[int], other: dict[str, Any]
) -> None:
    moved()
    alone = moved(**other | {"cache_mb": 0})
    passes.clear()
    assert torch.equal(moved(**other), alone)
    assert not passes


@pytest.mark.parametrize(
    "other",
    [
        {"precision": "bfloat16"},
        {"trajectory_seed": 2},
        {"trajectory_seed": None, "seed": 3},
        {"real_batch": 5},
        {"classifier": True},
        {"augment": "crop"},
        {"steps": 3},
        {"chunk": 8},
        {"network": NetworkTraining(num_images=21)},
        {"data": "other"},
        {"kind": AccDD, "pool": 0},
    ],
)
def test_what_it_depends_on_does_not(folder: Path, passes: list[int], other: dict[str, Any]) -> None:
    moved(iterations=1)
    passes.clear()
    moved(iterations=1, **other)
    assert passes


def test_the_seed_of_the_job_is_that_of_the_path_by_default(folder: Path, passes: list[int]) -> None:
    first = moved(seed=1)
    passes.clear()
    assert torch.equal(moved(seed=1, trajectory_seed=None), first)
    assert not passes


def test_data_without_a_name_are_not_shared(folder: Path) -> None:
    moved(data="")
    assert not folder.exists()


def test_a_damaged_file_is_computed_again(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    first = moved()
    for file in folder.glob("*/*"):
        file.write_bytes(file.read_bytes()[:40])
    assert torch.equal(moved(), first)
    assert "is computed again" in caplog.text


def cache(folder: Path, path: str, limit_bytes: int) -> PathCache:
    return PathCache(folder=folder, path=path, limit_bytes=limit_bytes)


KILOBYTE = {"tensor": torch.zeros(256)}


def kept(folder: Path) -> list[str]:
    return sorted(f"{file.parent.name}/{int(file.stem)}" for file in folder.glob("*/*.safetensors"))


def test_a_path_that_is_too_long_is_kept_as_far_as_it_fits(tmp_path: Path) -> None:
    for step in range(6):
        cache(tmp_path, "a", 4000).put(step, KILOBYTE)
        assert sum(file.stat().st_size for file in tmp_path.glob("*/*")) <= 4000 + 1000
    assert kept(tmp_path) == ["a/0", "a/1", "a/2"]
    assert cache(tmp_path, "a", 4000).get(5, torch.device("cpu")) is None


def test_other_paths_go_first_used_longest_ago_first(tmp_path: Path) -> None:
    for step in range(3):
        cache(tmp_path, "a", 4000).put(step, KILOBYTE)
        os.utime(tmp_path / "a" / f"{step:09d}.safetensors", (step, step))
    os.utime(tmp_path / "a" / f"{0:09d}.safetensors", (9, 9))
    cache(tmp_path, "b", 4000).put(0, KILOBYTE)
    assert kept(tmp_path) == ["a/0", "a/2", "b/0"]


def test_a_cache_that_cannot_be_written_is_done_without(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "paths").write_text("a file, where a folder should be")
    cache(tmp_path / "paths", "a", 4000).put(0, KILOBYTE)
    assert "cannot be written" in caplog.text


def test_room_is_made_without_the_file_that_another_job_is_writing(folder: Path) -> None:
    """Of three foreign files of 1,000 bytes that are equally old, only the finished and the abandoned one may go."""
    for name in ("other", f"{WRITING}now", f"{WRITING}abandoned"):
        (folder / name).mkdir(parents=True)
        (folder / name / "000000001.safetensors").write_bytes(bytes(1000))
    long_ago = time.time() - 2 * ABANDONED_AFTER_S
    os.utime(folder / f"{WRITING}abandoned" / "000000001.safetensors", (long_ago, long_ago))
    assert PathCache(folder=folder, path="mine", limit_bytes=3000)._make_room(2000)
    assert [path.parent.name for path in folder.glob("*/*.safetensors")] == [f"{WRITING}now"]
    assert not PathCache(folder=folder, path="mine", limit_bytes=3000)._make_room(2001)
    assert (folder / f"{WRITING}now" / "000000001.safetensors").exists()


def test_a_temporary_folder_that_another_job_deletes_meanwhile_costs_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    cache = PathCache(folder=tmp_path, path="a", limit_bytes=10**6)
    cache.put(0, {"x": torch.zeros(3)})
    (tmp_path / ".DS_Store").touch()
    listed = Path.iterdir
    monkeypatch.setattr(Path, "iterdir", lambda path: [*listed(path), *([path / f"{WRITING}x"] if path == tmp_path else [])])
    cache.put(1, {"x": torch.ones(3)})
    assert cache.get(1, torch.device("cpu")) is not None
    assert not caplog.records
