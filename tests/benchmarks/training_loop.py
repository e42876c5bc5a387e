"""Images per second of the training loop against a hand-written one and against torchvision's DataLoader with PIL transforms.

All train the same network from the same start on the same images with the same optimizer, one thread. The bare loop gathers from
the same uint8 tensor and normalises as one would write it; the DataLoader does what tutorials do. Measurements alternate, and
the ratio is the median of the rounds' ratios. Run: python tests/benchmarks/training_loop.py
"""

import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.nn import functional
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset
from torchvision import transforms

from pruneyard.workloads.checkpoint import CheckpointFolder
from pruneyard.workloads.data.batches import Augmentation
from pruneyard.workloads.data.dataset import Dataset, Split
from pruneyard.workloads.models.convnet import ConvNet
from pruneyard.workloads.models.mlp import Mlp
from pruneyard.workloads.networks.builder import ModelBuilder
from pruneyard.workloads.optimizers.sgd import SGD
from pruneyard.workloads.sparse.methods.dense import Dense
from pruneyard.workloads.training.loop import train
from pruneyard.workloads.training.recipe import Budget, Recipe
from pruneyard.workloads.workload import Context

BATCH = 128
ROUNDS = 7


def random_images(shape: tuple[int, int, int], num_rows: int) -> Dataset:
    """Returns noise of the right size: speed does not depend on what the images show."""
    generator = np.random.default_rng(0)

    def split(size: int) -> Split:
        images = generator.integers(0, 256, size=(size, *shape), dtype=np.uint8)
        return Split.from_arrays(images, generator.integers(10, size=size))

    names = tuple(str(i) for i in range(10))
    channels = shape[0]
    return Dataset(
        name="noise",
        classes=names,
        mean=(0.5,) * channels,
        std=(0.29,) * channels,
        train=split(num_rows),
        val=split(0),
        calib=split(0),
        test=split(10),
    )


def ours(model: ModelBuilder, data: Dataset, augment: Augmentation) -> float:
    """Images per second of `train`."""
    recipe = Recipe(budget=Budget(epochs=1, batch_size=BATCH, evaluate_every=0), optimizer=SGD(), augment=augment)
    with tempfile.TemporaryDirectory() as folder:
        context = Context(checkpoints=CheckpointFolder(Path(folder)))
        *_, last = train(recipe, model=model, method=Dense(), data=data, seed=0, context=context)
    assert last.outcome is not None
    return last.step * BATCH / last.outcome.train_s


def fresh(model: ModelBuilder, data: Dataset) -> tuple[torch.nn.Module, torch.optim.Optimizer]:
    """Returns a network and the optimizer that our SGD table builds."""
    network = model.build(image_shape=data.image_shape, num_classes=10)
    return network, torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4, fused=True)


def bare(model: ModelBuilder, data: Dataset, _augment: Augmentation) -> float:
    """Images per second of the shortest loop that does the same without augmentation."""
    network, optimizer = fresh(model, data)
    images, labels = torch.from_numpy(data.train.images), torch.from_numpy(data.train.labels)
    mean, std = (torch.tensor(values).view(1, -1, 1, 1) for values in (data.mean, data.std))
    order = torch.randperm(len(images))
    num_batches = len(images) // BATCH
    started = time.perf_counter()
    for i in range(num_batches):
        rows = order[i * BATCH : (i + 1) * BATCH]
        batch = (images[rows].float() / 255 - mean) / std
        optimizer.zero_grad()
        loss = functional.cross_entropy(network(batch), labels[rows])
        loss.backward()
        optimizer.step()
    return num_batches * BATCH / (time.perf_counter() - started)


class PilImages(TorchDataset[tuple[torch.Tensor, int]]):
    """Does what torchvision's data sets do: an array becomes a PIL image and goes through transforms, one by one."""

    def __init__(self, split: Split, transform: Callable[[Image.Image], torch.Tensor]) -> None:
        self.images, self.labels, self.transform = split.images, split.labels, transform

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        pixels = np.squeeze(self.images[index].transpose(1, 2, 0))
        return self.transform(Image.fromarray(pixels)), int(self.labels[index])


def data_loader(model: ModelBuilder, data: Dataset, augment: Augmentation) -> float:
    """Images per second with per-sample transforms in this process."""
    network, optimizer = fresh(model, data)
    size = data.image_shape[-1]
    steps = [transforms.ToTensor(), transforms.Normalize(data.mean, data.std)]
    if augment.pad:
        steps = [transforms.RandomCrop(size, padding=augment.pad), transforms.RandomHorizontalFlip(), *steps]
    loader = DataLoader(PilImages(data.train, transforms.Compose(steps)), BATCH, shuffle=True, drop_last=True)
    started = time.perf_counter()
    for batch, labels in loader:
        optimizer.zero_grad()
        loss = functional.cross_entropy(network(batch), labels)
        loss.backward()
        optimizer.step()
    return len(loader) * BATCH / (time.perf_counter() - started)


CASES: dict[str, tuple[ModelBuilder, tuple[int, int, int], int, Augmentation]] = {
    "mlp 256-256, 1x28x28": (Mlp(), (1, 28, 28), 25_600, Augmentation()),
    "mlp 256-256, 1x8x8": (Mlp(), (1, 8, 8), 25_600, Augmentation()),
    "convnet width 32, 3x32x32": (ConvNet(width=32), (3, 32, 32), 2_560, Augmentation()),
    "convnet width 32, 3x32x32, crop and flip": (
        ConvNet(width=32),
        (3, 32, 32),
        2_560,
        Augmentation(pad=4, flip=True),
    ),
}


def main() -> None:
    """Prints images per second (medians) and the ratios (medians over rounds)."""
    torch.set_num_threads(1)
    for name, (model, shape, num_rows, augment) in CASES.items():
        data = random_images(shape, num_rows)
        loops = {"ours": ours, "data_loader": data_loader} | ({} if augment.pad else {"bare": bare})
        rounds = [{k: loop(model, data, augment) for k, loop in loops.items()} for _ in range(ROUNDS)]
        speed = {k: round(statistics.median(r[k] for r in rounds)) for k in loops}
        ratios = {
            f"ours/{k}": round(statistics.median(r["ours"] / r[k] for r in rounds), 3) for k in loops if k != "ours"
        }
        print(json.dumps({"case": name, "images_per_s": speed, "ratios": ratios}))


if __name__ == "__main__":
    main()
