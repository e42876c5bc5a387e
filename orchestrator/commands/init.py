"""`pruneyard init`: writes a spec to start from, and the files that it needs."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import click
import numpy as np

from pruneyard.orchestrator.commands.chosen_data import check_fits, data_table
from pruneyard.orchestrator.errors import UsageError
from pruneyard.orchestrator.spec.packaged import NETWORK_TEMPLATE, template_file
from pruneyard.orchestrator.spec.stage import NAME_PATTERN
from pruneyard.orchestrator.spec.yaml_document import parse_value

DEFAULT = "sparse"
OUTPUTS, FUNCTION = "outputs.csv", "train.py"
COMPANIONS = {"calibrate": OUTPUTS, "function": FUNCTION}
"""The file that a template reads, by template."""
_ROWS, _CLASSES, _SCALE = 600, 3, 3.0


_DIGITS = """\
# images (1, 8, 8) of ten classes; for others, start with: pruneyard init --from {network} --data NAME, where NAME is one of
# `pruneyard list data`, table:rows.csv, arrays:x.npz or image_folder:FOLDER
data: {{name: digits}}"""


def execute(path: Path, template: str | None, network: str | None, data: str | None) -> int:
    """Write a spec to start from to PATH [default: sweep.yaml], and the files that it needs; existing files are left alone."""
    if template is not None and network is not None:
        raise UsageError("--template and --from: give one of the two; --from writes a spec of sparse training")
    name = NETWORK_TEMPLATE if network is not None else template or DEFAULT
    text = template_file(f"{name}.yaml")
    if data is not None and network is None:
        raise UsageError("--data: goes with --from; templates have data of their own")
    if network is not None:
        text = text.replace("MODEL", _model_table(network), 1)
        text = text.replace("DATA", _data_lines(network, data), 1)
        _check_data(text, is_chosen=data is not None)
    written = {path: _named(text, name, path)}
    if (companion := COMPANIONS.get(name)) is not None:
        beside = path.parent / companion
        written = {path: written[path].replace(companion, beside.as_posix()), beside: _content_of(companion)}
    for existing in (place for place in written if place.exists()):
        raise UsageError(f"{existing}: exists already; name another file" if existing == path else f"{existing}: exists already")
    for place, content in written.items():
        _write(place, content)
    click.echo(f"wrote {' and '.join(map(str, written))}; see what it means with: pruneyard plan {path}")
    return 0


def _named(text: str, name: str, path: Path) -> str:
    """Returns the spec with the name of the file, which gives the study a folder of its own."""
    if not NAME_PATTERN.fullmatch(path.stem):
        return text
    new = path.stem if parse_value(path.stem) == path.stem else json.dumps(path.stem)
    return text.replace(f"\nname: {name}\n", f"\nname: {new}\n", 1)


def _write(path: Path, content: str) -> None:
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(content)
    except OSError as error:
        raise UsageError(f"{path}: cannot be written: {error}") from error


def _content_of(companion: str) -> str:
    return _outputs() if companion == OUTPUTS else template_file(companion)


def _outputs() -> str:
    """Returns logits of an over-confident classifier as CSV: those that fit the labels, times `_SCALE`."""
    generator = np.random.default_rng(0)
    logits = generator.normal(size=(_ROWS, _CLASSES)) * 1.5
    # Labels drawn from the softmax of the logits, by the Gumbel trick: before scaling they are calibrated.
    labels = (logits + generator.gumbel(size=logits.shape)).argmax(axis=1)
    header = ",".join([*(f"logit_{place}" for place in range(_CLASSES)), "label"])
    rows = zip(logits * _SCALE, labels, strict=True)
    return "\n".join([header, *(",".join([*(f"{value:.4f}" for value in row), str(label)]) for row, label in rows), ""])


def _data_lines(network: str, data: str | None) -> str:
    """Returns the lines of a spec with its data: the chosen ones, or digits with a comment that says how to choose."""
    return _DIGITS.format(network=network) if data is None else f"data: {json.dumps(data_table(data))}"


def _check_data(text: str, *, is_chosen: bool) -> None:
    """Checks that the network takes the data; raises `UsageError` for chosen data, and says it for digits."""
    try:
        check_fits(parse_value(text))
    except UsageError as error:
        if is_chosen:
            raise UsageError(f"--data: {error}") from error
        click.echo(f"pruneyard: {error}; change the data, or choose it by --data", err=True)


def _model_table(reference: str) -> str:
    """Returns the table of a network with the arguments that have a default; raises `UsageError` if it cannot be used."""
    from pruneyard.workloads.plugins import find
    from pruneyard.workloads.user_code.references import is_reference

    if not is_reference(reference):
        raise UsageError(f"--from {reference}: must be a file or module and a name in it, as in my_model.py:Net")
    try:
        builder: Any = find("models", reference)
    except ValueError as error:
        raise UsageError(f"--from {error}") from error
    table: dict[str, Any] = {"name": reference}
    for field in dataclasses.fields(builder):
        if field.default is not dataclasses.MISSING:
            table[field.name] = field.default
        elif field.default_factory is not dataclasses.MISSING:
            table[field.name] = field.default_factory()
        else:
            needed = "which has no default, so that init cannot choose a value"
            raise UsageError(f"--from {reference}: has the argument {field.name}, {needed}; give it a default")
    return json.dumps(table)  # which YAML reads as a table on one line
