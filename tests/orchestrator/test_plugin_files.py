"""Files of plug-ins without a package: `plugins` in a spec and `--plugin` on the command line."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from code_caches import forget_code
from in_process_command import Pruneyard
from ruamel.yaml import YAML

from pruneyard.orchestrator.artifacts.reader import finished_network
from pruneyard.orchestrator.errors import SpecError
from pruneyard.orchestrator.spec.load import load_spec
from pruneyard.reports.layout import RunFolder
from pruneyard.workloads.user_code import files, shipping

MODEL = '''"""One linear layer.

Reference: an example
"""

from dataclasses import dataclass
from math import prod

from torch import nn

from beside import BIAS

__all__ = ["Flat"]


@dataclass(frozen=True, kw_only=True)
class Flat:
    bias: bool = BIAS

    def build(self, *, image_shape, num_classes):
        network = nn.Sequential(nn.Flatten())
        network.add_module("classifier", nn.Linear(prod(image_shape), num_classes, bias=self.bias))
        return network
'''
SCHEDULE = '''"""Halves the rate at the half."""

from dataclasses import dataclass

__all__ = ["Halved"]


@dataclass(frozen=True, kw_only=True)
class Halved:
    def factor(self, step: int, num_steps: int) -> float:
        return 1.0 if 2 * step < num_steps else 0.5
'''
KIND = '''"""Counts the training rows."""

from dataclasses import dataclass
from typing import Annotated

from pruneyard.workloads.data.dataset import Source
from pruneyard.workloads.plugins import Plugin
from pruneyard.workloads.workload import Metric, Outcome, Progress

__all__ = ["CountingJob"]


@dataclass(frozen=True, kw_only=True)
class CountingJob:
    data: Annotated[Source, Plugin("data.sources")]
    times: int = 1
    seed: int = 0

    def run(self, context):
        rows = float(len(context.load_data(self.data).train) * self.times)
        metric = Metric(step=1, epoch=1.0, split="train", name="rows", value=rows, wall_s=0.0)
        yield Progress(step=1, num_steps=1, metrics=(metric,), outcome=Outcome.without_network(train_s=0.0, files={}))

    def check(self, data):
        return []

    def expected_work(self, data):
        return 0.0, 0
'''
OBJECTIVE = """
from dataclasses import dataclass
from torch.nn import functional
from pruneyard.workloads.interfaces import StatelessObjective

__all__ = ["Own"]


@dataclass(frozen=True, kw_only=True)
class Own(StatelessObjective):
    def loss(self, inputs):
        loss = functional.cross_entropy(inputs.network(inputs.images), inputs.labels)
        return RETURNED
"""
EMPTY = """
from dataclasses import dataclass
__all__ = ["A"]
@dataclass(frozen=True)
class A: ...
"""
SOURCE = """
from dataclasses import dataclass
from pruneyard.workloads.data.dataset import PublishedSource
__all__ = ["Rows"]
@dataclass(frozen=True, kw_only=True)
class Rows(PublishedSource):
    def reed(self): ...
"""
SPEC = """
name: files
kind: sparse
plugins: [mine/flat.py, {file: halved.py, family: schedules}]
data: {name: digits, max_train: 100, max_test: 50}
model: {name: flat}
schedule: halved
method: {name: static, density: 0.5}
budget: {steps: 4, batch_size: 16}
"""
TABLES = YAML(typ="safe").load(SPEC)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A current folder with a spec and the files of its plug-ins, which are forgotten afterwards."""
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "flat.py").write_text(MODEL)
    (tmp_path / "mine" / "beside.py").write_text("BIAS = False\n")
    (tmp_path / "halved.py").write_text(SCHEDULE)
    (tmp_path / "spec.yaml").write_text(SPEC)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    monkeypatch.setattr(shipping, "_USED", {})
    yield tmp_path
    forget()


def forget() -> None:
    """Makes this process as new to the files."""
    for place in (files.LOCATIONS.folders, files.LOCATIONS.modules, files.LOCATIONS.plugins):
        place.clear()
    for name in [name for name in sys.modules if name.startswith(files.PREFIX) or name == "beside"]:
        del sys.modules[name]
    forget_code()


