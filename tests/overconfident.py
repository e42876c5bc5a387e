"""Outputs of an overconfident network, to be calibrated."""

import numpy as np

from pruneyard.workloads.calibrate.calibrator import Floats, Labels


def overconfident_rows(num_rows: int, num_classes: int, seed: int = 0, factor: float = 2.5) -> tuple[Floats, Labels]:
    """Returns logits that are too large by a factor, and labels sampled from the softmax of the true ones."""
    generator = np.random.default_rng(seed)
    true = 2 * generator.normal(size=(num_rows, num_classes))
    return factor * true, (true + generator.gumbel(size=true.shape)).argmax(axis=1)
