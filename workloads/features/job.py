"""A job of kind `features`: ranks the features of a data set, pixels or columns, without its labels.

Its artifact has the ranking, which the data source `top_features` reads.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, ClassVar

from pruneyard.workloads.data.dataset import Dataset, Source
from pruneyard.workloads.data.flat_features import flattened
from pruneyard.workloads.features.ranker import FeatureRanker
from pruneyard.workloads.plugins import Plugin, Settings
from pruneyard.workloads.workload import Context, Progress

__all__ = ["FeaturesJob"]


@dataclass(frozen=True, kw_only=True)
class FeaturesJob:
    """All settings that may change the ranking."""

    data: Annotated[Source, Plugin("data.sources")]
    method: Annotated[FeatureRanker, Plugin("features.methods")]
    seed: int = 0
    leaves: ClassVar[tuple[str, ...]] = ("ranking",)
    examples: ClassVar[tuple[Settings, ...]] = ({"data": {"name": "wine"}, "method": {"name": "variance"}},)

    def check(self, data: Dataset) -> list[str]:
        """Returns no warnings: any data has features."""
        return []

    def expected_work(self, data: Dataset) -> tuple[float, int]:
        """Returns the FLOPs that dense kernels would execute and the optimizer steps."""
        return self.method.expected_work(flattened(data))

    def run(self, context: Context) -> Iterator[Progress]:
        """Ranks the features, resuming from the newest intact checkpoint of the context if there is one."""
        yield from self.method.rank(flattened(context.load_data(self.data)), seed=self.seed, context=context)
