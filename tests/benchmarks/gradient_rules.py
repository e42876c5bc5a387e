"""Cost and benefit of gradient rules: seconds per step and epoch relative to plain, and the remaining variance.

Run: python tests/benchmarks/gradient_rules.py. One JSON line per case. Times are medians over rounds; a ratio compares two
trainings of the same round, which alternate. `passes` is the ratio of counted FLOPs: the ratio of times if only forward
and backward passes took time.
"""

import json
import statistics
import tempfile
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor
from training_loop import BATCH, random_images

from pruneyard.workloads.checkpoint import CheckpointFolder
from pruneyard.workloads.data.batches import Augmentation, DeviceSplit, epoch_order
from pruneyard.workloads.data.dataset import Dataset
from pruneyard.workloads.data.sources.digits import Digits
from pruneyard.workloads.gradients._covariances import GradientCovariance, LossCovariance
from pruneyard.workloads.gradients.agent import AGENT
from pruneyard.workloads.gradients.plain import Plain
from pruneyard.workloads.gradients.sam import SAM
from pruneyard.workloads.gradients.svrg import SVRG
from pruneyard.workloads.interfaces import GradientRule
from pruneyard.workloads.models.convnet import ConvNet
from pruneyard.workloads.models.mlp import Mlp
from pruneyard.workloads.networks.builder import ModelBuilder
from pruneyard.workloads.optimizers.sgd import SGD
from pruneyard.workloads.sparse.methods.static import Static
from pruneyard.workloads.training.loop import train
from pruneyard.workloads.training.recipe import Budget, Recipe
from pruneyard.workloads.training.state import Training
from pruneyard.workloads.workload import Context

ROUNDS = 5
BATCH_DIGITS = 32
RULES: dict[str, GradientRule] = {
    "plain": Plain(),
    "svrg": SVRG(),
    "sam": SAM(),
    "agent": AGENT(),
    "agent, gradient coefficient": AGENT(coefficient="gradient"),
    "agent, a tenth of the batches": AGENT(anchor_fraction=0.1),
    "agent, every fifth epoch": AGENT(refresh_every=5),
}
CASES: dict[str, tuple[ModelBuilder, tuple[int, int, int], int]] = {
    "mlp 256-256, 1x28x28": (Mlp(), (1, 28, 28), 2_560),
    "convnet width 32, batch norm, 3x32x32": (ConvNet(width=32, norm="batch"), (3, 32, 32), 384),
}


def trained(rule: GradientRule, model: ModelBuilder, data: Dataset) -> tuple[float, float]:
    """Seconds and FLOPs of five epochs."""
    recipe = Recipe(
        budget=Budget(epochs=5, batch_size=BATCH, evaluate_every=0), optimizer=SGD(lr=0.01), gradient=rule
    )
    with tempfile.TemporaryDirectory() as folder:
        context = Context(checkpoints=CheckpointFolder(Path(folder)))
        method = Static(density=0.1)
        *_, last = train(recipe, model=model, method=method, data=data, seed=0, context=context)
    assert last.outcome is not None
    assert last.outcome.train_flops is not None
    return last.outcome.train_s, last.outcome.train_flops


