"""Base classes of sources that torchvision reads, in their publishers' formats; downloads must be asked for."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from pruneyard.workloads.data.dataset import PublishedDataset, Split
from pruneyard.workloads.data.folders import FileSource, not_found


@dataclass(frozen=True, kw_only=True)
class TorchvisionSource(FileSource, ABC):
    """A source that one of `torchvision.datasets` opens."""

    download: bool = field(default=False, metadata={"identity": False})  # missing files only
    files: ClassVar[tuple[str, ...]]  # files that torchvision needs, relative to one of the folders
    opener: ClassVar[Callable[..., Any]]  # one of `torchvision.datasets`

    def open(self, folder: Path, *, train: bool, download: bool) -> Any:
        """Returns torchvision's data set of the training or the test part."""
        return type(self).opener(folder, train=train, download=download)

    def inputs(self) -> tuple[Path, ...]:
        return tuple(folder / name for folder in self.folders() for name in self.files)

    @abstractmethod
    def rows(self, opened: Any) -> Split:
        """Returns all rows of an opened part."""

    @abstractmethod
    def class_names(self, opened: Any) -> Sequence[str]:
        """Returns the names of the classes in the order of their labels."""

    def read(self) -> PublishedDataset:
        folder, download = self._choose_folder()
        try:
            train, test = (self.open(folder, train=part, download=download) for part in (True, False))
        # torchvision and its readers raise all of these for damaged files.
        except (AssertionError, EOFError, OSError, RuntimeError, TypeError, ValueError) as error:
            problem = "could not be downloaded to" if download else "are damaged or incomplete in"
            reason = str(error) or type(error).__name__
            raise ValueError(f"{', '.join(self.files)} {problem} {folder}: {reason}") from error
        return PublishedDataset(classes=tuple(self.class_names(train)), train=self.rows(train), test=self.rows(test))

    def _choose_folder(self) -> tuple[Path, bool]:
        """Returns the folder to open and whether to download into it first."""
        for folder in self.folders():
            # A folder with some of the files only is passed over: another one may have all of them.
            if all((folder / name).exists() for name in self.files):
                return folder, False
        if not self.download:
            remedy = f"set download: true to download them to {self._target()}, put them into one of these, or set root"
            raise not_found(self, ", ".join(self.files), searched=self.folders(), remedy=remedy)
        self._target().mkdir(parents=True, exist_ok=True)
        return self._target(), True

    def _target(self) -> Path:
        return self.folders()[0] if self.root else self.download_folder()


def idx_files(folder: str) -> tuple[str, ...]:
    """Returns the names that MNIST's publisher gave to the image and label files of both parts."""
    kinds = ("images-idx3-ubyte", "labels-idx1-ubyte")
    return tuple(f"{folder}/raw/{part}-{kind}" for part in ("train", "t10k") for kind in kinds)


@dataclass(frozen=True, kw_only=True)
class IdxFileSource(TorchvisionSource, ABC):
    """A source in the idx-ubyte format of MNIST and its drop-in replacements: grey images of 28x28 pixels."""

    def rows(self, opened: Any) -> Split:
        # (N, H, W) to (N, 1, H, W).
        return Split.from_arrays(opened.data.numpy()[:, None], opened.targets.numpy())

    def class_names(self, opened: Any) -> Sequence[str]:
        # MNIST's names are "0 - zero" and so on.
        return [name.partition(" - ")[0] for name in opened.classes]


@dataclass(frozen=True, kw_only=True)
class PickledBatchSource(TorchvisionSource, ABC):
    """A source in CIFAR's Python format: pickled batches, which torchvision opens only after checking their MD5 sums."""

    def rows(self, opened: Any) -> Split:
        # (N, H, W, C) to (N, C, H, W).
        return Split.from_arrays(opened.data.transpose(0, 3, 1, 2), opened.targets)

    def class_names(self, opened: Any) -> Sequence[str]:
        return list(opened.classes)
