"""Sample files for sources that read files, and a process that reads a source again.

A source names in its class attribute `examples` the sample it reads: `path: pictures` is a folder with
`train/CLASS/*.png`, `test/CLASS/*.png`,
`train.parquet` and `test.parquet` of the same images; `path: arrays.npz` has arrays `x` and `y`, `path: table.csv` columns
`width`, `colour` and `kind`; `path: graph.npz` is a graph;
`path: synthetic_set.safetensors` is a synthetic set for `digits`, `path: ranking.safetensors` a ranking of its features.
"""

import io
from collections.abc import Iterator
from concurrent.futures import Executor, ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from scipy import sparse

from pruneyard.workloads.data.dataset import DataNotFoundError
from pruneyard.workloads.data.feature_ranking import to_bytes as ranking_bytes
from pruneyard.workloads.data.synthetic_set import SyntheticSet
from pruneyard.workloads.nodes.sources.block_model import BlockModel

CLASSES = ("ant", "bird", "cat")


@contextmanager
def sample_files(cache: Path) -> Iterator[None]:
    """Writes the samples where sources look for files: below an empty cache folder, which is also the working folder."""
    folder = cache / "data"
    folder.mkdir()
    _write_samples(folder)
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setenv("PRUNEYARD_CACHE", str(cache))
        monkeypatch.chdir(folder)
        yield


def load(source: Any) -> Any:
    """Returns what a source loads; skips the test where its files are not on this machine."""
    try:
        return source.load()
    except DataNotFoundError as error:
        pytest.skip(f"{type(source).__name__}: {error}")


@contextmanager
def process_with_other_hashes() -> Iterator[Executor]:
    """Starts a process whose strings have other hashes than those of this one."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setenv("PYTHONHASHSEED", "1")
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
            yield pool


def _write_samples(folder: Path) -> None:
    """Writes all samples to a folder."""
    _write_pictures(folder / "pictures", "train", per_class=12, seed=0)
    _write_pictures(folder / "pictures", "test", per_class=4, seed=1)
    _write_graph(folder / "graph.npz")
    features = np.random.default_rng(0).standard_normal((60, 4))
    np.savez(folder / "arrays.npz", x=features, y=np.repeat(CLASSES, 20))
    colours = np.array(["red", "blue", None])[np.arange(60) % 3]
    table = pd.DataFrame({"width": features[:, 0], "colour": colours, "kind": np.repeat(CLASSES, 20)})
    table.to_csv(folder / "table.csv", index=False)
    digits = SyntheticSet(
        images=torch.rand(20, 1, 8, 8, generator=torch.Generator().manual_seed(0)),
        labels=torch.arange(10).repeat_interleave(2),
        soft_labels=torch.zeros(0, 10),
        mean=(0.3,),
        std=(0.35,),
    )
    folder.joinpath("synthetic_set.safetensors").write_bytes(digits.to_bytes())
    folder.joinpath("ranking.safetensors").write_bytes(ranking_bytes(np.arange(64)))


def _write_pictures(folder: Path, part: str, *, per_class: int, seed: int) -> None:
    rng, rows = np.random.default_rng(seed), []
    for label, name in enumerate(CLASSES):
        (folder / part / name).mkdir(parents=True)
        for number in range(per_class):
            buffer = io.BytesIO()
            Image.fromarray(rng.integers(0, 256, (6, 5, 3), dtype=np.uint8)).save(buffer, format="PNG")
            (folder / part / name / f"{number:03}.png").write_bytes(buffer.getvalue())
            rows.append({"img": {"bytes": buffer.getvalue(), "path": f"{number}.png"}, "label": label})
    pd.DataFrame(rows).to_parquet(folder / f"{part}.parquet")


def _write_graph(file: Path) -> None:
    graph = BlockModel(num_nodes=200, minority_fraction=0.2).load()
    arrays: dict[str, Any] = {"labels": graph.labels}
    for prefix, matrix in (("adj", graph.adjacency), ("attr", graph.features)):
        csr = sparse.csr_array(matrix)
        arrays |= {f"{prefix}_data": csr.data, f"{prefix}_indices": csr.indices, f"{prefix}_indptr": csr.indptr}
        arrays[f"{prefix}_shape"] = np.array(csr.shape)
    order = np.random.default_rng(0).permutation(len(graph))
    for name, first, last in (("train", 0, 40), ("val", 40, 80), ("test", 80, 140)):
        mask = np.zeros(len(graph), dtype=bool)
        mask[order[first:last]] = True
        arrays[f"{name}_mask"] = mask
    np.savez(file, **arrays)


def fingerprint(source: Any) -> str:
    """Returns the fingerprint of what a source loads, for another process to compute."""
    return str(source.load().fingerprint)