def time_rules() -> None:
    """Epochs relative to plain; what a step alone costs is nearest in the rule that looks every fifth epoch."""
    for name, (model, shape, num_rows) in CASES.items():
        data = random_images(shape, num_rows)
        trained(Plain(), model, data)
        rounds = [{k: trained(rule, model, data) for k, rule in RULES.items()} for _ in range(ROUNDS)]
        steps = 5 * (num_rows // BATCH)
        plain_ms = statistics.median(r["plain"][0] for r in rounds) / steps * 1000
        ratios = {k: round(statistics.median(r[k][0] / r["plain"][0] for r in rounds), 2) for k in RULES}
        passes = {k: round(rounds[0][k][1] / rounds[0]["plain"][1], 2) for k in RULES}
        case = {"case": name, "plain_ms_per_step": round(plain_ms, 2), "epoch": ratios, "passes": passes}
        print(json.dumps(case))


def moved(training: Training, split: DeviceSplit, *, epochs: range) -> dict[str, Tensor]:
    """Trains plainly; returns copies of the weights before the last of the epochs."""
    before: dict[str, Tensor] = {}
    per_epoch = len(split) // BATCH_DIGITS
    for epoch in epochs:
        before = {name: tensor.clone() for name, tensor in training.network_tensors.weights().items()}
        order = epoch_order(len(split), seed=0, epoch=epoch)
        for position in range(per_epoch):
            rows = order[position * BATCH_DIGITS : (position + 1) * BATCH_DIGITS]
            images, labels = split.batch(rows, Augmentation(), torch.Generator())
            training.set_learning_rate()
            _, corrected = training.differentiate(images, labels, rule=Plain())
            training.correct_gradients(corrected)
            training.optimizer.step()
            training.step += 1
    return before


def variance_and_bias() -> None:
    """Measures, one epoch after the snapshot on digits at density 0.1, variance over batches and the error of sampled anchors."""
    data = Digits().load()
    split = DeviceSplit(data.train, mean=data.mean, std=data.std)
    training = Training.start(
        Mlp(),
        recipe=Recipe(budget=Budget(epochs=30, batch_size=BATCH_DIGITS), optimizer=SGD(lr=0.05)),
        method=Static(density=0.1),
        seed=0,
        rows=split,
        num_classes=data.num_classes,
    )
    for after in (1, 5, 20):
        snapshot = moved(training, split, epochs=range(training.step // (len(split) // BATCH_DIGITS), after))
        print(json.dumps({"case": f"digits, epoch {after}", **measured(training, split, snapshot)}))


def measured(training: Training, split: DeviceSplit, snapshot: Mapping[str, Tensor]) -> dict[str, object]:
    """Shares of plain's variance, over the batches of one epoch and active weights."""
    per_epoch = training.steps_per_epoch
    order = epoch_order(len(split), seed=0, epoch=99)

    def batch_of(step: int) -> tuple[Tensor, Tensor]:
        position = step % per_epoch
        rows = order[position * BATCH_DIGITS : (position + 1) * BATCH_DIGITS]
        return split.batch(rows, Augmentation(), torch.Generator())

    epoch = training.epoch_start(batch_of)
    weights = {name: tensor.clone() for name, tensor in epoch.weights.items()}
    by_loss, by_gradient = LossCovariance(snapshot), GradientCovariance(snapshot, epoch.masks)
    of_snapshot = []
    for batch in epoch.batches(1.0):
        loss, gradient = batch.gradient_at(weights)
        for comparison in (by_loss, by_gradient):
            comparison.observe(batch, loss=loss, gradient=gradient)
        _, old = batch.gradient_at(snapshot)
        of_snapshot.append(torch.cat([(old[n] * epoch.masks.get(n, 1)).flatten() for n in old]))
    covariance, variance, own = by_gradient.traces()
    coefficients = {"svrg": 1.0, "loss c*": by_loss.coefficient(), "gradient c*": by_gradient.coefficient()}
    coefficients["agent, gamma 0.1"] = 0.1 * (coefficients["loss c*"] or 0.0)

    def left(c: float) -> float:
        return round((own - 2 * c * covariance + c * c * variance) / own, 3)

    full = torch.stack(of_snapshot).mean(0)
    generator = torch.Generator().manual_seed(0)
    errors = {}
    for fraction in (0.1, 0.25, 0.5):
        num = max(1, round(fraction * per_epoch))
        picks = [torch.randperm(per_epoch, generator=generator)[:num].tolist() for _ in range(50)]
        off = [float((torch.stack([of_snapshot[i] for i in pick]).mean(0) - full).norm()) for pick in picks]
        errors[str(fraction)] = round(statistics.mean(off) / float(full.norm()), 3)
    return {
        "coefficients": {k: None if c is None else round(c, 3) for k, c in coefficients.items()},
        "variance_left": {k: left(c) for k, c in coefficients.items() if c is not None},
        "error_of_sampled_anchor_over_norm_of_full": errors,
        "root_variance_over_norm_of_full": round(own**0.5 / float(full.norm()), 3),
    }


def main() -> None:
    """Runs both parts."""
    torch.set_num_threads(1)
    variance_and_bias()
    time_rules()


if __name__ == "__main__":
    main()
