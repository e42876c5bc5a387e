"""Multi-formation: one stored image stands for the factor x factor crops it is cut into, each brought back to full size.

Reference: Kim et al. 2022, Dataset Condensation via Efficient Synthetic-Data Parameterization (IDC, arXiv:2205.14959)
"""

import torch
from torch import Tensor
from torch.nn import functional

GREY = 0.5  # what images are padded with that the factor does not divide, as a pixel in [0, 1]


def decode(images: Tensor, factor: int) -> Tensor:
    """(N, C, H, W) pixels to (factor^2 N, C, H, W): the upper left crops of all images first, then those to their right.

    Linear in the images. Crops have sides of ceil(H / factor) and ceil(W / factor) and are enlarged bilinearly.
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


def decoded_labels(labels: Tensor, factor: int) -> Tensor:
    """(N, ...) to (factor^2 N, ...), in the order of `decode`."""
    return torch.cat([labels] * factor**2)
