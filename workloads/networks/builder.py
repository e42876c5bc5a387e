"""The protocol of a model plug-in, which builds a network for a given image shape and number of classes."""

from typing import Protocol

from torch import nn


def check_dropout(share: float) -> None:
    """Raises `ValueError` for a dropout rate outside [0, 1)."""
    if not 0 <= share < 1:
        raise ValueError(f"dropout is {share}; it must lie in [0, 1)")


def has_random_layers(model: "ModelBuilder") -> bool:
    """Returns whether forward passes of its networks in training mode sample random numbers for every row."""
    return float(getattr(model, "dropout", 0.0)) > 0


class ModelBuilder(Protocol):
    """A frozen dataclass in `workloads/models`. Random layers are declared by a field `dropout` above 0."""

    def __hash__(self) -> int:
        """Returns a hash; equal tables build equal networks."""
        ...

    def build(self, *, image_shape: tuple[int, int, int], num_classes: int) -> nn.Module:
        """Returns a new network from images (B, C, H, W) float32 to logits (B, num_classes); image_shape: (C, H, W).

        Its last layer is named `classifier`, so that its input can be used as features. It is initialised with torch's global
        generator, which the caller seeds. Raises `ValueError` for too small images.
        """
        ...
