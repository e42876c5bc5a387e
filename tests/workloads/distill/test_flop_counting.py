"""Counted FLOPs: by hand on small networks, and against the operations that torch runs."""

from dataclasses import dataclass
from pathlib import Path

import pytest
from distilling import context, digits, states
from torch import nn

from pruneyard.testing.cases import each_case
from pruneyard.workloads.checkpoint import CheckpointFolder
from pruneyard.workloads.data.sources.digits import Digits
from pruneyard.workloads.distill import flop_counting
from pruneyard.workloads.distill.distiller import Distiller
from pruneyard.workloads.distill.evaluate import Evaluation
from pruneyard.workloads.distill.flop_counting import NetworkSpec, ProblemSize, count_flops, measure_flops
from pruneyard.workloads.distill.job import DistillJob
from pruneyard.workloads.distill.methods.acc_dd import AccDD
from pruneyard.workloads.distill.methods.dc import DC
from pruneyard.workloads.distill.methods.dm import DM
from pruneyard.workloads.distill.methods.dsa import DSA
from pruneyard.workloads.distill.methods.herding import Herding
from pruneyard.workloads.distill.methods.idc import IDC
from pruneyard.workloads.distill.methods.random import Random
from pruneyard.workloads.distill.network_training import NetworkTraining
from pruneyard.workloads.models.convnet import ConvNet
from pruneyard.workloads.workload import Context

TRAINING = NetworkTraining(num_images=24, batch_size=16, augment="", cutmix=0.0)
OWN = {"ipc": 2, "real_batch": 8, "augment": "", "chunk": 1000}


@dataclass(frozen=True, kw_only=True)
class Small:
    """A convolution of 3x3 to two channels, if there is one, and a linear layer; nothing else that counts."""

    convolves: bool

    def build(self, *, image_shape: tuple[int, ...], num_classes: int) -> nn.Module:
        channels, height, width = image_shape
        layers: list[nn.Module] = [nn.Conv2d(channels, 2, 3, bias=False)] if self.convolves else []
        size = 2 * (height - 2) * (width - 2) if self.convolves else channels * height * width
        network = nn.Sequential(*layers, nn.Flatten())
        network.add_module("classifier", nn.Linear(size, num_classes, bias=False))
        return network


LINEAR = NetworkSpec(Small(convolves=False), (1, 2, 2), 3)
CONVOLVING = NetworkSpec(Small(convolves=True), (1, 4, 4), 3)


def test_a_linear_network_by_hand() -> None:
    """Twelve weights, 24 FLOPs a pass. A second gradient: forward, weights' gradient, and from it to d, x, and from d to x."""
    assert flop_counting.forward_flops(LINEAR) == 24
    assert flop_counting.training_flops(LINEAR) == 24 + 24  # no gradient by the images
    assert flop_counting.second_order_flops(LINEAR, classifier=True) == 5 * 24
    assert flop_counting.feature_gradient_flops(LINEAR) == 24  # the features are the pixels


def test_a_convolution_by_hand() -> None:
    """18 weights at four places are 144 FLOPs, 24 weights of the linear layer 48."""
    conv, linear = 144, 48
    assert flop_counting.forward_flops(CONVOLVING) == conv + linear
    assert flop_counting.training_flops(CONVOLVING) == (conv + linear) + (conv + 2 * linear)
    assert flop_counting.first_order_flops(CONVOLVING, classifier=False) == (conv + linear) + (conv + linear)
    assert flop_counting.feature_gradient_flops(CONVOLVING) == (conv + linear) + conv
    first = (conv + linear) + (conv + 2 * linear)
    backwards = 2 * linear + 2 * conv  # from both weights' gradients to what they are products of
    through = (
        linear + linear + conv
    )  # from the features' gradient to the logits', and through the network to the image
    assert flop_counting.second_order_flops(CONVOLVING, classifier=True) == first + backwards + through


METHODS: dict[str, Distiller] = {
    "dc": DC(iterations=2, outer_loop=3, inner_loop=2, **OWN),
    "dc without training": DC(iterations=2, outer_loop=1, inner_loop=0, **OWN),
    "dsa": DSA(iterations=1, outer_loop=2, inner_loop=1, **{**OWN, "augment": "flip"}),
    "idc": IDC(iterations=2, steps=3, factor=2, synthetic_batch=5, network=TRAINING, **OWN),
    "idc with early epochs": IDC(iterations=2, steps=2, factor=1, early_epochs=1, network=TRAINING, **OWN),
    "acc_dd": AccDD(iterations=2, steps=2, pool=2, pretrain_epochs=1, network=TRAINING, **OWN),
}


