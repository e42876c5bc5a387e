"""The difference of gradients in bfloat16 from those in float32."""

import torch
from distilling import generator
from torch.nn import functional

from pruneyard.workloads.distill import matching
from pruneyard.workloads.distill.matching import matched_parameters
from pruneyard.workloads.distill.reduced_precision import BFloat16Gradients
from pruneyard.workloads.models.convnet import ConvNet


def test_gradients_in_bfloat16_point_the_same_way() -> None:
    """On the network of the literature, narrowed. Numbers of 8 bits are off by 0.4% at most, so a few steps apart by a few
    percent: the cosine of each layer stays above 0.99, and lengths agree within 5%. Weights are left as they are."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = ConvNet(width=16).build(image_shape=(3, 32, 32), num_classes=10)
    parameters = matched_parameters(network, classifier=True)
    images, labels = torch.randn((32, 3, 32, 32), generator=generator()), torch.arange(32) % 10
    exact = matching.chunked_gradient(network, parameters, images, labels, chunk=16)
    reduced = BFloat16Gradients(matching).chunked_gradient(network, parameters, images, labels, chunk=16)
    for found, known in zip(reduced, exact, strict=True):
        assert found.dtype == torch.float32
        assert not torch.equal(found, known)
        assert float(functional.cosine_similarity(found.flatten(), known.flatten(), dim=0)) > 0.99
        assert abs(float(found.norm() / known.norm()) - 1) < 0.05


def test_synthetic_images_are_matched_in_float32() -> None:
    network = ConvNet(width=4, depth=2).build(image_shape=(1, 8, 8), num_classes=3)
    parameters = matched_parameters(network, classifier=False)
    images, labels = torch.randn((4, 1, 8, 8), generator=generator()), torch.arange(4) % 3
    wanted = [torch.zeros_like(parameter) for parameter in parameters]
    found, known = (
        gradient_functions.match_gradients(network, parameters, images, labels, wanted, distance="squared")
        for gradient_functions in (BFloat16Gradients(matching), matching)
    )
    assert torch.equal(found[1], known[1])
