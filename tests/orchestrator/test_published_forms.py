"""The variants that comments of packaged specs give by their options are valid specs with the described settings."""

import re
import shlex
from collections.abc import Iterator, Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pruneyard.orchestrator.planning.preflight import check_jobs, load_data
from pruneyard.orchestrator.spec.load import Spec, load_spec
from pruneyard.orchestrator.spec.overrides import parse_assignment, parse_axis
from pruneyard.orchestrator.spec.packaged import packaged_specs
from pruneyard.testing.cases import each_case


def variants_of(name: str) -> Mapping[str, list[str]]:
    """Returns the arguments of every variant in a packaged spec's comments, by name; indented lines continue one."""
    found: dict[str, str] = {}
    current = ""
    for line in files("pruneyard.orchestrator.specs").joinpath(f"{name}.yaml").read_text(encoding="utf-8").splitlines():
        match = re.match(r"# (\S[^:]*): +(--.*)", line)
        rest = line.removeprefix("#").strip()
        if match:
            current = match[1]
            found[current] = match[2]
        elif current and line.startswith("#    ") and (rest.startswith("--") or found[current].count('"') % 2):
            found[current] += f" {rest}"
        else:
            current = ""
    return {variant: shlex.split(arguments) for variant, arguments in found.items()}


ALL = [(name, variant) for name in packaged_specs() for variant in variants_of(name)]


def options(name: str, variant: str) -> tuple[dict[str, Any], dict[str, list[Any]]]:
    """Returns the values and the axes that the variant sets."""
    arguments = variants_of(name)[variant]
    pairs = list(zip(arguments[::2], arguments[1::2], strict=True))
    assert {option for option, _ in pairs} <= {"--set", "--axis"}
    overrides = dict(parse_assignment(text, option=option) for option, text in pairs if option == "--set")
    axes = dict(parse_axis(text) for option, text in pairs if option == "--axis")
    assert len(overrides) + len(axes) == len(pairs)
    return overrides, axes


def load_variant(name: str, variant: str, **more: Any) -> Spec:
    overrides, axes = options(name, variant)
    return load_spec(name, overrides={**overrides, **more}, axes=axes)


def holds(resolved: Any, value: Any) -> bool:
    """Returns whether a resolved table has the given value; a bare name is a plug-in's."""
    if isinstance(value, Mapping):
        return isinstance(resolved, Mapping) and all(holds(resolved.get(k), v) for k, v in value.items())
    if isinstance(value, list):
        return len(resolved) == len(value) and all(map(holds, resolved, value))
    return bool(resolved == value or (isinstance(resolved, Mapping) and resolved.get("name") == value))


def settings_of(name: str, variant: str) -> Iterator[tuple[str, Any]]:
    overrides, axes = options(name, variant)
    for key, value in overrides.items():
        axis_key = key.removeprefix("grid.")
        yield from ((axis_key, one) for one in value) if axis_key != key else ((axis_key, value),)
    for key, values in axes.items():
        yield from ((key, value) for value in values)


def test_specs_name_the_forms_of_the_papers() -> None:
    variants = {name: set(variants_of(name)) for name in packaged_specs()}
    sets = {"CIFAR-100", "SVHN", "Fashion-MNIST", "ImageNet-10"}
    assert variants["distil-speed"] >= sets | {"ImageNet-100"}
    assert variants["distil-duel"] >= sets - {"CIFAR-100"} | {f"CIFAR-100, IPC {ipc}" for ipc in (1, 10, 50)}
    assert variants["coresets"] >= sets
    for name in ("explore-exploit", "agent-epochs"):
        assert variants[name] >= {"CIFAR-100", "ResNet-50"}


@each_case(("name", "variant"), ALL)
def test_every_value_of_a_form_is_that_of_some_job(name: str, variant: str) -> None:
    jobs = load_variant(name, variant).jobs

    def value_at(table: Any, key: str) -> Any:
        for part in key.split("."):
            table = table.get(part) if isinstance(table, Mapping) else None
        return table

    for key, value in settings_of(name, variant):
        stage, _, inside = key.partition(".")
        staged = [job for job in jobs if job.stage == stage]
        assert any(holds(value_at(job.resolved, inside if staged else key), value) for job in staged or jobs), (key, value)


@pytest.mark.parametrize(("name", "variant"), [form for form in ALL if form[1].startswith("ImageNet-")])
def test_specs_for_imagenet_read_folders_of_images(
    name: str, variant: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """30 images per class, resized to 32 pixels instead of 224."""
    monkeypatch.setenv("PRUNEYARD_DATA", str(tmp_path))
    monkeypatch.setenv("PRUNEYARD_CACHE", str(tmp_path / "cache"))
    table = options(name, variant)[0]["data"]
    num_classes, rng = int(variant.removeprefix("ImageNet-")), np.random.default_rng(0)
    for part, count in (("train", 30), ("val", 1)):
        for label in range(num_classes):
            folder = tmp_path / table["path"] / part / f"n{label:08}"
            folder.mkdir(parents=True)
            for number in range(count):
                pixels = rng.integers(0, 256, (6, 9, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f"{number}.png")
    spec = load_variant(name, variant, data={**table, "resize": 32})
    data = load_data(spec.jobs, spec)
    check_jobs(spec.jobs, data, spec=spec)
    (loaded,) = data.values()
    assert (loaded.image_shape, loaded.num_classes) == ((3, 32, 32), num_classes)
