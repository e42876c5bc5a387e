"""Rules that every distillation and selection method must keep. Members are found by their files."""

import dataclasses
import io
import itertools
import shutil
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from pruneyard.testing.plug_in import build as build_plugin
from pruneyard.workloads.checkpoint import CheckpointFolder
from pruneyard.workloads.data.batches import DeviceSplit
from pruneyard.workloads.data.dataset import Dataset
from pruneyard.workloads.data.sources.digits import Digits
from pruneyard.workloads.data.synthetic_set import SyntheticSet
from pruneyard.workloads.distill.distiller import DistillContext, Distiller, DistillState, RealSet
from pruneyard.workloads.distill.evaluate import Evaluation, predict_logits, train_network
from pruneyard.workloads.distill.job import DistillJob
from pruneyard.workloads.distill.network_pool import NetworkPool
from pruneyard.workloads.distill.network_training import NetworkTraining
from pruneyard.workloads.distill.teacher import Teacher
from pruneyard.workloads.models.convnet import ConvNet
from pruneyard.workloads.plugins import names
from pruneyard.workloads.workload import Context, Outcome, Progress

FAMILY = "distill.methods"
SMALL: dict[str, Any] = {
    "iterations": 3,
    "real_batch": 8,
    "outer_loop": 2,
    "inner_loop": 1,
    "steps": 2,
    "network": NetworkTraining(num_images=24, batch_size=16),
    "pool": 2,
    "pretrain_epochs": 1,
    "network_pool": NetworkPool(members=2, max_online_updates=2),
    "experts": 2,
    "max_start_epoch": 2,
    "candidates": 12,
    "crops": 2,
    "teacher": Teacher(model=ConvNet(width=4, depth=2, norm="batch"), epochs=2, batch_size=64),
}
"""Fields that decide how long a method takes, where it has them."""

NUM_CLASSES = 3
MODEL = ConvNet(width=8, depth=2)
EVALUATION = Evaluation(networks=1, epochs=2, batch_size=16)

pytestmark = pytest.mark.parametrize("name", names(FAMILY))


def build(name: str, **fields: Any) -> Distiller:
    """Returns a method with two images per class and little work."""
    built: Distiller = build_plugin(FAMILY, name, **SMALL | fields)
    return built


@cache
def digits() -> Dataset:
    """Returns the first classes of the digits: methods that match class by class take as long as there are classes."""
    data = Digits(max_train=240, max_test=60).load()
    parts = {name: getattr(data, name) for name in ("train", "val", "calib", "test")}
    splits = {name: split.take(split.labels < NUM_CLASSES) for name, split in parts.items()}
    return dataclasses.replace(data, classes=data.classes[:NUM_CLASSES], **splits)


def context(seed: int = 0) -> DistillContext:
    data = digits()
    split = DeviceSplit(data.train, mean=data.mean, std=data.std)
    real = RealSet.of(split, mean=data.mean, std=data.std, num_classes=data.num_classes)
    return DistillContext(real=real, model=MODEL, seed=seed)


def finished(method: Distiller, at: DistillContext) -> DistillState:
    state = method.start(at)
    for iteration in range(method.num_iterations):
        state = method.iterate(state, iteration, at)
    return state


@cache
def states_of(name: str) -> list[DistillState]:
    """Returns the states at the start and after every iteration."""
    method, at = build(name), context()
    found = [method.start(at)]
    for iteration in range(method.num_iterations):
        found.append(method.iterate(found[-1], iteration, at))
    return found


def run(name: str, folder: Path, *, keep: int = 2, every_s: float = 1e9, **fields: Any) -> list[Progress]:
    job = DistillJob(
        data=Digits(), method=build(name, **fields), model=MODEL, evaluation=EVALUATION, seed=3, checkpoint_every_s=every_s
    )
    context = Context(checkpoints=CheckpointFolder(folder, keep=keep), load_data=lambda source: digits())
    return list(job.run(context))


def outcome(progress: list[Progress]) -> Outcome:
    last = progress[-1].outcome
    assert last is not None
    return last


def same_sets(first: SyntheticSet, second: SyntheticSet) -> bool:
    parts = ("images", "labels", "soft_labels")
    return all(torch.equal(getattr(first, part), getattr(second, part)) for part in parts)


def skip_if_it_keeps_everything(name: str) -> None:
    if build(name).ipc is None:
        pytest.skip("ipc is None: the set is the whole training set, for any seed")


def test_the_set_has_its_images_per_class_in_class_order(name: str) -> None:
    skip_if_it_keeps_everything(name)
    at, one = context(), build(name, ipc=1)
    for method, state in ((build(name), states_of(name)[-1]), (one, finished(one, at))):
        synthetic = method.synthetic_set(state, at)
        assert method.ipc is not None
        assert synthetic.images.shape == (NUM_CLASSES * method.ipc, *digits().image_shape)
        assert synthetic.labels.tolist() == [label for label in range(NUM_CLASSES) for _ in range(method.ipc)]
        assert torch.isfinite(synthetic.images).all()
        assert len(synthetic.soft_labels) in (0, NUM_CLASSES * method.ipc)
        assert (synthetic.mean, synthetic.std) == (digits().mean, digits().std)


