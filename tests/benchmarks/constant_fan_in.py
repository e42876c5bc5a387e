"""Times of one linear layer with constant fan-in, by kernel, beside blocks of the same density and a dense layer, on CPU.

Each cell has the CPU milliseconds of one call on one thread, the median over rounds in which all kernels take turns, and in
brackets how many times as fast it is as CSR, the median of the rounds' ratios. `csr`, `gather` and `constant_fan_in` compute the
same mask with equally many inputs of every neuron; `bsr8` and `bsr16` compute masks of blocks of about the same density.
Run: python tests/benchmarks/constant_fan_in.py [--width 256 1024 4096] [--density 0.2 0.1 0.05 0.02 0.01] [--rounds 9]
"""

import argparse
import statistics
import time
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from pruneyard.workloads.deploy.kernels import bsr_kernel, constant_fan_in_kernel, csr_kernel, gather_kernel
from pruneyard.workloads.deploy.timing import device_name, torch_threads
from pruneyard.workloads.sparse.pattern import Pattern
from pruneyard.workloads.sparse.patterns.block import Block
from pruneyard.workloads.sparse.patterns.constant_fan_in import ConstantFanIn

BATCH_SIZES = (1, 128)
SPAN_S = 5e-3
Layer = Callable[[Tensor], Tensor]


def masked_layer(width: int, density: float, pattern: Pattern) -> tuple[nn.Linear, Tensor]:
    """Returns a square layer with zeros outside a random mask of the pattern, and the mask."""
    shape = {"layer": (width, width)}
    count = pattern.whole_counts({"layer": round(density * width * width)}, shape)["layer"]
    mask = pattern.random_mask(shape["layer"], count, generator=torch.Generator().manual_seed(0))
    layer = nn.Linear(width, width)
    layer.weight.data.mul_(mask)
    return layer, mask


def layers_of(width: int, density: float) -> dict[str, Layer]:
    """Returns the dense layer and its counterparts by kernel; raises `AssertionError` if one of them computes something else."""
    regular, mask = masked_layer(width, density, ConstantFanIn())
    found: dict[str, Layer] = {"dense": regular}
    kernels = {"csr": csr_kernel, "gather": gather_kernel, "constant_fan_in": constant_fan_in_kernel}
    found |= {name: make(regular, mask) for name, make in kernels.items()}
    for side in (8, 16):
        blocks, block_mask = masked_layer(width, density, Block(shape=(side, side)))
        found[f"bsr{side}"] = bsr_kernel(blocks, block_mask)
        check(found[f"bsr{side}"], blocks, width)
    for name in kernels:
        check(found[name], regular, width)
    return found


def check(layer: Layer, dense: Layer, width: int) -> None:
    """Raises `AssertionError` unless both layers have the same outputs."""
    for batch_size in BATCH_SIZES:
        inputs = torch.randn(batch_size, width)
        torch.testing.assert_close(layer(inputs), dense(inputs), rtol=1e-3, atol=1e-4)


def times_ms(layers: Mapping[str, Layer], inputs: Tensor, rounds: int) -> dict[str, list[float]]:
    """Returns the CPU milliseconds of one call of each layer, by round."""
    calls = {name: max(1, round(SPAN_S / max(seconds(layer, inputs, 3), 1e-6))) for name, layer in layers.items()}
    found: dict[str, list[float]] = {name: [] for name in layers}
    for _ in range(rounds):
        for name, layer in layers.items():
            found[name].append(1e3 * seconds(layer, inputs, calls[name]))
    return found


def seconds(layer: Layer, inputs: Tensor, calls: int) -> float:
    """Returns the mean CPU seconds of some calls, after one more."""
    layer(inputs)
    began = time.thread_time()
    for _ in range(calls):
        layer(inputs)
    return (time.thread_time() - began) / calls


def main() -> None:
    """Prints a line for each width, density and batch size."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--width", type=int, nargs="+", default=[256, 1024, 4096])
    parser.add_argument("--density", type=float, nargs="+", default=[0.2, 0.1, 0.05, 0.02, 0.01])
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()
    print(device_name(torch.device("cpu")), "torch", torch.__version__, "one thread")
    with torch_threads(1), torch.inference_mode():
        for width in options.width:
            for density in options.density:
                layers = layers_of(width, density)
                for batch_size in BATCH_SIZES:
                    found = times_ms(layers, torch.randn(batch_size, width), options.rounds)
                    ratios = {
                        name: statistics.median(csr / own for csr, own in zip(found["csr"], times, strict=True))
                        for name, times in found.items()
                    }
                    cells = (f"{name} {statistics.median(times):.4g} ({ratios[name]:.2f})" for name, times in found.items())
                    print(f"width {width} density {density} batch {batch_size}:", " | ".join(cells), flush=True)


if __name__ == "__main__":
    main()
