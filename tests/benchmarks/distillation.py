"""Time of one step of DC, DSA, DM and IDC at the settings of their papers, part by part, against plain loops.

ConvNet-3 of width 128, ten classes of 3x32x32, 10 images per class, random pixels. The plain loop is written as the papers
describe it: whole batches, gradients of all parameters, a backward pass into everything that the loss depends on. Before any
clock runs, image gradients of both are compared in float64. Parts are timed on a share of their work and scaled up: one class
of ten, a few batches of the network's training. A ratio compares neighbours of one round; rounds alternate, and medians are
of process time on one thread, which other work on the machine disturbs less than wall time.

`shared` is a step of IDC whose real gradients and network lie on disk from an earlier job, against one that computes them.

Run: python tests/benchmarks/distillation.py [--compile] [--bfloat16] [METHOD ...].
One JSON object a line. Times exclude compilation; --bfloat16 is for first-order gradients.
"""

import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from pruneyard.workloads.data.batches import DeviceSplit
from pruneyard.workloads.data.dataset import Split
from pruneyard.workloads.data.multi_formation import decode
from pruneyard.workloads.distill import matching
from pruneyard.workloads.distill.augment import SampledTransforms, Strategy
from pruneyard.workloads.distill.compiled import compile_gradients
from pruneyard.workloads.distill.distiller import DistillContext, DistillState, RealSet
from pruneyard.workloads.distill.evaluate import cutmix
from pruneyard.workloads.distill.methods.dm import match_class_features
from pruneyard.workloads.distill.methods.idc import IDC
from pruneyard.workloads.distill.network_training import LabelledImages, NetworkState, NetworkTraining
from pruneyard.workloads.distill.reduced_precision import BFloat16Gradients
from pruneyard.workloads.models.convnet import ConvNet
from pruneyard.workloads.networks.features import features

ROUNDS, CLASSES, IPC = 5, 10, 10
SHAPE = (3, 32, 32)
DSA = "color_crop_cutout_flip_scale_rotate"
Part = Callable[[], Any]


@dataclass(frozen=True, kw_only=True)
class Setting:
    """The settings of a paper, and the part of its training that is timed: `rows` out of `training.num_images`."""

    real_batch: int
    factor: int
    distance: str
    classifier: bool
    strategy: Strategy
    training: NetworkTraining
    rows: int

    @property
    def network_strategy(self) -> Strategy:
        """The transforms of the network's training."""
        return Strategy.of(self.training.augment, always=self.strategy.always)


def by_synthetic(augment: str) -> NetworkTraining:
    """Returns a training of 50 epochs on 100 images."""
    fields: dict[str, Any] = {"momentum": 0.0, "weight_decay": 0.0, "cutmix": 0.0, "augment": augment}
    return NetworkTraining(train_on="synthetic", num_images=50 * CLASSES * IPC, batch_size=256, **fields)


ALWAYS = ("flip", "color", "cutout")
SETTINGS = {
    "dc": Setting(real_batch=256, factor=1, distance="cosine", classifier=True, strategy=Strategy(),
                  training=by_synthetic(""), rows=200),
    "dsa": Setting(real_batch=256, factor=1, distance="cosine", classifier=True, strategy=Strategy.of(DSA),
                   training=by_synthetic(DSA), rows=200),
    "idc": Setting(real_batch=64, factor=2, distance="squared", classifier=False,
                   strategy=Strategy.of("color_crop_cutout", always=ALWAYS), training=NetworkTraining(), rows=256),
}  # fmt: skip


def network_of(width: int, dtype: torch.dtype) -> nn.Module:
    torch.manual_seed(0)
    return ConvNet(width=width).build(image_shape=SHAPE, num_classes=CLASSES).to(dtype)


