"""Latency of exported networks with random masks at densities 0.1, 0.05 and 0.02 against their dense twins, on CPU.

One thread, batches of 1 and 128, every format that runs on a CPU; measurements take turns with the dense twin, and the speedup
is the median of the rounds' ratios. `dense` is the control: the same kernels on both sides, so what it is off 1
is the error of the measurement. One JSON object a line. Wants a quiet machine, and says how busy it was; with
--cpu-time it counts the CPU seconds of its thread instead of the time that passes, which a busy machine leaves
nearly as they are.
With --pattern masks are those of a pattern: constant_fan_in, or block of 8x8, where layers that do not fit stay dense.
Run: python tests/benchmarks/latency.py [--cpu-time] [--pattern NAME] [MODEL ...]. Models are mlp, convnet and resnet20; the
first two by default.
"""

import argparse
import json
import os
import time
from collections.abc import Callable
from typing import Any

import torch

from pruneyard.workloads.deploy.files import pack
from pruneyard.workloads.deploy.format import Format
from pruneyard.workloads.deploy.timing import compare, device_name, torch_threads
from pruneyard.workloads.masks.distributions import active_counts
from pruneyard.workloads.masks.masks import prunable_weights
from pruneyard.workloads.networks.finished import Blueprint, FinishedNetwork
from pruneyard.workloads.plugins import find, names
from pruneyard.workloads.sparse.pattern import Pattern
from pruneyard.workloads.sparse.patterns.block import Block
from pruneyard.workloads.sparse.patterns.constant_fan_in import ConstantFanIn
from pruneyard.workloads.sparse.patterns.unstructured import Unstructured

CASES: dict[str, tuple[dict[str, Any], tuple[int, int, int]]] = {
    "mlp": ({"name": "mlp"}, (1, 28, 28)),
    "convnet": ({"name": "convnet"}, (3, 32, 32)),
    "resnet20": ({"name": "resnet20"}, (3, 32, 32)),
}
PATTERNS: dict[str, Pattern] = {
    "unstructured": Unstructured(),
    "constant_fan_in": ConstantFanIn(),
    "block": Block(shape=(8, 8)),
}
DENSITIES = (0.1, 0.05, 0.02)
BATCH_SIZES = (1, 128)
SPAN_S = 1.0
Clock = Callable[[], float]


def random_network(case: str, density: float, pattern: Pattern) -> FinishedNetwork:
    """Returns a fresh network with ERK masks in the pattern."""
    model, shape = CASES[case]
    fields = {key: value for key, value in model.items() if key != "name"}
    torch.manual_seed(0)
    network = find("models", model["name"])(**fields).build(image_shape=shape, num_classes=10)
    shapes = {name: tuple(weight.shape) for name, weight in prunable_weights(network).items()}
    shapes = {name: shape for name, shape in shapes.items() if not pattern.refusal(shape)}
    counts = pattern.whole_counts(active_counts(shapes, density=density, rule="erk"), shapes)
    generator = torch.Generator().manual_seed(0)
    masks = {name: pattern.random_mask(shapes[name], count, generator=generator) for name, count in counts.items()}
    zeros, ones = (0.0,) * shape[0], (1.0,) * shape[0]
    blueprint = Blueprint(model=model, image_shape=shape, num_outputs=10, mean=zeros, std=ones)
    return FinishedNetwork.of(blueprint, weights=network.state_dict(), masks=masks)


def measured(form: str, network: FinishedNetwork, batch_size: int, clock: Clock) -> dict[str, object]:
    """Returns the latency of one network in one format, or why it cannot be measured."""
    chosen: Format = find("deploy.formats", form)()
    if refusal := chosen.fit(network).refusal:
        return {"refused": refusal[:120]}
    exported = chosen.build(network, batch_size=batch_size)
    images = network.random_images(batch_size)
    found = compare(exported.run, network.network, images, span_s=SPAN_S, clock=clock)
    return {
        "ms": round(1e3 * found.median_s, 4),
        "dense_ms": round(1e3 * found.dense_median_s, 4),
        "speedup": round(found.speedup, 2),
        "speedup_10_90": [round(found.speedup_low, 2), round(found.speedup_high, 2)],
        "kB": round(len(chosen.encode(network)) / 1e3, 1),
        "dense_layers": sum(kernel.startswith("dense") for kernel in exported.kernels.values()),
    }


def main(cases: list[str], clock: Clock, pattern: str) -> None:
    """Prints one line for each network, density and batch size."""
    forms = [form for form in names("deploy.formats") if find("deploy.formats", form).device.type == "cpu"]
    print(
        json.dumps(
            {
                "device": device_name(torch.device("cpu")),
                "torch": torch.__version__,
                "threads": 1,
                "clock": clock.__name__,
                "pattern": pattern,
            }
        ),
        flush=True,
    )
    with torch_threads(1):
        for case in cases:
            for density in DENSITIES:
                network = random_network(case, density, PATTERNS[pattern])
                dense_kb = len(pack(network, network.network.state_dict(), format="dense")) / 1e3
                promised = network.dense_forward_flops / network.forward_flops
                for batch_size in BATCH_SIZES:
                    facts = {"case": case, "density": density, "batch": batch_size}
                    facts |= {"by_flops": round(promised, 1), "dense_kB": round(dense_kb, 1)}
                    formats = {form: measured(form, network, batch_size, clock) for form in forms}
                    print(json.dumps(facts | {"load": os.getloadavg()[0], "formats": formats}), flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("models", nargs="*", default=["mlp", "convnet"])
    parser.add_argument("--cpu-time", action="store_true")
    parser.add_argument("--pattern", choices=list(PATTERNS), default="unstructured")
    options = parser.parse_args()
    main(options.models, time.thread_time if options.cpu_time else time.perf_counter, options.pattern)
