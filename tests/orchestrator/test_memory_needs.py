"""The measured memory of trials decides how many a node runs."""

from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch

from pruneyard.orchestrator.driver.run import run
from pruneyard.orchestrator.execution.process_state import PeakMemory
from pruneyard.orchestrator.ray_backend.memory_requests import (
    GIB,
    REQUEST_UNIT,
    MemoryHistory,
    largest_request_per_worker,
    memory_key,
)
from pruneyard.orchestrator.results import Results
from pruneyard.orchestrator.spec.load import load_spec
from pruneyard.reports.attempt import attempt_of, decode_record
from pruneyard.reports.layout import RunFolder
from pruneyard.reports.records import Status
from pruneyard.reports.store import Store
from pruneyard.testing.cases import each_case

SPEC: dict[str, Any] = {
    "name": "memory",
    "kind": "sparse",
    "data": {"name": "digits", "max_train": 100, "max_test": 50},
    "model": {"name": "mlp", "width": 8, "depth": 1},
    "method": {"name": "static", "density": 0.5},
    "budget": {"steps": 2, "batch_size": 16},
}
NODE = 16 * GIB


def shape_with(**changes: Any) -> str:
    (job,) = load_spec(SPEC, overrides=changes).jobs
    return memory_key(job.kind, job.identity)


@each_case(
    "change",
    [{"seeds": [5]}, {"method.density": 0.1}, {"optimizer.lr": 0.3}, {"budget.steps": 9}],
)
def test_jobs_of_one_shape(change: dict[str, Any]) -> None:
    assert shape_with(**change) == shape_with()


@each_case(
    "change",
    [
        {"model.width": 16},
        {"budget.batch_size": 32},
        {"method": {"name": "rigl", "density": 0.5}},
        {"data.max_train": 50},
        {"budget.precision": "bfloat16"},
    ],
)
def test_jobs_of_another_shape(change: dict[str, Any]) -> None:
    assert shape_with(**change) != shape_with()


def test_nothing_is_asked_for_as_long_as_all_keep_to_their_share() -> None:
    needs = MemoryHistory()
    assert needs.request("a", share=NODE // 4, node=NODE) == 0
    needs.record("a", 3 * GIB)
    assert needs.request("a", share=NODE // 4, node=NODE) == 0


def test_once_one_takes_more_than_its_share_every_known_shape_gets_what_it_took_and_a_fifth() -> None:
    needs = MemoryHistory()
    needs.record("light", GIB)
    needs.record("heavy", 5 * GIB)
    needs.record("heavy", None)
    given = [needs.request(shape, share=NODE // 4, node=NODE) for shape in ("light", "heavy", "unknown")]
    assert given == [1.25 * GIB, 6 * GIB, 3.5 * GIB]


@each_case("peak", [REQUEST_UNIT + 1, 2 * REQUEST_UNIT, 123_456_789 * 3, 7 * GIB])
def test_requests_are_few_and_never_below_what_was_seen(peak: int) -> None:
    needs = MemoryHistory()
    needs.record("a", peak)
    request = needs.request("a", share=NODE // 64, node=NODE)
    assert request % REQUEST_UNIT == 0
    assert peak <= request <= peak * 1.2 + REQUEST_UNIT


def test_what_was_killed_for_want_of_memory_gets_twice_the_room_until_it_has_a_node_to_itself() -> None:
    needs = MemoryHistory()
    given = []
    for _ in range(4):
        needs.record_oom_kill("a")
        given.append(needs.request("a", share=NODE // 8, node=NODE))
    assert given == [3.5 * GIB, 7 * GIB, 14 * GIB, 14.25 * GIB]
    needs.record("a", 3 * NODE // 8)
    assert needs.request("a", share=NODE // 8, node=NODE) == 7.25 * GIB


def test_no_request_is_more_than_a_node_has_with_some_to_spare() -> None:
    needs = MemoryHistory()
    needs.record("a", 100 * GIB)
    assert needs.request("a", share=NODE // 2, node=NODE) == 14.25 * GIB


@each_case(
    ("workers", "nodes", "most"),
    [
        (2, [(16, 4)], 8),
        (2, [(16, 4), (12, 4)], 12),  # one on each
        (3, [(16, 4), (12, 4)], 8),  # two on the larger one
        (4, [(16, 1), (12, 4)], 4),  # one place alone on the larger one
        (5, [(16, 4)], 0),
    ],
)
def test_ranks_of_one_trial_ask_for_what_all_of_them_find_at_once(
    workers: int, nodes: list[tuple[int, int]], most: int
) -> None:
    assert (
        largest_request_per_worker(workers, [(memory * GIB, places) for memory, places in nodes])
        == most * GIB
    )


def test_finished_trials_of_a_folder_are_remembered(tmp_path: Path) -> None:
    run(SPEC, tmp_path, local=True)
    (peak,) = Results(tmp_path).runs()["peak_memory_bytes"]
    assert peak > 50 * 2**20  # torch itself
    known = MemoryHistory.from_folder(RunFolder(tmp_path)).request(shape_with(), share=REQUEST_UNIT, node=NODE)
    assert peak <= known <= peak * 1.2 + REQUEST_UNIT


@pytest.mark.parametrize("status", [Status.INTERRUPTED, Status.FAILED])
def test_only_a_completed_trial_makes_an_oom_kill_forgotten(status: Status, tmp_path: Path) -> None:
    run(SPEC, tmp_path, local=True)
    folder = RunFolder(tmp_path)
    (key,) = Results(tmp_path).runs()["run_key"]
    file, day = folder.attempt_record(key, 1), timedelta(days=1)
    first = attempt_of(decode_record(file, file.read_bytes())).run
    oom = "running low on memory"
    killed = replace(first, attempt=2, status=Status.FAILED, error=oom, ended_at=first.ended_at + day)
    stopped = replace(first, attempt=3, status=status, ended_at=first.ended_at + 2 * day)
    for number, run_record in enumerate((killed, stopped), start=2):
        Store(folder).write(run_record, [], [])
        assert MemoryHistory.from_folder(folder).request(shape_with(), share=NODE // 2, node=NODE) > 0, number
    Store(folder).write(replace(first, attempt=4, ended_at=first.ended_at + 3 * day), [], [])
    assert MemoryHistory.from_folder(folder).request(shape_with(), share=NODE // 2, node=NODE) == 0


def test_a_peak_does_not_count_what_was_freed_before() -> None:
    torch.ones(75_000_000).sum()  # 300 MB
    before = PeakMemory.start().bytes()
    if before is None:
        pytest.skip("this system does not count it")
    memory = PeakMemory.start()
    torch.ones(50_000_000).sum()  # 200 MB
    took = memory.bytes()
    assert took is not None
    assert 190e6 < took - before < 260e6
