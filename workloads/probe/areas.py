"""Areas below curves over a share, such as that of the pixels which are kept."""

import torch
from torch import Tensor


def area(values: Tensor) -> float:
    """Returns the area below values (P,) at evenly spread places of 0 ... 1, by trapezoids."""
    return float(torch.trapezoid(values, torch.linspace(0, 1, len(values), dtype=values.dtype)))
