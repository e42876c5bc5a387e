"""Groups of M adjacent inputs of a weight, as N:M sparsity has them."""

from torch import Tensor


def check_nm(n: int, m: int) -> None:
    """Raises `ValueError` unless n of m weights can be active."""
    if m < 1:
        raise ValueError(f"m is {m}; it must be at least 1")
    if not 1 <= n <= m:
        raise ValueError(f"n is {n}; it must lie in [1, {m}], m")


def by_input_groups(tensor: Tensor, m: int) -> Tensor:
    """Maps a tensor (outputs, inputs, *kernel) to groups of inputs at one output and place of the kernel, (groups, m)."""
    return tensor.movedim(1, -1).reshape(-1, m)


def from_input_groups(groups: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Maps groups, of any shape with their entries in order, to a contiguous tensor of a weight's shape."""
    return groups.reshape(shape[0], *shape[2:], shape[1]).movedim(-1, 1).contiguous()
