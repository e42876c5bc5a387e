"""Rules that every pattern of masks must keep, alone and under the methods that take one. Members are found by their files."""

import dataclasses
import math
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from pruneyard.testing.plug_in import build_with, examples
from pruneyard.workloads.masks.masks import active_per_layer, hash_masks
from pruneyard.workloads.masks.sparse_index import is_full
from pruneyard.workloads.plugins import find, names
from pruneyard.workloads.sparse.pattern import LayerMove, Pattern
from pruneyard.workloads.training.mask_updater import MaskUpdater, SparseState, UpdateContext

FAMILY = "sparse.patterns"
METHODS = ("static", "set", "rigl", "magnitude", "one_shot")
SHAPES = {"wide.weight": (16, 24), "deep.weight": (8, 8, 3, 3), "middle.weight": (24, 16, 1, 1), "last.weight": (12, 16)}
NUM_STEPS, EVERY = 100, 20

pytestmark = pytest.mark.parametrize("name", names(FAMILY))


def patterns(name: str) -> Iterator[Pattern]:
    """Yields the pattern with each of its examples; at least one of `SHAPES` must fit."""
    for settings in examples(FAMILY, name):
        pattern: Pattern = build_with(FAMILY, name, settings)
        assert fitting(pattern), f"none of {SHAPES} fits"
        yield pattern


def fitting(pattern: Pattern) -> dict[str, tuple[int, ...]]:
    return {layer: shape for layer, shape in SHAPES.items() if not pattern.refusal(shape)}


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def tensors(seed: int, *, ties: bool = False) -> dict[str, Tensor]:
    """Returns random tensors of `SHAPES`; with `ties`, of few different values."""
    rng = generator(seed)
    values = {layer: torch.randn(shape, generator=rng) for layer, shape in SHAPES.items()}
    return {layer: value.round() if ties else value for layer, value in values.items()}


def cells_of(pattern: Pattern, mask: Tensor) -> Tensor:
    """Returns the mask (groups, cells); fails where the entries of a cell differ."""
    entries = pattern.divide(mask)
    assert torch.equal(entries, entries[:, :, :1].expand_as(entries)), "a cell is neither active nor inactive"
    return entries[:, :, 0]


def check_obeys(pattern: Pattern, mask: Tensor) -> None:
    """Checks that all groups have the same number of active cells; with ablation, a group may have none."""
    assert mask.dtype == torch.bool
    assert mask.is_contiguous() or is_full(mask)
    counts = set(cells_of(pattern, mask).sum(1).tolist())
    assert len(counts - {0} if pattern.reads_gradient else counts) == 1


def methods_with(pattern: Pattern) -> Iterator[tuple[str, MaskUpdater]]:
    """Yields the methods that take the pattern, with layers that do not fit kept dense."""
    dense = tuple(layer for layer in SHAPES if layer not in fitting(pattern))
    for method in METHODS:
        cls = find("sparse.methods", method)
        fields: dict[str, Any] = {"density": pattern.density or 0.3, "pattern": pattern, "keep_dense": dense}
        if method == "one_shot":
            fields["ranking"] = "layer"
        if pattern.reads_gradient and method == "set":
            continue
        built = cls(**fields)
        if hasattr(built, "schedule"):
            built = dataclasses.replace(built, schedule=dataclasses.replace(built.schedule, every=EVERY))
        yield method, built


def context_of(step: int, state: SparseState, seed: int) -> UpdateContext:
    weights = {layer: w * state.masks[layer] if layer in state.masks else w for layer, w in tensors(seed).items()}
    return UpdateContext(
        step=step,
        num_steps=NUM_STEPS,
        weights=weights,
        gradients=tensors(seed + 1000),
        generator=generator(seed),
        network=None,  # type: ignore[arg-type]  # no method here runs the network
    )


def states(method: MaskUpdater) -> Iterator[SparseState]:
    """Yields the state at the start and after each update."""
    state = method.start(tensors(0), generator=generator())
    yield state
    for step in range(NUM_STEPS):
        if method.is_due(step, num_steps=NUM_STEPS):
            state = method.update(state, context_of(step, state, step))
            yield state


def test_cells_hold_every_entry_once(name: str) -> None:
    for pattern in patterns(name):
        for shape in fitting(pattern).values():
            places = torch.arange(math.prod(shape)).reshape(shape)
            entries = pattern.divide(places)
            assert sorted(entries.flatten().tolist()) == list(range(math.prod(shape)))
            assert tuple(entries.shape) == pattern.sizes(shape)
            assert torch.equal(pattern.join(entries, shape), places)


