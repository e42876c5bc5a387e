"""Twelve forecasts of three classes whose measures were computed by hand and with other packages."""

import numpy as np

P = np.array(
    [
        [0.72, 0.18, 0.10], [0.61, 0.29, 0.10], [0.55, 0.25, 0.20], [0.91, 0.05, 0.04], [0.08, 0.83, 0.09],
        [0.17, 0.52, 0.31], [0.03, 0.93, 0.04], [0.30, 0.41, 0.29], [0.11, 0.10, 0.79], [0.24, 0.30, 0.46],
        [0.04, 0.11, 0.85], [0.33, 0.24, 0.43],
    ]
)  # fmt: skip
Y = np.array([0, 1, 0, 0, 1, 2, 1, 1, 2, 0, 2, 2])
