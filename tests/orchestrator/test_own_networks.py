"""Networks of the user's own, by import path and handed over from Python, through the whole life of a study."""

import re
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from code_caches import forget_code
from in_process_command import Pruneyard
from torch import Tensor, nn

from pruneyard.orchestrator.artifacts.reader import finished_network
from pruneyard.orchestrator.driver.run import run
from pruneyard.orchestrator.errors import SpecError, UsageError
from pruneyard.orchestrator.results import Results
from pruneyard.orchestrator.spec.load import load_spec
from pruneyard.reports.layout import RunFolder
from pruneyard.workloads.deploy.files import load
from pruneyard.workloads.networks.finished import Blueprint
from pruneyard.workloads.networks.model_source import check_sources, sources_of
from pruneyard.workloads.plugins import find
from pruneyard.workloads.user_code import files
from pruneyard.workloads.user_code.registration import register

NETS = """
from typing import Literal

import torch
from torch import nn

from sizes import HIDDEN


class Net(nn.Module):
    def __init__(
        self, in_features: int, num_classes: int, width: int = HIDDEN, activation=nn.ReLU,
        norm: Literal["none", "layer"] = "none",
    ):
        super().__init__()
        norms = [nn.LayerNorm(width)] if norm == "layer" else []
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(in_features, width), activation(), *norms)
        self.head = nn.Linear(width, num_classes)

    def forward(self, images):
        return self.head(self.body(images))


def build(image_shape, num_classes, *, channels=[4]):
    layers, last = [], image_shape[0]
    for count in channels:
        layers += [nn.Conv2d(last, count, 3), nn.ReLU()]
        last = count
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(last, num_classes))


def three_classes():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 3))


def needs_more(num_classes, teacher: nn.Module):
    raise NotImplementedError


def needs_depth(depth):
    raise KeyError(depth)


def reads_values(num_classes):
    class Odd(nn.Module):
        def forward(self, images):
            return images.flatten(1)[:, : int(images.sum().item())]

    return Odd()


class Product(nn.Module):
    def __init__(self, in_features, num_classes):
        super().__init__()
        self.matrix = nn.Parameter(torch.randn(in_features, num_classes) / in_features)

    def forward(self, images):
        return images.flatten(1) @ self.matrix


def lazy(num_classes):
    return nn.Sequential(nn.Flatten(), nn.LazyLinear(8), nn.ReLU(), nn.Linear(8, num_classes))


TABLE = {}
"""
ROOT = Path(__file__).parents[2]
SPEC: dict[str, Any] = {
    "name": "own",
    "kind": "sparse",
    "data": {"name": "digits", "max_train": 100, "max_test": 50},
    "model": "nets.py:Net",
    "method": {"name": "rigl", "density": 0.5, "schedule": {"every": 2}},
    "budget": {"steps": 6, "batch_size": 16},
}


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A current folder with the networks; what this process knows of them is forgotten afterwards."""
    (tmp_path / "nets.py").write_text(NETS)
    (tmp_path / "sizes.py").write_text("HIDDEN = 8\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    monkeypatch.setattr(files, "LOCATIONS", files.CodeLocations())
    before = set(sys.modules)
    yield tmp_path
    forget(before)


def forget(before: set[str]) -> None:
    for name in [name for name in sys.modules if name not in before and name.rpartition(".")[2] in ("nets", "sizes")]:
        del sys.modules[name]
    forget_code()


def key_of(**tables: Any) -> str:
    (job,) = load_spec(SPEC | tables).jobs
    return job.key


def problems_of(model: Any) -> str:
    with pytest.raises(SpecError) as caught:
        load_spec(SPEC | {"model": model})
    return str(caught.value)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ({"name": "nets.py:Net", "widht": 3}, "model.widht: is unknown; known are norm, width; did you mean width?"),
        ({"name": "nets.py:Net", "width": "a"}, 'model.width: is "a"; it must be a whole number'),
        ({"name": "nets.py:Net", "norm": "batch"}, "model.norm: is \"batch\"; it must be one of none, layer"),
        ({"name": "nets.py:Net", "in_features": 3}, "model.in_features: is filled in from the data; leave it out"),
        ({"name": "nets.py:Net", "activation": "relu"}, "model.activation: is unknown; known are norm, width"),
        ("nets.py:needs_depth", "model.depth: is missing; it must be any value"),
        ("nets.py:Nett", "model.name: cannot be used: 'nets.py:Nett' cannot be found: nets.py has no Nett; did you mean Net?"),
        ("net.py:Net", "model.name: cannot be used: net.py is no file; "),
        ("no_such.nets:Net", "model.name: cannot be used: 'no_such.nets:Net' cannot be imported: there is no module no_such on"),
        ("nets.py:TABLE", "'nets.py:TABLE' is a dict; it must be a class of nn.Module, or a function that returns a network"),
        ("nets.py:needs_more", "needs the argument teacher, of type Module, which a spec cannot give; give it a default, or a"),
        ("Net@0123456789abcdef", "was handed over from Python in another process; hand over the same object again"),
        ("mpl", "is unknown: 'mpl' is none of convnet, layer_lottery, mlp"),
    ],
)
def test_what_does_not_fit_the_network_is_said_with_its_key(model: Any, message: str) -> None:
    assert message in problems_of(model)


def test_only_models_are_named_by_reference() -> None:
    with pytest.raises(SpecError, match=r"method.name: is unknown: 'nets.py:Net' is none of acdc,"):
        load_spec(SPEC | {"method": "nets.py:Net"})


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("nets.py:three_classes", r"three_classes\(\) returns a tensor \(2, 3\) for images \(2, 1, 8, 8\); it must return"),
        ({"name": "nets.py:needs_depth", "depth": 2}, r"model: nets.py:needs_depth\(depth=2\) raised KeyError: 2"),
        ("nets.py:reads_values", r"cannot be applied to images \(2, 1, 8, 8\) on the meta device, which counts its work"),
        ("nets.py:Product", r"model: has no convolution, linear or attention weight to prune; choose method dense \("),
        ("nets.py:lazy", r"model: nets.py:lazy\(num_classes=10\) has lazy layers: 1; give them their sizes, as in nn.Linear"),
        ("torch:relu", r"has no signature"),
        ("math:floor", r"needs the argument x, which has no name in calls"),
    ],
)
def test_a_network_that_cannot_be_built_for_the_data_is_refused_before_any_job_starts(model: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        run(SPEC | {"model": model}, "out", local=True)
    assert not Path("out/results").exists()


def test_a_network_without_a_weight_to_prune_is_trained_dense() -> None:
    results = run(SPEC | {"model": "nets.py:Product", "method": "dense"}, "out", local=True)
    (row,) = results.runs().to_dict("records")
    assert row["status"] == "COMPLETED", row["error"]
    assert row["num_active"] == row["num_parameters"] == 640
    assert finished_network(RunFolder(Path("out")), row["run_key"]).density == 1


def test_defaults_arguments_and_source_are_part_of_the_run_key(folder: Path) -> None:
    before = set(sys.modules)
    key = key_of()
    assert key_of(model={"name": "nets.py:Net", "width": 8}) == key_of(model={"name": f"{folder}/nets.py:Net"}) == key
    assert key_of(model={"name": "nets.py:Net", "width": 9}) != key
    forget(before)
    (folder / "sizes.py").write_text("HIDDEN = 8  # as before\n")
    assert key_of() != key


def test_a_network_in_place_of_its_class_is_refused(tmp_path: Path) -> None:
    network, message = nn.Linear(64, 10), r"^model: is a Linear object; it must be the class, as in model=Linear, or a function"
    for model in (network, {"name": network}):
        with pytest.raises(UsageError, match=message):
            run(SPEC, tmp_path / "out", model=model, local=True)


def test_a_grid_has_axes_over_networks_and_their_arguments() -> None:
    grid = {"model": ["mlp", "nets.py:Net", {"name": "nets.py:build", "channels": [2, 3]}], "model.width": [4, 5]}
    labels = sorted(job.label for job in load_spec({**SPEC, "grid": grid}).jobs)
    assert [label.replace(" rigl density=0.5", "").split(" seed")[0] for label in labels] == [
        "mlp width=4",
        "mlp width=5",
        "nets.py:Net width=4",
        "nets.py:Net width=5",
        "nets.py:build",
    ]


def test_a_study_is_trained_exported_and_calibrated_and_not_run_again(folder: Path, pruneyard: Pruneyard) -> None:
    chain = {
        "name": "own-chain",
        "data": SPEC["data"],
        "stages": {
            "train": {key: SPEC[key] for key in ("kind", "method", "budget")} | {"model": {"name": "nets.py:Net", "width": 6}},
            "trust": {
                "kind": "calibrate",
                "input": {"from": "train"},
                "far": [{"name": "noise", "shape": [1, 8, 8]}],
                "scores": ["energy", "knn"],  # knn needs the features: the inputs of `head`
                "method": "temperature",
            },
        },
    }
    runs = run(chain, "out", local=True).runs()
    assert list(runs["status"]) == ["COMPLETED", "COMPLETED"], list(runs["error"])
    key = runs.set_index("kind")["run_key"]["sparse"]
    found = finished_network(RunFolder(Path("out")), key)
    assert found.blueprint.model["name"] == "nets.py:Net"
    images = torch.rand(3, 1, 8, 8)
    result = pruneyard("export", "out", "--network", key, "--format", "dense", "--out", "net.safetensors")
    assert result.code == 0, result.err
    torch.testing.assert_close(load(folder / "net.safetensors").run(images), found.network(images))
    assert run(Path("out/spec.yaml"), "out", local=True).runs()["attempt"].max() == 1


def test_a_finished_network_is_not_rebuilt_by_other_code_than_it_was_trained_with(folder: Path, pruneyard: Pruneyard) -> None:
    before = set(sys.modules)
    soup = {"kind": "merge", "input": {"from": "train", "over": "siblings"}, "method": "uniform", "masks": "union"}
    train = {key: SPEC[key] for key in ("kind", "method", "budget", "model")}
    results = run({"name": "own", "data": SPEC["data"], "stages": {"train": train, "soup": soup}}, "out", local=True)
    keys = results.runs().set_index("kind")["run_key"]
    network = results.network(keys["merge"])
    images = torch.rand(3, 1, 8, 8)
    exported = pruneyard("export", "out", "--network", keys["merge"], "--format", "dense", "--out", "net.safetensors")
    assert exported.code == 0, exported.err

    forget(before)
    (folder / "nets.py").write_text(NETS.replace("self.head(self.body(images))", "-self.head(self.body(images))"))
    message = rf"the source of nets.py:Net, {folder}/nets.py, {folder}/sizes.py, has changed since .*; restore that source"
    for key in keys:
        with pytest.raises(UsageError, match=message):
            results.network(key)
    with pytest.raises(ValueError, match=message):
        load(folder / "net.safetensors")
    probe = {"name": "own", "kind": "probe", "input": {"runs": [keys["merge"]], "folder": "out"}, "method": "heavy_tail"}
    (failed,) = run(probe, "probed", local=True).runs()["error"]
    assert re.search(message, failed)

    forget(before)
    (folder / "nets.py").write_text(NETS)
    torch.testing.assert_close(results.network(keys["merge"])(images), network(images))


def test_a_finished_network_whose_source_was_not_recorded_is_rebuilt(folder: Path) -> None:
    blueprint = Blueprint(model={"name": "nets.py:Net"}, image_shape=(1, 8, 8), num_outputs=10, mean=(0.0,), std=(1.0,))
    assert Blueprint.of_table(blueprint.table) == blueprint
    assert "sources" not in blueprint.table
    assert isinstance(blueprint.empty_network(), nn.Module)
    base = {"name": "narrowed", "base": {"name": "nets.py:Net"}, "channels": []}
    with pytest.raises(ValueError, match=r"the source of nets.py:Net, .* has changed"):
        replace(blueprint, model=base, sources={"nets.py:Net": "0" * 16}).empty_network()


def test_a_new_version_of_an_installed_package_is_said_and_not_refused(caplog: pytest.LogCaptureFixture) -> None:
    model = find("models", "torch.nn:Flatten")()
    assert list(sources_of(model)) == ["torch.nn:Flatten"]
    check_sources(model, {"torch.nn:Flatten": "0" * 16})
    assert "the installed version of the package of torch.nn:Flatten has changed since" in caplog.text
    assert sources_of(find("models", "mlp")()) == {}


def test_a_class_handed_over_from_python_is_trained_once(folder: Path) -> None:
    class Local(nn.Module):
        def __init__(self, in_features: int, num_classes: int, width: int = 5) -> None:
            super().__init__()
            self.body = nn.Sequential(nn.Flatten(), nn.Linear(in_features, width), nn.Tanh())
            self.head = nn.Linear(width, num_classes)

        def forward(self, images: Tensor) -> Tensor:
            logits: Tensor = self.head(self.body(images))
            return logits

    spec = {key: value for key, value in SPEC.items() if key != "model"}
    results = run(spec, "out", local=True, model={"name": Local, "width": 7})
    (first,) = results.runs().to_dict("records")
    assert first["status"] == "COMPLETED", first["error"]
    assert first["model"].startswith("Local@")
    again = run({**spec, "model": {"name": Local, "width": 7}}, "out", local=True)
    assert len(again.runs()) == 1
    assert isinstance(Results("out").runs()["model"][0], str)


@pytest.mark.slow
def test_two_workers_train_a_network_that_was_handed_over() -> None:
    def network(in_features: int, num_classes: int) -> nn.Module:
        return nn.Sequential(nn.Flatten(), nn.Linear(in_features, num_classes))

    spec = SPEC | {"model": network}
    one = run(spec, "one", local=True).runs()
    two = run(spec, "two", overrides={"resources.workers": 2}, local=True).runs()
    for runs in (one, two):
        assert list(runs["status"]) == ["COMPLETED"], list(runs["error"])
    # A network of the user's own may sample random numbers, so the number of workers is part of its key.
    assert one["run_key"][0] != two["run_key"][0]


def test_the_example_of_the_manual_trains_a_class_of_a_script(folder: Path) -> None:
    manual = (ROOT / "workloads" / "README.md").read_text()
    (code,) = re.findall(r"^```python\n(import pruneyard\nfrom torch import nn\n.*?)^```$", manual, flags=re.M | re.S)
    names: dict[str, Any] = {"__name__": "__main__"}
    exec(compile(code, "example.py", "exec"), names)
    assert names["results"].runs()["model"][0].startswith("Net@")
    assert names["results"].summary()["test/accuracy"][0] > 0.6


def test_what_cannot_be_handed_over_is_refused() -> None:
    large = bytes(101 * 2**20)

    def network() -> nn.Module:
        return nn.Linear(len(large), 1)

    with pytest.raises(UsageError, match=r"network and what it refers to take 101 MiB"):
        load_spec(SPEC | {"model": network})


def test_a_network_that_is_handed_over_again_under_an_equal_reference_is_the_new_one() -> None:
    class Width:
        """An object whose content no digest covers."""

        def __init__(self, width: int) -> None:
            self.width = width

    def make_network(width: Width) -> Any:
        return lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, width.width), nn.Linear(width.width, 10))

    references = [register(make_network(Width(4))), register(make_network(Width(9)))]
    assert references[0] == references[1]
    built = find("models", references[0])().build(image_shape=(1, 8, 8), num_classes=10)
    assert built[1].out_features == 9
