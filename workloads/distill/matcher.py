"""Steps of the images along the training path of one network after another, by matching gradients class by class.

This is what DC, DSA, IDC and Acc-DD have in common, with the switches in which they differ. One iteration is one step of the
images and the training of the network that follows it; the network and its momentum are in the state.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor, nn

from pruneyard.workloads.data.multi_formation import decode, decode_labels
from pruneyard.workloads.distill import matching, work
from pruneyard.workloads.distill.augment import Drawn, Strategy
from pruneyard.workloads.distill.compiled import compiled
from pruneyard.workloads.distill.distiller import DistillState, Lab
from pruneyard.workloads.distill.masking import Masking
from pruneyard.workloads.distill.matching import Ways, chunk_of, matched_parameters
from pruneyard.workloads.distill.network_training import NetworkTraining, Pile, Position
from pruneyard.workloads.distill.path_cache import PathCache
from pruneyard.workloads.distill.reduced_precision import BFloat16
from pruneyard.workloads.distill.starting import labels_of, momentum_step, normalised
from pruneyard.workloads.distill.work import Scene

Gradients = list[Tensor]
ClassStep = Literal["batched", "sequential", "sum"]
Precision = Literal["float32", "bfloat16"]


@dataclass(frozen=True, kw_only=True)
class Matcher:
    """The images of a state are its tensor `images`, class after class, their momentum `velocity`.

    steps: of the images per network. lr: of the images, as it is used.
    pixels: images are pixels in [0, 1], clamped when a network begins, and normalised before they are masked and augmented;
        else they are normalised, and free.
    class_step: `sum`: one step by the gradients of all classes; `sequential`: a step of all images after each class, so that
        momentum moves the other classes; `batched`: the same in one step (see `once_for_all`).
    first: the network that a path begins with, by its number; about_first: all that it depends on, beside data, model and seed.
    chunk: images per pass on a CPU, of real batches and of the network's training. compile: see `compiled`.
    precision: of first-order gradients, see `reduced_precision`.
    path_seed: what networks, real images and augmentation are drawn from, instead of the job's seed.
    share_bytes: space on disk for what can be shared with other jobs, see `PathCache`; 0: nothing is shared.
    """

    ipc: int
    factor: int = 1
    steps: int
    real_batch: int
    synthetic_batch: int | None = (
        None  # decoded images of a class that are matched at once, at random; None: all
    )
    lr: float
    momentum: float
    class_step: ClassStep
    pixels: bool
    distance: str
    classifier: bool
    strategy: Strategy
    network_strategy: Strategy
    training: NetworkTraining
    mask: Masking
    chunk: int | None
    compile: bool = False
    precision: Precision = "float32"
    first: Callable[[Lab, int], nn.Module]
    about_first: str = ""
    path_seed: int | None = None
    share_bytes: int = 0

    def flops(self, iterations: int, scene: Scene) -> float:
        """Counted work of the first so many steps, without what makes the networks that paths begin with."""
        mine = self.ipc * self.factor**2
        mine = mine if self.synthetic_batch is None else min(mine, self.synthetic_batch)
        of_real = work.first_gradient(scene.kind, classifier=self.classifier)
        of_mine = work.second_gradient(scene.kind, classifier=self.classifier)
        matching_once = scene.drawn(self.real_batch) * of_real + scene.num_classes * mine * of_mine
        num_trainings = iterations - iterations // self.steps  # none after the last step of a network
        return iterations * matching_once + num_trainings * self.training.rows * work.training(scene.kind)

    def iterate(self, state: DistillState, iteration: int, lab: Lab) -> DistillState:
        """The step of this number, counted over all networks."""
        return _Step(matcher=self, lab=lab, iteration=iteration).taken(state)


def once_for_all(lr: float, momentum: float, num_classes: int) -> tuple[float, float]:
    """Rate and momentum of one step for all classes that lead where a step after each class leads.

    Between two visits a class moves by its momentum alone, num_classes - 1 times, which sums to a geometric series. So the
    images that gradients are taken at are equal; what is ahead or behind are the moves after a class's last visit, as far as
    a clamp or the end comes before them.
    """
    kept = momentum**num_classes
    return lr * (1 - kept) / (1 - momentum), kept


@dataclass(frozen=True, kw_only=True)
class _Step:
    """One iteration; what it draws does not depend on the synthetic set, but for `subset` and `mask`."""

    matcher: Matcher
    lab: Lab
    iteration: int

    @cached_property
    def path(self) -> Lab:
        seed = self.matcher.path_seed
        return self.lab if seed is None else replace(self.lab, seed=seed)

    @cached_property
    def ways(self) -> Ways:
        ways: Ways = matching
        if self.matcher.compile:
            ways = compiled(self.lab.model, self.lab.real.split.image_shape, self.lab.real.num_classes)
        return ways if self.matcher.precision == "float32" else BFloat16(ways)

    @cached_property
    def shared(self) -> PathCache | None:
        m = self.matcher
        if not m.share_bytes or not self.lab.data or m.training.on == "synthetic":
            return None
        settings = (
            m.steps,
            m.real_batch,
            m.classifier,
            m.strategy,
            m.network_strategy,
            m.training,
            m.chunk,
            m.compile,
            m.precision,
        )
        about = (self.lab.data, self.lab.model, self.path.seed, settings, m.about_first)
        return PathCache.of(about=repr(about), device=self.lab.device, limit_bytes=m.share_bytes)

    def taken(self, state: DistillState) -> DistillState:
        m = self.matcher
        number, step = divmod(self.iteration, m.steps)
        images, velocity = state.tensors["images"], state.tensors["velocity"]
        if step == 0 and m.pixels:
            images = images.clamp(0, 1)
        position = Position.of(state.tensors) if step else Position.start(m.first(self.path, number))
        network, last = position.network(self.lab), step == m.steps - 1
        parameters = matched_parameters(network, classifier=m.classifier)
        kept = self.shared.get(self.iteration, self.lab.device) if self.shared else None
        drawn, real_rows = self._draws()
        wanted = self._real(network, parameters, drawn, real_rows) if kept is None else _unpacked(kept)
        images, velocity, loss = self._images(network, parameters, images, velocity, drawn, wanted)
        if kept is not None:
            after = Position.of(kept).tensors
        else:
            after = {} if last else self._trained(network, position, images).tensors
            if self.shared:
                self.shared.put(self.iteration, {**_packed(wanted), **after})
        tensors = {"images": images, "velocity": velocity, **after}
        return DistillState(tensors, {"matching_loss": float(loss) / self.lab.real.num_classes})

    def _images(
        self,
        network: nn.Module,
        parameters: Sequence[Tensor],
        images: Tensor,
        velocity: Tensor,
        drawn: Sequence[Drawn],
        wanted: Sequence[Gradients],
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Moved, with the sum of losses over classes."""
        m, num_classes = self.matcher, self.lab.real.num_classes
        subset, masks = (self.lab.stream(name, self.iteration) for name in ("subset", "mask"))
        total, gradient = torch.zeros((), device=images.device), torch.zeros_like(images)
        for label in range(num_classes):
            rows = slice(label * m.ipc, (label + 1) * m.ipc)
            leaf = images[rows].detach().requires_grad_()
            seen = self._seen(leaf, subset, masks, drawn[label])
            labels = torch.full((len(seen),), label, device=seen.device)
            loss, by_seen = self.ways.matched(network, parameters, seen, labels, wanted[label], by=m.distance)
            (gradient[rows],) = torch.autograd.grad(seen, leaf, by_seen)
            total += loss
            if m.class_step == "sequential":
                images, velocity = momentum_step(images, velocity, gradient, lr=m.lr, momentum=m.momentum)
                gradient = torch.zeros_like(images)
        if m.class_step == "sequential":
            return images, velocity, total
        rate, kept = (
            (m.lr, m.momentum) if m.class_step == "sum" else once_for_all(m.lr, m.momentum, num_classes)
        )
        return *momentum_step(images, velocity, gradient, lr=rate, momentum=kept), total

    def _draws(self) -> tuple[list[Drawn], list[Tensor]]:
        """Transform and real rows of each class."""
        draws, drawn, rows = self.path.stream("real", self.iteration), [], []
        for label in range(self.lab.real.num_classes):
            rows.append(self.lab.real.draw(label, self.matcher.real_batch, draws))
            drawn.append(self.matcher.strategy.draw(draws))
        return drawn, rows

    def _real(
        self, network: nn.Module, parameters: Sequence[Tensor], drawn: Sequence[Drawn], rows: Sequence[Tensor]
    ) -> list[Gradients]:
        """Of each class, on its real images."""
        wanted = []
        for label, (transform, of_class) in enumerate(zip(drawn, rows, strict=True)):
            images = transform(self.lab.real.images(of_class))
            labels = torch.full((len(images),), label, device=images.device)
            chunk = chunk_of(network, images, self.matcher.chunk)
            wanted.append(self.ways.chunked_gradient(network, parameters, images, labels, chunk=chunk))
        return wanted

    def _seen(self, stored: Tensor, subset: torch.Generator, masks: torch.Generator, drawn: Drawn) -> Tensor:
        """Images of one class as the network sees them."""
        m = self.matcher
        images = decode(stored, m.factor)
        if m.synthetic_batch is not None and len(images) > m.synthetic_batch:
            images = images[
                torch.randperm(len(images), generator=subset)[: m.synthetic_batch].to(images.device)
            ]
        return drawn(m.mask(normalised(images, self.lab) if m.pixels else images, masks))

    def _trained(self, network: nn.Module, position: Position, images: Tensor) -> Position:
        """After the training that follows the step."""
        m, real = self.matcher, self.lab.real
        pile = Pile.of_real(real)
        if m.training.on == "synthetic":
            decoded = decode(images, m.factor)
            labels = labels_of(real.num_classes, m.ipc).to(images.device)
            seen = normalised(decoded, self.lab) if m.pixels else decoded
            pile = Pile.of(seen, decode_labels(labels, m.factor), num_classes=real.num_classes)
        draws = self.path.stream("train", self.iteration)
        return m.training.follow(
            network,
            position.momentum,
            pile,
            draws,
            strategy=m.network_strategy,
            chunk=m.chunk,
            ways=self.ways,
        )


REAL = "real/"  # what the names of real gradients start with: class, then layer


def _packed(gradients: Sequence[Gradients]) -> dict[str, Tensor]:
    return {
        f"{REAL}{label}/{i}": g for label, of_class in enumerate(gradients) for i, g in enumerate(of_class)
    }


def _unpacked(tensors: Mapping[str, Tensor]) -> list[Gradients]:
    places = sorted(
        tuple(map(int, name.removeprefix(REAL).split("/"))) for name in tensors if name.startswith(REAL)
    )
    found: list[Gradients] = [[] for _ in range(places[-1][0] + 1)]
    for label, i in places:
        found[label].append(tensors[f"{REAL}{label}/{i}"])
    return found
