"""Multi-formation: one stored image is cut into factor x factor crops, each resized to a full training image.

Reference: Kim et al. 2022, Dataset Condensation via Efficient Synthetic-Data Parameterization (IDC, arXiv:2205.14959)
"""

import torch
from torch import Tensor
from torch.nn import functional

GREY = 0.5  # padding of images whose sides are no multiple of the factor, as a pixel in [0, 1]


def decode(images: Tensor, factor: int) -> Tensor:
    """Decodes (N, C, H, W) pixels to (factor^2 N, C, H, W): first the upper left crops of all images, then those to their right.

    The result is linear in the images. Crops have sides of ceil(H / factor) and ceil(W / factor) and are resized bilinearly.
    """
    if factor == 1:
        return images
    height, width = images.shape[2:]
    tall, wide = -(-height // factor), -(-width // factor)
    padded = functional.pad(images, (0, wide * factor - width, 0, tall * factor - height), value=GREY)
    crops = [
        padded[..., i * tall : (i + 1) * tall, j * wide : (j + 1) * wide] for i in range(factor) for j in range(factor)
    ]
    return functional.interpolate(torch.cat(crops), size=(height, width), mode="bilinear", align_corners=False)


def decode_labels(labels: Tensor, factor: int) -> Tensor:
    """Repeats labels (N, ...) to (factor^2 N, ...), in the order of `decode`."""
    return torch.cat([labels] * factor**2)
