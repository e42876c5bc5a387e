"""Exports the networks of finished runs and measures their latency, for the commands `export` and `latency`."""

import copy
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime

import torch

from pruneyard.orchestrator.artifacts.reader import finished_network
from pruneyard.orchestrator.errors import UsageError
from pruneyard.reports.cells import label_cells
from pruneyard.reports.latency import write_latency
from pruneyard.reports.layout import RunFolder
from pruneyard.reports.records import LatencyRow, Status
from pruneyard.reports.store import Store
from pruneyard.workloads.deploy.files import pack
from pruneyard.workloads.deploy.format import Exported, Format, relative_difference
from pruneyard.workloads.deploy.timing import compare, device_name, torch_threads
from pruneyard.workloads.networks.finished import FinishedNetwork
from pruneyard.workloads.plugins import find

_CHECKED_IMAGES = 4


class WrongExportError(ValueError):
    """The outputs of an exported network differ from those of the dense one; it must not be used."""


@dataclass(frozen=True, kw_only=True)
class LatencyRequest:
    """The formats, batch sizes and threads with which a network is timed."""

    formats: Sequence[str]
    batch_sizes: Sequence[int]
    threads: int


@dataclass(frozen=True, kw_only=True)
class Skipped:
    """A network that a format cannot export, and why."""

    run_key: str
    format: str
    reason: str


def export_network(folder: RunFolder, run_key: str, *, format: str) -> bytes:
    """Returns the content of the exported file. Raises `UsageError` if the format cannot export the network.

    If the format runs on this machine, its outputs are first compared with those of the dense network.
    """
    finished = finished_network(folder, run_key)
    chosen: Format = find("deploy.formats", format)()
    try:
        if not chosen.fit(finished).refusal:
            _difference(chosen, chosen.build(finished, batch_size=1), finished, num_images=_CHECKED_IMAGES)
        return chosen.encode(finished)
    except ValueError as error:
        if isinstance(error, WrongExportError):
            raise
        raise UsageError(f"{run_key} as {format}: {error}") from error


def select_networks(folder: RunFolder, *, run_keys: Sequence[str], every_seed: bool) -> list[str]:
    """Returns the keys of the finished runs to time: the given ones, or the first seed of each cell, or all.

    Raises `UsageError` for a key without a finished run, and if there is no finished run at all.
    """
    runs = label_cells(Store(folder).runs())
    finished = runs[(runs["status"] == Status.COMPLETED) & runs["artifact"].notna()]
    if unknown := [key for key in run_keys if key not in set(finished["run_key"])]:
        raise UsageError(f"--run-key {unknown[0]}: is no finished run in {folder.path}")
    if finished.empty:
        raise UsageError(f"{folder.path}: has no finished run")
    if run_keys:
        return list(dict.fromkeys(run_keys))
    chosen = finished if every_seed else finished.sort_values("seed", kind="stable").drop_duplicates("cell")
    return [str(key) for key in chosen.sort_index()["run_key"]]


def measure_latency(folder: RunFolder, run_key: str, request: LatencyRequest) -> Iterator[LatencyRow | Skipped]:
    """Times one network in every format that can export it; each row is written before it is yielded.

    It is compared with the whole dense network: that from which channels were removed, if any were.
    """
    finished = finished_network(folder, run_key)
    dense_size_bytes = len(pack(finished.original, finished.original.network.state_dict(), format="dense"))
    with torch_threads(request.threads):
        for name in request.formats:
            chosen: Format = find("deploy.formats", name)()
            if refusal := chosen.fit(finished).refusal:
                yield Skipped(run_key=run_key, format=name, reason=refusal)
                continue
            facts = {"run_key": run_key, "format": name, "dense_size_bytes": dense_size_bytes}
            facts["size_bytes"] = len(chosen.encode(finished))
            for batch_size in request.batch_sizes:
                row = _row(chosen, finished, facts, batch_size=batch_size, threads=request.threads)
                write_latency(folder, row)
                yield row


def _row(
    chosen: Format, finished: FinishedNetwork, facts: Mapping[str, object], *, batch_size: int, threads: int
) -> LatencyRow:
    # Read before the measurement itself loads the machine.
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    exported = chosen.build(finished, batch_size=batch_size)
    difference = _difference(chosen, exported, finished, num_images=batch_size)
    images = finished.random_images(batch_size, seed=1).to(chosen.device, chosen.dtype)
    # A copy, because `Module.to` changes the module in place.
    found = compare(exported.run, copy.deepcopy(finished.original.network).to(chosen.device, chosen.dtype), images)
    return LatencyRow(
        **facts,  # type: ignore[arg-type]
        batch_size=batch_size,
        threads=threads,
        device=device_name(chosen.device),
        **asdict(found),
        measured_at=datetime.now(UTC),
        torch_version=str(torch.__version__),
        density=finished.density,
        forward_flops=finished.forward_flops,
        dense_forward_flops=finished.original.dense_forward_flops,
        kernels=json.dumps(exported.kernels),
        max_difference=difference,
        load=load,
    )


def _difference(chosen: Format, exported: Exported, finished: FinishedNetwork, *, num_images: int) -> float:
    """Returns the relative difference to the dense outputs. Raises `WrongExportError` beyond the format's tolerance."""
    images = finished.random_images(num_images)
    with torch.inference_mode():
        difference = relative_difference(exported.run(images), finished.network(images))
    # Not `difference > tolerance`, which is False for NaN.
    if not difference <= chosen.tolerance:
        raise WrongExportError(
            f"logits are off the dense ones by {difference:.2g} of the largest; {chosen.tolerance:g} is allowed"
        )
    return difference
