"""A synthetic set that a distill job wrote, as training rows; the other splits are those of another set.

A spec names the job's run (`data: {from: STAGE}`), or the file that it wrote. Labels are hard, as training rows have one class
each: soft labels of the set are used by evaluations of its own job only, so a set that relies on them (FRePo, RDED, SRe2L) trains
networks here to a lower accuracy than there. Stored images that stand for several training images are decoded, and all are
normalised as during distillation.

Reference: Wang et al. 2018, Dataset Distillation (arXiv:1811.10959)
"""

from dataclasses import dataclass, field, replace
from typing import Annotated, ClassVar

import numpy as np

from pruneyard.workloads import plugins
from pruneyard.workloads.data.artifact_file import ArtifactFile
from pruneyard.workloads.data.dataset import Dataset, Source, Split, WrappingSource, check_labels
from pruneyard.workloads.data.multi_formation import decode, decode_labels
from pruneyard.workloads.data.synthetic_set import SyntheticSet
from pruneyard.workloads.fields import renamed
from pruneyard.workloads.plugins import Plugin, Settings

__all__ = ["Synthetic"]

FILE = "synthetic_set.safetensors"  # among the artifacts of a distill job


@dataclass(frozen=True, kw_only=True)
class Synthetic(ArtifactFile, WrappingSource):
    """Reads a synthetic set by path, a synthetic_set.safetensors file, or by run."""

    file_name: ClassVar[str] = FILE
    reads: ClassVar[str] = "synthetic set"
    mismatch: ClassVar[str] = "is another set"
    renumbers_train: ClassVar[bool] = True
    examples: ClassVar[tuple[Settings, ...]] = ({"base": {"name": "digits"}, "path": "synthetic_set.safetensors"},)

    base: Annotated[Source, Plugin("data.sources")] = field(metadata=renamed("of"))

    def load(self) -> Dataset:
        """Returns the other set with the synthetic images as training rows.

        Raises `ValueError` for a file that has changed, is not a synthetic set or does not fit the data.
        """
        path, data = self.locate(), self.base.load()
        synthetic = SyntheticSet.from_file(str(path))
        train = decode_training_rows(synthetic)
        if train.images.shape[1:] != data.image_shape:
            came, allowed = train.images.shape[1:], data.image_shape
            raise ValueError(f"{path} has images of {came} (C, H, W); they must be {allowed} like those of the data")
        check_labels(train, part="synthetic", classes=data.classes)
        return replace(
            data, name=plugins.name_of(self), train=train, mean=synthetic.mean, std=synthetic.std
        )


def decode_training_rows(synthetic: SyntheticSet) -> Split:
    """Returns all training images of the set, float32 with black 0 and white 255."""
    # A set has black 0 and white 1, a split of float images has white 255.
    images = 255 * decode(synthetic.images, synthetic.factor)
    labels = decode_labels(synthetic.labels, synthetic.factor)
    return Split.from_arrays(images.numpy(), labels.numpy().astype(np.int64))
