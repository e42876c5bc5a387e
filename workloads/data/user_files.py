"""The base class of sources that read a user's own files: a path, which may be relative to the working folder."""

from abc import ABC
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from pruneyard.workloads.data.dataset import PublishedDataset, Split
from pruneyard.workloads.data.folders import FileSource
from pruneyard.workloads.data.held_out import HeldOutTestSource


@dataclass(frozen=True, kw_only=True)
class UserFileSource(FileSource, HeldOutTestSource, ABC):
    """A source that reads a file or folder of the user."""

    path: str  # absolute, or relative to the working folder or one of the folders searched
    root: str | None = None  # part of the run key, unlike that of published data: other folders contain other files

    def folders(self) -> list[Path]:
        """Returns the working folder and the folders of other sources; `root` is searched first."""
        others = super().folders()
        return [others[0], Path(), *others[1:]] if self.root else [Path(), *others]

    def inputs(self) -> tuple[Path, ...]:
        return tuple(folder / Path(self.path).expanduser() for folder in self.folders())

    def published(self, splits: Mapping[str, Split], classes: tuple[str, ...]) -> PublishedDataset:
        """Returns the data of these splits, by name; test rows are held out from train if there is no test split."""
        if "test" in splits:
            return PublishedDataset(classes=classes, **splits)
        held_out = self.hold_out_test(splits["train"], classes)
        return replace(held_out, val=splits.get("val"), calib=splits.get("calib"))

    def found(self, *, put: str) -> Path:
        """Returns the file or folder. Raises `DataNotFoundError` that says what to `put` there."""
        path = Path(self.path).expanduser()
        return self.find(str(path), put=put) / path
