"""A job of kind `function`: calls a training function of the user, or runs a script, and records what it reports."""

import json
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import torch

from pruneyard.workloads.data.dataset import Dataset
from pruneyard.workloads.fields import NEUTRAL_BY_DEFAULT, NOT_IDENTITY, SET_BY_RESOURCES, in_place_of
from pruneyard.workloads.function.arguments import check_plain
from pruneyard.workloads.function.function_run import FunctionRun, Reported
from pruneyard.workloads.function.handover import Handover, Raised, Returned
from pruneyard.workloads.function.last_progress import last_progress
from pruneyard.workloads.function.python_function import PythonFunction
from pruneyard.workloads.function.random_states import seed_everything
from pruneyard.workloads.function.script import Script
from pruneyard.workloads.plugins import Settings
from pruneyard.workloads.training.segment import WHOLE, Segment
from pruneyard.workloads.workload import Context, InterruptedJobError, Progress

__all__ = ["FunctionJob"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class FunctionJob:
    """A training function or a script, with its arguments.

    function: `package.module:name` or `path/file.py:name`.
    command: in place of a function, a script with a placeholder for each argument; see `Script`.
    arguments: plain values by name. A function also gets `context` and `seed` if it has arguments of these names.
    steps: the step of the last report, of which early stopping and populations take shares. 0: the value of the one argument that
        is called `steps`, `epochs`, `iterations` or the like, if there is one.
    version: stands for the source of the code in the run key: as long as it is the same, a changed source changes no key.
    segment: the part of the training that this job runs; populations set it.
    workers: the number of workers, since what the function computes may depend on it.
    """

    function: str = field(
        default="", metadata=NOT_IDENTITY
    )  # `code_identity` says what of them enters the run key
    command: str = field(default="", metadata=in_place_of("function", NOT_IDENTITY))
    arguments: Mapping[str, Any] = field(default_factory=dict)
    steps: int = field(default=0, metadata=NOT_IDENTITY)
    version: str = field(default="", metadata=NEUTRAL_BY_DEFAULT)
    segment: Segment = field(default=WHOLE, metadata=NEUTRAL_BY_DEFAULT)
    seed: int = 0
    workers: int = field(default=1, metadata=SET_BY_RESOURCES)
    runs_on_ranks: ClassVar[bool] = True
    depends_on_num_workers: ClassVar[bool] = True
    examples: ClassVar[tuple[Settings, ...]] = (
        {"function": "pruneyard.testing.sample_function:descend", "arguments": {"lr": 0.1}},
    )

    def __post_init__(self) -> None:
        if not self.function and not self.command:
            raise ValueError(
                "function is missing; it must be package.module:name or path/file.py:name, or a command be given"
            )
        if self.function and self.command:
            raise ValueError(
                f"command is {self.command!r} beside the function {self.function}; give one of the two"
            )
        if self.command and self.segment != WHOLE:
            raise ValueError(
                "command cannot be trained in parts that end at exact steps, as populations do: a script runs ahead of its "
                "reports; give a function"
            )
        if self.steps < 0:
            raise ValueError(
                f"steps is {self.steps}; it must be 1 or more, or 0 if the number of steps is not given"
            )
        check_plain(self.arguments)
        self._code.check(self.arguments)

    def __hash__(self) -> int:
        """A hash, which mappings do not have."""
        arguments = json.dumps(self.arguments, sort_keys=True)
        return hash(
            (
                self.function,
                self.command,
                arguments,
                self.steps,
                self.version,
                self.segment,
                self.seed,
                self.workers,
            )
        )

    @property
    def _code(self) -> PythonFunction | Script:
        return PythonFunction(self.function) if self.function else Script(self.command)

    @property
    def title(self) -> str:
        """The name of the function or script, for people."""
        return self._code.title

    @property
    def described(self) -> dict[str, str]:
        """The columns of the run table that describe this job."""
        return {"method": self.title}

    @property
    def num_steps(self) -> int | None:
        """The step at which this job ends; None if it is not known in advance."""
        whole = self.steps or self._code.num_steps(self.arguments)
        return None if whole is None else self.segment.end(whole)

    @property
    def seeds_problem(self) -> str:
        """Why runs with different seeds would be the same; empty where nothing says so."""
        return self._code.seeds_problem(self.arguments)

    def code_identity(self) -> dict[str, str | int]:
        """Returns what the run key says about the code: its name, and a digest of its source unless `version` is given.

        The number of steps is part of it only where it decides at which of them a part of the training ends.
        """
        steps = {} if self.segment == WHOLE else {"steps": self.steps}
        return {**self._code.identity(self.arguments, with_source=not self.version), **steps}

    def code_files(self) -> list[str]:
        """Returns the files of the code."""
        return [str(file) for file in self._code.files(self.arguments)]

    def files_to_copy(self) -> dict[str, Path]:
        """Returns the files of a script that other machines need, by their path below the current folder.

        Raises `ValueError` for a file that cannot be sent. The files of a function are those of its modules.
        """
        return Script(self.command).files_to_copy(self.arguments) if self.command else {}

    def run(self, context: Context) -> Iterator[Progress]:
        """Runs the code and yields what it reports. Whatever it raises is raised here."""
        code = self._code
        seed_everything(self.seed, context.device)
        function_run = FunctionRun(
            context,
            seed=self.seed,
            num_steps=self.num_steps,
            segment=self.segment,
            is_limit=self.steps > 0,
            hand_over=lambda reported: handover.hand_over(reported),
        )

        def body() -> Any:
            if context.device.type == "cuda":
                torch.cuda.set_device(context.device)  # the current device is that of a thread
            return code.run(self.arguments, function_run)

        handover = Handover(body, name=f"function {self.title}")
        handover.start()
        try:
            yield from self._progress(handover, function_run, context)
        except KeyboardInterrupt:
            handover.abandon()
            raise
        except BaseException:
            handover.close()
            raise
        finally:
            function_run.close()

    def _progress(
        self, handover: Handover, function_run: FunctionRun, context: Context
    ) -> Iterator[Progress]:
        while isinstance(event := handover.receive(), Reported):
            yield Progress(step=event.step, num_steps=self._num_steps_at(event.step), metrics=event.metrics)
            handover.answer(context.should_pause())
        if isinstance(event, Raised):
            if isinstance(event.error, Exception):
                raise event.error
            # Raised here, it would end the study: `sys.exit` raises SystemExit.
            raise RuntimeError(f"{self.title} raised {event.error!r}") from event.error
        function_run.end_clock()
        # Only a function that asked `should_stop` can have returned before its end; any other one has finished.
        has_finished = isinstance(event, Returned) and not function_run.is_told
        if function_run.is_stopped and not has_finished and not function_run.is_at_end:
            raise InterruptedJobError(function_run.saved_step or 0)
        if self.segment.until < 1:
            self._check_end(function_run)
        yield last_progress(
            function_run, event.value if isinstance(event, Returned) else None, name=self.title
        )

    def _num_steps_at(self, step: int) -> int:
        """Returns the number of steps for the report of a step that is not the last."""
        known = self.num_steps
        if known is None:
            return step + 1
        if step > known:
            logger.warning(
                "%s reports step %d, beyond the %d that its arguments tell; give steps",
                self.title,
                step,
                known,
            )
        return max(known, step)

    def _check_end(self, function_run: FunctionRun) -> None:
        """Raises `ValueError` if a part of a training has no checkpoint of its end, from which the next part resumes."""
        if function_run.saved_step != self.num_steps:
            newest = function_run.saved_step
            saved = "no checkpoint" if newest is None else f"its newest checkpoint at step {newest}"
            raise ValueError(
                f"{self.title} has {saved}, but this part of the training ends at step {self.num_steps}; it must call "
                "context.checkpoint after each context.report"
            )

    def check(self, data: Dataset | None) -> list[str]:
        """Returns no warnings: the rest is checked when the spec is read. Raises `ValueError` for a script of several workers."""
        if self.command and self.workers > 1:
            raise ValueError(
                f"resources.workers is {self.workers}; a command runs in one process, so it must be 1"
            )
        return []

    def expected_work(self, data: Dataset) -> tuple[float, int]:
        """Returns (0.0, 0): the work of a function is not known in advance."""
        return 0.0, 0
