"""Reads the image sets that torchvision knows, in their publishers' formats; downloads only when asked to."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from pruneyard.workloads.data.dataset import Published, Split
from pruneyard.workloads.data.folders import FileSource, not_found


@dataclass(frozen=True, kw_only=True)
class TorchvisionSource(FileSource, ABC):
    """A source opened by one of `torchvision.datasets`."""

    download: bool = field(default=False, metadata={"identity": False})  # where files are missing
    files: ClassVar[tuple[str, ...]]  # what torchvision needs, relative to one of the folders
    opener: ClassVar[Callable[..., Any]]  # one of `torchvision.datasets`

    def open(self, folder: Path, *, train: bool, download: bool) -> Any:
        """torchvision's data set of one part."""
        return type(self).opener(folder, train=train, download=download)

    @abstractmethod
    def rows(self, opened: Any) -> Split:
        """All rows of an opened part."""

    @abstractmethod
    def class_names(self, opened: Any) -> Sequence[str]:
        """Names by label."""

    def read(self) -> Published:
        folder, download = self._choose()
        try:
            train, test = (self.open(folder, train=part, download=download) for part in (True, False))
        except (AssertionError, EOFError, OSError, RuntimeError, TypeError, ValueError) as error:
            problem = "could not be downloaded to" if download else "are damaged or incomplete in"
            reason = str(error) or type(error).__name__
            raise ValueError(f"{', '.join(self.files)} {problem} {folder}: {reason}") from error
        return Published(classes=tuple(self.class_names(train)), train=self.rows(train), test=self.rows(test))

    def _choose(self) -> tuple[Path, bool]:
        """The folder to open and whether to download into it first."""
        for folder in self.folders():
            if all((folder / name).exists() for name in self.files):
                return folder, False
        if not self.download:
            remedy = f"set download: true to fetch them into {self._target()}, or put them into one of these"
            raise not_found(", ".join(self.files), searched=self.folders(), remedy=remedy)
        self._target().mkdir(parents=True, exist_ok=True)
        return self._target(), True

    def _target(self) -> Path:
        return self.folders()[0] if self.root else self.own_folder()


def idx_files(folder: str) -> tuple[str, ...]:
    """Pictures and labels of both parts as MNIST's publisher names them."""
    kinds = ("images-idx3-ubyte", "labels-idx1-ubyte")
    return tuple(f"{folder}/raw/{part}-{kind}" for part in ("train", "t10k") for kind in kinds)


@dataclass(frozen=True, kw_only=True)
class GreyDigitsLike(TorchvisionSource, ABC):
    """The idx-ubyte format of MNIST and the sets published in its image: grey, 28x28."""

    def rows(self, opened: Any) -> Split:
        return Split.from_arrays(opened.data.numpy()[:, None], opened.targets.numpy())

    def class_names(self, opened: Any) -> Sequence[str]:
        return [name.partition(" - ")[0] for name in opened.classes]


@dataclass(frozen=True, kw_only=True)
class PickledBatches(TorchvisionSource, ABC):
    """CIFAR's Python format: pickled batches, which torchvision opens only after comparing their MD5 sums."""

    def rows(self, opened: Any) -> Split:
        return Split.from_arrays(opened.data.transpose(0, 3, 1, 2), opened.targets)

    def class_names(self, opened: Any) -> Sequence[str]:
        return list(opened.classes)
