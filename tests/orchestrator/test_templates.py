"""The starting points that `pruneyard init` writes run as they are written, and leave existing files alone."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from in_process_command import Pruneyard

from pruneyard import Results, load_spec, run
from pruneyard.orchestrator.spec.packaged import template_names
from pruneyard.reports.records import Status

LONG = ("chain", "distill", "function", "sparse", "tabular")  # they take longer than what is left to run by default

NET = '''
from torch import nn

class Net(nn.Module):
    def __init__(self, width: int = 12, image_shape=(1, 8, 8), num_classes: int = 10, bias: bool = True):
        super().__init__()
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(64, width, bias=bias), nn.ReLU())
        self.classifier = nn.Linear(width, num_classes)

    def forward(self, images):
        return self.classifier(self.body(images))

class Needy(Net):
    def __init__(self, depth: int):
        super().__init__(depth)
'''


@pytest.mark.parametrize(
    "template", [pytest.param(name, marks=pytest.mark.slow) if name in LONG else name for name in template_names()]
)
def test_a_template_runs_as_written(pruneyard: Pruneyard, tmp_path: Path, template: str) -> None:
    answer = pruneyard("init", "--template", template, "first.yaml")
    assert (answer.code, "wrote first.yaml" in answer.out) == (0, True), answer.err
    answer = pruneyard("run", "first.yaml", "--local")
    assert answer.code == 0, answer.err
    results = Results(tmp_path / "out" / "first")
    assert set(results.runs()["status"]) <= {Status.COMPLETED, Status.PRUNED}
    assert (tmp_path / "out" / "first" / "report.html").is_file()


@pytest.mark.parametrize("template", template_names())
def test_a_template_can_be_planned_from_another_folder(pruneyard: Pruneyard, tmp_path: Path, template: str) -> None:
    (tmp_path / "specs").mkdir()
    assert pruneyard("init", "--template", template, "specs/first.yaml").code == 0
    assert load_spec(tmp_path / "specs" / "first.yaml").name == "first"
    before = {path: path.read_text() for path in (tmp_path / "specs").glob("*.*")}
    again = pruneyard("init", "--template", template, "specs/first.yaml")
    assert (again.code, "exists already" in again.err) == (2, True)
    beside = [path for path in before if path.name != "first.yaml"]
    if beside:
        another = pruneyard("init", "--template", template, "specs/second.yaml")
        assert (another.code, f"{beside[0].name}: exists already" in another.err) == (2, True)
    assert {path: path.read_text() for path in (tmp_path / "specs").glob("*.*")} == before


def test_a_network_of_the_user_becomes_a_spec_with_its_defaults(pruneyard: Pruneyard, tmp_path: Path) -> None:
    (tmp_path / "my_model.py").write_text(NET)
    answer = pruneyard("init", "--from", "my_model.py:Net", "mine.yaml")
    assert answer.code == 0, answer.err
    text = (tmp_path / "mine.yaml").read_text()
    assert '\nmodel: {"name": "my_model.py:Net", "width": 12, "bias": true}\n' in text
    answer = pruneyard("run", "mine.yaml", "--local", "--set", "budget.epochs=1", "--set", "seeds=1")
    assert answer.code == 0, answer.err
    assert set(Results(tmp_path / "out" / "mine").runs()["status"]) == {Status.COMPLETED}


ANY_SHAPE = """
from torch import nn

class Net(nn.Module):
    def __init__(self, in_features: int, num_classes: int, width: int = 12):
        super().__init__()
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(in_features, width), nn.ReLU())
        self.classifier = nn.Linear(width, num_classes)

    def forward(self, inputs):
        return self.classifier(self.body(inputs))
