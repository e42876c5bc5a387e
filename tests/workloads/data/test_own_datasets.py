"""Data sets of PyTorch by import path: read once, split as their signature says, refused by name."""

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from pruneyard.orchestrator.spec.job import Job
from pruneyard.orchestrator.spec.load import load_spec
from pruneyard.testing.cases import each_case
from pruneyard.workloads.data import materialised
from pruneyard.workloads.plugins import find

CODE = '''
import random

import numpy as np
import torch
from PIL import Image
from torch.utils.data import Dataset, TensorDataset


class Pets(Dataset):
    classes = ["cat", "dog"]

    def __init__(self, side: int = 6, train: bool = True) -> None:
        self.side, self.num = side, 40 if train else 10

    def __len__(self) -> int:
        return self.num

    def __getitem__(self, row: int):
        if row >= self.num:
            raise IndexError(row)
        pixels = np.full((self.side, self.side, 3), row, dtype=np.uint8)
        return Image.fromarray(pixels), row % 2


def features(num: int, offset: float = 0.0):
    draws = torch.Generator().manual_seed(0)
    return TensorDataset(torch.randn(num, 5, generator=draws) + offset, torch.arange(num) % 3)


def named(split: str):
    return [(np.ones(3) * len(split), label) for label in ("ant", "bee") * 10]


class Ragged(Pets):
    def __getitem__(self, row: int):
        return torch.zeros(3 + row // 7), row % 2


class Failing(Pets):
    def __getitem__(self, row: int):
        raise RuntimeError("no such file")


class Detection(Pets):
    def __getitem__(self, row: int):
        return {"image": 1, "boxes": 2}


class Targets(Pets):
    def __getitem__(self, row: int):
        return torch.zeros(3), 0.25 * row


class OneHot(Pets):
    def __getitem__(self, row: int):
        return torch.zeros(3), torch.eye(2)[row % 2]


class Listed(Pets):
    def __getitem__(self, row: int):
        return torch.zeros(3), [row % 2, 1] if row else [0]


class Cropped(Pets):
    """Random transforms in making it and in reading it."""

    def __init__(self) -> None:
        super().__init__()
        self.order = np.random.permutation(self.num)

    def __getitem__(self, row: int):
        return torch.rand(3) + random.random() + int(self.order[row]), row % 2


def nothing():
    return []


def stream():
    return iter([])


CONSTANT = 3
'''


@pytest.fixture(autouse=True)
def _code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own_pets.py").write_text(CODE)


def source(name: str, **fields: Any) -> Any:
    return find("data.sources", f"own_pets.py:{name}")(**fields)


def test_images_of_pillow_are_pixels_and_train_chooses_the_part() -> None:
    data = source("Pets").load()
    assert (data.classes, data.pixels, data.image_shape) == (("cat", "dog"), True, (3, 6, 6))
    assert [len(split) for split in (data.train, data.val, data.calib, data.test)] == [32, 4, 4, 10]
    assert (data.test.images[:, 0, 0, 0] == np.arange(10)).all()
    assert source("Pets", side=4).load().image_shape == (3, 4, 4)
    assert Image.fromarray(np.zeros((2, 2), dtype=np.uint8)).mode == "L"


def test_a_set_of_torchvision_is_read() -> None:
    fake = find("data.sources", "torchvision.datasets:FakeData")(size=40, image_size=(3, 8, 8), num_classes=2)
    assert (fake.load().image_shape, fake.load().num_classes) == ((3, 8, 8), 2)


def test_tensors_are_features_and_test_rows_are_held_out() -> None:
    data = source("features", num=60).load()
    assert (data.pixels, data.image_shape, len(data.test)) == (False, (5,), 12)
    assert data.fingerprint == source("features", num=60).load().fingerprint
    assert data.fingerprint != source("features", num=60, offset=1.0).load().fingerprint


def test_split_is_filled_in_and_labels_may_be_text() -> None:
    data = source("named").load()
    assert data.classes == ("ant", "bee")
    assert (data.train.images == len("train")).all()
    assert (data.test.images == len("test")).all()


def test_random_transforms_are_the_same_at_every_load_and_leave_the_generators_as_they_are() -> None:
    states = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    first = source("Cropped").load()
    assert states == (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist())
    random.random(), np.random.random(), torch.rand(1)
    assert source("Cropped").load().fingerprint == first.fingerprint


@each_case(
    ("name", "message"),
    [
        ("Ragged", r"item 7 of own_pets\.py:Ragged, train is float32 \(4,\); it must be float32 \(3,\) like the first"),
        ("Failing", r"item 0 of own_pets\.py:Failing, train raised RuntimeError: no such file"),
        ("Detection", r"item 0 of own_pets\.py:Detection, train is a dict; it must be a pair \(input, label\)"),
        ("Targets", r"Targets, train: labels, row 1 has the label 0\.25; .* regression is not supported"),
        ("OneHot", r"item 0 of own_pets\.py:OneHot, train has a label of shape \(2,\); .* one-hot row it is the argmax"),
        ("Listed", r"item 1 of own_pets\.py:Listed, train has a label of shape \(2,\); it must be one class"),
        ("nothing", r"own_pets\.py:nothing, train has no items"),
        ("stream", r"own_pets\.py:stream, train is a list_iterator; it must be a map-style data set"),
    ],
)
def test_data_sets_that_do_not_fit_are_refused_by_name(name: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        source(name).load()


def test_what_is_no_data_set_is_refused() -> None:
    with pytest.raises(ValueError, match=r"'own_pets\.py:CONSTANT' is a int; it must be a class of data sets, or a function"):
        source("CONSTANT")


def test_a_data_set_above_the_free_memory_is_refused_after_its_first_item(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(materialised, "_free_bytes", lambda: 2 * 40 * 3 * 6 * 6 - 1)
    with pytest.raises(ValueError, match=r"Pets, train has 40 items of 108 bytes each, .* at most half of the .* free memory"):
        source("Pets").load()


def test_free_memory_includes_what_caches_could_give_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "meminfo").write_text("MemTotal:  900 kB\nMemFree:   1 kB\nMemAvailable:  500 kB\n")
    monkeypatch.setattr(materialised, "MEMINFO", tmp_path / "meminfo")
    assert materialised._free_bytes() == 500 * 1024
    monkeypatch.setattr(materialised, "MEMINFO", tmp_path / "none")
    assert materialised._free_bytes() > 2**20


def job(**data: Any) -> Job:
    budget = {"steps": 2}
    tables = {"name": "pets", "kind": "sparse", "data": data, "model": "mlp", "method": "dense", "budget": budget, "seeds": 1}
    return load_spec(tables).jobs[0]


def test_arguments_and_code_are_part_of_the_run_key_and_wrong_ones_are_refused() -> None:
    plain = job(name="own_pets.py:Pets")
    assert plain.key == job(name="own_pets.py:Pets", side=6).key
    assert plain.key != job(name="own_pets.py:Pets", side=5).key
    with pytest.raises(ValueError, match=r"data\.sied: is unknown; known are .*; did you mean side\?"):
        job(name="own_pets.py:Pets", sied=5)
    with pytest.raises(ValueError, match=r"data\.train: is filled in from the data; leave it out"):
        job(name="own_pets.py:Pets", train=True)
