"""Digital corruptions and changes of shape: contrast, elastic transform, pixelation, JPEG compression and rotation."""

import math

import torch
from torch import Tensor
from torch.nn import functional

from pruneyard.workloads.data.corruptions import filters
from pruneyard.workloads.data.corruptions.row_noise import RowNoise

BLOCK = 8  # pixels of a JPEG block
LUMA = (
    (16, 11, 10, 16, 24, 40, 51, 61),
    (12, 12, 14, 19, 26, 58, 60, 55),
    (14, 13, 16, 24, 40, 57, 69, 56),
    (14, 17, 22, 29, 51, 87, 80, 62),
    (18, 22, 37, 56, 68, 109, 103, 77),
    (24, 35, 55, 64, 81, 104, 113, 92),
    (49, 64, 78, 87, 103, 121, 120, 101),
    (72, 92, 95, 98, 112, 100, 103, 99),
)
"""Quantisation steps of luminance, ITU-T T.81, table K.1."""
CHROMA = ((17, 18, 24, 47), (18, 21, 26, 66), (24, 26, 56, 99), (47, 66, 99, 99))
"""Quantisation steps of chrominance, ITU-T T.81, table K.2: the upper left quarter; all others are 99."""


def contrast(images: Tensor, noise: RowNoise, severity: int) -> Tensor:
    """Moves every channel towards its mean over the image."""
    kept = (0.75, 0.5, 0.4, 0.3, 0.15)[severity - 1]
    mean = images.mean(dim=(2, 3), keepdim=True)
    return (images - mean) * kept + mean


def pixelate(images: Tensor, noise: RowNoise, severity: int) -> Tensor:
    """Shrinks the image by means over boxes and enlarges it by repetition."""
    share = (0.95, 0.9, 0.85, 0.75, 0.65)[severity - 1]
    height, width = images.shape[2:]
    small = max(1, int(height * share)), max(1, int(width * share))
    rows, columns = (_box_means(*sides, device=images.device) for sides in ((height, small[0]), (width, small[1])))
    return functional.interpolate(rows @ images @ columns.T, size=(height, width), mode="nearest-exact")


def _box_means(side: int, small: int, *, device: torch.device) -> Tensor:
    """Returns the matrix (small, side) of means over boxes, whose ends may lie within pixels."""
    edges = torch.arange(small + 1, device=device) * (side / small)
    starts = torch.arange(side, device=device)
    overlap = torch.minimum(edges[1:, None], starts + 1.0) - torch.maximum(edges[:-1, None], starts.float())
    return overlap.clamp(min=0) * (small / side)


def elastic_transform(images: Tensor, noise: RowNoise, severity: int) -> Tensor:
    """Applies a random affine map and a smooth random displacement; lengths are in proportion to the shorter side."""
    side = min(images.shape[2:])
    reach, sigma, jitter = (
        side * length
        for length in (
            (0.0, 0.0, 0.08),
            (0.05, 0.2, 0.07),
            (0.08, 0.06, 0.06),
            (0.1, 0.04, 0.05),
            (0.1, 0.03, 0.03),
        )[severity - 1]
    )
    x, y = filters.places(images)
    back = _inverse_affine(noise, side, jitter)[..., None, None]  # (B, 3, 2, 1, 1)
    columns, rows = (back[:, 0] * x[:, None] + back[:, 1] * y[:, None] + back[:, 2]).unbind(1)
    images = filters.sample(images, columns, rows, padding="reflection")
    draws = 2 * noise.uniform("elastic/displacement", 2, *images.shape[2:]) - 1
    moves = reach * filters.gaussian(draws, sigma, truncate=3.0)
    return filters.sample(images, x + moves[:, 0], y + moves[:, 1], padding="reflection")