def test_a_study_of_files_is_run_exported_and_answered_again_until_a_file_changes(
    folder: Path, pruneyard: Pruneyard
) -> None:
    ran = pruneyard("run", "spec.yaml", "--out", "out", "--local", "--json")
    assert ran.code == 0, ran.err
    assert YAML(typ="safe").load(folder / "out" / "spec.yaml")["plugins"] == TABLES["plugins"]
    (job,) = load_spec("spec.yaml").jobs
    assert job.identity["model"] == {"name": "flat", "bias": False, "source_code": job.identity["model"]["source_code"]}
    forget()
    assert finished_network(RunFolder(Path("out")), job.key).blueprint.model == {"name": "flat", "bias": False}
    assert "nothing to run" in pruneyard("resume", "out").err
    (folder / "mine" / "beside.py").write_text("BIAS = False  # as before\n")
    forget()
    (changed,) = load_spec("spec.yaml").jobs
    assert changed.key != job.key
    # The folder of a file is no part of a key.
    (folder / "mine").rename(folder / "moved")
    forget()
    (moved,) = load_spec(TABLES | {"plugins": ["moved/flat.py", "halved.py"]}).jobs
    assert moved.key == changed.key


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("num_classes, bias", "num_classes + 1, bias", "spec.yaml:6: model: flat returns a tensor (2, 11) for"),
        ("return network", "return None", "model: flat returned a NoneType; it must be an nn.Module"),
        ("nn.Flatten()", "nn.Flatten(), nn.Linear(3, 64)", "model: flat cannot be applied to images (2, 1, 8, 8)"),
        ("return network", "return network.gone", "'Sequential' object has no attribute 'gone' (flat.py:"),
    ],
)
def test_a_network_that_does_not_fit_is_refused_before_anything_starts(
    folder: Path, pruneyard: Pruneyard, old: str, new: str, message: str
) -> None:
    (folder / "mine" / "flat.py").write_text(MODEL.replace(old, new))
    refused = pruneyard("plan", "spec.yaml")
    assert refused.code == 2
    assert message in refused.err


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        ("loss", "Own.loss returned a Tensor; it must return the loss, a scalar, and the memory"),
        ("(loss.repeat(3), inputs.memory)", "Own.loss returned a loss of shape (3,); it must be a scalar"),
        ("(loss * inputs.labl, inputs.memory)", "AttributeError: 'LossInputs' object has no attribute 'labl' (own.py:13)"),
        ("(loss * float('nan'), inputs.memory)", "NonFiniteError: train/loss is nan at step 0; it must be finite: lower the"),
    ],
)
def test_a_wrong_loss_is_named_with_what_it_must_be(folder: Path, pruneyard: Pruneyard, returned: str, message: str) -> None:
    (folder / "own.py").write_text(OBJECTIVE.replace("RETURNED", returned))
    options = ("--out", "out", "--local", "--no-report", "--plugin", "own.py", "--set", "objective=own")
    failed = pruneyard("run", "spec.yaml", *options)
    assert failed.code == 1
    assert message in failed.err + failed.out


def test_the_command_line_adds_files(folder: Path, pruneyard: Pruneyard) -> None:
    (folder / "spec.yaml").write_text("\n".join(line for line in SPEC.splitlines() if not line.startswith("plugins")))
    refused = pruneyard("plan", "spec.yaml", "--plugin", "halved.py")
    assert refused.code == 2
    assert "model.name: is unknown: 'flat' is none of" in refused.err
    assert pruneyard("plan", "spec.yaml", "--plugin", "halved.py", "--plugin", "mine/flat.py").code == 0


