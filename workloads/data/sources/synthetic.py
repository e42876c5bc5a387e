"""A synthetic set that a distill job left, as training rows; the other splits are those of another set.

Labels are hard. Images are decoded where several share one, and normalised as when they were made.

Reference: Wang et al. 2018, Dataset Distillation (arXiv:1811.10959)
"""

import hashlib
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated

import numpy as np

from workloads import plugins
from workloads.data.dataset import Dataset, Source, Split, check_labels
from workloads.distill.formation import decode, decoded_labels
from workloads.distill.synthetic_set import SyntheticSet
from workloads.plugins import Plugin

__all__ = ["Synthetic"]


@dataclass(frozen=True, kw_only=True)
class Synthetic(Source):
    """path: of a synthetic_set.safetensors; a job's identity is what is in the file, not where it lies.

    digest: 16 hexadecimal digits over the file's content; where it is given, another content is refused.
    """

    path: str = field(metadata={"identity": False})
    of: Annotated[Source, Plugin("data.sources")]
    digest: str = ""

    def __post_init__(self) -> None:
        found = digest_of(self.path)
        if self.digest not in ("", found):
            raise ValueError(f"digest is {self.digest}; {self.path} has {found}, so it is another set")
        object.__setattr__(self, "digest", found)

    def load(self) -> Dataset:
        """Raises `ValueError` for a file that has changed since, is no synthetic set or does not fit the data."""
        if (found := digest_of(self.path)) != self.digest:
            raise ValueError(f"{self.path} has changed: its digest was {self.digest} and is {found}")
        data = self.of.load()
        synthetic = SyntheticSet.from_file(str(Path(self.path).expanduser()))
        train = training_rows(synthetic)
        if train.images.shape[1:] != data.image_shape:
            came, allowed = train.images.shape[1:], data.image_shape
            raise ValueError(f"{self.path} has images of {came} (C, H, W); they must be {allowed} as those of the data")
        check_labels(train, part="synthetic", classes=data.classes)
        return replace(
            data, name=plugins.name_of(self), train=train, mean=synthetic.mean, std=synthetic.std
        )


def training_rows(synthetic: SyntheticSet) -> Split:
    """Every image that the set stands for, float32 with black 0 and white 255."""
    images = 255 * decode(synthetic.images, synthetic.factor)
    labels = decoded_labels(synthetic.labels, synthetic.factor)
    return Split.from_arrays(images.numpy(), labels.numpy().astype(np.int64))


def digest_of(path: str) -> str:
    """Raises `ValueError` where there is no file."""
    try:
        return hashlib.sha256(Path(path).expanduser().read_bytes()).hexdigest()[:16]
    except OSError as error:
        raise ValueError(f"path is {path!r}, which cannot be read: {error.strerror}") from error
