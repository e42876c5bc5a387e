"""A selection of another set's training rows; its val, calib and test rows stay unchanged.

The rows are selected when the data are read, once for all jobs on them, with `seed` and not with the seeds of the jobs. They
are cached on this machine, so that a scoring run is not repeated. Images are normalised with the statistics of the whole set.

Reference: Guo, Zhao and Bai 2022, DeepCore: A Comprehensive Library for Coreset Selection in Deep Learning (arXiv:2204.08499)
"""

from dataclasses import dataclass, field, replace
from importlib.metadata import version
from typing import Annotated, ClassVar

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from pruneyard.workloads import plugins
from pruneyard.workloads.data.array_cache import cached_by_key
from pruneyard.workloads.data.batches import DeviceSplit
from pruneyard.workloads.data.dataset import Dataset, Source, WrappingSource
from pruneyard.workloads.data.scoring import Scorer, Scoring
from pruneyard.workloads.data.selection import Pool, Selector
from pruneyard.workloads.fields import renamed
from pruneyard.workloads.models.convnet import ConvNet
from pruneyard.workloads.networks.builder import ModelBuilder
from pruneyard.workloads.plugins import Plugin, Settings
from pruneyard.workloads.seeding import global_stream, stream

__all__ = ["Selected"]


@dataclass(frozen=True, kw_only=True)
class Selected(WrappingSource):
    """Keeps a part of each class; exactly one of `per_class` and `fraction` must be given.

    model, scoring: the networks that score the rows, if the selector needs scores.
    """

    examples: ClassVar[tuple[Settings, ...]] = (
        {"base": {"name": "digits"}, "selector": {"name": "random"}, "per_class": 5},
    )

    base: Annotated[Source, Plugin("data.sources")] = field(metadata=renamed("of"))
    selector: Annotated[Selector, Plugin("data.selectors")] = field(metadata=renamed("select"))
    per_class: int | None = None  # number of rows of each class
    fraction: float | None = field(default=None, metadata=renamed("share"))  # of each class's rows, at least one
    model: Annotated[ModelBuilder, Plugin("models")] = ConvNet()
    scoring: Scoring = Scoring()
    seed: int = 0

    def __post_init__(self) -> None:
        if self.per_class is None and self.fraction is None:
            raise ValueError("per_class is missing; give per_class or fraction")
        if self.per_class is not None and self.fraction is not None:
            raise ValueError(f"per_class is {self.per_class} and fraction is {self.fraction}; one of them must be left out")
        if self.per_class is not None and self.per_class < 1:
            raise ValueError(f"per_class is {self.per_class}; it must be 1 or more")
        if self.fraction is not None and not 0 < self.fraction <= 1:
            raise ValueError(f"fraction is {self.fraction}; it must lie in (0, 1]")

    def load(self) -> Dataset:
        """Returns the other set with the selected training rows, in their order. Raises `ValueError` if a class has too few."""
        data = self.base.load()
        rows = cached_by_key(lambda: self.rows(data), key=self._key(data))
        return replace(data, name=plugins.name_of(self), train=data.train.take(np.sort(rows)))

    def rows(self, data: Dataset) -> npt.NDArray[np.int64]:
        """Returns the selected indices into the training split, class after class; computes them on a GPU if there is one."""
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        split = DeviceSplit(data.train, mean=data.mean, std=data.std, device=device)
        pool = self._pool(split, data) if self.selector.asks else Pool(labels=split.labels)
        chosen = self.selector.select(pool, self._counts(data), stream(self.seed, "select"))
        return chosen.cpu().numpy()

    def _counts(self, data: Dataset) -> list[int]:
        if self.per_class is not None:
            return [self.per_class] * data.num_classes
        sizes = np.bincount(data.train.labels, minlength=data.num_classes).tolist()
        return [max(1, round((self.fraction or 0) * size)) for size in sizes]

    def _pool(self, split: DeviceSplit, data: Dataset) -> Pool:
        def network(index: int) -> nn.Module:
            # Initialised on the CPU and moved, so that weights do not depend on the device.
            with global_stream(self.seed, f"select/network/{index}"):
                built = self.model.build(image_shape=data.image_shape, num_classes=data.num_classes)
            return built.to(split.device)

        scorer = Scorer(
            table=self.scoring,
            rows=split,
            asks=self.selector.asks,
            network=network,
            epoch_generator=lambda number: stream(self.seed, "select/score", number),
            data=data.fingerprint,
        )
        state = scorer.initial_state()
        for number in range(self.scoring.num_epochs):
            state = scorer.run_epoch(state, number)
        return scorer.build_pool(state)

    def _key(self, data: Dataset) -> str:
        """Returns the cache key: everything that may change the rows, the versions of the software included."""
        parts = (self.selector, self.per_class, self.fraction, self.model, self.scoring, self.seed)
        software = (version("pruneyard"), torch.__version__, torch.cuda.is_available())
        return f"rows {data.fingerprint} {parts!r} {software!r}"
