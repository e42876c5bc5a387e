"""The training loop of every kind of job: one generator that reads from top to bottom."""

import time
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from workloads.calibrate.metrics import reliability, softmax, standard_metrics
from workloads.data.batches import DeviceSplit, epoch_order
from workloads.data.dataset import Dataset
from workloads.gradients.plain import Plain
from workloads.networks.builder import ModelBuilder
from workloads.recipe import Recipe
from workloads.seeding import stream_seed
from workloads.sparse.updater import MaskUpdater
from workloads.training import Training
from workloads.workload import (
    Context,
    CurvePoint,
    InterruptedJobError,
    Metric,
    Outcome,
    Predictions,
    Progress,
)

PLAIN = Plain()  # where a mask update replaces the step, no gradient is corrected
ASK_EVERY_S = 0.5  # how often a running job asks whether it should stop


def train(
    recipe: Recipe, *, model: ModelBuilder, method: MaskUpdater, data: Dataset, seed: int, context: Context
) -> Iterator[Progress]:
    """Trains one network on `data.train`; reports on `val` and `test` at every evaluation, on `calib` too at the end.

    Goes on from the context's newest good checkpoint. Raises `NonFiniteError` at the evaluation after a loss that is not
    finite, and `InterruptedJobError`, with a checkpoint written, when the context asks to stop.
    """
    budget, device = recipe.budget, context.device
    splits = {
        name: DeviceSplit(
            split, mean=data.mean, std=data.std, device=device, channels_last=budget.channels_last
        )
        for name, split in {"train": data.train, "val": data.val, "calib": data.calib, "test": data.test}.items()
        if len(split)
    }
    num_rows = len(data.train)
    per_epoch, interval = budget.steps_per_epoch(num_rows), budget.evaluation_interval(num_rows)
    batch_size = min(budget.batch_size, num_rows)
    training = Training.start(
        model,
        recipe=recipe,
        method=method,
        seed=seed,
        image_shape=data.image_shape,
        num_classes=data.num_classes,
        num_rows=num_rows,
        device=device,
    )
    saved = context.checkpoints.load(device)
    if saved is not None:
        training.restore(saved, data=data.fingerprint)
    unreported = list(training.history)
    order = epoch_order(num_rows, seed=seed, epoch=training.step // per_epoch).to(device)
    augment_stream = torch.Generator()

    def batch_of(step: int) -> tuple[Tensor, Tensor]:
        """Images and labels of a step of the current epoch, augmented."""
        position = step % per_epoch
        rows = order[position * batch_size : (position + 1) * batch_size]
        augment_stream.manual_seed(stream_seed(seed, "augment", step))
        return splits["train"].batch(rows, recipe.augment, augment_stream)

    asked_at = saved_at = time.monotonic()
    training.start_clock()

    while training.step < training.num_steps:
        epoch, position = divmod(training.step, per_epoch)
        if position == 0:
            order = epoch_order(num_rows, seed=seed, epoch=epoch).to(device)
            training.look(batch_of, num_batches=per_epoch)
        images, labels = batch_of(training.step)

        training.set_rate()
        due = method.is_due(training.step, num_steps=training.num_steps)
        rule = PLAIN if due and method.replaces_step else recipe.gradient
        loss, corrected = training.differentiate(images, labels, rule=rule)
        training.record_loss(loss, num_rows=batch_size, grows=method.follows_gradient or (due and method.grows_by_gradient))
        training.follow_gradients()
        updated = training.updated_masks() if due else None
        training.take_gradients(corrected)  # masked as before the update: what was grown now takes no step yet
        if updated is not None:
            training.apply_masks(updated)
        if not (due and method.replaces_step):
            training.optimizer.step()
        training.step += 1

        now = time.monotonic()
        if training.step % interval == 0 and training.step < training.num_steps:
            mean_loss = training.take_losses()
            training.stop_clock()
            logits = logits_of(training, splits, "val", "test")
            new = metrics_at(training, logits, splits, epoch=training.step / per_epoch, mean_loss=mean_loss)
            training.history += new
            yield Progress(step=training.step, num_steps=training.num_steps, metrics=(*unreported, *new))
            unreported = []
            training.start_clock()
        stopping = now - asked_at >= ASK_EVERY_S and context.should_stop()
        if stopping or now - saved_at >= budget.checkpoint_every_s:
            training.stop_clock()
            context.checkpoints.save(training.checkpoint(data=data.fingerprint))
            training.start_clock()
            saved_at = time.monotonic()
        if stopping:
            raise InterruptedJobError(training.step)
        asked_at = now if now - asked_at >= ASK_EVERY_S else asked_at

    training.stop_clock()
    context.checkpoints.save(training.checkpoint(data=data.fingerprint))
    mean_loss = training.take_losses()
    logits = logits_of(training, splits, "val", "calib", "test")
    new = metrics_at(training, logits, splits, epoch=training.step / per_epoch, mean_loss=mean_loss)
    yield Progress(
        step=training.step,
        num_steps=training.num_steps,
        metrics=(*unreported, *new),
        curves=(*density_curve(training), *reliability_curves(training.step, logits, splits)),
        outcome=outcome_of(training, logits, data),
    )


def logits_of(training: Training, splits: Mapping[str, DeviceSplit], *names: str) -> dict[str, Tensor]:
    """Outputs on those of the named splits that have rows."""
    return {name: training.logits(splits[name]) for name in names if name in splits}


def metrics_at(
    training: Training,
    logits: Mapping[str, Tensor],
    splits: Mapping[str, DeviceSplit],
    *,
    epoch: float,
    mean_loss: float,
) -> list[Metric]:
    """Standard metrics per split, and the training's own: mean loss since the last evaluation, density, explored."""
    named = {
        (split, name): value
        for split, outputs in logits.items()
        for name, value in standard_metrics(outputs.numpy(), splits[split].labels.cpu().numpy()).items()
    }
    named["train", "loss"] = mean_loss
    named["train", "density"] = training.density()
    named["train", "flops"] = training.train_flops
    named["train", "explored"] = training.explored_share()
    named |= {("train", name): value for name, value in training.rule.numbers.items()}
    return [
        Metric(step=training.step, epoch=epoch, split=split, name=name, value=value, wall_s=training.train_s)
        for (split, name), value in named.items()
    ]


def density_curve(training: Training) -> list[CurvePoint]:
    """Density of every prunable layer, in network order; `count` is the layer's number of weights."""
    return [
        CurvePoint(name="density", step=training.step, key=name, x=i, y=y, count=training.weights[name].numel())
        for i, (name, y) in enumerate(training.densities().items())
    ]


def reliability_curves(
    step: int, logits: Mapping[str, Tensor], splits: Mapping[str, DeviceSplit]
) -> list[CurvePoint]:
    """Filled bins of the reliability diagram of every split: x confidence, y accuracy, count rows."""
    points = []
    for split, outputs in logits.items():
        bins = reliability(softmax(outputs.numpy()), splits[split].labels.cpu().numpy())
        points += [
            CurvePoint(name="reliability", step=step, key=split, x=float(x), y=float(y), count=int(count))
            for x, y, count in zip(bins.confidence, bins.accuracy, bins.count, strict=True)
            if count
        ]
    return points


def outcome_of(training: Training, logits: Mapping[str, Tensor], data: Dataset) -> Outcome:
    """What the finished training leaves, on the CPU."""
    on_gpu = training.device.type == "cuda"
    return Outcome(
        predictions={
            name: Predictions(row_ids=split.row_ids, labels=split.labels, logits=logits[name].numpy())
            for name, split in {"val": data.val, "calib": data.calib, "test": data.test}.items()
            if name in logits
        },
        weights={name: tensor.detach().cpu() for name, tensor in training.network.state_dict().items()},
        masks={name: mask.cpu() for name, mask in training.sparse.masks.items()},
        num_parameters=training.num_parameters(),
        num_active=training.num_active(),
        train_flops=training.train_flops,
        train_s=training.train_s,
        peak_memory_bytes=torch.cuda.max_memory_allocated(training.device) if on_gpu else None,
    )
