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


def test_the_command_line_adds_files(folder: Path, pruneyard: Pruneyard) -> None:
    (folder / "spec.yaml").write_text("\n".join(line for line in SPEC.splitlines() if not line.startswith("plugins")))
    refused = pruneyard("plan", "spec.yaml", "--plugin", "halved.py")
    assert refused.code == 2
    assert "model.name: is unknown: 'flat' is none of" in refused.err
    assert pruneyard("plan", "spec.yaml", "--plugin", "halved.py", "--plugin", "mine/flat.py").code == 0


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
        ("two.py", "__all__ = ['A', 'B']", r"two.py: __all__ is \['A', 'B'\]; it must name exactly one class"),
        ("odd.py", "__all__ = ['A']\nclass A: ...", r"odd.py: A satisfies the protocol of no family. Nearest is"),
        ("raises.py", "1 / 0", r"raised ZeroDivisionError: division by zero"),
        ("mlp.py", MODEL.replace("BIAS", "True").replace("from beside import True", ""), r"models has a plug-in mlp already"),
        ({"file": "a.py", "family": "model"}, "__all__ = ['A']\nclass A: ...", r"'model' is no family of plug-ins; known are"),
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
