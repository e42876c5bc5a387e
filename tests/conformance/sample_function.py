"""A training function, the example of the kind `function` in its conformance suite."""

import torch

from pruneyard.workloads.function.context import FunctionContext


def descend(lr: float, context: FunctionContext, steps: int = 3) -> None:
    """Minimises a noisy parabola and saves a checkpoint after every step."""
    place, first = torch.ones(2), 1
    if (state := context.restore()) is not None:
        place, first = state["place"], state["step"] + 1
    for step in range(first, steps + 1):
        place = place - lr * (place + 0.1 * torch.randn(2))
        context.report(step=step, loss=place.square().sum())
        context.checkpoint({"place": place, "step": step})
