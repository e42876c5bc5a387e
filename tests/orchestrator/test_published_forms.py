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


def forms(name: str) -> Mapping[str, list[str]]:
    """Words of every variant in the head of a packaged spec, by its name there; a variant may continue over indented lines."""
    found: dict[str, str] = {}
    going = ""
    for line in files("pruneyard.orchestrator.specs").joinpath(f"{name}.yaml").read_text(encoding="utf-8").splitlines():
        begun = re.match(r"# (\S[^:]*): +(--.*)", line)
        rest = line.removeprefix("#").strip()
        if begun:
            going = begun[1]
            found[going] = begun[2]
        elif going and line.startswith("#    ") and (rest.startswith("--") or found[going].count('"') % 2):
            found[going] += f" {rest}"
        else:
            going = ""
    return {called: shlex.split(words) for called, words in found.items()}


ALL = [(name, called) for name in packaged_specs() for called in forms(name)]


def options(name: str, called: str) -> tuple[dict[str, Any], dict[str, list[Any]]]:
    """What the form sets, and its axes."""
    words = forms(name)[called]
    pairs = list(zip(words[::2], words[1::2], strict=True))
    assert {option for option, _ in pairs} <= {"--set", "--axis"}
    overrides = dict(parse_assignment(text, option=option) for option, text in pairs if option == "--set")
    axes = dict(parse_axis(text) for option, text in pairs if option == "--axis")
    assert len(overrides) + len(axes) == len(pairs)
    return overrides, axes


def formed(name: str, called: str, **also: Any) -> Spec:
    overrides, axes = options(name, called)
    return load_spec(name, overrides={**overrides, **also}, axes=axes)


def holds(resolved: Any, value: Any) -> bool:
    """Whether a resolved table has what was given; a bare name is a plug-in's."""
    if isinstance(value, Mapping):
        return isinstance(resolved, Mapping) and all(holds(resolved.get(k), v) for k, v in value.items())
    if isinstance(value, list):
        return len(resolved) == len(value) and all(map(holds, resolved, value))
    return bool(resolved == value or (isinstance(resolved, Mapping) and resolved.get("name") == value))


def given(name: str, called: str) -> Iterator[tuple[str, Any]]:
    overrides, axes = options(name, called)
    for key, value in overrides.items():
        bare = key.removeprefix("grid.")
        yield from ((bare, one) for one in value) if bare != key else ((bare, value),)
    for key, values in axes.items():
        yield from ((key, value) for value in values)


def test_specs_name_the_forms_of_the_papers() -> None:
    named = {name: set(forms(name)) for name in packaged_specs()}
    sets = {"CIFAR-100", "SVHN", "Fashion-MNIST", "ImageNet-10"}
    assert named["distil-speed"] >= sets | {"ImageNet-100"}
    assert named["distil-duel"] >= sets - {"CIFAR-100"} | {f"CIFAR-100, IPC {ipc}" for ipc in (1, 10, 50)}
    assert named["coresets"] >= sets
    for name in ("explore-exploit", "agent-epochs"):
        assert named[name] >= {"CIFAR-100", "ResNet-50"}


@each_case(("name", "called"), ALL)
def test_every_value_of_a_form_is_that_of_some_job(name: str, called: str) -> None:
    jobs = formed(name, called).jobs

    def of(table: Any, key: str) -> Any:
        for part in key.split("."):
            table = table.get(part) if isinstance(table, Mapping) else None
        return table

    for key, value in given(name, called):
        stage, _, inside = key.partition(".")
        staged = [job for job in jobs if job.stage == stage]
        assert any(holds(of(job.resolved, inside if staged else key), value) for job in staged or jobs), (key, value)


@pytest.mark.parametrize(("name", "called"), [form for form in ALL if form[1].startswith("ImageNet-")])
def test_specs_for_imagenet_read_folders_of_images(
    name: str, called: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """30 images per class, resized to 32 pixels instead of 224."""
    monkeypatch.setenv("PRUNEYARD_DATA", str(tmp_path))
    monkeypatch.setenv("PRUNEYARD_CACHE", str(tmp_path / "cache"))
    table = options(name, called)[0]["data"]
    num_classes, draws = int(called.removeprefix("ImageNet-")), np.random.default_rng(0)
    for part, count in (("train", 30), ("val", 1)):
        for label in range(num_classes):
            folder = tmp_path / table["path"] / part / f"n{label:08}"
            folder.mkdir(parents=True)
            for number in range(count):
                pixels = draws.integers(0, 256, (6, 9, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f"{number}.png")
    spec = formed(name, called, data={**table, "resize": 32})
    data = load_data(spec.jobs)
    check_jobs(spec.jobs, data, origin=name)
    (loaded,) = data.values()
    assert (loaded.image_shape, loaded.num_classes) == ((3, 32, 32), num_classes)
