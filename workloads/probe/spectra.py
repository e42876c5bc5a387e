"""Spectra of weight matrices, and the exponent of their tails."""

import math

import torch
from torch import Tensor


def windows(matrix: Tensor, aspect: float) -> list[Tensor]:
    """Returns submatrices that cover a matrix (m, n) and whose longer side is `aspect` times the shorter, as nearly as possible.

    They are as large as fits and evenly spread; they overlap where the sides are no multiples. Neither side is below 2 unless
    that of the matrix is.
    """
    if matrix.shape[0] < matrix.shape[1]:
        matrix = matrix.T
    long, short = matrix.shape
    height, width = (round(aspect * short), short) if round(aspect * short) <= long else (long, max(1, round(long / aspect)))
    return [
        matrix[top : top + height, left : left + width] for top in _starts(long, height) for left in _starts(short, width)
    ]


def _starts(side: int, size: int) -> list[int]:
    num = math.ceil(side / size)
    return [round(number * (side - size) / max(1, num - 1)) for number in range(num)]


def eigenvalues(matrix: Tensor) -> Tensor:
    """Returns the squared singular values of a matrix in descending order, float64 on the CPU.

    Those that rounding alone explains are 0: a sparse matrix may lack full rank.
    """
    sizes: Tensor = torch.linalg.svdvals(matrix.to("cpu", torch.float64))
    rounding = max(matrix.shape) * torch.finfo(torch.float64).eps * sizes[:1]
    return torch.where(sizes > rounding, sizes, 0.0).square()


def hill_exponent(values: Tensor, tail: float) -> float:
    """Returns the exponent a of a density that falls as x^-a, from the largest share `tail` of positive values (n,).

    This is 1 + k / sum(log(x_i / x_(k+1))) over the k largest. Returns NaN for fewer than two values, or a tail without spread.

    Reference: Hill 1975, A Simple General Approach to Inference About the Tail of a Distribution (Annals of Statistics 3).
    """
    ordered = values[values > 0].sort(descending=True).values
    num = min(len(ordered) - 1, max(1, int(tail * len(ordered))))
    if num < 1:
        return math.nan
    total = float((ordered[:num] / ordered[num]).log().sum())
    return 1 + num / total if total > 0 else math.nan
