"""Resources that trials request: cores and GPUs of the spec, and the measured memory of trials of the same shape."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from pruneyard.cluster.pulse import HeadMonitor
from pruneyard.cluster.session import Session
from pruneyard.orchestrator.execution.report import Report
from pruneyard.orchestrator.planning.attempt import PlannedAttempt
from pruneyard.orchestrator.ray_backend.memory_requests import GIB
from pruneyard.orchestrator.ray_backend.placement import Placement, resources_per_trial
from pruneyard.orchestrator.spec.job import Resources
from pruneyard.orchestrator.spec.load import load_spec
from pruneyard.reports.layout import RunFolder
from pruneyard.reports.records import Status

SPEC: dict[str, Any] = {
    "name": "placed",
    "kind": "sparse",
    "data": {"name": "digits"},
    "model": {"name": "mlp"},
    "method": {"name": "dense"},
    "budget": {"steps": 1},
    "grid": {"model.width": [8, 16]},
    "seeds": 2,
}


ONE_CORE = Resources()


def attempts_of(spec: dict[str, Any], resources: Resources = ONE_CORE) -> list[PlannedAttempt]:
    return [PlannedAttempt(job=job, attempt=1, resources=resources) for job in load_spec(spec).jobs]


def placement(tmp_path: Path, attempts: list[PlannedAttempt], resources: Resources, **session: Any) -> Placement:
    joined = Session(address="127.0.0.1:1", is_own=False, head=HeadMonitor("127.0.0.1:1", None), **session)
    placed = Placement(RunFolder(tmp_path), shapes=[resources], session=joined)
    placed.expect(attempts)
    return placed


def ended(planned: PlannedAttempt, **memory: int) -> Report:
    return Report(run_key=planned.job.key, status=Status.COMPLETED, **memory)


def test_cores_are_asked_for_as_the_spec_says(tmp_path: Path) -> None:
    attempts = attempts_of(SPEC, Resources(cpus=2))
    placed = placement(tmp_path, attempts, Resources(cpus=2), nodes=((8, 0), (4, 0)), memory=(16 * GIB, 6 * GIB))
    assert placed.room.num_slots(Resources(cpus=2)) == 6
    assert placed.resources_for(attempts[:1]) == {"cpu": 2, "gpu": 0}


def test_a_shape_that_takes_more_gets_more_and_others_the_share_of_the_node_with_the_least(tmp_path: Path) -> None:
    attempts = attempts_of(SPEC)
    narrow, wide = attempts[0], attempts[-1]
    placed = placement(tmp_path, attempts, Resources(), nodes=((4, 0), (2, 0)), memory=(16 * GIB, 4 * GIB))
    placed.record(ended(wide, peak_memory_bytes=3 * GIB))
    assert placed.resources_for([wide])["memory"] == 3.75 * GIB
    assert placed.resources_for([narrow])["memory"] == 1.75 * GIB
    assert placed.resources_for([narrow, wide])["memory"] == 3.75 * GIB, "one process runs both"


@pytest.mark.parametrize(
    ("requested", "peak", "given"),
    [
        (0.25, 1, 0.25),  # (1.2 + 1) of 16
        (0.25, 6, 0.55),  # (7.2 + 1) of 16 = 0.51
        (0.25, 40, 1.0),
        (1.0, 6, 1.0),
        (2.0, 40, 2.0),
    ],
)
def test_a_share_of_a_gpu_grows_with_what_its_memory_was_seen_to_need(
    tmp_path: Path, requested: float, peak: int, given: float
) -> None:
    attempts = attempts_of(SPEC, Resources(gpus=requested))
    placed = placement(tmp_path, attempts, Resources(gpus=requested), nodes=((64, 8),), memory=(64 * GIB,))
    before = placed.resources_for(attempts[:1])
    assert before["gpu"] == requested
    placed.record(ended(attempts[0], peak_memory_bytes=peak * GIB, gpu_memory_bytes=16 * GIB))
    after = placed.resources_for(attempts[:1])
    assert after["gpu"] == pytest.approx(given)
    assert "memory" not in after, "a GPU's memory says nothing of the node's"


@contextmanager
def copied_requests(placed: Placement, attempts: list[PlannedAttempt]) -> Iterator[Any]:
    """Yields a copy of the requests, as Tune stores them."""
    from ray import cloudpickle

    with resources_per_trial(placed, [[planned] for planned in attempts]) as ask:
        yield cloudpickle.loads(cloudpickle.dumps(ask))


def test_tune_queries_a_copy_and_gets_updated_requests(tmp_path: Path) -> None:
    attempts = attempts_of(SPEC)
    placed = placement(tmp_path, attempts, Resources(), nodes=((4, 0),), memory=(8 * GIB,))
    with copied_requests(placed, attempts) as ask:
        assert "memory" not in ask({"index": 3}).required_resources
        placed.record(ended(attempts[3], peak_memory_bytes=3 * GIB))
        assert ask({"index": 3}).required_resources["memory"] == 3.75 * GIB
    with pytest.raises(KeyError):
        ask({"index": 3})
