"""Diversity of gradients, and matching in fresh networks: their limits, and what the methods report."""

from dataclasses import replace

import pytest
import torch
from distilling import context

from pruneyard.workloads.data.synthetic_set import SyntheticSet
from pruneyard.workloads.distill.matching_measures import ROWS, fresh_matching, gradient_diversity
from pruneyard.workloads.distill.methods.acc_dd import AccDD
from pruneyard.workloads.distill.methods.idc import IDC
from pruneyard.workloads.distill.network_training import NetworkTraining

CONTEXT = context()
TINY = {"ipc": 1, "iterations": 2, "steps": 1, "real_batch": 4, "network": NetworkTraining(num_images=8), "measured": 2}


def test_networks_that_are_alike_have_no_diversity_and_others_have() -> None:
    assert gradient_diversity(lambda number: CONTEXT.network("one"), 3, CONTEXT) == pytest.approx(0, abs=1e-5)
    assert gradient_diversity(lambda number: CONTEXT.network("one", number), 3, CONTEXT) > 0.1


def test_the_real_images_themselves_match_fresh_networks_and_noise_does_not() -> None:
    generator = CONTEXT.stream("measure")
    rows = [CONTEXT.real.sample_rows(label, ROWS, generator) for label in range(CONTEXT.real.num_classes)]
    pixels = torch.cat([CONTEXT.real.split.images[own] for own in rows]).float() / 255
    made = SyntheticSet(
        images=pixels,
        labels=torch.cat([torch.full((len(own),), label) for label, own in enumerate(rows)]),
        soft_labels=torch.zeros(0, CONTEXT.real.num_classes),
        mean=CONTEXT.real.mean,
        std=CONTEXT.real.std,
        factor=1,
    )
    assert fresh_matching(made, 2, CONTEXT) == pytest.approx(0, abs=1e-5)
    noise = replace(made, images=torch.rand(pixels.shape, generator=torch.Generator().manual_seed(0)))
    assert fresh_matching(noise, 2, CONTEXT) > 0.1


def test_idc_and_acc_dd_report_them_after_the_last_iteration_and_change_no_image() -> None:
    for method in (IDC(**TINY), AccDD(**TINY, pool=2, pretrain_epochs=1)):  # type: ignore[arg-type]
        states = {}
        for measured in (0, 2):
            own = replace(method, measured=measured)
            state = own.start(CONTEXT)
            for iteration in range(own.num_iterations):
                assert "gradient_diversity" not in state.numbers
                state = own.iterate(state, iteration, CONTEXT)
            states[measured] = state
        assert states[2].numbers.keys() - states[0].numbers.keys() == {"gradient_diversity", "fresh_matching"}
        assert torch.equal(states[0].tensors["images"], states[2].tensors["images"])
    with pytest.raises(ValueError, match="measured is 1; it must be 0, or 2 or more networks"):
        IDC(ipc=1, measured=1)


def test_the_networks_measured_are_those_of_the_paths_also_where_these_have_a_seed_of_their_own() -> None:
    method, paths = IDC(**TINY, trajectory_seed=7), context(7)  # type: ignore[arg-type]
    found = method.iterate(method.start(CONTEXT), 1, CONTEXT).numbers["gradient_diversity"]
    assert found == gradient_diversity(lambda number: paths.network("match", number), 2, CONTEXT)
