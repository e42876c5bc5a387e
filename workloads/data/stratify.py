"""Stratified sampling: how many rows of each class, and which."""

import numpy as np
import numpy.typing as npt

IntArray = npt.NDArray[np.int64]


def apportion(available: IntArray, total: int, *, leave: int = 0) -> IntArray:
    """Distributes `total` rows over classes in proportion to `available: (K,)`; returns the counts: (K,).

    Every class that has rows gives at least one and keeps at least `leave`, so `total` must lie between the number of such
    classes and the number of rows they may give. Rows left over by rounding go to the largest remainders.
    """
    present = available > 0
    limit = np.where(present, available - leave, 0)
    assert present.sum() <= total <= limit.sum()
    assert (limit[present] > 0).all()
    # The quotas add up to `total`, but rounding down and the limits do not; the two loops below correct that.
    quota = available * (total / available.sum())
    counts = np.where(present, np.clip(np.floor(quota).astype(np.int64), 1, limit), 0)
    while counts.sum() < total:
        counts[np.argmax(np.where(counts < limit, quota - counts, -np.inf))] += 1
    while counts.sum() > total:
        counts[np.argmax(np.where(counts > 1, counts - quota, -np.inf))] -= 1
    return counts


def sample_rows(labels: IntArray, counts: IntArray, generator: np.random.Generator) -> npt.NDArray[np.bool_]:
    """Samples `counts[k]` random rows of each class k without replacement; returns their mask over `labels: (N,)`."""
    # One permutation, then a stable sort by class: random rows of each class without a loop over classes.
    shuffled = generator.permutation(len(labels))
    by_class = shuffled[np.argsort(labels[shuffled], kind="stable")]
    class_sizes = np.bincount(labels, minlength=len(counts))
    first_of_class = np.cumsum(class_sizes) - class_sizes
    rank_in_class = np.arange(len(labels)) - first_of_class[labels[by_class]]
    chosen = np.zeros(len(labels), dtype=np.bool_)
    chosen[by_class] = rank_in_class < counts[labels[by_class]]
    return chosen
