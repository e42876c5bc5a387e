"""Opens what a finished run left: its network and its predictions."""

from collections.abc import Mapping
from os import PathLike
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from pruneyard.orchestrator.artifacts.run_keys import RunChoice, full_run_key
from pruneyard.orchestrator.errors import UsageError
from pruneyard.reports.layout import RunFolder
from pruneyard.reports.location import Location, located
from pruneyard.reports.predictions import FILE, SplitPredictions, named_predictions
from pruneyard.reports.records import Status
from pruneyard.reports.store import Store

if TYPE_CHECKING:  # loads torch, which predictions do without
    from torch import nn


@runtime_checkable
class HasFolder(Protocol):
    """An object with a folder of results, such as `Results`."""

    folder: RunFolder


Source = HasFolder | str | PathLike[str] | Location


def load_network(run: Source, key: "RunChoice | None" = None) -> "nn.Module":
    """Returns the network of a finished run in evaluation mode on the CPU: its trained weights, zero outside its masks.

    Args:
        run: a folder of results, a `Results`, or the folder of one run's artifacts.
        key: the run key, or at least its first eight digits; needed if the folder has several completed runs. A
            row with `run_key`, as of `Results.best`, is one, too.

    The network takes a batch as training gave it, such as images `(N, C, H, W)` that were scaled and normalised, and returns
    logits `(N, C)`. Nothing is unpickled. Raises `UsageError` for a run that is not there, has no network or is damaged.

    Example:
        >>> import torch, pruneyard
        >>> key = pruneyard.Results("out/digits").best()["run_key"]
        >>> network = pruneyard.load_network("out/digits", key)
        >>> network(torch.zeros(2, 1, 8, 8)).shape
        torch.Size([2, 10])
    """
    from pruneyard.orchestrator.artifacts.reader import finished_network

    folder, run_key = _folder_and_key(run, key)
    return finished_network(folder, run_key).network


def predictions(run: Source, key: "RunChoice | None" = None) -> Mapping[str, SplitPredictions]:
    """Returns the logits of a finished run by split, with labels and row ids, as NumPy arrays.

    Args:
        run, key: as for `load_network`.

    Splits are those of the job, such as val, calib and test, and `ood.NAME` for out-of-distribution inputs. Raises `UsageError`
    for a run that is not there or has no predictions.

    Example:
        >>> import pruneyard
        >>> results = pruneyard.Results("out/digits")
        >>> test = pruneyard.predictions(results, results.best()["run_key"])["test"]
        >>> test.logits.shape
        (90, 10)
        >>> bool((test.logits.argmax(axis=1) == test.labels).mean() > 0.5)
        True
    """
    folder, run_key = _folder_and_key(run, key)
    path = folder.artifact(run_key) / FILE
    if not path.is_file():
        raise UsageError(f"{run_key}: has no predictions in {folder.path}")
    try:
        return named_predictions(path)
    except ValueError as error:
        raise UsageError(str(error)) from error


def _folder_and_key(run: Source, key: "RunChoice | None") -> tuple[RunFolder, str]:
    folder = run.folder if isinstance(run, HasFolder) else RunFolder(located(run))
    if not folder.path.is_dir():
        raise UsageError(f"{folder.path}: there is no such folder")
    if key is not None:
        return folder, full_run_key(folder, key, option="key")
    name, home = folder.path.name, RunFolder(folder.path.parent.parent)
    if folder.path.parent == home.artifacts and home.manifest(name).is_file():
        return home, name
    completed = [known for known, (status, _) in Store(folder).statuses().items() if status is Status.COMPLETED]
    if len(completed) != 1:
        raise UsageError(f"{folder.path}: has {len(completed)} completed runs; give the run key of one")
    return folder, completed[0]
