"""The training loop: one generator that trains a network and reports at every evaluation."""

import time
from collections.abc import Iterator, Mapping
from types import MappingProxyType

import numpy as np
import torch
from torch import Tensor

from pruneyard.workloads.data.batches import DeviceSplit
from pruneyard.workloads.data.dataset import Dataset, Split
from pruneyard.workloads.execution.layers import Execution
from pruneyard.workloads.gradients.plain import Plain
from pruneyard.workloads.networks.builder import ModelBuilder
from pruneyard.workloads.seeding import stream_seed
from pruneyard.workloads.training.evaluation import (
    class_accuracy_curve,
    density_curve,
    logits_of,
    metrics_at,
    metrics_of,
    outcome_of,
    reliability_curves,
)
from pruneyard.workloads.training.execution_check import check_execution
from pruneyard.workloads.training.final_network import final_logits
from pruneyard.workloads.training.mask_updater import MaskUpdater
from pruneyard.workloads.training.mechanisms import mask_disagreement
from pruneyard.workloads.training.ood_evaluation import evaluate_ood
from pruneyard.workloads.training.recipe import Recipe
from pruneyard.workloads.training.resume import assert_ranks_equal, checkpoint_of, restore, resume_from_parent
from pruneyard.workloads.training.rewinding import rewind
from pruneyard.workloads.training.robustness import NOT_ATTACKED, RobustAccuracy, robust_metrics
from pruneyard.workloads.training.segment import WHOLE, Segment
from pruneyard.workloads.training.split_logits import TrainingLogits
from pruneyard.workloads.training.state import NOT_DUE, Training
from pruneyard.workloads.workload import (
    Context,
    InterruptedJobError,
    NonFiniteError,
    Progress,
    RateLimitedCheck,
)

NO_LOGITS = np.zeros((0, 0), dtype=np.float32)  # without OOD sets none are read, and data without test rows have none
PLAIN = Plain()  # the rule for a step that a mask update replaces: no optimizer step would use a corrected gradient