def test_layers_keep_whole_cells_of_about_their_share(name: str) -> None:
    for pattern in patterns(name):
        shapes = fitting(pattern)
        for density in {pattern.density or share for share in (0.05, 0.3, 0.77, 1.0)}:
            wanted = {layer: max(1, round(density * math.prod(shape))) for layer, shape in shapes.items()}
            counts = pattern.whole_counts(wanted, shapes)
            for layer, count in counts.items():
                groups, cells, entries = pattern.sizes(shapes[layer])
                assert count % (groups * entries) == 0
                assert groups * entries <= count <= groups * cells * entries
                assert count == groups * entries or abs(count - wanted[layer]) < groups * entries


def test_random_masks_have_exact_counts_in_the_pattern(name: str) -> None:
    for pattern in patterns(name):
        for shape in fitting(pattern).values():
            groups, cells, entries = pattern.sizes(shape)
            for per_group in {1, cells // 3 + 1, cells}:
                count = per_group * groups * entries
                mask = pattern.random_mask(shape, count, generator=generator())
                assert int(mask.sum()) == count
                check_obeys(pattern, mask)
                assert torch.equal(mask, pattern.random_mask(shape, count, generator=generator()))


def test_every_cell_is_drawn_equally_often(name: str) -> None:
    pattern, draws = next(patterns(name)), generator()
    shape = next(iter(fitting(pattern).values()))
    groups, cells, entries = pattern.sizes(shape)
    count, share = groups * entries * (cells // 3 + 1), (cells // 3 + 1) / cells
    seen = sum(pattern.random_mask(shape, count, generator=draws).double() for _ in range(400))
    assert isinstance(seen, Tensor)
    assert ((seen - 400 * share).abs() < 5.5 * (400 * share * (1 - share)) ** 0.5).all()


def test_the_kept_cells_are_those_of_largest_sums(name: str) -> None:
    for pattern in patterns(name):
        shapes = fitting(pattern)
        scores = {layer: tensors(1)[layer].abs() for layer in shapes}
        full = {layer: torch.ones(shape, dtype=torch.bool) for layer, shape in shapes.items()}
        counts = {layer: math.prod(shape) // 2 for layer, shape in shapes.items()}
        found = pattern.keep_largest(scores, full, scope="layer", counts=counts, generator=generator())
        for layer, mask in found.items():
            sums, kept = pattern.divide(scores[layer]).sum(2), cells_of(pattern, mask)
            groups, _, entries = pattern.sizes(shapes[layer])
            per_group = math.ceil(counts[layer] / (groups * entries))
            for group, of_group in enumerate(sums.tolist()):
                best = sorted((-value, cell) for cell, value in enumerate(of_group))[:per_group]
                assert sorted(cell for _, cell in best) == kept[group].nonzero().squeeze(1).tolist()


def test_dropped_cells_have_the_smallest_sums_and_grown_ones_the_largest_of_their_group(name: str) -> None:
    for pattern in patterns(name):
        if pattern.reads_gradient:
            continue  # it also moves weights between groups; see the tests of the pattern
        for layer, shape in fitting(pattern).items():
            groups, cells, entries = pattern.sizes(shape)
            count = max(1, cells // 3) * groups * entries
            mask = pattern.random_mask(shape, count, generator=generator())
            weights, gradients = tensors(1)[layer].abs() * mask, tensors(2)[layer].abs()
            after = cells_of(pattern, pattern.drop_and_grow(move_of(mask, weights, gradients, count)))
            before = cells_of(pattern, mask)
            sums = [(float(v), g, c) for g, row in enumerate(pattern.divide(weights).sum(2)) for c, v in enumerate(row)]
            active = sorted(item for item in sums if before[item[1], item[2]])
            expected = {(g, c) for _, g, c in active[math.floor(0.5 * len(active)) :]}
            grow = pattern.divide(gradients).sum(2).tolist()
            for group in range(groups):
                lost = int(before[group].sum()) - sum(g == group for g, _ in expected)
                others = sorted((-grow[group][cell], cell) for cell in range(cells) if (group, cell) not in expected)
                expected |= {(group, cell) for _, cell in others[:lost]}
            assert expected == {(g, c) for g, c in after.nonzero().tolist()}


def move_of(mask: Tensor, drop_scores: Tensor, grow_scores: Tensor, count: int) -> LayerMove:
    return LayerMove(
        mask=mask,
        drop_scores=drop_scores,
        grow_scores=grow_scores,
        drop_fraction=0.5,
        count=count,
        layer="layer",
        is_last=False,
        generator=generator(),
    )


def tied_scores(name: str) -> Iterator[tuple[Pattern, int, Tensor, Tensor, Tensor]]:
    """Yields a pattern, a count, a random mask with as many active weights, and drop and grow scores with many ties."""
    for pattern in patterns(name):
        for layer, shape in fitting(pattern).items():
            groups, cells, entries = pattern.sizes(shape)
            count = max(1, cells // 3) * groups * entries
            mask = pattern.random_mask(shape, count, generator=generator())
            drop, grow = (tensors(seed, ties=True)[layer].abs() for seed in (1, 2))
            yield pattern, count, mask, drop * mask, grow


def test_ties_are_broken_within_the_pattern_and_at_exact_counts(name: str) -> None:
    for pattern, count, mask, drop, grow in tied_scores(name):
        moved = pattern.drop_and_grow(move_of(mask, drop, grow, count))
        check_obeys(pattern, moved)
        assert pattern.reads_gradient or int(moved.sum()) == count


def test_masks_of_every_method_obey_the_pattern_at_exact_counts(name: str) -> None:
    for pattern in patterns(name):
        for method_name, method in methods_with(pattern):
            counts = method.counts(tensors(0))  # type: ignore[attr-defined]
            for state in states(method):
                for layer, mask in state.masks.items():
                    check_obeys(pattern, mask)
                    assert method_name in ("magnitude", "one_shot") or pattern.reads_gradient or int(mask.sum()) == counts[layer]
            if not pattern.reads_gradient:
                assert active_per_layer(state.masks) == counts


def test_masks_depend_on_nothing_but_state_and_generator(name: str) -> None:
    """So every rank has the same masks, and a training that is resumed as well."""
    for pattern in patterns(name):
        for _, method in methods_with(pattern):
            hashes = []
            for torch_seed in (1, 2):
                with torch.random.fork_rng(devices=[]):
                    torch.manual_seed(torch_seed)
                    hashes.append([hash_masks({n: m.clone() for n, m in state.masks.items()}) for state in states(method)])
            assert hashes[0] == hashes[1]


def test_updates_write_into_no_tensor(name: str) -> None:
    for pattern in patterns(name):
        for _, method in methods_with(pattern):
            state = method.start(tensors(0), generator=generator())
            before, context = hash_masks(state.masks), context_of(EVERY, state, EVERY)
            method.update(state, context)
            untouched = context_of(EVERY, state, EVERY)
            assert hash_masks(state.masks) == before
            assert all(torch.equal(context.weights[layer], untouched.weights[layer]) for layer in SHAPES)
            assert all(torch.equal(context.gradients[layer], untouched.gradients[layer]) for layer in SHAPES)


def test_scores_that_are_not_finite_are_refused_with_the_layer(name: str) -> None:
    for pattern in patterns(name):
        layer, shape = next(iter(fitting(pattern).items()))
        groups, cells, entries = pattern.sizes(shape)
        count = max(1, cells // 3) * groups * entries
        mask = pattern.random_mask(shape, count, generator=generator())
        for place in (0, 1):
            drop, grow = tensors(1)[layer].abs(), tensors(2)[layer].abs()
            (drop, grow)[place].flatten()[0] = torch.nan
            with pytest.raises(ValueError, match=r"scores of layer"):
                pattern.drop_and_grow(move_of(mask, drop, grow, count))


def test_layers_that_do_not_fit_are_refused_by_name(name: str) -> None:
    for pattern in patterns(name):
        odd = {"odd.weight": (7, 13)}
        if pattern.refusal(odd["odd.weight"]):
            method = find("sparse.methods", "static")(density=pattern.density or 0.3, pattern=pattern)
            with pytest.raises(ValueError, match=rf"^method\.pattern is {{name: {name}.*odd\.weight has .*keep_dense"):
                method.counts({"odd.weight": torch.empty(7, 13), "last.weight": torch.empty(SHAPES["last.weight"])})


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_a_gpu_holds_the_masks_of_a_cpu(name: str) -> None:
    for pattern, count, mask, drop, grow in tied_scores(name):
        on_cpu = pattern.drop_and_grow(move_of(mask, drop, grow, count))
        on_gpu = pattern.drop_and_grow(move_of(mask.cuda(), drop.cuda(), grow.cuda(), count))
        assert torch.equal(on_cpu, on_gpu.cpu())
