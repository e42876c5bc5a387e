"""Finished runs in memory, for probes: small networks with random weights and masks on a few digits."""

from collections.abc import Sequence
from functools import cache
from typing import Any

import torch

from pruneyard.testing.finished_networks import finished_of, random_mask
from pruneyard.workloads.data.dataset import Dataset, Source
from pruneyard.workloads.data.sources.digits import Digits
from pruneyard.workloads.networks.finished import FinishedNetwork
from pruneyard.workloads.parents import FinishedRun
from pruneyard.workloads.probe.probe import Subject

SOURCE = Digits(max_train=200, max_test=60)
MODELS: tuple[dict[str, Any], ...] = (
    {"name": "mlp", "width": 24},
    {"name": "convnet", "width": 8, "depth": 2, "norm": "batch"},
)


@cache
def digits() -> Dataset:
    return SOURCE.load()


def finished_run(network: FinishedNetwork, *, key: str = "run", kind: str = "sparse", num_extra: int = 0) -> FinishedRun:
    """Returns a run with this network, trained on `SOURCE`, without predictions."""

    def nothing() -> Any:
        raise AssertionError(f"{key} has no predictions")

    return FinishedRun(
        run_key=key,
        kind=kind,
        spec={"budget": {"batch_size": 64}, "seed": 0},
        num_extra=num_extra,
        predictions=nothing,
        network=lambda: network,
        source=lambda: SOURCE,
        data_fingerprint=lambda: digits().fingerprint,
    )


def load(source: Source) -> Dataset:
    assert source == SOURCE
    return digits()


def no_data(source: Source) -> Dataset:
    raise AssertionError(f"{source} is read, but the class says that no data is")


def subjects_of(networks: Sequence[FinishedNetwork], *, reads_data: bool = True) -> list[Subject]:
    return [
        Subject(
            run=finished_run(network, key=f"run{number}"),
            device=torch.device("cpu"),
            load_data=load if reads_data else no_data,
        )
        for number, network in enumerate(networks)
    ]


def random_networks(model: dict[str, Any], num: int) -> list[FinishedNetwork]:
    """Returns networks of one model with different weights and masks."""
    return [finished_of(model, (1, 8, 8), random_mask(0.4), seed=seed) for seed in range(num)]
