"""What sources of a user's own pictures share: where they lie, and the size that all are brought to."""

from abc import ABC
from dataclasses import dataclass

from pruneyard.workloads.data.folders import FileSource
from pruneyard.workloads.data.held_out import HoldsOutTest


@dataclass(frozen=True, kw_only=True)
class OwnPictures(FileSource, HoldsOutTest, ABC):
    """A source of pictures in a folder that nobody published under a name of ours."""

    path: str  # folder: absolute, or relative to one of the folders searched
    root: str | None = None  # part of the run key here: other folders hold other pictures
    resize: int | None = None  # side in pixels; needed where the pictures differ in size

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.resize is not None and self.resize < 1:
            raise ValueError(f"resize is {self.resize}; it must be at least 1 pixel")
