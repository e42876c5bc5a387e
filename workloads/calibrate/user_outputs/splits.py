"""Sorts the rows of a user's outputs into splits: those that a column names, or a stratified cut."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pruneyard.workloads.fields import NEUTRAL_BY_DEFAULT
from pruneyard.workloads.seeding import stream_seed
from pruneyard.workloads.user_code.nearest import nearest

OWN = ("calib", "val", "test")
OOD = "ood"
IGNORED = "train"  # nothing is fitted or evaluated on training rows

Rows = Mapping[str, NDArray[np.int64]]
"""The row numbers of every split, in ascending order."""


@dataclass(frozen=True, kw_only=True)
class SplitNames:
    """The names of the splits in a file that calls them otherwise."""

    calib: str = field(default="", metadata=NEUTRAL_BY_DEFAULT)
    val: str = field(default="", metadata=NEUTRAL_BY_DEFAULT)
    test: str = field(default="", metadata=NEUTRAL_BY_DEFAULT)

    def __post_init__(self) -> None:
        given = [name for each in fields(self) if (name := getattr(self, each.name))]
        if len(set(given)) < len(given):
            raise ValueError(f"splits names {given}; each split of the file can stand for one split only")


def rows_named(values: NDArray[Any], names: SplitNames, *, place: str) -> Rows:
    """Returns the rows of the splits that a column `values: (N,)` names, without training rows.

    Splits are `calib`, `val`, `test`, and `ood` or `ood.NAME` for OOD inputs; a name that `names` gives stands for its split
    alone, as `val` in `calib: val`. Raises `ValueError` for another name, and for that of a split which has a given name.
    """
    renamed = {given: split for split in OWN if (given := getattr(names, split))}
    own = {split: split for split in OWN if not getattr(names, split)} | renamed
    texts = np.array([str(value) for value in values.tolist()], dtype=object)
    split_of: dict[str, str] = {}
    for text in dict.fromkeys(texts.tolist()):
        if text in OWN and text not in own:
            row, given = int((texts == text).argmax()), getattr(names, text)
            raise ValueError(f"{place}: row {row} is {text!r}, but splits.{text} is {given!r}; one split has one name in a file")
        split = own.get(text, f"{OOD}.all" if text == OOD else text)
        if split not in OWN and not split.startswith(f"{OOD}.") and split != IGNORED:
            row = int((texts == text).argmax())
            allowed = f"{', '.join(own)}, {IGNORED} (not used), {OOD} or {OOD}.NAME; map other names by splits"
            raise ValueError(f"{place}: row {row} is {text!r}; it must be one of {allowed}{nearest(text, own)}")
        split_of[text] = split
    splits = np.array([split_of[text] for text in texts.tolist()], dtype=object)
    # Two names can stand for one split: ood and ood.all.
    return {split: np.flatnonzero(splits == split) for split in dict.fromkeys(split_of.values()) if split != IGNORED}


@dataclass(frozen=True, kw_only=True)
class Cut:
    """The cut of rows whose splits nothing names: `calib_fraction` of each class is `calib`, to fit on; the others are `test`."""

    calib_fraction: float
    split_seed: int

    def __post_init__(self) -> None:
        if not 0 < self.calib_fraction < 1:
            raise ValueError(f"calib_fraction is {self.calib_fraction}; it must lie in (0, 1)")

    def rows(self, labels_N: NDArray[np.int64]) -> Rows:
        """Returns random rows of `calib`, in proportion to the classes up to rounding, and the others as `test`."""
        generator = np.random.default_rng(stream_seed(self.split_seed, "calibrate/cut"))
        is_calib = stratified_cut(labels_N, self.calib_fraction, generator)
        return {"calib": np.flatnonzero(is_calib), "test": np.flatnonzero(~is_calib)}


def stratified_cut(labels_N: NDArray[np.int64], fraction: float, generator: np.random.Generator) -> NDArray[np.bool_]:
    """Returns a mask (N,) of random rows: `fraction` of each class, up to rounding, and of all rows."""
    shuffled = generator.permutation(len(labels_N))
    by_class = shuffled[np.argsort(labels_N[shuffled], kind="stable")]
    # Evenly spaced among all rows sorted by class, so the number of each class is off by less than one.
    chosen = np.zeros(len(labels_N), dtype=np.bool_)
    chosen[by_class] = np.diff(np.floor(np.arange(len(labels_N) + 1) * fraction + 0.5)) > 0
    return chosen
