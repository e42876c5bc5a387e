"""The sources read through torchvision, on small files in their publishers' formats.

MNIST's idx files are read without a checksum. For CIFAR and SVHN the tests put the MD5 sums of their own
files where torchvision keeps the publishers', and everything else is the real path.
"""

import hashlib
import pickle
import struct
from pathlib import Path

import numpy as np
import pytest
from scipy.io import savemat
from torchvision import datasets

from pruneyard.workloads.data.dataset import DataNotFoundError, Source
from pruneyard.workloads.data.sources.cifar10 import Cifar10
from pruneyard.workloads.data.sources.cifar100 import Cifar100
from pruneyard.workloads.data.sources.fashion_mnist import FashionMnist
from pruneyard.workloads.data.sources.mnist import Mnist
from pruneyard.workloads.data.sources.svhn import Svhn

IDX_UBYTE = 0x08
NUM_TRAIN, NUM_TEST = 100, 30


def images_of(num: int, channels: int, side: int, *, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (num, channels, side, side), dtype=np.uint8)


def write_idx(path: Path, array: np.ndarray) -> None:
    header = struct.pack(f">BBBB{array.ndim}I", 0, 0, IDX_UBYTE, array.ndim, *array.shape)
    path.write_bytes(header + array.astype(np.uint8).tobytes())


def write_mnist_like(folder: Path, name: str) -> None:
    raw = folder / name / "raw"
    raw.mkdir(parents=True)
    for part, num, seed in (("train", NUM_TRAIN, 0), ("t10k", NUM_TEST, 1)):
        write_idx(raw / f"{part}-images-idx3-ubyte", images_of(num, 1, 28, seed=seed)[:, 0])
        write_idx(raw / f"{part}-labels-idx1-ubyte", np.arange(num) % 10)


