"""Pictures in folders named after their classes: PATH/train/CLASS/*.png, PATH/test/CLASS/*.png.

Classes are the sorted names of the folders under `train`. Test rows are those of `test`, else of `val`; where
there is neither, they are held out. Rows are numbered in the order of classes, then of paths. Pictures are
decoded once and kept in the cache.

Reference: the layout of torchvision.datasets.ImageFolder
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pruneyard.workloads.data.array_cache import cached_array
from pruneyard.workloads.data.dataset import Published, Split
from pruneyard.workloads.data.decoding import decode
from pruneyard.workloads.data.pictures import OwnPictures

__all__ = ["ImageFolder"]

logger = logging.getLogger(__name__)

SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")


@dataclass(frozen=True, kw_only=True)
class ImageFolder(OwnPictures):
    def read(self) -> Published:
        pictures = f"the pictures into {self.path}/train/CLASS/"
        folder = self.find(f"{self.path}/train", put=pictures) / self.path
        classes = tuple(sorted(entry.name for entry in (folder / "train").iterdir() if entry.is_dir()))
        if not classes:
            raise ValueError(f"{folder / 'train'} has no folders; it must have one for each class")
        train = self._rows(folder / "train", classes)
        held = [folder / name for name in ("test", "val") if (folder / name).is_dir()]
        if not held:
            return self.hold_out_test(train, classes)
        for unread in held[1:]:
            logger.warning("%s is not read: %s is there, and val rows are cut from train", unread, held[0])
        return Published(classes=classes, train=train, test=self._rows(held[0], classes))

    def _rows(self, part: Path, classes: Sequence[str]) -> Split:
        """All pictures of one part, class by class."""
        unknown = sorted({entry.name for entry in part.iterdir() if entry.is_dir()} - set(classes))
        if unknown:
            raise ValueError(f"{part / unknown[0]} is no class of the train folder: {', '.join(classes)}")
        by_class = [_pictures(part / name) for name in classes]
        files = [file for pictures in by_class for file in pictures]
        images = cached_array(
            lambda: decode(files, where=lambda row: str(files[row]), resize=self.resize),
            files=files,
            options=f"image_folder resize={self.resize}",
        )
        return Split.from_arrays(
            images, np.repeat(np.arange(len(classes)), [len(group) for group in by_class])
        )


def _pictures(folder: Path) -> list[Path]:
    """The picture files under a folder, sorted; other files are left out with a warning."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    pictures = [path for path in files if path.suffix.lower() in SUFFIXES]
    if len(pictures) < len(files):
        other = next(path for path in files if path.suffix.lower() not in SUFFIXES)
        logger.warning(
            "%d files that are no pictures are left out, %s first", len(files) - len(pictures), other
        )
    return pictures
