"""Random numbers that are a function of a seed and of the row, so that an image gets the same ones in every batch.

A counter is hashed (the finaliser of SplitMix64) in integer tensors, without a generator and without a loop over rows. Reference:
Steele, Lea and Flood 2014, Fast Splittable Pseudorandom Number Generators (OOPSLA).
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from pruneyard.workloads.seeding import stream_seed


@dataclass(frozen=True, kw_only=True)
class RowNoise:
    """The random numbers of some rows. rows: (B,) int64, the rows' numbers in their data set, on the device of the images."""

    seed: int
    rows: Tensor

    def uniform(self, name: str, *shape: int) -> Tensor:
        """Returns numbers in (0, 1), (B, *shape) float32; another name gives unrelated ones."""
        key = _signed(stream_seed(self.seed, f"corruption/{name}"))
        per_row = _mixed(self.rows + key)
        counters = torch.arange(1, math.prod(shape) + 1, device=self.rows.device) * _GOLDEN
        bits = _shifted(_mixed(per_row[:, None] + counters), 40)  # 24 bits, as many as a float32 holds
        return ((bits.to(torch.float32) + 0.5) * 2**-24).view(-1, *shape)

    def normal(self, name: str, *shape: int) -> Tensor:
        """Returns standard normal numbers (B, *shape) float32, by the transform of Box and Muller."""
        radius = (-2 * self.uniform(f"{name}/radius", *shape).log()).sqrt()
        return radius * (2 * math.pi * self.uniform(f"{name}/angle", *shape)).cos()


def _signed(number: int) -> int:
    """Returns the signed 64-bit number with the same bits."""
    return (number + 2**63) % 2**64 - 2**63


_GOLDEN = _signed(0x9E3779B97F4A7C15)
_FACTORS = (_signed(0xBF58476D1CE4E5B9), _signed(0x94D049BB133111EB))


def _shifted(bits: Tensor, places: int) -> Tensor:
    """Returns a logical shift to the right; that of torch copies the sign."""
    return (bits >> places) & ((1 << (64 - places)) - 1)


def _mixed(bits: Tensor) -> Tensor:
    bits = (bits ^ _shifted(bits, 30)) * _FACTORS[0]
    bits = (bits ^ _shifted(bits, 27)) * _FACTORS[1]
    return bits ^ _shifted(bits, 31)
