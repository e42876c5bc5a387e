"""A synthetic set that a distill job left, as training rows; the other splits are those of another set.

A spec names the job's run (`data: {from: STAGE}`), or the file that it left. Labels are hard. Images are decoded where several
share one, and normalised as when they were made.

Reference: Wang et al. 2018, Dataset Distillation (arXiv:1811.10959)
"""

from dataclasses import dataclass, field, replace
from typing import Annotated

import numpy as np

from pruneyard.workloads import plugins
from pruneyard.workloads.data.dataset import Dataset, Source, Split, check_labels
from pruneyard.workloads.data.kept_file import kept_file, known_digest
from pruneyard.workloads.data.multi_formation import decode, decoded_labels
from pruneyard.workloads.data.synthetic_set import SyntheticSet
from pruneyard.workloads.fields import FILLED_IN, NEUTRAL_BY_DEFAULT, NOT_IDENTITY
from pruneyard.workloads.plugins import Plugin

__all__ = ["Synthetic"]

FILE = "synthetic_set.safetensors"  # in the artifact of a distill job


@dataclass(frozen=True, kw_only=True)
class Synthetic(Source):
    """path: of a synthetic_set.safetensors; a job's identity is what is in the file, not where it lies.

    digest: 16 hexadecimal digits over the file's content; where it is given, another content is refused.
    runs, folder, artifacts: instead of a path, as in `pruneyard.workloads.parents.Runs`, of one run; its key is the identity.
    """

    of: Annotated[Source, Plugin("data.sources")]
    path: str = field(default="", metadata=NOT_IDENTITY)
    digest: str = ""
    runs: tuple[str, ...] = field(default=(), metadata=NEUTRAL_BY_DEFAULT)
    folder: str = field(default="", metadata=NOT_IDENTITY)
    artifacts: tuple[str, ...] = field(default=(), metadata=FILLED_IN)

    def __post_init__(self) -> None:
        if bool(self.path) == bool(self.runs):
            beside = f"is {self.path!r} beside runs" if self.path else "is missing, and so is from"
            raise ValueError(f"path {beside}; one of the two must be given")
        known = known_digest(path=self.path, digest=self.digest, runs=self.runs, another="is another set")
        object.__setattr__(self, "digest", known)

    def load(self) -> Dataset:
        """Raises `ValueError` for a file that has changed since, is no synthetic set or does not fit the data."""
        path = kept_file(path=self.path, digest=self.digest, runs=self.runs, artifacts=self.artifacts, name=FILE)
        data = self.of.load()
        synthetic = SyntheticSet.from_file(str(path))
        train = training_rows(synthetic)
        if train.images.shape[1:] != data.image_shape:
            came, allowed = train.images.shape[1:], data.image_shape
            raise ValueError(f"{path} has images of {came} (C, H, W); they must be {allowed} as those of the data")
        check_labels(train, part="synthetic", classes=data.classes)
        return replace(
            data, name=plugins.name_of(self), train=train, mean=synthetic.mean, std=synthetic.std
        )


def training_rows(synthetic: SyntheticSet) -> Split:
    """Every image that the set stands for, float32 with black 0 and white 255."""
    images = 255 * decode(synthetic.images, synthetic.factor)
    labels = decoded_labels(synthetic.labels, synthetic.factor)
    return Split.from_arrays(images.numpy(), labels.numpy().astype(np.int64))
