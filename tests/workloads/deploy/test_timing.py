"""Timing: the faster network is found, measurements alternate, and the number of threads is restored."""

import time

import pytest
import torch
from torch import Tensor

from pruneyard.workloads.deploy.timing import LEAST_ROUNDS, compare, least_times, torch_threads

INPUTS = torch.zeros(1)


def sleeper(seconds: float) -> object:
    def run(inputs: Tensor) -> Tensor:
        time.sleep(seconds)
        return inputs

    return run


def test_a_network_that_takes_a_third_of_the_time_is_three_times_as_fast() -> None:
    now_s = 0.0

    def taking(seconds: float) -> object:
        def run(inputs: Tensor) -> Tensor:
            nonlocal now_s
            now_s += seconds
            return inputs

        return run

    sparse, dense = taking(0.5), taking(1.5)
    found = compare(sparse, dense, INPUTS, span_s=0.0, clock=lambda: now_s)  # type: ignore[arg-type]
    assert found.num_repeats == LEAST_ROUNDS
    assert found.median_s == pytest.approx(0.5)
    assert found.dense_median_s == pytest.approx(1.5)
    assert found.speedup == pytest.approx(3)
    assert found.low_s <= found.median_s <= found.high_s
    assert found.speedup_low <= found.speedup <= found.speedup_high


def test_both_networks_alternate_and_the_first_one_changes() -> None:
    order: list[str] = []

    def named(name: str) -> object:
        def run(inputs: Tensor) -> Tensor:
            order.append(name)
            time.sleep(0.003)
            return inputs

        return run

    compare(named("sparse"), named("dense"), INPUTS, span_s=0.01)  # type: ignore[arg-type]
    timed = order[-2 * LEAST_ROUNDS :]  # one call each a round, since a call takes longer than a span
    pairs = {tuple(timed[place : place + 2]) for place in range(0, len(timed), 2)}
    assert pairs == {("sparse", "dense"), ("dense", "sparse")}


def test_the_least_time_of_each_is_found() -> None:
    """Far apart, since a busy machine may keep the fast one waiting for some milliseconds in every round."""
    times = least_times({"slow": sleeper(0.03), "fast": sleeper(0.001)}, INPUTS, rounds=3)  # type: ignore[dict-item]
    assert 0.001 <= times["fast"] < times["slow"]


def test_threads_are_put_back_also_after_an_error() -> None:
    before, seen = torch.get_num_threads(), []

    def fail_on_more_threads() -> None:
        with torch_threads(before + 1):
            seen.append(torch.get_num_threads())
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        fail_on_more_threads()
    assert seen == [before + 1]
    assert torch.get_num_threads() == before
