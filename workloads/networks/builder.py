"""The protocol of a model plug-in, which builds a network for a given shape of inputs and number of classes."""

from typing import Protocol

from torch import nn


def check_dropout(share: float) -> None:
    """Raises `ValueError` for a dropout rate outside [0, 1)."""
    if not 0 <= share < 1:
        raise ValueError(f"dropout is {share}; it must lie in [0, 1)")


def has_random_layers(model: "ModelBuilder") -> bool:
    """Returns whether forward passes of its networks in training mode may sample random numbers for every row."""
    return bool(getattr(model, "may_sample", False)) or float(getattr(model, "dropout", 0.0)) > 0


def image_sides(image_shape: tuple[int, ...]) -> tuple[int, int, int]:
    """Returns channels, height and width. Raises `ValueError` for inputs that are no images, such as the rows of a table."""
    if len(image_shape) != 3:
        raise ValueError(
            f"model takes images (C, H, W), but the data has features of shape {image_shape}; "
            "choose a model of features, such as mlp"
        )
    channels, height, width = image_shape
    return channels, height, width


class ModelBuilder(Protocol):
    """A frozen dataclass in `workloads/models`. Random layers are declared by a field `dropout` above 0."""

    def __hash__(self) -> int:
        """Returns a hash; equal tables build equal networks."""
        ...

    def build(self, *, image_shape: tuple[int, ...], num_classes: int) -> nn.Module:
        """Returns a new network from inputs (B, *image_shape) float32 to logits (B, num_classes).

        image_shape: (C, H, W) of images, (F,) of the rows of a table; `image_sides` refuses what is no image.

        The input of its last layer is its features: of the layer called `classifier`, else of the linear layer defined last. It
        is initialised with torch's global generator, which the caller seeds. Raises `ValueError` for inputs that do not fit, such
        as too small images.
        """
        ...
