"""Specs with several workers, the channel between ranks and their trial, and the reports of a rank."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from pruneyard.orchestrator.errors import SpecError
from pruneyard.orchestrator.execution.worker import train_as_rank
from pruneyard.orchestrator.execution.worker_group import (
    Failed,
    GpuMemory,
    MultiWorkerGroup,
    RankTask,
    Started,
    Stopped,
    StorageFailed,
    progress_or_raise,
)
from pruneyard.orchestrator.ray_backend.channel import Channel
from pruneyard.orchestrator.spec.job import Resources
from pruneyard.orchestrator.spec.load import load_spec
from pruneyard.reports.storage import StorageError
from pruneyard.testing.cases import each_case
from pruneyard.workloads.checkpoint import CheckpointFolder, CheckpointWriteError
from pruneyard.workloads.ranks import SINGLE_RANK
from pruneyard.workloads.workload import Progress, Workload

TABLES = {
    "name": "small",
    "kind": "sparse",
    "data": {"name": "digits", "max_train": 200, "max_test": 50},
    "model": {"name": "mlp", "width": 8},
    "method": {"name": "rigl", "density": 0.5, "schedule": {"every": 2}},
    "budget": {"epochs": 3, "batch_size": 50},  # of three steps each
}


def test_a_sparse_job_may_have_several_workers_and_keeps_its_key() -> None:
    one, two = load_spec(TABLES), load_spec(TABLES, overrides={"resources.workers": 2})
    assert two.stages[0].header.resources.workers == 2
    assert [job.key for job in one.jobs] == [job.key for job in two.jobs]


@each_case(
    "tables",
    [
        {"objective": {"name": "mixup"}},  # partners are of the same worker
        {"objective": {"name": "mmce"}},
        {"model": {"name": "mlp", "width": 8, "dropout": 0.1}},  # every worker draws for its own rows
        {"model": "resnet20", "data": "cifar10", "budget": {"epochs": 1, "batch_norm": "local"}},
    ],
)
def test_the_number_of_workers_enters_the_run_key_where_numbers_depend_on_it(tables: dict[str, Any]) -> None:
    (one,), (two,), (three,) = (
        load_spec({**TABLES, **tables}, overrides={"resources.workers": workers}).jobs for workers in (1, 2, 3)
    )
    assert len({one.key, two.key, three.key}) == 3
    assert "workers" not in one.identity
    assert two.identity["workers"] == 2
    assert "workers" not in two.resolved, "no spec may say so"


def test_the_number_of_workers_is_no_key_of_a_job() -> None:
    with pytest.raises(SpecError, match="workers: is unknown"):
        load_spec({**TABLES, "workers": 2})


@each_case(
    ("workers", "message"),
    [(0, "workers: is 0; it must be 1 or more"), (-1, "workers: is -1"), (1.5, "whole number")],
)
def test_impossible_numbers_of_workers_are_refused(workers: float, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        load_spec(TABLES, overrides={"resources": {"workers": workers}})


def test_weights_in_shards_are_refused_with_the_reason() -> None:
    with pytest.raises(
        SpecError, match=r"strategy: is fsdp2; it must be ddp: masks, .* whole weights on every worker"
    ):
        load_spec(TABLES, overrides={"resources": {"workers": 2, "strategy": "fsdp2"}})
    with pytest.raises(SpecError, match=r"strategy: is ring; it must be ddp \("):
        load_spec(TABLES, overrides={"resources": {"workers": 2, "strategy": "ring"}})


@pytest.mark.parametrize(
    "tables",
    [
        {"kind": "distill", "data": {"name": "digits"}, "method": {"name": "random", "ipc": 1}},
        {"kind": "nodes", "data": {"name": "block_model"}},
    ],
)
def test_kinds_that_run_in_one_process_refuse_more(tables: dict[str, Any]) -> None:
    with pytest.raises(SpecError) as caught:
        load_spec({"name": "one", "resources": {"workers": 2}, **tables})
    said = f"is 2; a job of kind {tables['kind']} runs in one process, so it must be 1 there"
    found = [problem for problem in caught.value.problems if problem.key == "resources.workers"]
    assert len(found) == 1
    assert found[0].message.startswith(said)
    assert found[0].message.endswith("several workers train jobs of kind function, sparse")


def test_ranks_wait_at_a_barrier_and_get_the_same_value() -> None:
    async def play() -> None:
        line = Channel()
        waiting = [asyncio.create_task(line.wait_barrier(0)) for _ in range(3)]
        await asyncio.sleep(0.01)
        assert not any(task.done() for task in waiting)
        await line.release_barrier(pausing=True)
        assert await asyncio.gather(*waiting) == [True] * 3
        late = asyncio.create_task(line.wait_barrier(1))
        await asyncio.sleep(0.01)
        await line.close()
        assert await late is None
        assert await line.wait_barrier(0) is True, "a rank that is late at an open gate continues like the others"

    asyncio.run(play())


def test_closing_a_channel_wakes_the_receiver() -> None:
    async def play() -> None:
        line = Channel()
        waiting = asyncio.create_task(line.until_closed())
        await line.release_barrier(pausing=False)
        await asyncio.sleep(0.01)
        assert not waiting.done()
        await line.close()
        await waiting

    asyncio.run(play())


def test_a_sent_message_is_kept_until_it_is_received_or_the_channel_is_closed() -> None:
    async def play() -> None:
        line = Channel()
        assert await line.receive(0.01) == []
        first, second = (asyncio.create_task(line.send([word])) for word in ("first", "second"))
        assert await line.receive(1.0) == ["first"]
        await asyncio.sleep(0.01)
        assert not first.done()
        await line.ack()
        await first
        assert await line.receive(1.0) == ["second"]
        assert not second.done()
        await line.close()
        await second

    asyncio.run(play())


def test_ranks_get_the_next_task_once_all_have_ended_the_attempt_before() -> None:
    async def play() -> None:
        line = Channel()
        for rank in (0, 1):
            await line.join(rank, object(), "a")
        first = [asyncio.create_task(line.task(rank, 0)) for rank in (0, 1)]
        await line.begin_attempt(b"first")
        assert await asyncio.gather(*first) == [b"first"] * 2
        await line.release_barrier(pausing=False)
        at_barrier = [asyncio.create_task(line.wait_barrier(1)) for _ in (0, 1)]
        assert not await line.end_attempt(0.01), "no rank has asked for another task"
        assert await asyncio.gather(*at_barrier) == [None] * 2
        second = [asyncio.create_task(line.task(rank, 1)) for rank in (0, 1)]
        assert await line.end_attempt(60.0)
        assert not any(task.done() for task in second)
        await line.begin_attempt(b"second")
        assert await asyncio.gather(*second) == [b"second"] * 2
        at_barrier = [asyncio.create_task(line.wait_barrier(0)) for _ in (0, 1)]
        await asyncio.sleep(0.01)
        assert not any(task.done() for task in at_barrier), "answers of the attempt before are not those of this one"
        await line.close()
        assert await asyncio.gather(*at_barrier) == [None] * 2
        assert await line.task(0, 2) is None

    asyncio.run(play())


def test_a_channel_lists_each_node_once_and_that_of_rank_0_first() -> None:
    async def play() -> None:
        line = Channel()
        for rank, node in ((2, "a"), (1, "b"), (0, "b"), (3, "c")):
            await line.join(rank, object(), node)
        assert await line.nodes() == ["b", "a", "c"]

    asyncio.run(play())


class RecordingChannel:
    """A channel that records messages, and whose other end opens a number of barriers."""

    def __init__(self, num_gates: int, pausing: bool = False) -> None:
        self.told: list[Any] = []
        self._num_gates, self._pausing = num_gates, pausing

    def send(self, message: Any) -> None:
        """Records the message."""
        self.told.append(message)

    def wait_barrier(self, gate: int) -> bool | None:
        """Returns whether the barrier is open."""
        return self._pausing if gate < self._num_gates else None


def trained(
    line: RecordingChannel, folder: Path, should_stop: Callable[[], bool] = lambda: False, **overrides: Any
) -> None:
    """Trains on a single rank."""
    (job,) = load_spec(TABLES, overrides=overrides).jobs
    workload: Workload = job.workload
    task = RankTask(
        workload=workload,
        checkpoints=CheckpointFolder(folder / "checkpoints"),
        should_stop=should_stop,
        shared_file=folder,
        threads=torch.get_num_threads(),
    )
    train_as_rank(
        task, ranks=SINGLE_RANK, device=torch.device("cpu"), load_data=lambda source: source.load(), channel=line
    )


def memory_is_counted() -> bool:
    """Returns whether the system lets a process reset its peak memory."""
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    except OSError:
        return False
    return True


def test_a_rank_reports_its_start_its_progress_and_its_outcome_with_its_memory(tmp_path: Path) -> None:
    line = RecordingChannel(100)
    trained(line, tmp_path)
    begun, *progress = line.told
    assert begun == Started(device_name="cpu")
    assert [part.step for part in progress] == [3, 6, 9]
    assert [part.outcome is None for part in progress] == [True, True, False]
    peak = progress[-1].outcome.peak_memory_bytes
    assert (peak is not None) == memory_is_counted()
    assert peak is None or 1e7 < peak < 1e11


def test_a_rank_on_a_gpu_reports_its_gpu_memory_before_each_progress(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = iter([5, 7, 6])
    monkeypatch.setattr("pruneyard.orchestrator.execution.worker.gpu_bytes", lambda device: next(held))
    line = RecordingChannel(100)
    trained(line, tmp_path)
    assert [type(told) for told in line.told] == [Started, *[GpuMemory, Progress] * 3]
    crew = MultiWorkerGroup(resources=Resources(workers=2), shared_file=tmp_path)
    shown = []
    for told in line.told:
        crew.update(told)
        shown.append(crew.gpu_bytes(torch.device("cuda")))
        assert progress_or_raise(told) is (told if isinstance(told, Progress) else None)
    assert shown == [None, 5, 5, 7, 7, 6, 6]
    crew.update(Started(device_name="cpu"))
    assert crew.gpu_bytes(torch.device("cuda")) is None, "it is another job's"


def test_a_rank_ends_at_the_gate_that_does_not_open(tmp_path: Path) -> None:
    line = RecordingChannel(1)
    trained(line, tmp_path)
    assert [part.step for part in line.told if isinstance(part, Progress)] == [3, 6]
    assert not list((tmp_path / "checkpoints").glob("step-*"))


def test_a_rank_pauses_where_the_gate_says_so(tmp_path: Path) -> None:
    line = RecordingChannel(100, pausing=True)
    trained(line, tmp_path)
    assert line.told[-1] == Stopped(step=3)
    assert [path.name for path in (tmp_path / "checkpoints").glob("step-*")] == ["step-000000003"]


def test_an_exception_of_a_rank_is_reported_with_its_traceback_and_raised(tmp_path: Path) -> None:
    line = RecordingChannel(100)
    with pytest.raises(ArithmeticError):
        trained(line, tmp_path, **{"optimizer": {"name": "sgd", "lr": 1e30}})
    failed = line.told[-1]
    assert isinstance(failed, Failed)
    assert failed.rank == 0
    assert failed.error.startswith("Traceback (most recent call last)")
    assert "NonFiniteError: train/loss is" in failed.error


def test_a_storage_error_of_a_rank_is_reported_and_raised_in_the_trial(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").write_text("a file where a folder must be")
    line = RecordingChannel(100)
    with pytest.raises(CheckpointWriteError):
        trained(line, tmp_path, **{"budget.checkpoint_every_s": 0.0})
    fault = line.told[-1]
    assert isinstance(fault, StorageFailed)
    assert str(tmp_path / "checkpoints") in fault.reason
    with pytest.raises(StorageError, match="a folder must"):
        progress_or_raise(fault)


def test_a_rank_that_does_not_see_the_folder_of_results_says_what_it_must_be(tmp_path: Path) -> None:
    line = RecordingChannel(100)
    with pytest.raises(FileNotFoundError, match="must be on storage that all nodes mount"):
        trained(line, tmp_path / "elsewhere")
    assert isinstance(line.told[-1], Failed)
