"""Images in folders named after their classes: PATH/train/CLASS/*.png, PATH/test/CLASS/*.png.

Classes are the sorted names of the folders under `train`. Test rows come from `test`, otherwise from `val`; if there is
neither, they are held out from `train`. Rows are numbered in the order of classes, then of paths. Links to files and folders are
followed; a link to a file that is absent is refused. Hidden files and folders and `__MACOSX` are skipped. Images are turned
upright as their EXIF orientation says, decoded once and then cached.

Reference: the layout of torchvision.datasets.ImageFolder
"""

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from pruneyard.workloads.data.array_cache import cached_array
from pruneyard.workloads.data.dataset import PublishedDataset, Split
from pruneyard.workloads.data.decoding import decode
from pruneyard.workloads.data.folders import check_fetched
from pruneyard.workloads.data.user_images import UserImageSource
from pruneyard.workloads.plugins import Settings

__all__ = ["ImageFolder"]

logger = logging.getLogger(__name__)

SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")


@dataclass(frozen=True, kw_only=True)
class ImageFolder(UserImageSource):
    revision: ClassVar[int] = 2  # before, links to folders and EXIF orientations were ignored, and hidden files were read
    examples: ClassVar[tuple[Settings, ...]] = ({"path": "pictures"},)

    def read(self) -> PublishedDataset:
        path = os.path.expanduser(self.path)
        folder = self.find(f"{path}/train", put="the images", into=f"{path}/train/CLASS/") / path
        classes = _class_names(folder / "train")
        if not classes:
            raise ValueError(f"{folder / 'train'} has no folders; it must have one for each class")
        train = self._rows(folder / "train", classes)
        candidates = [folder / name for name in ("test", "val") if (folder / name).is_dir()]
        if not candidates:
            return self.hold_out_test(train, classes)
        for unread in candidates[1:]:
            logger.warning("%s is not read: test rows come from %s, and val rows from train", unread, candidates[0])
        return PublishedDataset(classes=classes, train=train, test=self._rows(candidates[0], classes))

    def _rows(self, part: Path, classes: Sequence[str]) -> Split:
        """Returns all images of one part, class by class."""
        unknown = sorted(set(_class_names(part)) - set(classes))
        if unknown:
            raise ValueError(f"{part / unknown[0]} is not a class of the train folder; its classes are {', '.join(classes)}")
        by_class = [_image_files(part / name) for name in classes]
        files = [file for class_files in by_class for file in class_files]
        # Options that change the decoded pixels are part of the key.
        images = cached_array(
            lambda: decode(files, where=lambda row: str(files[row]), resize=self.resize),
            files=files,
            options=f"image_folder upright resize={self.resize}",
        )
        sizes = [len(class_files) for class_files in by_class]
        return Split.from_arrays(images, np.repeat(np.arange(len(classes)), sizes))


def _class_names(part: Path) -> tuple[str, ...]:
    """Returns the sorted names of the class folders of one part; images beside them are skipped with a warning."""
    entries = [entry for entry in sorted(part.iterdir()) if not _is_hidden(entry.name)]
    check_fetched(entries)
    if loose := [entry for entry in entries if entry.suffix.lower() in SUFFIXES and not entry.is_dir()]:
        logger.warning("%d images in no class folder are skipped; the first is %s", len(loose), loose[0])
    return tuple(entry.name for entry in entries if entry.is_dir())


def _image_files(folder: Path) -> list[Path]:
    """Returns the image files under a folder, sorted; other files and hidden ones are skipped with a warning."""
    found, hidden = _walk(folder, above=())
    # Folders list their entries in no defined order, and row ids are positions in this list.
    files = sorted(found)
    images = [path for path in files if path.suffix.lower() in SUFFIXES]
    if len(images) < len(files):
        other = next(path for path in files if path.suffix.lower() not in SUFFIXES)
        logger.warning("%d files that are not images are skipped; the first is %s", len(files) - len(images), other)
    if hidden:
        logger.warning("%d hidden files and folders are skipped; the first is %s", len(hidden), min(hidden))
    check_fetched(images)
    return images


def _walk(folder: Path, *, above: tuple[Path, ...]) -> tuple[list[Path], list[Path]]:
    """Returns the files under a folder, through links, and the hidden files and folders.

    above: the folders that contain this one. Raises `ValueError` for a link to one of them, which would never end.
    """
    here = folder.resolve()
    if here in above:
        raise ValueError(f"{folder} is a link to a folder that contains it; remove the link")
    files, hidden = [], []
    for entry in folder.iterdir():
        if _is_hidden(entry.name):
            hidden.append(entry)
        elif entry.is_dir():
            inner = _walk(entry, above=(*above, here))
            files += inner[0]
            hidden += inner[1]
        else:
            files.append(entry)
    return files, hidden


def _is_hidden(name: str) -> bool:
    """Returns whether other programs put a file or folder there: `.ipynb_checkpoints`, `._x.png`, `__MACOSX`."""
    return name.startswith(".") or name == "__MACOSX"
