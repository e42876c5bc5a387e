"""The base class of sources that read a user's own images: their folder and the size that they are resized to."""

from abc import ABC
from dataclasses import dataclass

from pruneyard.workloads.data.user_files import UserFileSource


@dataclass(frozen=True, kw_only=True)
class UserImageSource(UserFileSource, ABC):
    """A source of images in a folder of the user."""

    resize: int | None = None  # side in pixels; required if the images differ in size

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.resize is not None and self.resize < 1:
            raise ValueError(f"resize is {self.resize}; it must be at least 1 pixel")
