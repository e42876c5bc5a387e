"""How many trials fit at once, with one worker and with several, and the message where none fits."""

import pytest

from pruneyard.orchestrator.errors import UsageError
from pruneyard.orchestrator.execution.capacity import max_concurrent_trials
from pruneyard.orchestrator.spec.job import Resources
from pruneyard.testing.cases import each_case


@each_case(
    ("resources", "node", "slots"),
    [
        (Resources(), (2, 0), 2),
        (Resources(cpus=2), (5, 0), 2),
        (Resources(gpus=0.25), (16, 1), 4),
        (Resources(gpus=0.3), (16, 2), 6),
        (Resources(gpus=2), (16, 8), 4),
        (Resources(cpus=4, gpus=0.25), (8, 4), 2),
    ],
)
def test_slots_are_what_the_scarcer_of_cpus_and_gpus_allows(
    resources: Resources, node: tuple[float, float], slots: int
) -> None:
    assert max_concurrent_trials(resources, [node]) == slots


@each_case(
    ("resources", "nodes", "slots"),
    [
        (Resources(workers=2), [(2, 0)], 1),
        (Resources(workers=2), [(5, 0)], 2),
        (Resources(workers=2), [(1, 0), (1, 0)], 1),
        (Resources(workers=3, cpus=2), [(5, 0), (0, 0), (5, 0), (3, 0)], 1),
        (Resources(workers=4, gpus=1), [(16, 8), (16, 8)], 4),
        (Resources(workers=2, cpus=8, gpus=1), [(16, 8), (16, 8)], 2),
        (Resources(workers=2, gpus=0.5), [(16, 1)], 1),
        (Resources(cpus=3), [(4, 0), (4, 0)], 2),
    ],
)
def test_a_worker_is_on_one_node_and_a_trial_may_be_on_several(
    resources: Resources, nodes: list[tuple[float, float]], slots: int
) -> None:
    assert max_concurrent_trials(resources, nodes) == slots


@each_case(
    ("resources", "nodes", "message"),
    [
        (
            Resources(workers=4),
            [(2, 0)],
            "one trial needs 4 workers, each with 1 CPUs and 0 GPUs; available are 2 CPUs and 0 GPUs, enough for 2 of them",
        ),
        (
            Resources(workers=2, cpus=8),
            [(4, 0), (4, 0), (6, 1), (4, 0)],
            "one trial needs 2 workers, each with 8 CPUs and 0 GPUs; available are 3 nodes with 4 CPUs and 0 GPUs, "
            "1 node with 6 CPUs and 1 GPUs",
        ),
        (
            Resources(cpus=5),
            [(4, 0), (4, 0)],
            "one trial needs 5 CPUs and 0 GPUs; available are 2 nodes with 4 CPUs and 0 GPUs",
        ),
        (Resources(gpus=1), [], "one trial needs 1 CPUs and 1 GPUs; available are no nodes"),
    ],
)
def test_what_can_never_fit_is_refused_with_the_numbers(
    resources: Resources, nodes: list[tuple[float, float]], message: str
) -> None:
    with pytest.raises(UsageError) as caught:
        max_concurrent_trials(resources, nodes)
    assert str(caught.value) == f"resources: {message}"
