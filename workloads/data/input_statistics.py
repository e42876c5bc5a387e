"""Mean and standard deviation of inputs, with which networks normalise them."""

import functools
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

ROWS_PER_CHUNK = 4096  # bounds the memory of the passes over all pixels
FLOATS_PER_CHUNK = 2**24  # and of those over floats, which are 128 MiB in float64

Images = npt.NDArray[np.uint8 | np.float32]

Statistics = tuple[tuple[float, ...], tuple[float, ...]]
"""Mean and population standard deviation."""


def input_statistics(images: Images, *, pixels: bool) -> Statistics:
    """Returns mean and population standard deviation of `images: (N, C, ...)`, per entry of the axis C.

    Pixels are scaled to [0, 1] first. What does not vary gets a standard deviation of 1. For uint8 images both are computed from
    counts of the 256 values, so they are the same on every machine.
    """
    # Floats have too many values to be counted.
    if not pixels or images.dtype != np.uint8:
        return _of_floats(images, scale=255 if pixels else 1)
    counts = np.zeros((images.shape[1], 256), dtype=np.int64)
    for start in range(0, len(images), ROWS_PER_CHUNK):
        for channel, channel_counts in enumerate(counts):
            channel_counts += np.bincount(images[start : start + ROWS_PER_CHUNK, channel].ravel(), minlength=256)
    # Integer counts do not depend on the order of summation, unlike sums of pixels.
    values = np.arange(256) / 255
    mean = counts @ values / counts.sum(axis=1)
    variance = (counts * (values - mean[:, None]) ** 2).sum(axis=1) / counts.sum(axis=1)
    std = np.where(variance > 0, np.sqrt(variance), 1.0)
    return tuple(mean.tolist()), tuple(std.tolist())


def _of_floats(images: Images, *, scale: int) -> Statistics:
    """Passes twice over chunks of rows: the mean comes first, since sums of squares would lose the digits of a large one."""
    axes = (0, *range(2, images.ndim))
    count = images.size // images.shape[1]
    rows = max(1, FLOATS_PER_CHUNK // max(1, images[:1].size))

    def chunks() -> Iterator[npt.NDArray[np.float64]]:
        for start in range(0, len(images), rows):
            yield images[start : start + rows].astype(np.float64) / scale

    total = functools.reduce(np.add, (chunk.sum(axis=axes, keepdims=True) for chunk in chunks()))
    center = total / count
    squares = functools.reduce(np.add, (((chunk - center) ** 2).sum(axis=axes) for chunk in chunks()))
    mean, std = center.reshape(-1), np.sqrt(squares / count)
    # Rounding leaves a tiny deviation around a large constant, and dividing by it would blow up noise.
    varies = std > 1e-12 * np.abs(mean)
    return tuple(mean.tolist()), tuple(np.where(varies, std, 1.0).tolist())
