"""Noise: Gaussian, shot and impulse noise."""

import torch
from torch import Tensor

from pruneyard.workloads.data.corruptions.row_noise import RowNoise

LEVELS = 256  # grey levels for which tables of Poisson probabilities are made


def gaussian_noise(images: Tensor, noise: RowNoise, severity: int) -> Tensor:
    """Adds normal noise."""
    scale = (0.04, 0.06, 0.08, 0.09, 0.10)[severity - 1]
    return images + scale * noise.normal("gaussian_noise", *images.shape[1:])


def shot_noise(images: Tensor, noise: RowNoise, severity: int) -> Tensor:
    """Replaces each pixel by a Poisson count of this mean, in units of 1 / photons; means are rounded to 256 levels."""
    photons = (500, 250, 100, 75, 50)[severity - 1]
    levels = (images * (LEVELS - 1)).round().to(torch.int64)
    means = torch.linspace(0, photons, LEVELS, dtype=torch.float64, device=images.device)
    counts = torch.arange(photons + 10 * int(photons**0.5) + 10, dtype=torch.float64, device=images.device)
    tables = torch.special.gammaincc(counts + 1, means[:, None].clamp(min=1e-30))  # P(count <= k), (256, K)
    tables[:, -1] = 1.0
    # One sorted sequence for all levels: level + probability.
    sequence = (tables + torch.arange(LEVELS, device=images.device)[:, None]).flatten()
    draws = noise.uniform("shot_noise", *images.shape[1:]).to(torch.float64)
    found = torch.searchsorted(sequence, levels + draws) - levels * len(counts)
    return found.to(torch.float32) / photons


def impulse_noise(images: Tensor, noise: RowNoise, severity: int) -> Tensor:
    """Makes a share of the values black or white, each with probability one half."""
    share = (0.01, 0.02, 0.03, 0.05, 0.07)[severity - 1]
    hit = noise.uniform("impulse_noise/hit", *images.shape[1:]) < share
    white = (noise.uniform("impulse_noise/white", *images.shape[1:]) < 0.5).to(images.dtype)
    return torch.where(hit, white, images)
