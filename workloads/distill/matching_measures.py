"""Measures why few networks may do for gradient matching: how their gradients differ, and how a set matches fresh networks."""

from collections.abc import Callable, Sequence
from itertools import combinations

import torch
from torch import Tensor, nn

from pruneyard.workloads.data.multi_formation import decode, decode_labels
from pruneyard.workloads.data.synthetic_set import SyntheticSet
from pruneyard.workloads.distill.distiller import DistillContext
from pruneyard.workloads.distill.initial_images import normalise
from pruneyard.workloads.distill.matching import loss_gradient, matched_parameters

ROWS = 64  # real images per class


def gradient_diversity(first_network: Callable[[int], nn.Module], num: int, context: DistillContext) -> float:
    """Returns the mean of 1 - cosine between the gradients of pairs of the networks that the first `num` paths begin with.

    Gradients are those of the convolutions on the same real images of a class, all layers as one vector; the mean is over classes
    and pairs. 0: all networks have the same gradients, so that one of them would do.
    """
    networks = [first_network(number) for number in range(num)]
    found = []
    for images, labels in _real_images(context):
        vectors = [_gradient(network, images, labels) for network in networks]
        found += [1 - torch.cosine_similarity(one, other, dim=0) for one, other in combinations(vectors, 2)]
    return float(torch.stack(found).mean())


def fresh_matching(synthetic: SyntheticSet, num: int, context: DistillContext) -> float:
    """Returns the mean of 1 - cosine between the gradients on synthetic and on real images of a class, in `num` fresh networks.

    The networks are new and untrained, and no path of any method begins with them, so that sets of all methods are judged alike.
    """
    networks = [context.network("measure", number) for number in range(num)]
    pixels, classes = decode(synthetic.images, synthetic.factor), decode_labels(synthetic.labels, synthetic.factor)
    images = normalise(pixels.to(context.device), context)
    found = []
    for real, labels in _real_images(context):
        own = classes.to(context.device) == labels[0]
        for network in networks:
            one, other = _gradient(network, images[own], classes[own.cpu()].to(context.device)), _gradient(network, real, labels)
            found.append(1 - torch.cosine_similarity(one, other, dim=0))
    return float(torch.stack(found).mean())


def _real_images(context: DistillContext) -> list[tuple[Tensor, Tensor]]:
    """Returns normalised real images and labels of every class, the same for all networks."""
    generator = context.stream("measure")
    rows = [context.real.sample_rows(label, ROWS, generator) for label in range(context.real.num_classes)]
    return [
        (context.real.images(own), torch.full((len(own),), label, device=context.device)) for label, own in enumerate(rows)
    ]


def _gradient(network: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """Returns the gradient of the mean cross-entropy by the convolutions, as one vector."""
    gradients: Sequence[Tensor] = loss_gradient(network, matched_parameters(network, classifier=False), images, labels)
    return torch.cat([gradient.flatten() for gradient in gradients])
