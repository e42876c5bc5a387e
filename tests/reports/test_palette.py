"""Colours and symbols of series, as readers with each kind of colour blindness see them."""

from itertools import combinations

import numpy as np
import pytest

from pruneyard.reports.leading import MAX_SERIES
from pruneyard.reports.palette import methods

SEEN = {
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "tritanopia": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}
"""Linear RGB as seen, at full severity. Reference: Machado, Oliveira and Fernandes, IEEE TVCG 2009."""
TO_XYZ = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
WHITE = np.array([0.9505, 1.0, 1.089])
APART = 10.0  # distance in CIELAB; 2.3 is just noticeable side by side


def lab(color: str, seen: list[list[float]]) -> np.ndarray:
    """Returns the CIELAB coordinates of a colour such as `#1f77c4` as it is seen."""
    channels = np.array([int(color[place : place + 2], 16) for place in (1, 3, 5)]) / 255
    linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
    xyz = TO_XYZ @ np.clip(np.array(seen) @ linear, 0, 1) / WHITE
    x, y, z = np.where(xyz > (6 / 29) ** 3, np.cbrt(xyz), xyz / (3 * (6 / 29) ** 2) + 4 / 29)
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


@pytest.mark.parametrize("kind", SEEN)
def test_series_of_one_symbol_differ_in_colour_to_colour_blind_readers(kind: str) -> None:
    styles = methods([str(place) for place in range(MAX_SERIES)]).values()
    assert len(set(styles)) == MAX_SERIES
    for (one, symbol), (other, its_symbol) in combinations(styles, 2):
        if symbol == its_symbol:
            assert np.linalg.norm(lab(one, SEEN[kind]) - lab(other, SEEN[kind])) > APART, (one, other, symbol)