def test_seeds_decide_and_nothing_else_does(name: str) -> None:
    skip_if_it_keeps_everything(name)
    method, sets = build(name), [build(name).synthetic_set(states_of(name)[-1], context(0))]
    for torch_seed, seed in ((1, 0), (2, 1)):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(torch_seed)
            before = torch.get_rng_state()
            at = context(seed)
            sets.append(method.synthetic_set(finished(method, at), at))
            assert torch.equal(torch.get_rng_state(), before)
    assert same_sets(sets[0], sets[1])
    assert not same_sets(sets[0], sets[2])


def test_every_iteration_can_be_resumed_from_and_writes_into_nothing_it_is_given(name: str) -> None:
    """Bit for bit, and so to the end as well; a state is named tensors and numbers, in no order of ours."""
    for iteration, (state, after) in enumerate(itertools.pairwise(states_of(name))):
        at, method = context(), build(name)
        flat: dict[str, Tensor] = {key: state.tensors[key].clone() for key in sorted(state.tensors)}
        images = at.real.split.images.clone()
        resumed = method.iterate(DistillState(flat, dict(state.numbers)), iteration, at)
        assert resumed.tensors.keys() == after.tensors.keys()
        assert all(torch.equal(tensor, after.tensors[key]) for key, tensor in resumed.tensors.items())
        assert resumed.numbers == after.numbers
        assert all(torch.equal(tensor, state.tensors[key]) for key, tensor in flat.items())
        assert torch.equal(at.real.split.images, images)
    last = states_of(name)[-1]
    kept = {key: tensor.clone() for key, tensor in last.tensors.items()}
    build(name).synthetic_set(last, context())
    assert all(torch.equal(tensor, kept[key]) for key, tensor in last.tensors.items())


def test_a_job_resumed_from_a_checkpoint_equals_an_uninterrupted_one(name: str, tmp_path: Path) -> None:
    """The checkpoint is one in the middle: the test above resumes from every state."""
    uninterrupted = run(name, tmp_path / "whole", keep=9, every_s=0)
    checkpoints = sorted((tmp_path / "whole").glob("step-*"))
    middle = checkpoints[len(checkpoints) // 2]
    shutil.copytree(middle, tmp_path / "part" / middle.name)
    resumed = run(name, tmp_path / "part")
    assert outcome(resumed).files == outcome(uninterrupted).files
    for split, predicted in outcome(uninterrupted).predictions.items():
        assert (predicted.logits == outcome(resumed).predictions[split].logits).all()


def test_a_set_can_be_written_and_read(name: str, tmp_path: Path) -> None:
    synthetic = build(name).synthetic_set(states_of(name)[-1], context())
    path = tmp_path / "set.safetensors"
    path.write_bytes(synthetic.to_bytes())
    read = SyntheticSet.from_file(str(path))
    assert same_sets(synthetic, read)
    assert (read.mean, read.std, read.factor) == (synthetic.mean, synthetic.std, synthetic.factor)
    assert synthetic.size_bytes <= path.stat().st_size


def test_what_is_stored_is_what_was_evaluated_and_what_the_picture_shows(name: str, tmp_path: Path) -> None:
    """Steps are so large that pixels stray: they stay in [0, 1], and the networks of the job are those of the stored file."""
    skip_if_it_keeps_everything(name)
    found = outcome(run(name, tmp_path / "run", lr=1000.0))
    path = tmp_path / "set.safetensors"
    path.write_bytes(found.files["synthetic_set.safetensors"])
    read = SyntheticSet.from_file(str(path))
    assert 0 <= float(read.images.min()) < float(read.images.max()) <= 1
    network = train_network(read, model=MODEL, evaluation=EVALUATION, num_classes=NUM_CLASSES, seed=3, index=0)
    test = DeviceSplit(digits().test, mean=digits().mean, std=digits().std)
    assert (predict_logits(network, test) == found.predictions["test"].logits).all()
    picture = np.asarray(Image.open(io.BytesIO(found.files["synthetic_set.png"])))
    shown = picture.reshape(NUM_CLASSES, 8, 2, 8).swapaxes(1, 2).reshape(read.images.shape)
    assert (shown == np.rint(255 * read.images.numpy())).all()


def test_less_than_one_image_per_class_is_refused(name: str) -> None:
    skip_if_it_keeps_everything(name)
    for ipc in (0, -1):
        with pytest.raises(ValueError, match=r"^ipc is"):
            build(name, ipc=ipc)
