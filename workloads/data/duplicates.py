"""Inputs that occur in more than one split of a data set, bit for bit."""

from hashlib import blake2b
from itertools import combinations
from math import prod

import numpy as np

from pruneyard.workloads.data.dataset import Dataset, Split


def shared_images(data: Dataset) -> list[str]:
    """Returns a sentence for each pair of splits that share inputs: how many rows of the later one, and the first example.

    Rows whose label differs between the two splits are counted apart, since one of the labels must be wrong.
    """
    splits = {name: getattr(data, name) for name in ("train", "val", "calib", "test")}
    rows = {name: _rows_by_image(split) for name, split in splits.items()}
    found, inputs = [], "image" if data.pixels else "features"
    for (earlier, known), (later, others) in combinations(rows.items(), 2):
        pairs = [(known[image][0], row) for image, matches in others.items() if image in known for row in matches]
        if pairs:
            first, second = min(pairs, key=lambda pair: pair[1])
            differing = sum(splits[earlier].labels[one] != splits[later].labels[other] for one, other in pairs)
            labels = f", {differing} of them with another label" if differing else ""
            found.append(
                f"{data.name}: {len(pairs)} of {len(splits[later])} {later} rows have the same {inputs} as a {earlier} row"
                f"{labels} ({later} row {splits[later].row_ids[second]} and {earlier} row {splits[earlier].row_ids[first]})"
            )
    return found


def _rows_by_image(split: Split) -> dict[bytes, list[int]]:
    """Returns the indices of the rows by a hash of their pixels."""
    rows: dict[bytes, list[int]] = {}
    # Plain bytes: the rows of a memory map would cost more than their hashes.
    pixels = np.ascontiguousarray(split.images)
    for index, image in enumerate(pixels.reshape(len(split), prod(pixels.shape[1:]))):
        rows.setdefault(blake2b(image.tobytes(), digest_size=16).digest(), []).append(index)
    return rows
