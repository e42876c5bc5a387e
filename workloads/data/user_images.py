"""The base class of sources that read a user's own images: their folder and the size that they are resized to."""

from abc import ABC
from dataclasses import dataclass
from pathlib import Path

from pruneyard.workloads.data.folders import FileSource
from pruneyard.workloads.data.held_out import HeldOutTestSource


@dataclass(frozen=True, kw_only=True)
class UserImageSource(FileSource, HeldOutTestSource, ABC):
    """A source of images in a folder of the user."""

    path: str  # a folder: absolute, or relative to one of the folders searched
    root: str | None = None  # part of the run key, unlike that of published data: other folders contain other images
    resize: int | None = None  # side in pixels; required if the images differ in size

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.resize is not None and self.resize < 1:
            raise ValueError(f"resize is {self.resize}; it must be at least 1 pixel")

    def inputs(self) -> tuple[Path, ...]:
        return tuple(folder / Path(self.path).expanduser() for folder in self.folders())
