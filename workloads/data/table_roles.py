"""Finds the columns of a table that are no features: one that names splits, and those that only number the rows."""

import logging
import re
from collections.abc import Sequence

import numpy as np
import pandas as pd

from pruneyard.workloads.data.array_splits import PARTS
from pruneyard.workloads.data.table_columns import is_text
from pruneyard.workloads.user_code.nearest import nearest

logger = logging.getLogger(__name__)

SPLIT = "split"

_NO_NAME = re.compile(r"\s*|Unnamed: \d+|__index_level_\d+__")  # pandas names a column without a name, and an index


def check_features(table: pd.DataFrame, features: Sequence[str], *, place: str) -> None:
    """Raises `ValueError` for features without a name, and logs which of them number the rows.

    Such a column tells where in the file a row was, and thereby its class where the file is sorted.
    """
    unnamed = [name for name in features if _NO_NAME.fullmatch(name)]
    if unnamed:
        column = f"column {list(table.columns).index(unnamed[0]) + 1} of {len(table.columns)}"
        rule = f"list {unnamed[0]!r} in drop, or give it a name if it is a feature"
        raise ValueError(f"{place}, {column} has no name, as an index has none; {rule}")
    for name in features:
        if _numbers_rows(table[name]):
            rule = "it tells where in the file a row is; list it in drop unless it is a feature"
            logger.warning("%s, column %s numbers the rows in order, from %d: %s", place, name, table[name].iloc[0], rule)


def _numbers_rows(column: "pd.Series[float]") -> bool:
    is_complete = pd.api.types.is_numeric_dtype(column) and not column.isna().any()
    if len(column) < 3 or not is_complete or column.iloc[0] not in (0, 1):
        return False
    return bool((column == np.arange(len(column)) + int(column.iloc[0])).all())


def parts_of(table: pd.DataFrame, *, place: str) -> dict[str, pd.DataFrame] | None:
    """Returns the rows of each split that the column `split` names, without this column; None if it is a feature.

    Raises `ValueError` if it names splits in some rows only, or none of them train.
    """
    column = table[SPLIT]
    if not is_text(column) or not any(str(value).strip().casefold() in PARTS for value in column.unique()):
        return None
    where, allowed = f"{place}, column {SPLIT}", f"{', '.join(PARTS)}; list {SPLIT} in drop, or in categorical if it is a feature"
    wrong = np.flatnonzero(~column.isin(PARTS))
    if len(wrong):
        value = column.iloc[wrong[0]]
        rule = f"as other rows have names of splits, it must be one of {allowed}{nearest(str(value), PARTS)}"
        raise ValueError(f"{where}, row {wrong[0]} is {value!r}; {rule}")
    rows = table.drop(columns=SPLIT)
    found = {part: rows[column == part].reset_index(drop=True) for part in PARTS if (column == part).any()}
    if "train" not in found:
        raise ValueError(f"{where} has {', '.join(found)}; train must be one of the splits. They are {allowed}")
    return found
