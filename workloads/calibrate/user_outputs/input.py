"""The input of a calibrate job: finished runs, or a file with the outputs of a network that was trained elsewhere."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from functools import lru_cache
from pathlib import PurePosixPath
from typing import Any

import numpy as np

from pruneyard.workloads.calibrate.user_outputs.assembled import (
    ArrayNames,
    CheckedRows,
    Positive,
    UserOutputs,
    checked_rows,
)
from pruneyard.workloads.calibrate.user_outputs.columns import Columns, find_column, find_label, find_values
from pruneyard.workloads.calibrate.user_outputs.splits import Cut, SplitNames
from pruneyard.workloads.calibrate.user_outputs.table import SUFFIXES, Table, read_table
from pruneyard.workloads.data.artifact_file import content_digest, resolve_digest
from pruneyard.workloads.fields import FILLED_IN, NEUTRAL_BY_DEFAULT, NOT_IDENTITY, check_runs

OF_RUNS = ("runs", "folder", "artifacts")


@dataclass(frozen=True, kw_only=True)
class Input:
    """Finished runs, of which a spec writes `from: STAGE` or `from: FOLDER`, or the path of a file.

    runs, folder, artifacts: as in `pruneyard.workloads.parents.Runs`.
    path: a .parquet, .npz or .csv file with logits or probabilities and labels. Its content is part of the run key, its path is
        not.
    digest: 16 hexadecimal digits over the file's content; if given, a file with other content is refused.
    model: chooses the rows of one model where the file has a column of models; else the name of the model in tables and charts,
        by default the name of the file.
    columns, splits: the names of the file's columns and splits where they are not the usual ones.
    calib_fraction, split_seed: where no column names the splits, this share of each class becomes `calib` and the rest `test`.
    num_extra: outputs beyond the classes, the last columns of the logits.
    """

    runs: tuple[str, ...] = field(default=(), metadata=NEUTRAL_BY_DEFAULT)
    folder: str = field(default="", metadata=NOT_IDENTITY)
    artifacts: tuple[str, ...] = field(default=(), metadata=FILLED_IN)
    path: str = field(default="", metadata=NOT_IDENTITY)
    digest: str = field(default="", metadata=NEUTRAL_BY_DEFAULT)
    model: str = field(default="", metadata=NEUTRAL_BY_DEFAULT)
    columns: Columns = field(default=Columns(), metadata=NEUTRAL_BY_DEFAULT)
    splits: SplitNames = field(default=SplitNames(), metadata=NEUTRAL_BY_DEFAULT)
    calib_fraction: float = field(default=0.5, metadata=NEUTRAL_BY_DEFAULT)
    split_seed: int = field(default=0, metadata=NEUTRAL_BY_DEFAULT)
    num_extra: int = field(default=0, metadata=NEUTRAL_BY_DEFAULT)

    def __post_init__(self) -> None:
        if self.path and self.runs:
            raise ValueError(f"path is {self.path!r} and runs is {list(self.runs)}; one of the two must be left out")
        if not self.path:
            self._check_runs()
            return
        if PurePosixPath(self.path).suffix not in SUFFIXES:
            raise ValueError(f"path is {self.path!r}; it must end in {', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]}")
        _ = self.cut  # checks the fraction
        if self.num_extra < 0:
            raise ValueError(f"num_extra is {self.num_extra}; it must be 0 or more")
        wanted = "the path of a .parquet, .npz or .csv file with logits or probabilities and labels"
        digest = resolve_digest(path=self.path, digest=self.digest, runs=(), mismatch="holds other outputs", wanted=wanted)
        # The dataclass is frozen, but the digest is only known after the file has been read.
        object.__setattr__(self, "digest", digest)

    def _check_runs(self) -> None:
        if not self.runs:
            raise ValueError("path is missing; give from, a stage or folder of finished runs, or path, a file of outputs")
        check_runs(self.runs)
        for each in fields(self):
            if each.name not in OF_RUNS and getattr(self, each.name) != each.default:
                came = f"{each.name} is {getattr(self, each.name)!r}"
                raise ValueError(f"{came}, which belongs to a path; leave it out beside from or runs")

    @property
    def cut(self) -> Cut:
        """Returns the cut of rows whose splits no column names. Raises `ValueError` for a fraction that leaves no rows."""
        return Cut(calib_fraction=self.calib_fraction, split_seed=self.split_seed)

    @property
    def file_name(self) -> str:
        """The name of the file, without its folder."""
        return PurePosixPath(self.path).name

    @property
    def model_name(self) -> str:
        """The name of the model in tables and charts."""
        return self.model or PurePosixPath(self.path).stem

    def read(self, *, positive: Positive, cut: bool = True) -> UserOutputs:
        """Returns the outputs in the file. Raises `ValueError` that names file, column, row and what is allowed.

        cut: whether to cut rows whose split no column names; else all of them are `test`.
        """
        found = content_digest(self.path)
        if found != self.digest:
            raise ValueError(f"{self.path} has changed: its digest was {self.digest} and is {found}")
        table = read_table(self.path)
        rows = _checked(self.path, self.digest, self.columns, self.splits, self.num_extra, positive)
        chosen = None
        name = find_column(table, self.columns, "model")
        if name is not None:
            models = np.array([str(value) for value in table.column(name).tolist()], dtype=object)
            known = list(dict.fromkeys(models.tolist()))
            if self.model not in known and (self.model or len(known) > 1):
                came = f"model is {self.model!r}" if self.model else "model is missing"
                raise ValueError(f"{came}; {self.path}, column {name}, holds {', '.join(known[:12])}; choose one of them")
            chosen = models == self.model if len(known) > 1 else None
        return rows.outputs(self.cut if cut else None, chosen=chosen, model=self.model_name)


# Jobs on one file follow each other, and checking a large one takes seconds.
@lru_cache(maxsize=1)
def _checked(
    path: str, digest: str, columns: Columns, splits: SplitNames, num_extra: int, positive: Positive
) -> CheckedRows:
    """Returns all rows of a file, of all models. digest: of its content, which tells apart files at one path."""
    table = read_table(path)
    found, label = find_values(table, columns), find_label(table, columns)
    split, row_id = (find_column(table, columns, role) for role in ("split", "row_id"))
    return checked_rows(
        table.column(found.names[0]) if len(found.names) == 1 else table.matrix(found.names),
        table.column(label),
        kind=found.kind,
        names_of=ArrayNames(
            values=f"{path}, column {found}",
            label=f"{path}, column {label}",
            split=f"{path}, column {split}",
            row_id=f"{path}, column {row_id}",
        ),
        splits=None if split is None else table.column(split),
        split_names=splits,
        row_ids=None if row_id is None else table.column(row_id),
        classes=found.classes,
        positive=positive,
        num_extra=num_extra,
    )


def models_in(table: Table, columns: Columns) -> list[str]:
    """Returns the names in the column of models, in their order; nothing where the file has no such column."""
    name = find_column(table, columns, "model")
    return [] if name is None else list(dict.fromkeys(str(value) for value in table.column(name).tolist()))


def tables_by_model(tables: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Returns the tables of one job for each model in the file of `input`; the tables themselves if one is chosen there."""
    table = tables.get("input")
    if not isinstance(table, Mapping) or not isinstance(table.get("path"), str) or table.get("model"):
        return [tables]
    given = table.get("columns")
    column = given.get("model", "") if isinstance(given, Mapping) else ""
    if PurePosixPath(table["path"]).suffix not in SUFFIXES or not isinstance(column, str):
        return [tables]
    try:
        models = models_in(read_table(table["path"]), Columns(model=column))
    except ValueError:
        return [tables]  # decoding and checking the job say what is wrong with the file
    return [{**tables, "input": {**table, "model": model}} for model in models] or [tables]
