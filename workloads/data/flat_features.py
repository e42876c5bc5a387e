"""A data set as rows of single features (N, F), which can be ranked and selected one by one."""

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from pruneyard.workloads.data.dataset import Dataset, Split


def flattened(data: Dataset) -> Dataset:
    """Returns the data with every pixel, or every number of a row, as a feature of its own: float32 (N, F).

    mean: that of each feature in the train split. std: that of its channel, so that a pixel which rarely varies stays small;
        scaled by its own deviation, a single stroke at the border would exceed all others.
    """
    per_entry = int(np.prod(data.image_shape[1:], dtype=np.int64))
    train = flat_rows(data.train)
    return replace(
        data,
        mean=tuple(train.images.mean(axis=0, dtype=np.float64).tolist()),
        std=tuple(np.repeat(np.array(data.std), per_entry).tolist()),
        train=train,
        val=flat_rows(data.val),
        calib=flat_rows(data.calib),
        test=flat_rows(data.test),
    )


def take_features(data: Dataset, columns: npt.NDArray[np.int64]) -> Dataset:
    """Returns flat data with some of its features, in the order of `columns`."""

    def take(split: Split) -> Split:
        return replace(split, images=np.ascontiguousarray(split.images[:, columns]))

    return replace(
        data,
        mean=tuple(data.mean[column] for column in columns),
        std=tuple(data.std[column] for column in columns),
        train=take(data.train),
        val=take(data.val),
        calib=take(data.calib),
        test=take(data.test),
    )


def flat_rows(split: Split) -> Split:
    """Returns a split with rows (N, F) float32; pixels are scaled to [0, 1]."""
    scale = 255 if split.pixels else 1
    rows = split.images.reshape(len(split), int(np.prod(split.images.shape[1:])))
    return replace(split, images=rows.astype(np.float32) / np.float32(scale), pixels=False)
