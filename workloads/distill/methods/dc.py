"""Matches, class by class, the gradients of networks on synthetic images to those on real images (DC).

Reference: Zhao, Mopuri and Bilen 2021, Dataset Condensation with Gradient Matching (arXiv:2006.05929)

Every network is newly initialised and used for `outer_loop` steps of the images. In each step, the gradients of each class are
matched, by rows of every weight, the classifier included; the images take one step along the sum over classes; and the network
is trained for `inner_loop` epochs on the synthetic set, except after its last step. By default `outer_loop` and `inner_loop`
follow from IPC as published; for other IPC the values of the next lower published IPC are used, which is our choice.
"""

from dataclasses import dataclass, field
from typing import Literal

from pruneyard.workloads.distill.augment import Strategy, check_transforms
from pruneyard.workloads.distill.distiller import DistillContext, DistillState
from pruneyard.workloads.distill.flop_counting import ProblemSize
from pruneyard.workloads.distill.initial_images import ImageDistiller
from pruneyard.workloads.distill.masking import Masking
from pruneyard.workloads.distill.matcher import GradientMatcher, Precision
from pruneyard.workloads.distill.matching import DISTANCES
from pruneyard.workloads.distill.network_training import NetworkTraining
from pruneyard.workloads.fields import renamed

__all__ = ["DC"]

STEPS = {1: (1, 1), 10: (10, 50), 20: (20, 25), 30: (30, 20), 40: (40, 15), 50: (50, 10)}  # IPC: outer, inner


@dataclass(frozen=True, kw_only=True)
class DC(ImageDistiller):
    """Gradient matching without augmentation."""

    init: Literal["real", "noise"] = "noise"
    iterations: int = 1000  # number of networks
    # steps of the images per network; by default as published for the IPC
    outer_loop: int | None = field(default=None, metadata=renamed("outer"))
    # epochs of the network on the synthetic set between two steps; by default as published
    inner_loop: int | None = field(default=None, metadata=renamed("inner"))
    real_batch: int = 256  # real images per class
    lr: float = 0.1  # learning rate of the images
    momentum: float = 0.5
    network_lr: float = 0.01
    network_batch: int = 256
    distance: Literal["cosine", "squared", "absolute"] = "cosine"
    chunk: int | None = None  # images per backward pass on a CPU, by default as many as fit its caches; affects rounding only
    compile: bool = False  # compilation takes a minute or two, which pays off after some hundred steps; affects rounding only
    precision: Precision = "float32"  # of gradients on real images and of network training; matching stays in float32
    augment: str = field(default="")  # transforms shared by the real and the synthetic images of a class
    mask: Masking = Masking()  # on synthetic images while they are matched

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("iterations", "real_batch", "network_batch"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be 1 or more")
        for name, least in (("outer_loop", 1), ("inner_loop", 0)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise ValueError(f"{name} is {value}; it must be {least} or more")
        if not self.lr > 0 or not self.network_lr > 0:
            name = "network_lr" if self.lr > 0 else "lr"
            raise ValueError(f"{name} is {getattr(self, name)}; it must be above 0")
        if self.chunk is not None and self.chunk < 1:
            raise ValueError(f"chunk is {self.chunk}; it must be 1 or more")
        if not 0 <= self.momentum < 1:
            raise ValueError(f"momentum is {self.momentum}; it must lie in [0, 1)")
        if self.distance not in DISTANCES:
            raise ValueError(f"distance is {self.distance!r}; it must be {', '.join(DISTANCES)}")
        if self.precision not in ("float32", "bfloat16"):
            raise ValueError(f"precision is {self.precision!r}; it must be float32 or bfloat16")
        check_transforms("augment", self.augment)

    @property
    def steps(self) -> tuple[int, int]:
        """The values of `outer_loop` and `inner_loop`, as given or as published."""
        outer, inner = STEPS[max(ipc for ipc in STEPS if ipc <= self.ipc)]
        return (outer if self.outer_loop is None else self.outer_loop), (inner if self.inner_loop is None else self.inner_loop)

    @property
    def num_iterations(self) -> int:
        """Number of steps of the images."""
        return self.iterations * self.steps[0]

    def iterate(self, state: DistillState, iteration: int, context: DistillContext) -> DistillState:
        """Makes one step of the images and trains the network up to the next step."""
        return self._matcher(context.real.num_classes).iterate(state, iteration, context)

    def flops(self, iterations: int, problem: ProblemSize) -> float:
        """Returns the FLOPs of the first `iterations` steps."""
        return self._matcher(problem.num_classes).flops(iterations, problem)

    def _matcher(self, num_classes: int) -> GradientMatcher:
        outer, inner = self.steps
        strategy = Strategy.of(self.augment)
        training = NetworkTraining(
            train_on="synthetic",
            # An epoch has ipc x classes images.
            num_images=inner * self.ipc * num_classes,
            batch_size=self.network_batch,
            lr=self.network_lr,
            momentum=0.0,
            weight_decay=0.0,
            augment=self.augment,
            cutmix=0.0,
        )
        return GradientMatcher(
            ipc=self.ipc,
            steps=outer,
            real_batch=self.real_batch,
            lr=self.lr,
            momentum=self.momentum,
            class_step="sum",
            pixels=False,
            distance=self.distance,
            classifier=True,
            strategy=strategy,
            network_strategy=strategy,
            training=training,
            mask=self.mask,
            chunk=self.chunk,
            compile=self.compile,
            precision=self.precision,
            first_network=lambda context, number: context.network("match", number),
        )
