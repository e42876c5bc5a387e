"""Evaluation on out-of-distribution (OOD) images: how another data set is fitted to the network, and detection metrics.

A network with useful confidence is less confident on these images. They are the test rows of their data sets.
Dimensions: N rows, C channels, H height, W width.
"""

import hashlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import numpy.typing as npt
import torch

from pruneyard.workloads.data.dataset import Dataset, Source, Split
from pruneyard.workloads.data.input_statistics import ROWS_PER_CHUNK, Images
from pruneyard.workloads.metrics.detection import confidence_scores, detection_metrics, extra_probability
from pruneyard.workloads.parents import Predictions
from pruneyard.workloads.plugins import name_of

NO_LABEL = -1  # label of a row that belongs to none of the classes
SPLIT = "ood"  # split of the mean over all OOD sets; that of one set is `ood.<name>`
LUMINANCE = (0.299, 0.587, 0.114)  # weights of red, green and blue, ITU-R BT.601


def split_names(sources: Sequence[Source]) -> list[str]:
    """Returns the split name `ood.<name>` of every set, numbered from 1 where several use the same kind of source."""
    names = [name_of(source) for source in sources]
    seen: Counter[str] = Counter()
    found = []
    for name in names:
        seen[name] += 1
        found.append(f"{SPLIT}.{name}" if names.count(name) == 1 else f"{SPLIT}.{name}-{seen[name]}")
    return found


def check_ood(unknown: Dataset, *, known: Dataset) -> None:
    """Raises `ValueError` if the inputs cannot be fitted to those of the known data, or are those of the known data."""
    if unknown.pixels and known.pixels:
        _check_channels(unknown.image_shape[0], known.image_shape[0])
    elif (unknown.pixels, unknown.image_shape) != (known.pixels, known.image_shape):
        raise ValueError(f"has {_described(unknown)}; the data trained on has {_described(known)}")
    shared = _num_shared(unknown.test.images, known.test.images)
    if 2 * shared > min(len(unknown.test), len(known.test)):  # a few shared images are accepted
        raise ValueError(
            f"is known: {shared} of its {len(unknown.test)} test rows are test rows of the data trained on"
        )


def ood_splits(sources: Sequence[Source], data: Sequence[Dataset], *, known: Dataset) -> dict[str, Split]:
    """Returns the test rows of every set, fitted to the shape of the known images, by split name; labels are `NO_LABEL`."""
    return {
        name: Split(
            images=fit_images(dataset.test.images, known.image_shape),
            labels=np.full(len(dataset.test), NO_LABEL, dtype=np.int64),
            row_ids=dataset.test.row_ids,
            pixels=dataset.pixels,
        )
        for name, dataset in zip(split_names(sources), data, strict=True)
    }


def evaluate_ood(
    splits: Mapping[str, Split],
    logits_of: Callable[[Split], npt.NDArray[np.float32]],
    *,
    known: npt.NDArray[np.float32],
    num_extra: int = 0,
) -> tuple[dict[tuple[str, str], float], dict[str, Predictions]]:
    """Returns detection metrics of every set and their mean, by split and name, and the predictions on every set.

    known: logits (N, K + num_extra) of the known test rows; logits_of: computes the logits of a split.
    """
    if not splits:
        return {}, {}
    scores = confidence_scores(known, num_extra=num_extra)
    predictions = {
        name: Predictions(row_ids=split.row_ids, labels=split.labels, logits=logits_of(split))
        for name, split in splits.items()
    }
    by_split = {
        name: detection_metrics(scores, confidence_scores(outputs.logits, num_extra=num_extra))
        | extra_probability(outputs.logits, num_extra=num_extra)
        for name, outputs in predictions.items()
    }
    metrics = {(split, name): value for split, of_split in by_split.items() for name, value in of_split.items()}
    names = next(iter(by_split.values()))
    means = {(SPLIT, name): float(np.mean([values[name] for values in by_split.values()])) for name in names}
    return metrics | means, predictions


def fit_images(images: Images, shape: tuple[int, ...]) -> Images:
    """Returns `images: (N, C, H, W)` in the shape (C, H, W) of `shape`, uint8.

    Height and width are resized independently, bilinearly with antialiasing, and rounded once. Colour becomes grey by
    luminance, grey becomes colour by repetition.
    """
    if images.shape[1:] == shape:
        return images
    _check_channels(images.shape[1], shape[0])
    chunks = [images[start : start + ROWS_PER_CHUNK] for start in range(0, len(images), ROWS_PER_CHUNK)]
    return np.concatenate([_fit_chunk(chunk, shape) for chunk in chunks])


def _fit_chunk(images: Images, shape: tuple[int, ...]) -> Images:
    channels, *size = shape
    pixels = torch.from_numpy(images.astype(np.float32))
    if channels == 1 and images.shape[1] == 3:
        pixels = (pixels * torch.tensor(LUMINANCE).view(1, 3, 1, 1)).sum(dim=1, keepdim=True)
    if size != list(images.shape[2:]):
        pixels = torch.nn.functional.interpolate(pixels, size=size, mode="bilinear", antialias=True)
    rounded = pixels.round().clamp(0, 255).to(torch.uint8).numpy()
    return np.repeat(rounded, channels, axis=1) if rounded.shape[1] != channels else rounded


def _described(data: Dataset) -> str:
    return f"{'images' if data.pixels else 'features'} of shape {data.image_shape}"


def _check_channels(unknown: int, known: int) -> None:
    if unknown not in (1, known) and (unknown, known) != (3, 1):
        raise ValueError(
            f"has images of {unknown} channels; the data trained on has {known}, and only 1 becomes {known} or 3 becomes 1"
        )


def _num_shared(unknown: Images, known: Images) -> int:
    """Returns how many images of `unknown` are also in `known`, pixel for pixel."""
    if unknown.shape[1:] != known.shape[1:]:
        return 0
    familiar = {_digest(image) for image in known}
    return sum(_digest(image) in familiar for image in unknown)


def _digest(image: Images) -> bytes:
    return hashlib.blake2b(np.ascontiguousarray(image).data, digest_size=16).digest()