def write_pickle(path: Path, content: object) -> str:
    """Writes the file and returns its MD5 sum."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(pickle.dumps(content, protocol=2))
    return hashlib.md5(path.read_bytes()).hexdigest()


@pytest.fixture
def cifar10(data_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """CIFAR-10 of 100 + 30 rows: five training batches of 20."""
    folder = data_folder / "cifar-10-batches-py"
    train = images_of(NUM_TRAIN, 3, 32, seed=0).reshape(NUM_TRAIN, -1)
    labels = [row % 10 for row in range(NUM_TRAIN)]
    sums = []
    for i in range(5):
        rows = slice(20 * i, 20 * i + 20)
        name = f"data_batch_{i + 1}"
        sums.append([name, write_pickle(folder / name, {"data": train[rows], "labels": labels[rows]})])
    test = images_of(NUM_TEST, 3, 32, seed=1).reshape(NUM_TEST, -1)
    test_sum = write_pickle(folder / "test_batch", {"data": test, "labels": labels[:NUM_TEST]})
    names = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
    meta_sum = write_pickle(folder / "batches.meta", {"label_names": names})
    monkeypatch.setattr(datasets.CIFAR10, "train_list", sums)
    monkeypatch.setattr(datasets.CIFAR10, "test_list", [["test_batch", test_sum]])
    monkeypatch.setattr(datasets.CIFAR10, "meta", {**datasets.CIFAR10.meta, "md5": meta_sum})
    return folder


@pytest.fixture
def cifar100(data_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """CIFAR-100 of 400 + 100 rows."""
    folder = data_folder / "cifar-100-python"
    for part, num, seed in (("train", 400, 0), ("test", 100, 1)):
        pixels = images_of(num, 3, 32, seed=seed).reshape(num, -1)
        fine, coarse = [row % 100 for row in range(num)], [row % 20 for row in range(num)]
        content = {"data": pixels, "fine_labels": fine, "coarse_labels": coarse}
        monkeypatch.setattr(datasets.CIFAR100, f"{part}_list", [[part, write_pickle(folder / part, content)]])
    names = {"fine_label_names": [f"kind {i}" for i in range(100)]}
    meta = {**datasets.CIFAR100.meta, "md5": write_pickle(folder / "meta", names)}
    monkeypatch.setattr(datasets.CIFAR100, "meta", meta)
    return folder


@pytest.fixture
def svhn(data_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """SVHN of 100 + 30 rows; its files call the digit zero 10."""
    entries = {}
    for part, num, seed in (("train", NUM_TRAIN, 0), ("test", NUM_TEST, 1)):
        file = data_folder / f"{part}_32x32.mat"
        digits = np.arange(num) % 10
        pixels = images_of(num, 3, 32, seed=seed).transpose(2, 3, 1, 0)
        savemat(file, {"X": pixels, "y": np.where(digits == 0, 10, digits)[:, None]})
        entries[part] = ["", file.name, hashlib.md5(file.read_bytes()).hexdigest()]
    monkeypatch.setattr(datasets.SVHN, "split_list", entries)
    return data_folder


def assert_rows_are_as_written(source: Source, *, channels: int, side: int, num_classes: int) -> None:
    published = source.read()
    for split, seed in ((published.train, 0), (published.test, 1)):
        np.testing.assert_array_equal(split.images, images_of(len(split), channels, side, seed=seed))
        assert split.images.flags.c_contiguous
        assert split.labels.tolist() == [row % num_classes for row in range(len(split))]
        assert split.row_ids.tolist() == list(range(len(split)))
    data = source.load()
    assert data.image_shape == (channels, side, side)
    assert data.num_classes == num_classes


@pytest.mark.parametrize(("source", "folder"), [(Mnist(), "MNIST"), (FashionMnist(), "FashionMNIST")])
def test_idx_files_are_read_as_written(source: Source, folder: str, data_folder: Path) -> None:
    write_mnist_like(data_folder, folder)
    assert_rows_are_as_written(source, channels=1, side=28, num_classes=10)


def test_classes_have_their_published_names(data_folder: Path) -> None:
    write_mnist_like(data_folder, "MNIST")
    write_mnist_like(data_folder, "FashionMNIST")
    assert Mnist().load().classes == tuple("0123456789")
    assert FashionMnist().load().classes[0] == "T-shirt/top"
    assert Mnist().load().name == "mnist"


@pytest.mark.usefixtures("cifar10")
def test_cifar10_batches_are_read_as_written() -> None:
    assert_rows_are_as_written(Cifar10(), channels=3, side=32, num_classes=10)
    assert Cifar10().load().classes[3] == "cat"


@pytest.mark.usefixtures("cifar100")
def test_cifar100_has_its_fine_labels() -> None:
    assert_rows_are_as_written(Cifar100(), channels=3, side=32, num_classes=100)
    assert Cifar100().load().classes[42] == "kind 42"


@pytest.mark.usefixtures("svhn")
def test_svhn_is_read_as_written_with_ten_as_zero() -> None:
    assert_rows_are_as_written(Svhn(), channels=3, side=32, num_classes=10)


def test_a_pickle_with_another_checksum_is_not_opened(cifar10: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[object, tuple[str, str]]:
            return Path.write_text, (cifar10 / "opened", "")  # type: ignore[return-value]

    write_pickle(cifar10 / "data_batch_3", Trap())
    with pytest.raises(ValueError, match="cifar-10-batches-py are damaged or incomplete in"):
        Cifar10().load()
    assert not (cifar10 / "opened").exists()


def test_a_cut_off_idx_file_is_refused_with_its_folder(data_folder: Path) -> None:
    write_mnist_like(data_folder, "MNIST")
    file = data_folder / "MNIST" / "raw" / "train-images-idx3-ubyte"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(
        ValueError, match=f"train-images-idx3-ubyte.* are damaged or incomplete in {data_folder}"
    ):
        Mnist().load()


@pytest.mark.parametrize(
    "source", [Mnist(), FashionMnist(), Cifar10(), Cifar100(), Svhn()], ids=lambda s: type(s).__name__
)
def test_missing_data_name_the_folders_searched_and_the_ways_to_get_them(
    source: Mnist, data_folder: Path, tmp_path: Path
) -> None:
    with pytest.raises(DataNotFoundError) as raised:
        type(source)(root=str(tmp_path / "mine")).load()
    message = str(raised.value)
    for part in (
        tmp_path / "mine",
        data_folder,
        tmp_path / "cache" / "data",
        source.files[0],
        "download: true",
    ):
        assert str(part) in message


def test_root_is_searched_before_the_other_folders(data_folder: Path, tmp_path: Path) -> None:
    for folder, label in ((data_folder, 1), (tmp_path / "mine", 2)):
        write_mnist_like(folder, "MNIST")
        write_idx(folder / "MNIST" / "raw" / "t10k-labels-idx1-ubyte", np.full(NUM_TEST, label))
    assert set(Mnist().load().test.labels) == {1}
    assert set(Mnist(root=str(tmp_path / "mine")).load().test.labels) == {2}


def test_nothing_is_downloaded_where_the_files_are_there(
    data_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: datasets.MNIST) -> None:
        raise AssertionError("downloads")

    monkeypatch.setattr(datasets.MNIST, "download", refuse)
    write_mnist_like(data_folder, "MNIST")
    assert len(Mnist(download=True).load().test) == NUM_TEST


def test_a_download_goes_to_the_users_folder_and_a_failure_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(self: datasets.MNIST) -> None:
        raise RuntimeError(f"no network for {self.root}")

    monkeypatch.setattr(datasets.MNIST, "download", fail)
    own = tmp_path / "cache" / "data"
    with pytest.raises(ValueError, match=f"could not be downloaded to {own}: no network for {own}"):
        Mnist(download=True).load()
