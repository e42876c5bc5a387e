"""The protocol of a model plug-in: a table of sizes that becomes a network for given images and classes."""

from typing import Protocol

from torch import nn


def check_dropout(share: float) -> None:
    """Raises `ValueError` for a share of units to leave out that is not in [0, 1)."""
    if not 0 <= share < 1:
        raise ValueError(f"dropout is {share}; it must lie in [0, 1)")


def draws(model: "ModelBuilder") -> bool:
    """Whether passes of its networks in training draw something for every row."""
    return float(getattr(model, "dropout", 0.0)) > 0


class ModelBuilder(Protocol):
    """A frozen dataclass in `workloads/models`. One whose networks draw in training has a field `dropout` above 0."""

    def __hash__(self) -> int:
        """Equal tables build equal networks."""
        ...

    def build(self, *, image_shape: tuple[int, int, int], num_classes: int) -> nn.Module:
        """A fresh network from (B, C, H, W) float32 to logits (B, num_classes), image_shape: (C, H, W).

        Its last layer is called `classifier`, so that the rest can be used as features. It is initialised
        from torch's global generator, which the caller seeds. Raises `ValueError` for too small images.
        """
        ...
