"""The training loop of every kind of job: one generator that reads from top to bottom."""

import time
from collections.abc import Iterator, Mapping
from types import MappingProxyType

import torch
from torch import Tensor

from pruneyard.workloads.data.batches import DeviceSplit, epoch_order
from pruneyard.workloads.data.dataset import Dataset, Split
from pruneyard.workloads.gradients.plain import Plain
from pruneyard.workloads.networks.builder import ModelBuilder
from pruneyard.workloads.seeding import stream_seed
from pruneyard.workloads.training.evaluation import (
    density_curve,
    logits_of,
    metrics_at,
    metrics_of,
    outcome_of,
    reliability_curves,
)
from pruneyard.workloads.training.mask_updater import MaskUpdater
from pruneyard.workloads.training.ood_evaluation import show
from pruneyard.workloads.training.recipe import Recipe
from pruneyard.workloads.training.resume import assert_ranks_equal, checkpoint_of, restore, resume_from_parent
from pruneyard.workloads.training.robustness import NOT_ATTACKED, RobustAccuracy, robust_metrics
from pruneyard.workloads.training.segment import WHOLE, Segment
from pruneyard.workloads.training.split_logits import Answering
from pruneyard.workloads.training.state import Training
from pruneyard.workloads.workload import Context, InterruptedJobError, Progress, Rarely

PLAIN = Plain()  # where a mask update replaces the step, no gradient is corrected


def train(
    recipe: Recipe,
    *,
    model: ModelBuilder,
    method: MaskUpdater,
    data: Dataset,
    ood: Mapping[str, Split] = MappingProxyType({}),
    robust: RobustAccuracy = NOT_ATTACKED,
    segment: Segment = WHOLE,
    seed: int,
    context: Context,
) -> Iterator[Progress]:
    """Trains one network on `data.train`; reports on `val` and `test` at every evaluation, on `calib` too at the end.

    Its outputs on `ood`, out-of-distribution rows in the shape of the data, are reported at the end as well,
    and what attacks leave of it, as `robust` says.

    The recipe is completed by the method. Goes on from the context's newest good checkpoint; without one, from where the
    `segment` says, at whose end it ends. Raises `NonFiniteError` at the evaluation after a loss that is not finite, and
    `InterruptedJobError`, with a checkpoint written, when the context asks to stop or to pause.
    """
    recipe = method.complete(recipe)
    budget, device, ranks = recipe.budget, context.device, context.ranks

    def on_device(split: Split) -> DeviceSplit:
        """Normalised by the data trained on, whatever the rows are."""
        return DeviceSplit(split, mean=data.mean, std=data.std, device=device, channels_last=budget.channels_last)

    named = {"train": data.train, "val": data.val, "calib": data.calib, "test": data.test}
    splits = {name: on_device(split) for name, split in named.items() if len(split)}
    num_rows = len(data.train)
    per_epoch, interval = budget.steps_per_epoch(num_rows), budget.evaluation_interval(num_rows)
    batch_size = min(budget.batch_size, num_rows)
    training = Training.start(
        model,
        recipe=recipe,
        method=method,
        seed=seed,
        rows=splits["train"],
        num_classes=data.num_classes,
        ranks=ranks,
    )
    if budget.compile and ranks.size > 1 and budget.batch_norm == "synchronised" and training.prober.norms:
        raise ValueError("budget.compile is true with a batch norm of several workers; it must be false, or batch_norm local")
    saved = ranks.from_first(lambda: context.checkpoints.load(torch.device("cpu")))
    if saved is not None:
        restore(training, saved, data=data.fingerprint)
    elif segment.runs:
        resume_from_parent(training, segment, data=data.fingerprint, interval=interval, context=context)
    end = segment.end(training.num_steps)
    unreported = list(training.history)
    order = epoch_order(num_rows, seed=seed, epoch=training.step // per_epoch).to(device)
    augment_stream = torch.Generator()
    answers = Answering(training, val=splits.get("val"))

    def batch_of(step: int) -> tuple[Tensor, Tensor]:
        """Images and labels of this rank's rows in a step of the current epoch, augmented as in the whole batch."""
        position = step % per_epoch
        rows = order[position * batch_size : (position + 1) * batch_size]
        augment_stream.manual_seed(stream_seed(seed, "augment", step))
        return splits["train"].batch(rows, recipe.augment, augment_stream, training.backward.share)

    def save() -> None:
        training.stop_clock()
        assert_ranks_equal(training)
        checkpoint = checkpoint_of(training, data=data.fingerprint)
        ranks.by_first(lambda: context.checkpoints.save(checkpoint))
        training.start_clock()

    should_stop, saved_at = Rarely(context.should_stop), time.monotonic()
    assert_ranks_equal(training)
    training.start_clock()

    while training.step < end:
        epoch, position = divmod(training.step, per_epoch)
        if position == 0:
            order = epoch_order(num_rows, seed=seed, epoch=epoch).to(device)
            try:
                training.on_epoch_start(batch_of, answers=answers, should_stop=lambda: any(ranks.anyone(should_stop())))
            except InterruptedJobError:
                save()
                raise
        images, labels = batch_of(training.step)

        training.set_rate()
        due = training.is_due()
        rule = PLAIN if due and method.replaces_step else recipe.gradient
        loss, corrected = training.differentiate(images, labels, rule=rule)
        grows = method.follows_gradient or (due and method.grows_by_gradient)
        training.record_loss(loss, num_rows=batch_size, grows=grows)
        if training.usable:  # else time passes and nothing else happens
            training.follow_gradients()
            updated = training.updated_masks() if due else None
            training.take_gradients(corrected)  # masked as before the update: what grew takes no step yet
            if updated is not None:
                training.apply_masks(updated)
                assert_ranks_equal(training)
            if not (due and method.replaces_step):
                training.optimizer.step()
        training.step += 1
        training.take_sample()

        pausing = False
        if training.step % interval == 0 and training.step < end:
            mean_loss = training.losses.take()
            training.stop_clock()
            logits = logits_of(training, splits, "val", "test")
            new = metrics_at(training, logits, splits, epoch=training.step / per_epoch, mean_loss=mean_loss)
            training.history += new
            yield Progress(step=training.step, num_steps=end, metrics=(*unreported, *new))
            unreported, pausing = [], context.pauses()
            training.start_clock()
        to_save = time.monotonic() - saved_at >= budget.checkpoint_every_s
        stopping, saving = ranks.anyone(should_stop() or pausing, to_save)
        if stopping or saving:
            save()
            saved_at = time.monotonic()
        if stopping:
            raise InterruptedJobError(training.step)

    save()
    training.stop_clock()
    if end == training.num_steps:
        training.check_updated()
    mean_loss = training.losses.take()
    logits = logits_of(training, splits, "val", "calib", "test")
    new = metrics_at(training, logits, splits, epoch=training.step / per_epoch, mean_loss=mean_loss)
    detected, shown = show(
        ood,
        lambda split: training.logits(on_device(split)).numpy(),
        known=logits["test"].numpy(),
        num_extra=training.num_extra,
    )
    more = detected | robust_metrics(robust, training, splits)
    new += metrics_of(training, more, epoch=training.step / per_epoch)
    yield Progress(
        step=training.step,
        num_steps=end,
        metrics=(*unreported, *new),
        curves=(*density_curve(training), *reliability_curves(training, logits, splits)),
        outcome=outcome_of(training, logits, data, shown, model=model),
    )
