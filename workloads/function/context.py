"""The `context` that a training function of the user gets: reports, checkpoints, requests to stop, seed, device and ranks."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from pruneyard.workloads.function.function_run import FunctionRun
from pruneyard.workloads.ranks import Ranks


class FunctionContext:
    """Gives a training function, as its argument `context`, what its run offers. `sweep` makes one per run and process.

    With several workers every rank runs the function, and all ranks must make the same calls in the same order; the metrics,
    files and checkpoints of rank 0 count.

    Example:
        >>> import pruneyard
        >>> def descend(lr, context: pruneyard.FunctionContext, epochs=4):
        ...     weight, first = 1.0, 0
        ...     if (state := context.restore()) is not None:
        ...         weight, first = state["weight"], state["epoch"]
        ...     for epoch in range(first + 1, epochs + 1):
        ...         weight -= lr * weight
        ...         context.report(step=epoch, train_loss=weight**2, accuracy=1 - weight)
        ...         context.checkpoint({"weight": weight, "epoch": epoch})
        >>> results = pruneyard.sweep(descend, {"lr": [0.5, 0.1]}, out="out/descend", local=True)
        >>> results.best("accuracy")[["arguments.lr", "val/accuracy"]].to_dict()
        {'arguments.lr': 0.5, 'val/accuracy': 0.9375}
    """

    def __init__(self, run: FunctionRun) -> None:
        """run: what the function's job knows of it. Functions do not make contexts themselves."""
        self._run = run

    @property
    def seed(self) -> int:
        """The seed of the run.

        The global generators of Python, NumPy and torch are seeded with it before the function starts. A function with an
        argument `seed` gets it there too.

        Example:
            >>> import pruneyard
            >>> def draw(context):
            ...     return {"seed": context.seed}
            >>> results = pruneyard.sweep(draw, seeds=[3, 7], out="out/seeds", local=True)
            >>> sorted(results.final()["val/seed"])
            [3.0, 7.0]
        """
        return self._run.seed

    @property
    def device(self) -> torch.device:
        """The torch device of this process: a GPU where the run has one, or a share of one, else the CPU.

        Example:
            >>> import pruneyard, torch
            >>> def train(context):
            ...     weights = torch.ones(3, device=context.device)
            ...     return {"is_on_cpu": weights.device.type == "cpu"}
            >>> results = pruneyard.sweep(train, out="out/device", local=True)
            >>> results.final()["val/is_on_cpu"].item()
            1.0
        """
        return self._run.device

    @property
    def ranks(self) -> Ranks:
        """The processes that train together, of which `resources={"workers": 2}` starts two.

        `ranks.rank` is the index of this process, `ranks.size` their number. `ranks.all_reduce_sum(tensor)` returns the sum over
        ranks, `ranks.all_gather(value)` the values of all ranks, and `ranks.share(num_rows)` the rows of a batch that this rank
        computes on. The ranks are also the default process group of torch, for `DistributedDataParallel`.

        Example:
            >>> import pruneyard, torch
            >>> def average(context):
            ...     ranks = context.ranks
            ...     rows = ranks.share(6).of(torch.arange(6.0))
            ...     return {"mean": ranks.all_reduce_sum(rows.sum()) / 6, "workers": ranks.size}
            >>> results = pruneyard.sweep(average, out="out/ranks", local=True)
            >>> results.final()[["val/mean", "val/workers"]].iloc[0].tolist()
            [2.5, 1.0]
        """
        return self._run.ranks

    def report(
        self,
        metrics: Mapping[str, Any] | None = None,
        /,
        *,
        step: int | None = None,
        epoch: float | None = None,
        **more: Any,
    ) -> None:
        """Reports the metrics of a step.

        A name may begin with its split, as in `train_loss` or `{"train/loss": 0.2}`; a name without one belongs to `val`. A run
        that was stopped early, or is asked to stop, ends here.

        Args:
            metrics: numbers, or tensors and arrays with one element, by name.
            step: must not decrease from report to report; by default it is one more than the last.
            epoch: for the learning curves, where it is not the step.
            more: metrics by name, as an alternative to `metrics`.

        Raises:
            MetricError: a name is none, or a value is no number.
            NonFiniteError: a value is NaN or infinite.
            ValueError: the step decreases, or lies beyond the last one.

        Example:
            >>> import pruneyard
            >>> def train(context):
            ...     for step in (100, 200):
            ...         context.report({"train/loss": 1 / step}, step=step, epoch=step / 100, accuracy=0.9)
            >>> results = pruneyard.sweep(train, out="out/report", local=True)
            >>> results.metrics()[["step", "epoch", "split", "name", "value"]]
               step  epoch  split      name  value
            0   100    1.0  train      loss  0.010
            1   100    1.0    val  accuracy  0.900
            2   200    2.0  train      loss  0.005
            3   200    2.0    val  accuracy  0.900
        """
        self._run.report({**(metrics or {}), **more}, step=step, epoch=epoch)

    def checkpoint(
        self,
        state: Mapping[str, Any] | None = None,
        /,
        *,
        folder: str | Path | None = None,
        step: int | None = None,
    ) -> None:
        """Saves the state from which `restore` resumes: a table, or all files in a folder.

        Call it after the report of the same step. A run that is asked to stop, or that pauses, ends here. The states of the
        global random generators of Python, NumPy and torch are saved too.

        Args:
            state: tensors, arrays and plain values, in tables and lists, such as `{"network": network.state_dict()}`.
            folder: a folder whose files are saved in place of a state.
            step: the step of the state; by default that of the last report.

        Raises:
            ValueError: the state has a value of another type, or neither or both of state and folder are given.

        Example:
            >>> import pruneyard, torch
            >>> def train(context, epochs=3):
            ...     network = torch.nn.Linear(2, 1)
            ...     for epoch in range(1, epochs + 1):
            ...         context.report(step=epoch, accuracy=0.9)
            ...         context.checkpoint({"network": network.state_dict(), "epoch": epoch})
            >>> pruneyard.sweep(train, out="out/checkpoint", local=True).exit_code.name
            'FINISHED'
        """
        self._run.checkpoint(state, folder=folder, step=step)

    def restore(self) -> Any:
        """Returns the state of the newest checkpoint, or the path of a copy of its folder; None where the run starts anew.

        Call it once, after everything that uses random numbers is made: it restores the states of the global generators of
        Python, NumPy and torch. Tensors are on the CPU. The state of an optimizer has the learning rate of the run that saved it;
        where a population changes the rate, set it again.

        Example:
            >>> import pruneyard
            >>> def train(lr, context, epochs=6):
            ...     weight, first = 1.0, 0
            ...     if (state := context.restore()) is not None:
            ...         weight, first = state["weight"], state["epoch"]
            ...     for epoch in range(first + 1, epochs + 1):
            ...         weight -= lr * weight
            ...         context.report(step=epoch, accuracy=1 - weight)
            ...         context.checkpoint({"weight": weight, "epoch": epoch})
            >>> pbt = {"name": "pbt", "max_trials": 2, "generations": 3, "metric": "accuracy"}  # trains in three parts
            >>> results = pruneyard.sweep(train, {"lr": {"low": 0.1, "high": 0.5}}, search=pbt, out="out/restore", local=True)
            >>> results.metrics().groupby("step").size().to_dict()  # no epoch is trained twice
            {1: 2, 2: 2, 3: 2, 4: 2, 5: 2, 6: 2}
        """
        return self._run.restore()

    @property
    def should_stop(self) -> bool:
        """Returns whether the run is asked to stop or to pause: then save a checkpoint, which ends it, or return.

        Only a function with long steps needs it: a run also ends at its next report or checkpoint. All ranks get the same answer.

        Example:
            >>> import pruneyard
            >>> def train(context):
            ...     state = context.restore() or {"batch": 0}
            ...     for batch in range(state["batch"] + 1, 1001):
            ...         if context.should_stop:
            ...             context.checkpoint({"batch": batch - 1})
            ...     return {"batches": batch}
            >>> results = pruneyard.sweep(train, out="out/stop", local=True)
            >>> results.final()["val/batches"].item()
            1000.0
        """
        return self._run.should_stop

    @property
    def artifact(self) -> Path:
        """A folder; the files in it when the function ends become part of the run, in `artifacts/RUN_KEY/files/`.

        Example:
            >>> import pruneyard
            >>> def train(context):
            ...     (context.artifact / "note.txt").write_text("kept")
            ...     return {"accuracy": 0.9}
            >>> pruneyard.sweep(train, out="out/files", local=True).exit_code.name
            'FINISHED'
            >>> from pathlib import Path
            >>> [path.read_text() for path in Path("out/files").glob("artifacts/*/files/note.txt")]
            ['kept']
        """
        return self._run.artifact

    def save_predictions(self, split: str, labels: Any, logits: Any, *, row_ids: Any = None) -> None:
        """Keeps the outputs of the finished network on a split, for jobs of kind `calibrate` and the page.

        Accuracy, NLL, Brier score and ECE of the split are computed from them where the function does not report them itself.

        Args:
            split: `val`, `calib`, `test`, or `ood.NAME` for inputs of other sets.
            labels: (N,), whole numbers from 0; -1 for a split `ood.NAME`.
            logits: (N, C); logarithms of probabilities are logits too.
            row_ids: (N,), names the rows across runs; by default 0 to N - 1.

        Raises:
            ValueError: the arrays do not fit.

        Example:
            >>> import pruneyard
            >>> def train(context):
            ...     context.save_predictions("test", labels=[0, 1, 1], logits=[[2.0, 0.0], [0.0, 1.0], [1.0, 0.0]])
            >>> results = pruneyard.sweep(train, out="out/outputs", local=True)
            >>> round(results.final()["test/accuracy"].item(), 3)
            0.667
            >>> pruneyard.predictions(results)["test"].logits.shape
            (3, 2)
        """
        self._run.save_predictions(split, labels, logits, row_ids=row_ids)
