"""Vision transformer of 12 blocks of width 192 with 3 heads (ViT-Ti), for small images.

Patches are embedded by a convolution; a class token and learned positions are added. A block adds attention and then an MLP of
four times the width, each after layer norm. The classifier takes the class token. The defaults have 5.4 million parameters for
images of 32x32 in patches of 4x4; published models take images of 224x224 in patches of 16x16. Weights start as truncated normal,
standard deviation 0.02, those of attention as PyTorch starts them.

Reference: Dosovitskiy et al. 2021, An Image is Worth 16x16 Words (arXiv:2010.11929); Touvron et al. 2021 (DeiT, arXiv:2012.12877)
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from pruneyard.workloads.networks.builder import check_dropout, image_sides
from pruneyard.workloads.plugins import Settings

__all__ = ["ViTTiny"]

INITIAL_SD = 0.02
MLP_RATIO = 4


@dataclass(frozen=True, kw_only=True)
class ViTTiny:
    patch_size: int = 4  # pixels of a side
    width: int = 192  # of every token
    depth: int = 12  # blocks
    heads: int = 3  # of attention; each has width / heads channels
    dropout: float = 0.0  # after attention and in the MLP
    examples: ClassVar[tuple[Settings, ...]] = ({"width": 16, "depth": 2, "heads": 2},)

    def __post_init__(self) -> None:
        for name in ("patch_size", "width", "depth", "heads"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1")
        if self.width % self.heads:
            raise ValueError(f"width is {self.width}; it must be a multiple of heads, which is {self.heads}")
        check_dropout(self.dropout)

    def build(self, *, image_shape: tuple[int, ...], num_classes: int) -> nn.Module:
        """See `pruneyard.workloads.networks.builder.ModelBuilder`. Raises `ValueError` for images that are no whole patches."""
        channels, height, width = image_sides(image_shape)
        if height % self.patch_size or width % self.patch_size:
            raise ValueError(f"patch_size is {self.patch_size}; it must divide the images' {height}x{width}")
        num_patches = (height // self.patch_size) * (width // self.patch_size)
        network = nn.Sequential()
        network.add_module("embedding", _Embedding(channels, self.patch_size, self.width, num_patches))
        for number in range(1, self.depth + 1):
            network.add_module(f"block{number}", _Block(self.width, self.heads, self.dropout))
        network.add_module("norm", nn.LayerNorm(self.width))
        network.add_module("class_token", _ClassToken())
        network.add_module("classifier", nn.Linear(self.width, num_classes))
        network.apply(_initialise)
        return network


class _Embedding(nn.Module):
    """Images (B, C, H, W) to tokens (B, 1 + patches, width): the class token first, positions added."""

    def __init__(self, channels: int, patch_size: int, width: int, num_patches: int) -> None:
        super().__init__()
        self.patches = nn.Conv2d(channels, width, kernel_size=patch_size, stride=patch_size)
        self.token = nn.Parameter(torch.zeros(1, 1, width))
        self.positions = nn.Parameter(torch.empty(1, 1 + num_patches, width))
        nn.init.trunc_normal_(self.positions, std=INITIAL_SD)

    def forward(self, images: Tensor) -> Tensor:
        patches = self.patches(images).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.token.expand(patches.shape[0], -1, -1), patches], dim=1)
        return tokens + self.positions


class _Block(nn.Module):
    """tokens + attention(norm(tokens)), then + mlp(norm(tokens))."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attention = nn.MultiheadAttention(width, heads, batch_first=True)
        self.dropout = nn.Dropout(dropout)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = nn.Sequential(
            nn.Linear(width, MLP_RATIO * width),
            nn.GELU(),
            nn.Dropout(dropout),
            nn.Linear(MLP_RATIO * width, width),
            nn.Dropout(dropout),
        )

    def forward(self, tokens: Tensor) -> Tensor:
        normed = self.norm1(tokens)
        tokens = tokens + self.dropout(self.attention(normed, normed, normed, need_weights=False)[0])
        mixed: Tensor = tokens + self.mlp(self.norm2(tokens))
        return mixed


class _ClassToken(nn.Module):
    """The first token of each row."""

    def forward(self, tokens: Tensor) -> Tensor:
        return tokens[:, 0]


def _initialise(module: nn.Module) -> None:
    # The output projection of attention is a subclass of nn.Linear, which keeps PyTorch's start.
    if type(module) is nn.Linear:
        nn.init.trunc_normal_(module.weight, std=INITIAL_SD)
        nn.init.zeros_(module.bias)
