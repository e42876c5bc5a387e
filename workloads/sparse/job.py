"""A job of kind `sparse`: train one network on one data set under one sparse-training method."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated

from workloads.data.dataset import Source
from workloads.loop import train
from workloads.networks.builder import ModelBuilder
from workloads.plugins import Plugin
from workloads.recipe import Recipe
from workloads.sparse.flops import macs_of
from workloads.sparse.updater import MaskUpdater
from workloads.workload import Context, Progress

__all__ = ["SparseJob"]


@dataclass(frozen=True, kw_only=True)
class SparseJob(Recipe):
    """Everything that may change a number of the trained network."""

    data: Annotated[Source, Plugin("data.sources")]
    model: Annotated[ModelBuilder, Plugin("models")]
    method: Annotated[MaskUpdater, Plugin("sparse.methods")]
    seed: int = 0

    @property
    def density(self) -> float:
        """The target density of the network, for the `runs` table."""
        return self.method.target_density

    def run(self, context: Context) -> Iterator[Progress]:
        """Goes on from the newest good checkpoint of the context, or starts."""
        data = context.load_data(self.data)
        yield from train(self, model=self.model, method=self.method, data=data, seed=self.seed, context=context)

    def forward_flops(self, image_shape: tuple[int, int, int], num_classes: int) -> float:
        """FLOPs (2 per multiply-add) of one sample through the dense network."""
        return 2.0 * sum(macs_of(self.model, image_shape, num_classes).values())