@each_case("name", METHODS)
def test_it_is_what_torch_does_while_the_method_runs(name: str) -> None:
    method, at = METHODS[name], context()
    problem = ProblemSize.for_data(at.model, digits())
    before = method.start(at)
    for iteration in range(method.num_iterations):
        seen, expected = [], count_flops(method, iteration + 1, problem)

        def run(iteration: int = iteration) -> None:
            seen.append(method.iterate(before, iteration, at))  # noqa: B023

        done = measure_flops(run)
        before = seen[0]
        assert expected is not None
        matches = iteration >= getattr(method, "_pool_iterations", 0)
        # A forward pass of one image tells how many fit into a CPU's caches.
        extra = flop_counting.forward_flops(problem.network_spec) if matches else 0
        assert done == pytest.approx(expected - (count_flops(method, iteration, problem) or 0) + extra, rel=1e-12)


def test_dm_runs_one_more_image_to_measure_how_many_fit_into_caches() -> None:
    method, at = DM(ipc=2, real_batch=8, iterations=3, augment=""), context()
    problem = ProblemSize.for_data(at.model, digits())
    extra = method.iterations * flop_counting.forward_flops(problem.network_spec)
    assert measure_flops(lambda: states(method, at)) == pytest.approx(method.flops(3, problem) + extra, rel=1e-12)


def test_small_classes_are_drawn_whole() -> None:
    problem = ProblemSize(model=ConvNet(width=4, depth=2), image_shape=(1, 8, 8), class_sizes=(3, 10))
    assert problem.num_sampled(4) == 7
    assert problem.num_sampled(100) == problem.num_rows == 13


def test_uncounted_work_is_unknown_and_no_work_costs_nothing() -> None:
    problem = ProblemSize(model=ConvNet(width=4, depth=2), image_shape=(1, 8, 8), class_sizes=(3, 10))
    assert count_flops(Herding(ipc=2), 1, problem) is None
    assert count_flops(Random(ipc=2), 0, problem) == 0


@pytest.mark.parametrize("method", [DM(ipc=2, iterations=4, real_batch=8), Random(ipc=2), Herding(ipc=2)])
def test_a_job_reports_what_was_counted_so_far(method: Distiller, tmp_path: Path) -> None:
    evaluation = Evaluation(networks=1, epochs=1, batch_size=16)
    data = Digits(max_train=240, max_test=60)
    job = DistillJob(
        data=data, method=method, model=ConvNet(width=4, depth=2), evaluation=evaluation, evaluate_every=2
    )
    progress = list(job.run(Context(checkpoints=CheckpointFolder(tmp_path))))
    rows = {m.step: m.value for p in progress for m in p.metrics if (m.split, m.name) == ("train", "flops")}
    problem = ProblemSize.for_data(job.model, data.load())
    last = progress[-1].outcome
    assert last is not None
    assert last.train_flops == count_flops(method, method.num_iterations, problem)
    if isinstance(method, DM):
        assert rows == {2: method.flops(2, problem), 4: method.flops(4, problem)}
    else:
        assert rows == ({0: 0.0} if isinstance(method, Random) else {})


def test_the_expected_work_counts_the_training_of_all_evaluations() -> None:
    data = Digits(max_train=240, max_test=60)
    evaluation = Evaluation(networks=2, epochs=3, batch_size=16)
    job = DistillJob(data=data, method=Random(ipc=2), model=ConvNet(width=4, depth=2), evaluation=evaluation)
    of_image = flop_counting.training_flops(ProblemSize.for_data(job.model, data.load()).network_spec)
    assert job.expected_work(data.load()) == (2 * 3 * 20 * of_image, 2 * 3 * 2)
    often = DistillJob(
        data=data,
        method=DM(ipc=2, iterations=10, real_batch=8),
        model=job.model,
        evaluation=evaluation,
        evaluate_every=4,
    )
    flops, steps = often.expected_work(data.load())
    assert flops == pytest.approx(
        3 * 2 * 3 * 20 * of_image + often.method.flops(10, ProblemSize.for_data(job.model, data.load()))
    )
    assert (
        steps == 10 + 3 * 2 * 3 * 2
    )  # after 4, 8 and 10 iterations, two networks, three epochs of two batches
