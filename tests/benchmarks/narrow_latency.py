"""Speed of networks from which channels were removed, against the whole network: forward pass on one thread, in CPU time.

Random weights; the least important channels by magnitude are removed. Whole and smaller network take turns. Prints one line for
each network, share of FLOPs and batch size.
Run: python tests/benchmarks/narrow_latency.py
"""

import json
import time

import torch

from pruneyard.workloads.deploy.timing import compare, torch_threads
from pruneyard.workloads.models.convnet import ConvNet
from pruneyard.workloads.models.mlp import Mlp
from pruneyard.workloads.models.resnet20 import ResNet20
from pruneyard.workloads.models.vit_tiny import ViTTiny
from pruneyard.workloads.networks.narrowing import without_groups
from pruneyard.workloads.sparse.narrow import Narrow

SHAPE = (3, 32, 32)
MODELS = {"mlp 1024": Mlp(width=1024), "convnet 128": ConvNet(), "resnet20": ResNet20(), "vit_tiny, depth 4": ViTTiny(depth=4)}
SHARES = (0.75, 0.5, 0.25)


def main() -> None:
    """Prints a line for each measurement."""
    for name, model in MODELS.items():
        torch.manual_seed(0)
        network = model.build(image_shape=SHAPE, num_classes=10).eval()
        for share in SHARES:
            try:
                graph, removed = Narrow(flops=share).removed(network, SHAPE, seed=0)
            except ValueError as error:
                print(json.dumps({"network": name, "flops": share, "refused": str(error)}), flush=True)
                continue
            smaller = without_groups(network, graph, removed)
            for batch_size in (1, 32):
                images = torch.randn(batch_size, *SHAPE)
                with torch_threads(1):
                    found = compare(smaller, network, images, span_s=1.0, clock=time.thread_time)
                line = {"network": name, "flops": share, "batch": batch_size, "speedup": round(found.speedup, 2)}
                print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
