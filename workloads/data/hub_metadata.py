"""Finds the class names that a data set of the Hugging Face hub declares for a column of integer labels.

They stand in the Parquet files themselves, under the key `huggingface`, and often in `dataset_infos.json` or in the header of
`README.md` beside them.
"""

import json
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from pruneyard.workloads.data.parquet_footer import key_value_metadata

_FENCE = "---"  # before and after the header of README.md

log = logging.getLogger(__name__)


def declared_classes(files: Sequence[Path], column: str, *, folders: Sequence[Path]) -> tuple[str, ...]:
    """Returns the class names of a column, by label; () where none are declared, or where configurations differ.

    files: the Parquet files. folders: where `dataset_infos.json` and `README.md` may lie.

    Raises `ValueError` if the Parquet files themselves contradict each other.
    """
    by_file = {file: names for file in files if (names := _names_in_parquet(file, column))}
    if len(set(by_file.values())) > 1:
        (first, names), (other, others) = _two_that_differ(by_file)
        raise ValueError(
            f"{first} and {other} declare different classes of column {column}: {', '.join(names)}; and {', '.join(others)}"
        )
    if by_file:
        return next(iter(by_file.values()))
    for folder in folders:
        for read in (_names_in_infos, _names_in_readme):
            found = set(read(folder, column))
            if found:
                return found.pop() if len(found) == 1 else ()
    return ()


def _two_that_differ(by_file: Mapping[Path, tuple[str, ...]]) -> list[tuple[Path, tuple[str, ...]]]:
    first, *rest = by_file.items()
    return [first, next(item for item in rest if item[1] != first[1])]


def _names_in_parquet(file: Path, column: str) -> tuple[str, ...]:
    """Returns the names in `info.features.COLUMN.names` under the key `huggingface`."""
    text = key_value_metadata(file).get("huggingface")
    if text is None:
        return ()
    try:
        return _label_names(_at(json.loads(text), "info", "features", column))
    except ValueError:
        log.warning("%s has metadata 'huggingface' that are no JSON; they are ignored", file)
        return ()


def _names_in_infos(folder: Path, column: str) -> Iterator[tuple[str, ...]]:
    """Yields the names of each configuration in `dataset_infos.json`."""
    file = folder / "dataset_infos.json"
    if not file.is_file():
        return
    try:
        configurations = json.loads(file.read_bytes())
    except ValueError:
        log.warning("%s is no JSON; the class names in it are ignored", file)
        return
    # One configuration for each key; older files hold a single one.
    for information in configurations.values() if isinstance(configurations, dict) else ():
        if names := _label_names(_at(information, "features", column)):
            yield names


def _names_in_readme(folder: Path, column: str) -> Iterator[tuple[str, ...]]:
    """Yields the names of each configuration in `dataset_info` of the header of `README.md`."""
    file = folder / "README.md"
    if not file.is_file():
        return
    lines = file.read_text(encoding="utf-8", errors="replace").splitlines()
    if not lines or lines[0].strip() != _FENCE or _FENCE not in (rest := [line.strip() for line in lines[1:]]):
        return
    try:
        header = YAML(typ="safe", pure=True).load("\n".join(lines[1 : rest.index(_FENCE) + 1]))
    except YAMLError:
        log.warning("%s has a header that is no YAML; the class names in it are ignored", file)
        return
    for information in _as_list(_at(header, "dataset_info")):
        for feature in _as_list(_at(information, "features")):
            if _at(feature, "name") == column and (names := _header_names(_at(feature, "dtype", "class_label", "names"))):
                yield names


def _header_names(names: Any) -> tuple[str, ...]:
    """Returns the names of a header, a list or a mapping from labels, which are text there, to names; () for anything else."""
    if isinstance(names, Mapping):
        by_label = {str(label): name for label, name in names.items()}
        names = [by_label.get(str(label)) for label in range(len(by_label))]
    return _texts(names)


def _label_names(feature: Any) -> tuple[str, ...]:
    """Returns the names of a feature of the type ClassLabel; () for any other."""
    return _texts(_at(feature, "names")) if _at(feature, "_type") == "ClassLabel" else ()


def _texts(names: Any) -> tuple[str, ...]:
    """Returns distinct names as they are; () for anything else."""
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names) or len(set(names)) < len(names):
        return ()
    return tuple(names)


def _at(value: Any, *keys: str) -> Any:
    """Returns what lies below some keys of nested mappings; None where it is missing."""
    for key in keys:
        value = value.get(key) if isinstance(value, Mapping) else None
    return value


def _as_list(value: Any) -> Iterable[Any]:
    return value if isinstance(value, list) else [value]