"""


def write_data(folder: Path) -> None:
    """Writes 200 rows of two classes as CSV, Parquet and arrays, and pictures."""
    draws = np.random.default_rng(0)
    labels = np.arange(200) % 2
    frame = pd.DataFrame(draws.normal(size=(200, 3)) + labels[:, None], columns=["a", "b", "c"])
    frame.assign(income=np.where(labels, "high", "low")).to_csv(folder / "rows.csv", index=False)
    frame.assign(label=labels)[["label", "a", "b", "c"]].to_parquet(folder / "rows.parquet")
    np.savez(folder / "x.npz", x=frame.to_numpy(), y=labels)
    np.savez(folder / "pictures.npz", x=draws.integers(0, 256, (200, 8, 8, 3), dtype=np.uint8), y=labels)


@pytest.mark.parametrize(
    ("given", "line"),
    [
        ("table:rows.csv", '{"name": "table", "path": "rows.csv", "target": "income"}'),
        ("table:rows.csv,target=income,drop=[a]", '{"name": "table", "path": "rows.csv", "target": "income", "drop": ["a"]}'),
        ("table:rows.parquet", '{"name": "table", "path": "rows.parquet", "target": "label"}'),
        ("arrays:x.npz", '{"name": "arrays", "path": "x.npz"}'),
        ("arrays:pictures.npz,channels=last", '{"name": "arrays", "path": "pictures.npz", "channels": "last"}'),
        ("wine", '{"name": "wine"}'),
        (None, '{name: digits}'),
    ],
)
def test_a_network_of_the_user_runs_as_written_on_the_chosen_data(
    pruneyard: Pruneyard, tmp_path: Path, given: str | None, line: str
) -> None:
    write_data(tmp_path)
    (tmp_path / "my_model.py").write_text(ANY_SHAPE)
    answer = pruneyard("init", "--from", "my_model.py:Net", *(() if given is None else ("--data", given)), "mine.yaml")
    assert (answer.code, answer.err) == (0, "")
    text = (tmp_path / "mine.yaml").read_text()
    assert f"\ndata: {line}\n" in text
    assert ("--data NAME" in text) == (given is None)
    results = run(tmp_path / "mine.yaml", tmp_path / "out", local=True)
    assert set(results.runs()["status"]) == {Status.COMPLETED}


def test_digits_that_a_network_does_not_take_are_written_and_said(pruneyard: Pruneyard, tmp_path: Path) -> None:
    (tmp_path / "my_model.py").write_text(NET.replace("Linear(64,", "Linear(65,"))
    answer = pruneyard("init", "--from", "my_model.py:Net", "mine.yaml")
    assert (answer.code, "change the data, or choose it by --data" in answer.err) == (0, True), answer.err
    assert (tmp_path / "mine.yaml").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--from", "my_model"), "must be a file or module and a name in it, as in my_model.py:Net"),
        (("--from", "my_model.py:Nett"), "did you mean Net"),
        (("--from", "my_model.py:Needy"), "has the argument depth, which has no default"),
        (("--from", "my_model.py:Net", "--template", "sparse"), "give one of the two"),
        (("--template", "sparse", "--data", "wine"), "--data: goes with --from"),
        (("--from", "my_model.py:Net", "--data", "winee"), "did you mean wine"),
        (("--from", "my_model.py:Net", "--data", "wine"), "and model my_model.py:Net: "),
        (("--from", "my_model.py:Net", "--data", "table:"), "a source and a path, as in table:rows.csv"),
        (("--from", "my_model.py:Net", "--data", "table:no.csv"), "no.csv cannot be read"),
        (("--from", "my_model.py:Net", "--data", "arrays:no.npz"), "no.npz"),
        (("--from", "my_model.py:Net", "--data", "wine,colour=red"), "data.colour: is unknown"),
    ],
)
def test_what_init_cannot_write_is_refused_and_nothing_is_written(
    pruneyard: Pruneyard, tmp_path: Path, words: tuple[str, ...], said: str
) -> None:
    (tmp_path / "my_model.py").write_text(NET)
    answer = pruneyard("init", *words)
    assert (answer.code, said in answer.err) == (2, True), answer.err
    assert not (tmp_path / "sweep.yaml").exists()
