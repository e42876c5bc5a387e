"""Checks arrays of inputs and labels that a user hands over, and makes splits of them."""

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from pruneyard.workloads.data.class_labels import encode_labels
from pruneyard.workloads.data.dataset import Split
from pruneyard.workloads.data.input_statistics import Images

PARTS = ("train", "val", "calib", "test")

Array = npt.NDArray[np.generic]


def as_inputs(values: Array, name: str, *, channels: str | None = None) -> Images:
    """Returns inputs (N, ...) as a split holds them: uint8 images (N, C, H, W), or float32 features.

    values: images, uint8 of three axes (grey) or four; or features, any other numbers of at least two axes.
    channels: the axis of the colours of images, "first" or "last"; None where only the first can be given. name: of the array,
        for messages.

    Raises `ValueError` for another shape or type, and for a feature that is not a finite number.
    """
    if values.dtype.kind not in "buif":
        text = "; `table` encodes columns of text" if values.dtype.kind in "OUS" else ""
        raise ValueError(f"{name} has the type {values.dtype}; it must hold numbers{text}")
    if values.ndim < 2:
        raise ValueError(f"{name} has the shape {values.shape}; it must have two axes or more, the first of which counts rows")
    if 0 in values.shape[1:]:
        raise ValueError(f"{name} has the shape {values.shape}; only the number of rows may be 0")
    if values.ndim == 4 and channels == "last":
        values = values.transpose(0, 3, 1, 2)
    elif values.ndim == 4 and _has_colours_last(values):
        rule = "set channels: last of `arrays`, or give" if channels else "they must come first, as in"
        raise ValueError(f"{name} has the shape {values.shape}, images with their colours last; {rule} X.transpose(0, 3, 1, 2)")
    if values.dtype == np.uint8 and values.ndim in (3, 4):
        images = values if values.ndim == 4 else values[:, None]
        return np.ascontiguousarray(images, dtype=np.uint8)
    with np.errstate(over="ignore"):  # refused below, by place
        features = np.ascontiguousarray(values, dtype=np.float32)
    wrong = ~np.isfinite(features)
    if wrong.any():
        row, *place = (int(axis) for axis in np.argwhere(wrong)[0])
        rows = int(wrong.reshape(len(wrong), -1).any(axis=1).sum())
        at = ", ".join(map(str, place))
        raise ValueError(
            f"{name}, row {row}, column {at} is {values[(row, *place)]}; every feature must be a finite number in float32 "
            f"({rows} of {len(features)} rows have others). Fill them in or leave these rows out; `table` fills in missing values"
        )
    return features


def _has_colours_last(values: Array) -> bool:
    # Floats may be features of an image as well, (N, 512, 1, 1), which no image has as its size.
    return values.shape[1] > 4 >= values.shape[3] and (values.dtype == np.uint8 or values.shape[2] > 4)


def splits_of(
    inputs: Mapping[str, Array],
    labels: Mapping[str, Array],
    *,
    names: Mapping[str, tuple[str, str]],
    classes: tuple[str, ...] = (),
    channels: str | None = None,
) -> tuple[dict[str, Split], tuple[str, ...]]:
    """Returns the splits of arrays by the names in `PARTS`, as far as they are given, and the names of the classes.

    Rows are numbered through train, val and calib, so that no two of these have one number; those of test are numbered anew.
    names: what messages call the inputs and the labels of each split. channels: as for `as_inputs`.
    Raises `ValueError` for arrays that are no inputs, no classes, or do not fit each other.
    """
    given = [part for part in PARTS if part in inputs]
    if "train" not in given:
        raise ValueError(f"train is missing; the splits are {', '.join(given) or 'none'}, and train must be one of them")
    images = {part: as_inputs(inputs[part], names[part][0], channels=channels) for part in given}
    for part in given:
        x_name, y_name = names[part]
        if len(images[part]) == 0:
            raise ValueError(f"{x_name} has no rows; a split must have at least one, or be left out")
        if labels[part].ndim and len(labels[part]) != len(images[part]):
            counts = f"{y_name} has {len(labels[part])} labels and {x_name} has {len(images[part])} rows"
            raise ValueError(f"{counts}; they must be as many")
        expected = images["train"]
        if images[part].shape[1:] != expected.shape[1:] or images[part].dtype != expected.dtype:
            came, allowed = (f"{array.dtype} {array.shape[1:]}" for array in (images[part], expected))
            raise ValueError(f"rows of {x_name} are {came}; they must be {allowed} like those of {names['train'][0]}")
    encoded, found = encode_labels({names[part][1]: labels[part] for part in given}, classes)
    splits, first_row = {}, 0
    for part in given:
        count = len(images[part])
        first_row = 0 if part == "test" else first_row
        splits[part] = Split(
            images=images[part],
            labels=encoded[names[part][1]],
            row_ids=np.arange(first_row, first_row + count),
            pixels=images[part].dtype == np.uint8,
        )
        first_row += count
    return splits, found
