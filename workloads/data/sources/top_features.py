"""Another set with its first `num` features in the order of a ranking, which a job of kind `features` wrote.

Pixels become features (N, F) like the columns of a table, so a model of features is needed. With `num` at the number of all
features, the network sees all of them in the same form.

Reference: Atashgahi et al. 2022, Quick and Robust Feature Selection (arXiv:2012.00560), for the comparison with all features
"""

from dataclasses import dataclass, replace
from typing import Annotated, ClassVar

from pruneyard.workloads import plugins
from pruneyard.workloads.data.artifact_file import ArtifactFile
from pruneyard.workloads.data.dataset import Dataset, Source, WrappingSource
from pruneyard.workloads.data.feature_ranking import FILE, read_order
from pruneyard.workloads.data.flat_features import flattened, take_features
from pruneyard.workloads.plugins import Plugin, Settings

__all__ = ["TopFeatures"]


@dataclass(frozen=True, kw_only=True)
class TopFeatures(ArtifactFile, WrappingSource):
    """Reads a ranking by path, a ranking.safetensors file, or by run."""

    file_name: ClassVar[str] = FILE
    reads: ClassVar[str] = "ranking"
    mismatch: ClassVar[str] = "is another ranking"
    examples: ClassVar[tuple[Settings, ...]] = ({"base": {"name": "digits"}, "num": 5, "path": "ranking.safetensors"},)

    base: Annotated[Source, Plugin("data.sources")]
    num: int  # features that are kept

    def __post_init__(self) -> None:
        if self.num < 1:
            raise ValueError(f"num is {self.num}; it must be 1 or more")
        super().__post_init__()

    def load(self) -> Dataset:
        """Returns the other set with the first `num` features of the ranking.

        Raises `ValueError` for a file that has changed, is no ranking or does not fit the data, and for too large a `num`.
        """
        path = self.locate()
        data, order = flattened(self.base.load()), read_order(path)
        (num_features,) = data.image_shape
        if len(order) != num_features:
            raise ValueError(f"{path} ranks {len(order)} features, but the data has {num_features}; give a ranking of this data")
        if self.num > num_features:
            raise ValueError(f"num is {self.num}; it must be at most {num_features}, the features of the data")
        return replace(take_features(data, order[: self.num]), name=plugins.name_of(self))
