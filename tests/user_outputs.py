"""Outputs of made-up networks, and files of them, for tests of outputs that were computed elsewhere."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

Outputs = tuple[NDArray[np.float64], NDArray[np.int64]]


def made_up(num_rows: int = 400, num_classes: int = 4, *, seed: int = 0, sharpness: float = 2.0) -> Outputs:
    """Returns logits (N, C) that are over-confident by `sharpness`, and labels (N,) of all classes."""
    generator = np.random.default_rng(seed)
    logits = generator.normal(size=(num_rows, num_classes)) * 2
    noisy = logits + generator.gumbel(size=logits.shape)
    labels = noisy.argmax(axis=1)
    labels[:num_classes] = np.arange(num_classes)
    return logits * sharpness, labels


def probabilities_of(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    """Returns the softmax (N, C) of logits."""
    shifted = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(shifted / shifted.sum(axis=1, keepdims=True))


def write_outputs(file: Path, values: NDArray[Any], labels: NDArray[Any], *, kind: str = "logits", **columns: Any) -> Path:
    """Writes values (N, C) or (N,) of this kind, labels and further columns under their usual names; returns the file."""
    if file.suffix == ".npz":
        np.savez(file, **{kind: values, "labels": labels, **columns})
        return file
    beginning = {"logits": "logit_", "probabilities": "prob_"}[kind]
    if file.suffix == ".parquet":
        pd.DataFrame({kind: list(values), "label": labels, **columns}).to_parquet(file)
        return file
    numbered = {f"{beginning}{place}": column for place, column in enumerate(values.T)}
    pd.DataFrame({**numbered, "label": labels, **columns}).to_csv(file, index=False)
    return file
