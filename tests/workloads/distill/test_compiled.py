"""Compiled gradients against uncompiled ones."""

import pytest
import torch
from distilling import Double, generator

from pruneyard.workloads.distill import matching
from pruneyard.workloads.distill.compiled import compile_gradients
from pruneyard.workloads.models.convnet import ConvNet

MODEL = ConvNet(width=3, depth=1)


@pytest.mark.slow
def test_compiled_gradients_are_the_same() -> None:
    """In float64; the real batch leaves a piece that is not whole."""
    model = Double(model=MODEL)
    network, gradient_functions = model.build(image_shape=(1, 8, 8), num_classes=3), compile_gradients(model, (1, 8, 8), 3)
    parameters = matching.matched_parameters(network, classifier=True)
    images = torch.randn((7, 1, 8, 8), generator=generator(), dtype=torch.float64)
    labels = torch.arange(7) % 3
    wanted = matching.chunked_gradient(network, parameters, images, labels, chunk=4)
    gradients = gradient_functions.chunked_gradient(network, parameters, images, labels, chunk=3)
    for found, known in zip(gradients, wanted, strict=True):
        torch.testing.assert_close(found, known, rtol=1e-9, atol=1e-12)
    known = matching.match_gradients(network, parameters, images[:2], labels[:2], wanted, distance="cosine")
    found = gradient_functions.match_gradients(network, parameters, images[:2], labels[:2], wanted, distance="cosine")
    for ours, theirs in zip(found, known, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12)


def test_running_statistics_are_refused() -> None:
    with pytest.raises(ValueError, match=r"^compile is true, but .* running statistics"):
        compile_gradients(ConvNet(width=4, depth=1, norm="batch"), (1, 8, 8), 3)