def draws(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@dataclass(frozen=True, kw_only=True)
class Plain:
    """The loop of the papers."""

    setting: Setting
    network: nn.Module

    def real(self, images: Tensor, drawn: SampledTransforms) -> list[Tensor]:
        """Returns the gradient of one class's whole batch by all parameters."""
        loss = functional.cross_entropy(
            self.network(drawn(images)), torch.zeros(len(images), dtype=torch.long)
        )
        return [gradient.detach() for gradient in torch.autograd.grad(loss, list(self.network.parameters()))]

    def synthetic(self, stored: Tensor, drawn: SampledTransforms, wanted: list[Tensor]) -> Tensor:
        """Returns the gradient by the images of one class, from a backward pass that also fills those of the network."""
        leaf = stored.detach().requires_grad_()
        images = drawn(decode(leaf, self.setting.factor))
        loss = functional.cross_entropy(self.network(images), torch.zeros(len(images), dtype=torch.long))
        found = torch.autograd.grad(loss, list(self.network.parameters()), create_graph=True)
        least = 2 if self.setting.classifier else 3
        pairs = [(f, w) for f, w in zip(found, wanted, strict=True) if f.ndim >= least]
        distance = torch.stack([self._distance(f, w) for f, w in pairs]).sum()
        distance.backward()
        distance.item()
        assert leaf.grad is not None
        return leaf.grad

    def _distance(self, found: Tensor, wanted: Tensor) -> Tensor:
        if self.setting.distance == "squared":
            return ((found - wanted) ** 2).sum()
        a, b = found.flatten(1), wanted.flatten(1)
        return (1 - (a * b).sum(1) / (a.norm(dim=1) * b.norm(dim=1) + 1e-6)).sum()

    def training(self, pile: LabelledImages) -> None:
        """Trains on `rows` images, in whole batches."""
        of, generator = self.setting.training, draws(3)
        optimizer = torch.optim.SGD(
            self.network.parameters(), lr=of.lr, momentum=of.momentum, weight_decay=of.weight_decay
        )
        for rows in _shuffled_rows(pile.num_images, self.setting.rows, of.batch_size, generator):
            images, labels = pile.batch(rows)
            images = self.setting.network_strategy.sample(generator, num=len(images))(images)
            targets = functional.one_hot(labels, CLASSES).to(images.dtype)
            if of.cutmix and float(torch.rand((), generator=generator)) < of.cutmix:
                images, targets = cutmix(images, targets, generator)
            optimizer.zero_grad()
            loss = functional.cross_entropy(self.network(images), targets)
            loss.backward()
            optimizer.step()
            loss.item()


def _shuffled_rows(num: int, rows: int, size: int, generator: torch.Generator) -> list[Tensor]:
    batches: list[Tensor] = []
    while rows > 0:
        order = torch.randperm(num, generator=generator)[:rows]
        batches += order.split(size)
        rows -= len(order)
    return batches


@dataclass(frozen=True, kw_only=True)
class Ours:
    """The functions of this package that the methods call."""

    setting: Setting
    network: nn.Module
    gradient_functions: matching.GradientFunctions
    chunk: int | None = None  # by default what caches hold

    @property
    def parameters(self) -> list[nn.Parameter]:
        return matching.matched_parameters(self.network, classifier=self.setting.classifier)

    def real(self, images: Tensor, drawn: SampledTransforms) -> list[Tensor]:
        """Returns the gradient of one class."""
        labels = torch.zeros(len(images), dtype=torch.long)
        seen = drawn(images)
        chunk = matching.choose_chunk_size(self.network, seen, self.chunk)
        return self.gradient_functions.chunked_gradient(self.network, self.parameters, seen, labels, chunk=chunk)

    def synthetic(self, stored: Tensor, drawn: SampledTransforms, wanted: list[Tensor]) -> Tensor:
        """Returns the gradient by the images of one class."""
        leaf = stored.detach().requires_grad_()
        seen = drawn(decode(leaf, self.setting.factor))
        labels = torch.zeros(len(seen), dtype=torch.long)
        _, by_seen = self.gradient_functions.match_gradients(
            self.network, self.parameters, seen, labels, wanted, distance=self.setting.distance
        )
        (gradient,) = torch.autograd.grad(seen, leaf, by_seen)
        return gradient

    def training(self, pile: LabelledImages) -> None:
        """Trains on `rows` images."""
        training = NetworkTraining(**{**vars(self.setting.training), "num_images": self.setting.rows})
        start = NetworkState.initial(self.network)
        training.run(
            self.network,
            start.momentum,
            pile,
            draws(3),
            strategy=self.setting.network_strategy,
            gradient_functions=self.gradient_functions,
        )


def batch(num: int, dtype: torch.dtype, seed: int) -> Tensor:
    return torch.randn((num, *SHAPE), generator=draws(seed), dtype=dtype)


def largest_difference(setting: Setting, gradient_functions: matching.GradientFunctions) -> float:
    """Returns the largest difference of image gradients in float64 on a narrow network, relative to the largest entry."""
    network = network_of(8, torch.float64)
    drawn, real, mine = (
        setting.strategy.sample(draws(2)),
        batch(40, torch.float64, 0),
        batch(IPC, torch.float64, 1),
    )
    found = []
    for kind in (
        Plain(setting=setting, network=network),
        Ours(setting=setting, network=network, gradient_functions=gradient_functions, chunk=16),
    ):
        found.append(kind.synthetic(mine, drawn, kind.real(real, drawn)))
    return float((found[0] - found[1]).abs().max() / found[0].abs().max())


def seconds(part: Part) -> tuple[float, float]:
    """Process and wall."""
    cpu, wall = time.process_time(), time.perf_counter()
    part()
    return time.process_time() - cpu, time.perf_counter() - wall


def of_gradient_matching(
    setting: Setting, gradient_functions: matching.GradientFunctions
) -> tuple[Mapping[str, Mapping[str, Part]], dict[str, float]]:
    """Parts by name, plain and ours; and what each counts for in one step of the images."""
    network = network_of(128, torch.float32)
    real, mine = batch(setting.real_batch, torch.float32, 0), batch(IPC, torch.float32, 1)
    drawn, on = setting.strategy.sample(draws(2)), setting.training.train_on
    num = CLASSES * IPC if on == "synthetic" else 1000
    pile = LabelledImages.from_tensors(batch(num, torch.float32, 4), torch.arange(num) % CLASSES, num_classes=CLASSES)
    kinds = {
        "plain": Plain(setting=setting, network=network),
        "ours": Ours(setting=setting, network=network, gradient_functions=gradient_functions),
    }
    parts = {}
    for name, kind in kinds.items():
        parts[name] = {
            "real": partial(kind.real, real, drawn),
            "synthetic": partial(kind.synthetic, mine, drawn, kind.real(real, drawn)),
            "training": partial(kind.training, pile),
        }
    return parts, {"real": CLASSES, "synthetic": CLASSES, "training": setting.training.num_images / setting.rows}


def plain_dm(network: nn.Module, mine: Tensor, real: Tensor, drawn: SampledTransforms) -> Tensor:
    """Matches whole batches, with a graph of the network's parameters on both sides."""
    leaf = mine.detach().requires_grad_()
    wanted = features(network, drawn(real)).detach().mean(0)
    loss = ((features(network, drawn(leaf)).mean(0) - wanted) ** 2).sum()
    loss.backward()
    loss.item()
    assert leaf.grad is not None
    return leaf.grad


def of_dm() -> tuple[Mapping[str, Mapping[str, Part]], dict[str, float], float]:
    """Returns one part of the work: a class."""
    drawn = Strategy.of(DSA).sample(draws(2))
    narrow = (network_of(8, torch.float64), batch(IPC, torch.float64, 1), batch(256, torch.float64, 0), drawn)
    plain, ours = plain_dm(*narrow), match_class_features(*narrow)[1]
    wide = (network_of(128, torch.float32), batch(IPC, torch.float32, 1), batch(256, torch.float32, 0), drawn)
    parts = {"plain": {"class": partial(plain_dm, *wide)}, "ours": {"class": partial(match_class_features, *wide)}}
    return parts, {"class": CLASSES}, float((plain - ours).abs().max() / plain.abs().max())


def measured(parts: Mapping[str, Mapping[str, Part]], counts: Mapping[str, float]) -> dict[str, Any]:
    """Medians of process seconds per step by part, and ratios plain / ours."""
    for part in counts:
        for kind in ("plain", "ours"):
            parts[kind][part]()
    rounds = [
        {part: {kind: seconds(parts[kind][part]) for kind in ("plain", "ours")} for part in counts}
        for _ in range(ROUNDS)
    ]

    def total(of: Mapping[str, Any], kind: str, clock: int) -> float:
        return sum(counts[part] * of[part][kind][clock] for part in counts)

    def median(numbers: list[float]) -> float:
        return round(statistics.median(numbers), 2)

    return {
        "plain_s": {part: median([counts[part] * r[part]["plain"][0] for r in rounds]) for part in counts},
        "ours_s": {part: median([counts[part] * r[part]["ours"][0] for r in rounds]) for part in counts},
        "ratio": {
            part: median([r[part]["plain"][0] / r[part]["ours"][0] for r in rounds]) for part in counts
        },
        "ratio_of_step": median([total(r, "plain", 0) / total(r, "ours", 0) for r in rounds]),
        "ratio_of_step_wall": median([total(r, "plain", 1) / total(r, "ours", 1) for r in rounds]),
    }


def shared() -> dict[str, Any]:
    """Seconds of two steps: computed, computed and kept, and read back; and whether the images are equal bit for bit."""
    generator = np.random.default_rng(0)
    pictures = generator.integers(0, 256, (3000, *SHAPE), dtype=np.uint8)
    rows = Split.from_arrays(pictures, np.arange(3000) % CLASSES)
    real = RealSet.of(
        DeviceSplit(rows, mean=(0.5,) * 3, std=(0.25,) * 3),
        mean=(0.5,) * 3,
        std=(0.25,) * 3,
        num_classes=CLASSES,
    )
    context = DistillContext(real=real, model=ConvNet(), seed=0, data="random")
    found, times = [], {}
    with tempfile.TemporaryDirectory() as folder:
        os.environ["PRUNEYARD_CACHE"] = folder
        for name, cache_mb in (("computed", 0), ("kept", 100), ("read", 100)):
            method = IDC(ipc=IPC, cache_mb=cache_mb)
            states = [method.start(context)]

            def step(method: IDC = method, states: list[DistillState] = states) -> None:
                states.append(method.iterate(states[-1], len(states) - 1, context))

            both = [seconds(step) for _ in range(2)]
            times[name] = {
                clock: round(sum(pair[i] for pair in both), 2)
                for i, clock in enumerate(("process_s", "wall_s"))
            }
            found.append(states[-1].tensors["images"])
        kept_mb = sum(file.stat().st_size for file in Path(folder).rglob("*.safetensors")) / 2e6
    equal = all(torch.equal(found[0], other) for other in found[1:])
    ratio = round(times["computed"]["process_s"] / times["read"]["process_s"], 2)
    return {**times, "ratio": ratio, "equal": equal, "mb_per_step": round(kept_mb, 1)}


def main() -> None:
    """Measures every method."""
    torch.set_num_threads(1)
    gradient_functions: matching.GradientFunctions = matching
    if "--compile" in sys.argv:
        gradient_functions = compile_gradients(ConvNet(), SHAPE, CLASSES)
    if "--bfloat16" in sys.argv:
        gradient_functions = BFloat16Gradients(gradient_functions)
    names = [name for name in sys.argv[1:] if not name.startswith("--")] or [*SETTINGS, "dm", "shared"]
    for name in names:
        if name == "shared":
            print(json.dumps({"method": name, "load": round(os.getloadavg()[0], 1)} | shared()), flush=True)
            continue
        if name == "dm":
            parts, counts, difference = of_dm()
        else:
            parts, counts = of_gradient_matching(SETTINGS[name], gradient_functions)
            difference = largest_difference(SETTINGS[name], matching)
        about = {"method": name, "load": round(os.getloadavg()[0], 1), "float64_difference": difference}
        print(json.dumps(about | measured(parts, counts)), flush=True)


if __name__ == "__main__":
    main()