def test_a_file_adds_a_kind_of_job(folder: Path, pruneyard: Pruneyard) -> None:
    (folder / "tally.py").write_text(KIND)
    (folder / "spec.yaml").write_text("name: c\nkind: tally\ndata: {name: digits, max_train: 100}\nseeds: 2\n")
    unknown = pruneyard("plan", "spec.yaml")
    assert unknown.code == 2
    assert 'kind: is "tally"; it must be one of calibrate,' in unknown.err
    assert "a file of your own adds one, by plugins: [FILE]" in unknown.err
    ran = pruneyard("run", "spec.yaml", "--out", "out", "--local", "--no-report", "--plugin", "tally.py")
    assert ran.code == 0, ran.err
    forget()
    assert "nothing to run" in pruneyard("resume", "out").err
    forget()
    spec = {"name": "c", "kind": "tally", "data": {"name": "digits"}, "plugins": ["tally.py"]}
    (job,) = load_spec(spec).jobs
    assert job.identity["source_code"]
    forget()
    (folder / "tally.py").write_text(KIND.replace("times: int = 1", "times: int = 1  # as before"))
    assert load_spec(spec).jobs[0].key != job.key
    (folder / "sparse.py").write_text(KIND)
    with pytest.raises(SpecError, match=r"sparse.py: kinds has a plug-in sparse already; give the file another name"):
        load_spec({**spec, "plugins": ["sparse.py"]})


def test_files_stand_next_to_stages(folder: Path) -> None:
    stage = {"kind": "sparse", "data": {"name": "digits"}, "model": "flat", "budget": {"steps": 2}, "method": {"name": "dense"}}
    spec = load_spec({"name": "chain", "plugins": ["mine/flat.py"], "stages": {"train": stage}})
    assert spec.to_yaml().startswith("name: chain\nplugins: [mine/flat.py]\n")
    inside = {"name": "chain", "stages": {"train": {**stage, "plugins": ["mine/flat.py"]}}}
    with pytest.raises(SpecError, match=r"stages.train.plugins: is unknown"):
        load_spec(inside)


@pytest.mark.parametrize(
    ("entry", "text", "message"),
    [
        ("flat", "", r'plugins\[0\]: is "flat"; it must be a path that ends in .py, or {file: PATH, family: FAMILY}'),
        ({"file": "x.py", "famly": "models"}, "", r"it must be a path that ends in .py, or"),
        ("gone.py", None, r"plugins\[0\]: gone.py is no file"),
        ("halves.py", None, r"halves.py is no file; .* does not exist; did you mean halved.py\?"),
        ("two.py", "__all__ = ['A', 'B']", r"two.py: __all__ is \['A', 'B'\]; it must name exactly one class"),
        ("other.py", "__all__ = ['A']\nclass B: ...", r"other.py: __all__ names A, which is no class; the file defines B"),
        ("plain.py", "__all__ = ['A']\nclass A: ...", r"plain.py: A is no frozen dataclass; write @dataclass"),
        ("abstract.py", SOURCE, r"abstract.py: Rows lacks read, which its base class asks for"),
        ("odd.py", EMPTY, r"odd.py: A satisfies the protocol of no family. Nearest is"),
        ("raises.py", "1 / 0", r"raises raised ZeroDivisionError in line 1: division by zero"),
        ("mlp.py", MODEL.replace("BIAS", "True").replace("from beside import True", ""), r"models has a plug-in mlp already"),
        ({"file": "a.py", "family": "model"}, EMPTY, r"'model' is no family of plug-ins; known are"),
    ],
)
def test_a_file_that_is_no_plug_in_is_refused(folder: Path, entry: object, text: str | None, message: str) -> None:
    name = entry if isinstance(entry, str) else entry["file"]  # type: ignore[index]
    if text is not None:
        (folder / str(name)).write_text(text)
    with pytest.raises(SpecError, match=message):
        load_spec(TABLES | {"plugins": [entry]})
    with pytest.raises(SpecError, match=r"plugins: is \"x.py\"; it must be a list of files"):
        load_spec(TABLES | {"plugins": "x.py"})


def test_a_submitted_job_gets_the_files_and_what_they_import(folder: Path) -> None:
    load_spec("spec.yaml")
    expected = {name: folder / name for name in ("mine/flat.py", "mine/beside.py", "halved.py")}
    assert shipping.files_to_copy(Path.cwd()) == expected
