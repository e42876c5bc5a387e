"""Another model without some of its channels, as the table `narrow` of a sparse job makes it.

Reference: Wang, Rieck et al. 2024, Structurally Prune Anything: Any Architecture, Any Framework, Any Time (arXiv:2403.18955)
"""

from dataclasses import dataclass
from typing import Annotated, ClassVar

from torch import nn

from pruneyard.workloads.networks.builder import ModelBuilder, has_random_layers
from pruneyard.workloads.networks.narrowing import narrowed_network
from pruneyard.workloads.plugins import Plugin, Settings

__all__ = ["Narrowed"]


@dataclass(frozen=True, kw_only=True)
class Narrowed:
    base: Annotated[ModelBuilder, Plugin("models")]
    channels: tuple[tuple[str, tuple[int, ...]], ...] = ()  # path of a layer, and which of its outputs are kept
    examples: ClassVar[tuple[Settings, ...]] = (
        {"base": {"name": "mlp", "width": 8}, "channels": [["hidden1", [0, 3, 5]], ["hidden2", [1]]]},
    )

    def __post_init__(self) -> None:
        # An artifact stores lists.
        object.__setattr__(self, "channels", tuple((path, tuple(kept)) for path, kept in self.channels))
        for path, kept in self.channels:
            if not kept or list(kept) != sorted({*kept}) or kept[0] < 0:
                raise ValueError(f"channels has {list(kept)} for {path}; they must be at least one, none below 0, ascending")

    @property
    def may_sample(self) -> bool:
        """Returns whether the base has random layers."""
        return has_random_layers(self.base)

    def build(self, *, image_shape: tuple[int, ...], num_classes: int) -> nn.Module:
        """See `pruneyard.workloads.networks.builder.ModelBuilder`. The weights are those that the base starts with.

        Raises `ValueError` for a base that cannot be traced, and channels that do not fit it.
        """
        network = self.base.build(image_shape=image_shape, num_classes=num_classes)
        return narrowed_network(network, image_shape, dict(self.channels))
