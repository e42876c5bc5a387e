"""How concentrated the largest logits of a network are."""

import numpy as np
from numpy.typing import ArrayLike


def max_logit_spread(logits: ArrayLike, *, num_extra: int = 0) -> float:
    """Returns the standard deviation of the largest class logit over rows, divided by its mean; NaN if a logit is infinite.

    logits: (N, K + num_extra). The mean over the classes of a row is subtracted first, since softmax does not see it; the value
    does not depend on a temperature either. By this concentration Zhu et al. 2023 (arXiv:2307.12463) explain why temperature
    scaling fails after distillation; how they measure it is unverified.
    """
    classes_NK = np.asarray(logits, dtype=np.float64)
    classes_NK = classes_NK[:, : classes_NK.shape[1] - num_extra]
    if not np.isfinite(classes_NK).all():
        return float("nan")
    largest_N = classes_NK.max(axis=1) - classes_NK.mean(axis=1)
    mean = float(largest_N.mean())
    return float(largest_N.std()) / mean if mean else float("nan")
