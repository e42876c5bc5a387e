"""Trains a small vision transformer of its own under RigL and dense, and compares the two.

Run it in an empty folder: python own_vit.py
"""

import torch
from torch import Tensor, nn

import pruneyard


class Vit(nn.Module):
    """A transformer on patches of 2 x 2 pixels."""

    def __init__(self, width: int = 32, depth: int = 2, heads: int = 4, image_shape=(1, 8, 8), num_classes: int = 10) -> None:
        super().__init__()
        channels, height, wide = image_shape
        self.patches = nn.Conv2d(channels, width, kernel_size=2, stride=2)
        self.position = nn.Parameter(torch.zeros(1, (height // 2) * (wide // 2), width))
        layer = nn.TransformerEncoderLayer(width, heads, 2 * width, dropout=0.0, batch_first=True, norm_first=True)
        self.encoder = nn.TransformerEncoder(layer, depth, enable_nested_tensor=False)
        self.classifier = nn.Linear(width, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        tokens = self.patches(images).flatten(2).transpose(1, 2) + self.position
        return self.classifier(self.encoder(tokens).mean(dim=1))


if __name__ == "__main__":
    results = pruneyard.run(
        {
            "name": "own-vit",
            "kind": "sparse",
            "data": {"name": "digits"},
            "optimizer": {"name": "adamw", "lr": 0.003},
            "budget": {"epochs": 4, "batch_size": 64},
            "seeds": 2,
            "grid": {"method": [{"name": "dense"}, {"name": "rigl", "density": 0.3, "schedule": {"every": 10}}]},
        },
        model=Vit,
        out="out/own-vit",
        local=True,
    )
    print(results.summary().to_string(index=False))
    print(results.compare("rigl", "dense", metric="test/accuracy").T.to_string())
    network = results.network(results.best()["run_key"])
    print(f"logits of the best network: {tuple(network(torch.zeros(3, 1, 8, 8)).shape)}")
