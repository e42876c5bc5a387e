"""Another model without some of its residual blocks, which are removed before training (layer lottery tickets).

At initialisation the blocks are removed whose absence changes the logits least, and the smaller network is trained as any other.
What is left starts with the same weights as in the whole network of the same seed. It is dense, so that training and inference
are faster without sparse kernels.

Reference: Jordao et al. 2023, When Layers Play the Lottery, all Tickets Win at Initialization (arXiv:2301.10835)

Written from the abstract. Decisions made here, unverified:
- A block can be removed if it returns its input where all its parameters are zero, as residual blocks do whose shortcut is the
  identity; the first blocks of most stages change the shape and stay.
- The score of a block is the mean squared change of the logits without it, over their variance, on inputs of normal noise and
  as a mean over `draws` initialisations with seeds of their own. So it depends on the architecture alone, not on data or on the
  seed of the job, and a finished network can be rebuilt from its table. It is not a score of the paper.
- `choice: random` is the control.
"""

from dataclasses import dataclass
from functools import cache
from typing import Annotated, ClassVar, Literal

import torch
from torch import nn

from pruneyard.workloads.networks.builder import ModelBuilder, has_random_layers
from pruneyard.workloads.networks.removable_blocks import distortions_without, removable_blocks
from pruneyard.workloads.plugins import Plugin, Settings
from pruneyard.workloads.seeding import global_stream, stream

__all__ = ["LayerLottery"]

NUM_INPUTS = 8  # of noise, for each initialisation


@dataclass(frozen=True, kw_only=True)
class LayerLottery:
    """A network of the base model with `drop` blocks fewer."""

    examples: ClassVar[tuple[Settings, ...]] = ({"base": {"name": "resnet20"}, "drop": 3, "draws": 1},)

    base: Annotated[ModelBuilder, Plugin("models")]
    drop: int  # number of residual blocks that are removed
    choice: Literal["distortion", "random"] = "distortion"
    draws: int = 3  # initialisations over which the scores are averaged
    choice_seed: int = 0  # of the scores or the random choice

    def __post_init__(self) -> None:
        if self.drop < 0:
            raise ValueError(f"drop is {self.drop}; it must be 0 or more")
        if self.choice not in ("distortion", "random"):
            raise ValueError(f"choice is {self.choice!r}; it must be distortion or random")
        if self.draws < 1:
            raise ValueError(f"draws is {self.draws}; it must be at least 1")

    @property
    def may_sample(self) -> bool:
        """Returns whether networks of the base model sample random numbers in training."""
        return has_random_layers(self.base)

    def build(self, *, image_shape: tuple[int, ...], num_classes: int) -> nn.Module:
        """See `pruneyard.workloads.networks.builder.ModelBuilder`. Raises `ValueError` if there are too few blocks."""
        network = self.base.build(image_shape=image_shape, num_classes=num_classes)
        for name in removed_blocks(self, image_shape, num_classes):
            network.set_submodule(name, nn.Identity())
        return network


@cache
def removed_blocks(model: LayerLottery, image_shape: tuple[int, ...], num_classes: int) -> tuple[str, ...]:
    """Returns the names of the blocks that are removed, cached per process. Samples no number of torch's generator."""
    if model.drop == 0:
        return ()
    totals: dict[str, float] = {}
    for draw in range(1 if model.choice == "random" else model.draws):
        with torch.device("cpu"), global_stream(model.choice_seed, f"layer-lottery-{draw}"):
            network = model.base.build(image_shape=image_shape, num_classes=num_classes).eval()
            images = torch.randn((NUM_INPUTS, *image_shape))
            blocks = removable_blocks(network, images[:1])
            if model.drop > len(blocks):
                raise ValueError(f"drop is {model.drop}, but base has {len(blocks)} residual blocks that can be removed")
            if model.choice == "distortion":
                scores = distortions_without(network, blocks, images)
            else:
                order = torch.randperm(len(blocks), generator=stream(model.choice_seed, "layer-lottery-random"))
                scores = dict(zip(blocks, order.tolist(), strict=True))
        totals = {name: totals.get(name, 0.0) + score for name, score in scores.items()}
    return tuple(sorted(totals, key=lambda name: totals[name])[: model.drop])
