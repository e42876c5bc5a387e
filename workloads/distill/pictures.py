"""Pictures of a synthetic set: the whole of it at the end, and small ones taken along the way.

When small ones are taken depends on the number of iterations alone, not on when somebody looks: an artifact is the same whatever
the intervals of evaluations and checkpoints.
"""

import io
from collections.abc import Mapping

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from pruneyard.workloads.data.synthetic_set import SyntheticSet

SHARES = (0.0, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0)  # of the iterations: images move most at first
MAX_CLASSES = 10  # in a small picture
MAX_PER_CLASS = 5
MAX_SIDE = 64  # pixels of an image in a small picture; larger ones are shrunk by a whole factor


def due(num_iterations: int) -> frozenset[int]:
    """After how many iterations small pictures are taken; none where nothing moves."""
    return frozenset(round(share * num_iterations) for share in SHARES) if num_iterations else frozenset()


def small(synthetic: SyntheticSet) -> Tensor:
    """The first images of the first classes, (H, W, C) uint8 on the CPU: a row per class, at most `MAX_PER_CLASS` wide."""
    of_class = synthetic.images.unflatten(0, (_num_classes(synthetic), -1))[:MAX_CLASSES, :MAX_PER_CLASS]
    images = of_class.flatten(0, 1).clamp(0, 1)  # cut off before pixels are averaged
    factor = -(-max(images.shape[2:]) // MAX_SIDE)
    if factor > 1:
        images = functional.avg_pool2d(images, factor, ceil_mode=True, count_include_pad=False)
    return _grid(images, num_rows=len(of_class))


def whole(synthetic: SyntheticSet) -> Tensor:
    """All stored images likewise."""
    return _grid(synthetic.images, num_rows=_num_classes(synthetic))


def png(pixels: Tensor) -> bytes:
    """A file of (H, W, C) uint8; other than one or three channels are shown by their mean."""
    channels = pixels.shape[2]
    if channels not in (1, 3):
        pixels = pixels.to(torch.float32).mean(2, keepdim=True).to(torch.uint8)
    written = io.BytesIO()
    Image.fromarray(pixels.squeeze(2).numpy()).save(written, format="PNG")
    return written.getvalue()


def files(taken: Mapping[int, Tensor]) -> dict[str, bytes]:
    """Small pictures as files, by the iteration they were taken after; none of a set that always looked the same."""
    moved = [step for place, step in enumerate(sorted(taken)) if place == 0 or not _same(taken, place)]
    return {f"images-{step:06d}.png": png(taken[step]) for step in moved} if len(moved) > 1 else {}


def _same(taken: Mapping[int, Tensor], place: int) -> bool:
    """As the picture before it."""
    steps = sorted(taken)
    return torch.equal(taken[steps[place]], taken[steps[place - 1]])


def _num_classes(synthetic: SyntheticSet) -> int:
    return int(synthetic.labels.max()) + 1


def _grid(images: Tensor, *, num_rows: int) -> Tensor:
    """(N, C, H, W) pixels, cut off at black and white, as one picture of so many rows."""
    shades = (images.detach().clamp(0, 1) * 255).round().to(torch.uint8).cpu()
    rows = shades.unflatten(0, (num_rows, -1)).permute(0, 3, 1, 4, 2)
    picture: Tensor = rows.flatten(2, 3).flatten(0, 1).contiguous()
    return picture