def train(
    recipe: Recipe,
    *,
    model: ModelBuilder,
    method: MaskUpdater,
    data: Dataset,
    ood: Mapping[str, Split] = MappingProxyType({}),
    robust: RobustAccuracy = NOT_ATTACKED,
    segment: Segment = WHOLE,
    execution: Execution = "masked",
    seed: int,
    context: Context,
) -> Iterator[Progress]:
    """Trains one network on `data.train` and yields metrics on `val` and `test` at every evaluation, at the end also on `calib`.

    The final report contains the logits and detection metrics on the out-of-distribution sets `ood`, whose images have the
    shape of `data`, and the accuracy under the attacks that `robust` describes. `execution` says whether weights with masks are
    stored sparse.

    The method first fills in its part of the recipe. Training resumes from the newest intact checkpoint of the context, else
    from the run that `segment` names, else it starts from step 0; it ends where the segment ends. Raises `NonFiniteError` at
    the first evaluation after a non-finite loss, and `InterruptedJobError`, after writing a checkpoint, when the context asks
    to stop or to pause.
    """
    recipe = method.complete(recipe)
    check_execution(execution, recipe, method)
    budget, device, ranks = recipe.budget, context.device, context.ranks

    def on_device(split: Split) -> DeviceSplit:
        """Moves a split to the device; any split is normalised with the statistics of the training data."""
        return DeviceSplit(
            split,
            mean=data.mean,
            std=data.std,
            device=device,
            channels_last=budget.channels_last,
            sampler=recipe.sampler,
        )

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
        execution=execution,
    )
    if budget.compile and ranks.size > 1 and budget.batch_norm == "synchronised" and training.network_tensors.norms:
        raise ValueError(
            "budget.compile is true, but a compiled network cannot synchronise batch norm over several workers; "
            "set compile: false, or batch_norm: local"
        )
    saved = ranks.broadcast_from_rank_0(lambda: context.checkpoints.load(torch.device("cpu")))
    if saved is not None:
        restore(training, saved, data=data.fingerprint)
    elif segment.runs:
        resume_from_parent(training, segment, data=data.fingerprint, interval=interval, context=context)
    end = segment.end(training.num_steps)
    unreported = list(training.history)
    order = splits["train"].epoch_order(seed, training.step // per_epoch).to(device)
    augment_stream = torch.Generator()
    split_logits = TrainingLogits(training, val=splits.get("val"))

    def batch_of(step: int) -> tuple[Tensor, Tensor]:
        """Returns images and labels of this rank's rows in a step of the current epoch.

        Augmentations are sampled for the whole batch, so that they do not depend on the number of ranks.
        """
        position = step % per_epoch
        rows = order[position * batch_size : (position + 1) * batch_size]
        augment_stream.manual_seed(stream_seed(seed, "augment", step))
        return splits["train"].batch(rows, recipe.augment, augment_stream, training.backward.share)

    def save() -> None:
        """Writes a checkpoint outside of training time, after checking that all ranks agree."""
        training.stop_clock()
        assert_ranks_equal(training)
        checkpoint = checkpoint_of(training, data=data.fingerprint)
        ranks.run_on_rank_0(lambda: context.checkpoints.save(checkpoint))
        training.start_clock()

    should_stop, saved_at = RateLimitedCheck(context.should_stop), time.monotonic()
    assert_ranks_equal(training)
    training.start_clock()

    while training.step < end:
        epoch, position = divmod(training.step, per_epoch)
        if position == 0:
            order = splits["train"].epoch_order(seed, epoch).to(device)
            try:
                training.on_epoch_start(
                    batch_of, split_logits=split_logits, should_stop=lambda: any(ranks.any_rank(should_stop()))
                )
            except InterruptedJobError:
                save()
                raise
        images, labels = batch_of(training.step)

        training.set_learning_rate()
        update_is_due = training.is_due()
        rule = PLAIN if update_is_due and method.replaces_step else recipe.gradient
        loss, corrected = training.differentiate(images, labels, rule=rule)
        grows = method.follows_gradient or (update_is_due and method.grows_by_gradient)
        training.record_loss(loss, num_rows=batch_size, grows=grows)
        if training.gradients_are_finite:  # otherwise the step is skipped, but counted
            training.observe_gradients()
            new_state = training.updated_masks() if update_is_due else None
            training.correct_gradients(corrected)  # uses the masks before the update: grown weights take no step yet
            if new_state is not None:
                rewind(training, new_state.rewound)
                training.apply_masks(new_state)
                assert_ranks_equal(training)
            is_replaced = new_state is not None and (method.replaces_step or new_state.rewound)
            if not is_replaced:
                training.optimizer.step()
        training.step += 1
        training.add_weight_sample()

        pausing = False
        if training.step % interval == 0 and training.step < end:
            mean_loss = training.losses.take()
            training.stop_clock()
            logits = logits_of(training, splits, "val", "test")
            new = metrics_at(training, logits, splits, epoch=training.step / per_epoch, mean_loss=mean_loss)
            training.history += new
            yield Progress(step=training.step, num_steps=end, metrics=(*unreported, *new))
            unreported, pausing = [], context.should_pause()
            training.start_clock()
        to_save = time.monotonic() - saved_at >= budget.checkpoint_every_s
        stopping, saving = ranks.any_rank(should_stop() or pausing, to_save)
        if stopping or saving:
            save()
            saved_at = time.monotonic()
        if stopping:
            raise InterruptedJobError(training.step)

    save()
    training.stop_clock()
    if end == training.num_steps:
        _check_no_pending_update(training)
    mean_loss = training.losses.take()
    logits = logits_of(training, splits, "val", "calib", "test")
    new = metrics_at(training, logits, splits, epoch=training.step / per_epoch, mean_loss=mean_loss)
    ood_metrics, ood_predictions = evaluate_ood(
        ood,
        lambda split: final_logits(training, on_device(split)).numpy(),
        known=logits["test"].numpy() if ood else NO_LOGITS,
        num_extra=training.num_extra,
    )
    final_metrics = ood_metrics | robust_metrics(robust, training, splits) | mask_disagreement(training, splits)
    new += metrics_of(training, final_metrics, epoch=training.step / per_epoch)
    yield Progress(
        step=training.step,
        num_steps=end,
        metrics=(*unreported, *new),
        curves=(
            *density_curve(training),
            *reliability_curves(training, logits, splits),
            *class_accuracy_curve(training, logits, splits, data.classes),
        ),
        outcome=outcome_of(training, logits, data, ood_predictions, model=model),
    )


def _check_no_pending_update(training: Training) -> None:
    """Raises `NonFiniteError` if a mask update is still pending at the end: all gradients since then overflowed."""
    if training.update_due_at != NOT_DUE:
        raise NonFiniteError(
            f"gradients overflowed in every step from step {training.update_due_at} to the end, so the mask update that was due "
            "there was never made; lower the learning rate, or give precision: float32"
        )
