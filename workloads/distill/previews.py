"""Renderings of a synthetic set: all its images at the end, and small previews during distillation.

Previews are rendered at iterations that depend on the number of iterations alone, so artifacts are the same for all intervals of
evaluations and checkpoints.
"""

import io
from collections.abc import Mapping

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from pruneyard.workloads.data.synthetic_set import SyntheticSet

SHARES = (0.0, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0)  # of the iterations; images change most at the beginning
MAX_CLASSES = 10  # in a preview
MAX_PER_CLASS = 5
MAX_SIDE = 64  # pixels of an image in a preview; larger images are downscaled by an integer factor


def preview_iterations(num_iterations: int) -> frozenset[int]:
    """Returns the numbers of iterations after which previews are rendered; empty if there are no iterations."""
    return frozenset(round(share * num_iterations) for share in SHARES) if num_iterations else frozenset()


def render_preview(synthetic: SyntheticSet) -> Tensor:
    """Renders the first images of the first classes, a row per class: (H, W, C) uint8 on the CPU."""
    selected = synthetic.images.unflatten(0, (_num_classes(synthetic), -1))[:MAX_CLASSES, :MAX_PER_CLASS]
    images = selected.flatten(0, 1)
    factor = -(-max(images.shape[2:]) // MAX_SIDE)
    if factor > 1:
        # Cells at the border average the pixels they have, instead of darkening with zeros.
        images = functional.avg_pool2d(images, factor, ceil_mode=True, count_include_pad=False)
    return _grid(images, num_rows=len(selected))


def render_all(synthetic: SyntheticSet) -> Tensor:
    """Renders all stored images, a row per class: (H, W, C) uint8 on the CPU."""
    return _grid(synthetic.images, num_rows=_num_classes(synthetic))


def set_files(synthetic: SyntheticSet) -> dict[str, bytes]:
    """Returns the files of the set: the set itself and an image of all its images."""
    return {"synthetic_set.safetensors": synthetic.to_bytes(), "synthetic_set.png": encode_png(render_all(synthetic))}


def encode_png(pixels: Tensor) -> bytes:
    """Encodes (H, W, C) uint8 as a PNG file; images with neither one nor three channels are shown by the channel mean."""
    channels = pixels.shape[2]
    if channels not in (1, 3):
        pixels = pixels.to(torch.float32).mean(2, keepdim=True).to(torch.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels.squeeze(2).numpy()).save(file, format="PNG")
    return file.getvalue()


def encode_previews(previews: Mapping[int, Tensor]) -> dict[str, bytes]:
    """Returns previews as files by name; previews equal to the one before are left out, and all if the set never changed."""
    steps = sorted(previews)
    changed = [
        step
        for position, step in enumerate(steps)
        if position == 0 or not torch.equal(previews[step], previews[steps[position - 1]])
    ]
    return {f"images-{step:06d}.png": encode_png(previews[step]) for step in changed} if len(changed) > 1 else {}


def _num_classes(synthetic: SyntheticSet) -> int:
    return int(synthetic.labels.max()) + 1


def _grid(images: Tensor, *, num_rows: int) -> Tensor:
    """Arranges (N, C, H, W) pixels in one image (H, W, C) with `num_rows` rows of images."""
    levels = (images.detach() * 255).round().to(torch.uint8).cpu()
    # (row, column, C, H, W) to (row, H, column, W, C).
    rows = levels.unflatten(0, (num_rows, -1)).permute(0, 3, 1, 4, 2)
    grid: Tensor = rows.flatten(2, 3).flatten(0, 1).contiguous()
    return grid
