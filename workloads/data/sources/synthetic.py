"""A synthetic set that a distill job wrote, as training rows; the other splits are those of another set.

A spec names the job's run (`data: {from: STAGE}`), or the file that it wrote. Labels are hard, as training rows have one class
each: soft labels of the set are used by evaluations of its own job only, so a set that relies on them (FRePo, RDED, SRe2L) trains
networks here to a lower accuracy than there. Stored images that stand for several training images are decoded, and all are
normalised as during distillation.

Reference: Wang et al. 2018, Dataset Distillation (arXiv:1811.10959)
"""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, ClassVar

import numpy as np

from pruneyard.workloads import plugins
from pruneyard.workloads.data.artifact_file import locate_artifact_file, resolve_digest
from pruneyard.workloads.data.dataset import Dataset, Source, Split, check_labels
from pruneyard.workloads.data.multi_formation import decode, decode_labels
from pruneyard.workloads.data.synthetic_set import SyntheticSet
from pruneyard.workloads.fields import FILLED_IN, NEUTRAL_BY_DEFAULT, NOT_IDENTITY, renamed
from pruneyard.workloads.plugins import Plugin, Settings

__all__ = ["Synthetic"]

FILE = "synthetic_set.safetensors"  # among the artifacts of a distill job


@dataclass(frozen=True, kw_only=True)
class Synthetic(Source):
    """Reads a synthetic set by path or by run.

    path: a synthetic_set.safetensors file. Its content is part of the run key, its path is not.
    digest: 16 hexadecimal digits over the file's content; if given, a file with other content is refused.
    runs, folder, artifacts: instead of a path, one run as in `pruneyard.workloads.parents.Runs`; its key is part of the run key.
    """

    renumbers_train: ClassVar[bool] = True
    examples: ClassVar[tuple[Settings, ...]] = ({"base": {"name": "digits"}, "path": "synthetic_set.safetensors"},)

    base: Annotated[Source, Plugin("data.sources")] = field(metadata=renamed("of"))
    path: str = field(default="", metadata=NOT_IDENTITY)
    digest: str = ""
    runs: tuple[str, ...] = field(default=(), metadata=NEUTRAL_BY_DEFAULT)
    folder: str = field(default="", metadata=NOT_IDENTITY)
    artifacts: tuple[str, ...] = field(default=(), metadata=FILLED_IN)

    def __post_init__(self) -> None:
        if bool(self.path) == bool(self.runs):
            found = f"{self.path!r} and runs is {list(self.runs)}; one of them must be left out"
            raise ValueError(f"path is {found if self.path else 'missing; give path or from'}")
        digest = resolve_digest(path=self.path, digest=self.digest, runs=self.runs, mismatch="is another set")
        # The dataclass is frozen, but the digest is only known after the file has been read.
        object.__setattr__(self, "digest", digest)

    def inputs(self) -> tuple[Path, ...]:
        return ()

    def rests_on(self) -> Source:
        return self.base.rests_on()

    def load(self) -> Dataset:
        """Returns the other set with the synthetic images as training rows.

        Raises `ValueError` for a file that has changed, is not a synthetic set or does not fit the data.
        """
        path = locate_artifact_file(path=self.path, digest=self.digest, runs=self.runs, artifacts=self.artifacts, name=FILE)
        data = self.base.load()
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
