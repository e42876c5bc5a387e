"""A chosen part of another set's training rows; its val, calib and test rows are left as they are.

The rows are chosen when the data are read, once for all jobs on them, by `seed` and not by the seeds of the jobs; on this machine
they are remembered in the cache, so that a scoring run is not made twice. Images are normalised as the whole set's are.

Reference: Guo, Zhao and Bai 2022, DeepCore: A Comprehensive Library for Coreset Selection in Deep Learning (arXiv:2204.08499)
"""

from dataclasses import dataclass, replace
from importlib.metadata import version
from typing import Annotated

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from pruneyard.workloads import plugins
from pruneyard.workloads.data.array_cache import cached_by_key
from pruneyard.workloads.data.batches import DeviceSplit
from pruneyard.workloads.data.dataset import Dataset, Source
from pruneyard.workloads.data.scoring import Scorer, Scoring
from pruneyard.workloads.data.selection import Pool, Selector
from pruneyard.workloads.models.convnet import ConvNet
from pruneyard.workloads.networks.builder import ModelBuilder
from pruneyard.workloads.plugins import Plugin
from pruneyard.workloads.seeding import global_stream, stream

__all__ = ["Selected"]


@dataclass(frozen=True, kw_only=True)
class Selected(Source):
    """How much of each class is kept is said by one of the first two.

    model, scoring: of the networks that score the rows, where the rule asks for that.
    """

    of: Annotated[Source, Plugin("data.sources")]
    select: Annotated[Selector, Plugin("data.selectors")]
    per_class: int | None = None  # rows of each class
    share: float | None = None  # of each class's rows, at least one
    model: Annotated[ModelBuilder, Plugin("models")] = ConvNet()
    scoring: Scoring = Scoring()
    seed: int = 0

    def __post_init__(self) -> None:
        if self.per_class is None and self.share is None:
            raise ValueError("per_class is missing, and so is share; one of them must be given")
        if self.per_class is not None and self.share is not None:
            raise ValueError(f"per_class is {self.per_class} beside share {self.share}; one must be left out")
        if self.per_class is not None and self.per_class < 1:
            raise ValueError(f"per_class is {self.per_class}; it must be 1 or more")
        if self.share is not None and not 0 < self.share <= 1:
            raise ValueError(f"share is {self.share}; it must lie in (0, 1]")

    def load(self) -> Dataset:
        """The other set with fewer training rows, in their order. Raises `ValueError` where a class has too few."""
        data = self.of.load()
        rows = cached_by_key(lambda: self.rows(data), key=self._key(data))
        return replace(data, name=plugins.name_of(self), train=data.train.take(np.sort(rows)))

    def rows(self, data: Dataset) -> npt.NDArray[np.int64]:
        """Places in the training split, class after class, on a GPU where there is one."""
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        split = DeviceSplit(data.train, mean=data.mean, std=data.std, device=device)
        pool = self._pool(split, data) if self.select.asks else Pool(labels=split.labels)
        chosen = self.select.select(pool, self._counts(data), stream(self.seed, "select"))
        return chosen.cpu().numpy()

    def _counts(self, data: Dataset) -> list[int]:
        if self.per_class is not None:
            return [self.per_class] * data.num_classes
        sizes = np.bincount(data.train.labels, minlength=data.num_classes).tolist()
        return [max(1, round((self.share or 0) * size)) for size in sizes]

    def _pool(self, split: DeviceSplit, data: Dataset) -> Pool:
        def network(index: int) -> nn.Module:
            with global_stream(self.seed, f"select/network/{index}"):
                built = self.model.build(image_shape=data.image_shape, num_classes=data.num_classes)
            return built.to(split.device)

        scorer = Scorer(
            table=self.scoring,
            rows=split,
            asks=self.select.asks,
            network=network,
            draws=lambda number: stream(self.seed, "select/score", number),
            data=data.fingerprint,
        )
        state = scorer.start()
        for number in range(self.scoring.num_epochs):
            state = scorer.epoch(state, number)
        return scorer.pool(state)

    def _key(self, data: Dataset) -> str:
        """Of all that may change the rows, the versions that compute them included."""
        parts = (self.select, self.per_class, self.share, self.model, self.scoring, self.seed)
        made_by = (version("pruneyard"), torch.__version__, torch.cuda.is_available())
        return f"rows {data.fingerprint} {parts!r} {made_by!r}"
