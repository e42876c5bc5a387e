"""N:M keeps exactly the largest weights of every group, along the input dimension."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pruneyard.workloads.sparse.methods.nm import NM


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@settings(deadline=None)
@given(st.integers(1, 8), st.integers(1, 8), st.integers(1, 5), st.integers(1, 5), st.integers(0, 99))
def test_every_group_keeps_its_largest_exactly(
    group: int, keep: int, outputs: int, groups: int, seed: int
) -> None:
    keep = min(keep, group)
    method = NM(n=keep, m=group)
    values = torch.randn(outputs, groups * group, 2, 3, generator=generator(seed))
    weight = (values * 4).round() / 4  # with ties
    mask = method.choose_masks(weight)
    assert mask.is_contiguous()
    for output in range(outputs):
        for place in ((row, column) for row in range(2) for column in range(3)):
            for number in range(groups):
                own = slice(number * group, (number + 1) * group)
                inside = mask[(output, own, *place)]
                sizes = weight[(output, own, *place)].abs()
                assert int(inside.sum()) == keep
                expected = sorted(range(group), key=lambda i: (-float(sizes[i]), i))[:keep]
                assert inside.nonzero().flatten().tolist() == sorted(expected)


def test_groups_of_a_convolution_lie_along_its_input_channels_by_hand() -> None:
    # One output, four channels of a 1x2 kernel: column 0 holds 1, 4, 3, 2 and column 1 holds 8, 5, 6, 7.
    weight = torch.tensor([[1.0, 8], [-4, 5], [3, -6], [2, 7]]).reshape(1, 4, 1, 2)
    mask = NM().choose_masks(weight)
    assert mask.reshape(4, 2).tolist() == [[False, True], [True, False], [True, False], [False, True]]


def test_layers_that_do_not_come_in_groups_stay_dense() -> None:
    method = NM()
    shapes = {
        "stem": (8, 3, 3, 3),
        "depthwise": (8, 1, 3, 3),
        "a": (12, 8, 3, 3),
        "b": (30, 20),
        "c": (10, 30),
    }
    weights = {f"{name}.weight": torch.randn(shape, generator=generator()) for name, shape in shapes.items()}
    state = method.start(weights, generator=generator())
    assert not state.masks
    assert state.forward.keys() == {"a.weight", "b.weight"}  # c has 30 inputs
    assert all(int(m.sum()) * 2 == m.numel() for m in state.forward.values())
    assert replace(method, keep_dense=("b",)).start(weights, generator=generator()).forward.keys() == {
        "a.weight"
    }
    with pytest.raises(ValueError, match=r"^m is 7; it must divide .* a\.weight \(8\)"):
        NM(m=7).start(weights, generator=generator())
