"""The three products of a training step of one linear layer with constant fan-in, by the form in which its index is used, on CPU.

The products are the outputs, the gradient at the inputs, and the gradient of the stored values, at batch size 128. Each cell has
CPU milliseconds on one thread, the median over rounds in which all forms take turns. All compute the same mask, with equally many
inputs of every neuron:

dense: products with the masked weight; the gradient of the values is the dense one times the mask.
csr: torch's CSR matrix and that of its transpose, multiplied by MKL; a sampled product for the values.
ours: what `execution: sparse` does with any mask: weighted sums of rows over compressed rows and those of the transpose; the
    same sampled product.
regular: what only a regular index allows: weighted sums of equally many rows; for the inputs, an addition for each of a neuron's
    inputs; for the values, gathered rows times gradients in batches of neurons, of the size (of three) that is fastest. The
    additions are left out above 100 inputs.
Run: python tests/benchmarks/constant_fan_in_step.py [--width 256 1024 4096] [--density 0.1 0.05 0.02 0.01 0.005] [--rounds 7]
"""

import argparse
import statistics
import time
import warnings
from collections.abc import Callable

import torch
from constant_fan_in import masked_layer
from torch import Tensor, nn

from pruneyard.workloads.deploy.timing import device_name, torch_threads
from pruneyard.workloads.execution.products import product, sampled_product
from pruneyard.workloads.masks.sparse_index import SparseIndex
from pruneyard.workloads.sparse.patterns.constant_fan_in import ConstantFanIn

BATCH_SIZE = 128
SPAN_S = 5e-3
MAX_ADDITIONS = 100
Forms = dict[str, Callable[[], Tensor]]


def products_of(width: int, density: float) -> dict[str, Forms]:
    """Returns the three products in all forms; raises `AssertionError` if one form computes something else than the first."""
    layer, mask = masked_layer(width, density, ConstantFanIn())
    index, weight, factor = SparseIndex.of_mask(mask), layer.weight.detach(), mask.float()
    values, fan_in = weight.flatten()[index.flat], index.num_active // width
    columns, gradient = torch.randn(width, BATCH_SIZE), torch.randn(width, BATCH_SIZE)
    rows, factors = index.columns.view(width, fan_in), values.view(width, fan_in)
    csr = torch.sparse_csr_tensor(index.starts, index.columns, values, (width, width))
    transposed = (index.transposed_starts, index.transposed_columns, values[index.order], (width, width))
    transposed_csr = torch.sparse_csr_tensor(*transposed)
    transposed_index = SparseIndex((width, width), *transposed[:2])

    def additions() -> Tensor:
        total = torch.zeros_like(columns)
        for number in range(fan_in):
            total.index_add_(0, rows[:, number], gradient * factors[:, number : number + 1])
        return total

    def gathered(neurons: int) -> Tensor:
        found = torch.empty(width, fan_in)
        for first in range(0, width, neurons):
            part = slice(first, first + neurons)
            inputs = columns[rows[part].flatten()].view(-1, fan_in, BATCH_SIZE)
            torch.bmm(inputs, gradient[part, :, None], out=found[part, :, None])
        return found.flatten()

    sizes = sorted({min(width, max(1, floats // (fan_in * BATCH_SIZE))) for floats in (1 << 16, 1 << 18, 1 << 20)})
    size = min(sizes, key=lambda neurons: seconds(lambda: gathered(neurons), 1))
    found: dict[str, Forms] = {
        "outputs": {
            "dense": lambda: weight @ columns,
            "csr": lambda: csr @ columns,
            "ours": lambda: product(columns, values, None, index=index, captured=None),
            "regular": lambda: nn.functional.embedding_bag(rows, columns, mode="sum", per_sample_weights=factors),
        },
        "at inputs": {
            "dense": lambda: weight.t() @ gradient,
            "csr": lambda: transposed_csr @ gradient,
            "ours": lambda: product(gradient, values[index.order], None, index=transposed_index, captured=None),
            **({"regular": additions} if fan_in <= MAX_ADDITIONS else {}),
        },
        "at values": {
            "dense": lambda: (gradient @ columns.t()).mul_(factor).flatten()[index.flat],
            "csr": lambda: sampled_product(gradient, columns, values, index),
            "ours": lambda: sampled_product(gradient, columns, values, index),
            "regular": lambda: gathered(size),
        },
    }
    for forms in found.values():
        expected, *others = (form() for form in forms.values())
        for other in others:
            torch.testing.assert_close(other, expected, rtol=1e-3, atol=1e-3)
    found["at values"]["dense"] = lambda: (gradient @ columns.t()).mul_(factor)  # a masked step gathers nothing
    return found


def times_ms(forms: Forms, rounds: int) -> dict[str, float]:
    """Returns the median CPU milliseconds of one call of each form."""
    calls = {name: max(1, round(SPAN_S / max(seconds(form, 1), 1e-6))) for name, form in forms.items()}
    found: dict[str, list[float]] = {name: [] for name in forms}
    for _ in range(rounds):
        for name, form in forms.items():
            found[name].append(1e3 * seconds(form, calls[name]))
    return {name: statistics.median(times) for name, times in found.items()}


def seconds(act: Callable[[], Tensor], calls: int) -> float:
    """Returns the mean CPU seconds of some calls, after one more."""
    act()
    began = time.thread_time()
    for _ in range(calls):
        act()
    return (time.thread_time() - began) / calls


def main() -> None:
    """Prints a Markdown table: for each product the times, then the sums of a step."""
    parser = argparse.ArgumentParser(description="Products of a training step with constant fan-in, by form of the index.")
    parser.add_argument("--width", type=int, nargs="+", default=[256, 1024, 4096])
    parser.add_argument("--density", type=float, nargs="+", default=[0.1, 0.05, 0.02, 0.01, 0.005])
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    names = ("dense", "csr", "ours", "regular")
    print(device_name(torch.device("cpu")), "torch", torch.__version__, "one thread")
    print(f"| N, density | product | {' | '.join(names)} |\n|---|---|---|---|---|---|")
    with torch_threads(1), torch.no_grad():
        for width in options.width:
            for density in options.density:
                found = {name: times_ms(forms, options.rounds) for name, forms in products_of(width, density).items()}
                complete = [form for form in names if all(form in times for times in found.values())]
                found["step"] = {form: sum(times[form] for times in found.values()) for form in complete}
                for name, times in found.items():
                    cells = " | ".join(f"{times[form]:.3g}" if form in times else "" for form in names)
                    print(f"| {width}, {density} | {name} | {cells} |", flush=True)


if __name__ == "__main__":
    warnings.filterwarnings("ignore", message="Sparse ")
    main()
