"""The mutable training state of a nodes job: a network, its optimizer, and their checkpoint."""

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field

import torch
from torch import Tensor, nn

from pruneyard.workloads.checkpoint import Checkpoint
from pruneyard.workloads.nodes.flat import FlatNetwork
from pruneyard.workloads.nodes.graph import Graph, GraphTensors
from pruneyard.workloads.nodes.jackknife import Intervals, Jackknife
from pruneyard.workloads.nodes.leave_one_out import compare_with_retrained
from pruneyard.workloads.nodes.node_method import NodeMethod, TuningInputs
from pruneyard.workloads.nodes.node_network import NodeModel
from pruneyard.workloads.nodes.node_objective import NodeObjective
from pruneyard.workloads.seeding import fork_rng, global_stream, stream_seed
from pruneyard.workloads.workload import Metric, NonFiniteError

DTYPES = {"float32": torch.float32, "float64": torch.float64}


@dataclass(frozen=True, kw_only=True)
class Parts:
    """The options of a training step. lr: learning rate of Adam; l2: the penalty is l2 / 2 times the squared parameter norm."""

    objective: NodeObjective
    method: NodeMethod
    jackknife: Jackknife
    lr: float
    l2: float
    num_steps: int  # of training; tuning steps follow
    seed: int


@dataclass(kw_only=True)
class Fitting:
    """The state of training and tuning. `step` counts training steps first, then tuning steps on validation nodes."""

    parts: Parts
    flat: FlatNetwork
    labels: Tensor  # (N,) of all nodes, 1 = minority
    train: Tensor  # node ids
    val: Tensor
    optimizer: torch.optim.Optimizer
    shifts: Tensor | None = None  # (n, P): see `Jackknife.shifts`; None until training ends
    step: int = 0
    loss_sum: Tensor = field(default_factory=lambda: torch.zeros((), dtype=torch.float64))
    error_sum: Tensor = field(default_factory=lambda: torch.zeros((), dtype=torch.float64))
    num_losses: int = 0  # in the two sums
    num_errors: int = 0
    train_s: float = 0.0
    history: list[Metric] = field(default_factory=list)
    leave_one_out: Mapping[str, float] = field(default_factory=dict)  # see `Jackknife.retrained`

    @classmethod
    def start(
        cls,
        parts: Parts,
        *,
        model: NodeModel,
        graph: Graph,
        labels: Tensor,
        nodes: Mapping[str, Tensor],
        dtype: torch.dtype,
    ) -> "Fitting":
        """Returns the state with a newly initialised network, on the device of `labels`."""
        device = labels.device
        # Built on the CPU and moved afterwards, so that all devices start from the same weights.
        with global_stream(parts.seed, "init"):
            network = model.build(num_features=graph.num_features, num_classes=2)
        network = network.to(device=device, dtype=dtype)
        return cls(
            parts=parts,
            flat=FlatNetwork(network=network, graph=GraphTensors.of(graph, device=device, dtype=dtype)),
            labels=labels,
            train=nodes["train"],
            val=nodes["val"],
            optimizer=_adam(network, parts.lr),
            loss_sum=torch.zeros((), dtype=torch.float64, device=device),
            error_sum=torch.zeros((), dtype=torch.float64, device=device),
        )

    @property
    def network(self) -> nn.Module:
        return self.flat.network

    @property
    def is_tuning(self) -> bool:
        """True once all training steps are done."""
        return self.step >= self.parts.num_steps

    @property
    def num_steps(self) -> int:
        """Number of training and tuning steps together."""
        return self.parts.num_steps + self.parts.method.num_steps

    def end_training(self, *, between: Callable[[], None]) -> None:
        """Computes the leave-one-out shifts and creates a new optimizer. If `between` raises, the state is unchanged."""
        started = time.monotonic()
        # Before the solve, so that a diverged training is reported as such and not as a problem of the curvature.
        self.check()

        def logits(vector: Tensor) -> Tensor:
            return self.flat.logits(vector)[self.train]

        def parts(logits: Tensor) -> Tensor:
            return self.parts.objective.contributions(logits, self.labels[self.train])

        self.network.eval()
        with torch.no_grad():
            at = self.flat.vector()
        # `between` may raise during the solve, so nothing is assigned before it.
        shifts = self.parts.jackknife.shifts(logits, parts, at, l2=self.parts.l2, between=between)
        if num := self.parts.jackknife.retrained:
            self.leave_one_out = compare_with_retrained(
                lambda vector: self.flat.logits(vector).softmax(dim=1)[:, 1],
                lambda vector: parts(logits(vector)),
                at,
                shifts[:num],
                l2=self.parts.l2,
                steps=self.parts.jackknife.retrain_steps,
                between=between,
            )
        self.shifts = shifts
        # The means of tuning are those of another objective, on other nodes.
        self._forget_losses()
        # Tuning starts without Adam's moments, which belong to the training loss.
        self.optimizer = _adam(self.network, self.parts.lr)
        self._count(started)

    def take_step(self) -> None:
        """Performs one optimizer update."""
        started = time.monotonic()
        self.optimizer.zero_grad()
        loss, error = self._tuning_loss() if self.is_tuning else (self._objective(self.train), None)
        # Added for the backward pass only: the reported loss is that of the objective.
        penalty = sum(((p**2).sum() for p in self.network.parameters()), start=torch.zeros_like(loss))
        (loss + self.parts.l2 / 2 * penalty).backward()
        self.optimizer.step()
        # Summed on the device, because reading the value in every step would wait for a GPU.
        self.loss_sum += loss.detach()
        if error is not None:
            self.error_sum += error.detach()
            self.num_errors += 1
        self.step, self.num_losses = self.step + 1, self.num_losses + 1
        self._count(started)

    def _objective(self, nodes: Tensor) -> Tensor:
        """Returns the objective on `nodes` in training mode; dropout uses the random stream of this step."""
        self.network.train()
        with fork_rng(nodes.device, stream_seed(self.parts.seed, "dropout", self.step)):
            logits = self.network(self.flat.graph)
        return self.parts.objective.contributions(logits[nodes], self.labels[nodes]).sum()

    def _tuning_loss(self) -> tuple[Tensor, Tensor | None]:
        # Two forward passes: the objective is in training mode, while EICE and its intervals are in evaluation mode.
        loss = self._objective(self.val)
        self.network.eval()
        return self.parts.method.tuning_loss(
            TuningInputs(
                loss=loss,
                logits=self.network(self.flat.graph)[self.val],
                intervals=lambda: self.intervals(self.val),
            )
        )

    def logits(self) -> Tensor:
        """Returns the logits (N, 2) of all nodes in evaluation mode."""
        self.network.eval()
        with torch.no_grad():
            return self.network(self.flat.graph)  # type: ignore[no-any-return]

    def intervals(self, nodes: Tensor) -> Intervals:
        """Returns jackknife intervals of `nodes: (M,)` at the current parameters; differentiable. Needs evaluation mode."""
        both = torch.cat([self.train, nodes])
        # (n, n + M): row k is the network without training node k, and its entry k is that node itself.
        without, num = self.logits_without(both).softmax(dim=2)[..., 1], len(self.train)
        return self.parts.jackknife.intervals(
            without[:, num:], own=without[:, :num].diagonal(), labels=self.labels[self.train]
        )

    def logits_without(self, nodes: Tensor) -> Tensor:
        """Returns the logits (n, M, 2) of `nodes` for each left-out training node.

        The parameters are the current ones plus the shifts that were computed when training ended. Needs evaluation mode.
        """
        assert self.shifts is not None
        return self.flat.logits_of_each(self.flat.vector() + self.shifts, nodes)

    def check(self) -> None:
        """Raises `NonFiniteError` if a loss was not finite since the last `take_means`."""
        for name, total in (("loss", self.loss_sum), ("eice", self.error_sum)):
            if not bool(torch.isfinite(total)):
                found = f"train/{name} is {float(total)} in the steps before step {self.step}"
                raise NonFiniteError(f"{found}; {NonFiniteError.ADVICE}")

    def take_means(self) -> dict[str, float]:
        """Returns the mean loss, and the mean EICE of tuning steps, since the last call. Raises `NonFiniteError`.

        The mean loss after the start of tuning is that of tuning steps.
        """
        sums = {"loss": (self.loss_sum, self.num_losses), "eice": (self.error_sum, self.num_errors)}
        found = {name: float(total) / num for name, (total, num) in sums.items() if num}
        self.check()
        self._forget_losses()
        return found

    def _forget_losses(self) -> None:
        self.loss_sum.zero_()
        self.error_sum.zero_()
        self.num_losses = self.num_errors = 0

    def _count(self, started: float) -> None:
        if self.labels.device.type == "cuda":
            # Kernels run asynchronously, so without this the clock would miss their time.
            torch.cuda.synchronize(self.labels.device)
        self.train_s += time.monotonic() - started

    def checkpoint(self, *, data: str) -> Checkpoint:
        """Returns the complete state for a bit-equal resume; `data` is the fingerprint of the graph."""
        shifts = {} if self.shifts is None else {"shifts": self.shifts}
        return Checkpoint(
            step=self.step,
            tensors={f"network/{name}": tensor for name, tensor in self.network.state_dict().items()}
            | shifts,
            state={
                "optimizer": self.optimizer.state_dict(),
                "sums": torch.stack([self.loss_sum, self.error_sum]).cpu(),
            },
            meta={
                "data": data,
                "num_steps": self.num_steps,
                "num_losses": self.num_losses,
                "num_errors": self.num_errors,
                "train_s": self.train_s,
                "metrics": [asdict(metric) for metric in self.history],
                "leave_one_out": dict(self.leave_one_out),
            },
        )

    def restore(self, checkpoint: Checkpoint, *, data: str) -> None:
        """Restores the state of `checkpoint`. Raises `ValueError` if it belongs to other data or to another number of steps."""
        meta = checkpoint.meta
        if meta["data"] != data:
            raise ValueError(
                f"the checkpoint was created with data {meta['data']}, but this run has {data}; choose another --out"
            )
        if meta["num_steps"] != self.num_steps:
            raise ValueError(
                f"the checkpoint belongs to a run of {meta['num_steps']} steps, but this run has {self.num_steps}"
            )
        tensors = {name: tensor.to(self.labels.device) for name, tensor in checkpoint.tensors.items()}
        self.shifts = tensors.pop("shifts", None)
        self.network.load_state_dict(
            {name.removeprefix("network/"): tensor for name, tensor in tensors.items()}
        )
        self.optimizer.load_state_dict(checkpoint.state["optimizer"])
        self.loss_sum, self.error_sum = checkpoint.state["sums"].to(self.labels.device).unbind()
        # `unbind` returns views of one tensor; each sum gets memory of its own.
        self.loss_sum, self.error_sum = self.loss_sum.clone(), self.error_sum.clone()
        self.num_losses, self.num_errors = meta["num_losses"], meta["num_errors"]
        self.step, self.train_s = checkpoint.step, meta["train_s"]
        self.history = [Metric(**row) for row in meta["metrics"]]
        self.leave_one_out = meta.get("leave_one_out", {})


def _adam(network: nn.Module, lr: float) -> torch.optim.Optimizer:
    return torch.optim.Adam(network.parameters(), lr=lr, fused=True)
