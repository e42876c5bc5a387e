"""Measures at the end of a training whether random masks of its weights change what the network says."""

from collections.abc import Mapping

import torch
from torch import Tensor

from pruneyard.workloads.data.batches import DeviceSplit
from pruneyard.workloads.training.state import Training

NUM_MASKED = 8  # networks under random masks
MAX_ROWS = 2000  # of val on which they are compared


@torch.no_grad()
def mask_disagreement(training: Training, splits: Mapping[str, DeviceSplit]) -> dict[tuple[str, str], float]:
    """Returns how often networks under random masks predict another class than the trained network on the first val rows.

    The masks are those that weight dropout would sample in `NUM_MASKED` further steps, over the trained weights, which are not
    averaged; the value is the mean over them. Empty without weight dropout and without val rows.
    """
    if "val" not in splits or not training.recipe.weight_dropout.drop:
        return {}
    with training.eval_mode():
        trained = _predictions(training, splits["val"])
        shares = []
        for number in range(NUM_MASKED):
            with training.applied.step_weights(training.num_steps + number):
                shares.append((_predictions(training, splits["val"]) != trained).double().mean())
    return {("val", "mask_disagreement"): float(torch.stack(shares).mean())}


def _predictions(training: Training, split: DeviceSplit) -> Tensor:
    """Returns the predicted classes (N,) of the first rows of a split, by the network as it stands."""
    images, _ = next(iter(split.batches(MAX_ROWS)))
    num_classes = len(training.class_counts)
    with training.autocast():
        return training.forward(images)[:, :num_classes].argmax(dim=1)