def _inverse_affine(noise: RowNoise, side: int, jitter: float) -> Tensor:
    """Returns the affine maps that take three moved points of an image back: (B, 3, 2), factors of x, y and 1."""
    centre, reach = side // 2, side // 3
    points = torch.tensor([[centre + reach, centre + reach], [centre + reach, centre - reach], [centre - reach, centre - reach]])
    points = points.to(noise.rows.device, torch.float32)
    moved = points + jitter * (2 * noise.uniform("elastic/affine", 3, 2) - 1)
    one = torch.ones_like(moved[..., :1])
    maps: Tensor = torch.linalg.solve(torch.cat((moved, one), dim=-1), points.expand_as(moved))
    return maps


def rotation(images: Tensor, noise: RowNoise, severity: int) -> Tensor:
    """Rotates by 15 degrees for each severity, half of the images each way; what comes into view is black."""
    x, y = filters.places(images)
    angle = math.pi / 12 * severity * torch.where(noise.uniform("rotation") < 0.5, -1.0, 1.0).view(-1, 1, 1)
    left, top = (images.shape[3] - 1) / 2, (images.shape[2] - 1) / 2
    cosine, sine = angle.cos(), angle.sin()
    columns, rows = left + cosine * (x - left) - sine * (y - top), top + sine * (x - left) + cosine * (y - top)
    return filters.sample(images, columns, rows, padding="zeros")


def jpeg_compression(images: Tensor, noise: RowNoise, severity: int) -> Tensor:
    """Rounds the cosine coefficients of blocks of 8x8 pixels; colour has half the resolution (4:2:0)."""
    quality = (80, 65, 58, 50, 40)[severity - 1]
    scale = 5000 / quality if quality < 50 else 200 - 2 * quality
    chroma = torch.full((BLOCK, BLOCK), 99.0)
    chroma[:4, :4] = torch.tensor(CHROMA, dtype=torch.float32)
    tables = [((table * scale + 50) / 100).floor().clamp(1, 255) for table in (torch.tensor(LUMA).float(), chroma)]
    luma, chroma = (table.to(images.device) for table in tables)
    levels = (255 * images).round()
    if images.shape[1] != 3:
        return _quantised(levels - 128, luma).add(128).round() / 255
    red, green, blue = levels.unbind(1)
    bright = 0.299 * red + 0.587 * green + 0.114 * blue
    colours = torch.stack(((blue - bright) / 1.772, (red - bright) / 1.402), dim=1)
    height, width = images.shape[2:]
    halved = functional.avg_pool2d(functional.pad(colours, (0, width % 2, 0, height % 2), mode="replicate"), 2)
    coarse = _quantised(halved.round(), chroma).round()
    blues, reds = functional.interpolate(coarse, scale_factor=2, mode="nearest")[:, :, :height, :width].unbind(1)
    bright = _quantised((bright.round() - 128)[:, None], luma)[:, 0].round() + 128
    parts = (bright + 1.402 * reds, bright - 0.344136 * blues - 0.714136 * reds, bright + 1.772 * blues)
    return torch.stack(parts, dim=1).round() / 255


def _quantised(planes: Tensor, table: Tensor) -> Tensor:
    """Returns planes (B, C, H, W) after rounding their coefficients to multiples of `table` (8, 8)."""
    height, width = planes.shape[2:]
    padded = functional.pad(planes, (0, -width % BLOCK, 0, -height % BLOCK), mode="replicate")
    num_rows, num_columns = padded.shape[2] // BLOCK, padded.shape[3] // BLOCK
    blocks = padded.unflatten(3, (num_columns, BLOCK)).unflatten(2, (num_rows, BLOCK)).transpose(3, 4)
    basis = _cosines(planes.device)
    rounded = (basis @ blocks @ basis.T / table).round() * table
    restored: Tensor = (basis.T @ rounded @ basis).transpose(3, 4).flatten(4, 5).flatten(2, 3)
    return restored[:, :, :height, :width]


def _cosines(device: torch.device) -> Tensor:
    """Returns the orthonormal matrix of the discrete cosine transform, (8, 8)."""
    places, frequencies = torch.arange(BLOCK) + 0.5, torch.arange(BLOCK)[:, None]
    basis = torch.cos(math.pi / BLOCK * frequencies * places) * math.sqrt(2 / BLOCK)
    basis[0] = math.sqrt(1 / BLOCK)
    return basis.to(device)
