"""Invalid and hostile specs: what is read, and the messages for the rest."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from pruneyard.orchestrator.errors import SpecError, UsageError
from pruneyard.orchestrator.spec.job import MAX_JOBS
from pruneyard.orchestrator.spec.load import load_spec
from pruneyard.orchestrator.spec.yaml_document import dump_document, parse_document, parse_value
from pruneyard.testing.cases import each_case

GOOD = """\
name: small
kind: sparse
data: {name: digits}
model: {name: mlp, width: 16}
method: {name: set, density: 0.1}
budget: {epochs: 1}
"""


def read(tmp_path: Path, text: str | bytes, **options: Any) -> Any:
    path = tmp_path / "spec.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return load_spec(path, **options)


def problems(tmp_path: Path, text: str | bytes, **options: Any) -> list[tuple[int, str, str]]:
    """Returns line, key and message of every error in a spec."""
    with pytest.raises(SpecError) as caught:
        read(tmp_path, text, **options)
    for problem in caught.value.problems:
        place = f"{tmp_path / 'spec.yaml'}:{problem.line}: " if problem.line else ""
        assert f"{place}{problem.key}" in str(caught.value)
    return [(problem.line, problem.key, problem.message) for problem in caught.value.problems]


def with_line(old: str, new: str) -> str:
    assert old in GOOD
    return GOOD.replace(old, new)


def test_a_good_spec_is_one_job_with_every_default_filled_in(tmp_path: Path) -> None:
    (job,) = read(tmp_path, GOOD).jobs
    assert job.resolved["optimizer"]["name"] == "sgd"
    assert job.resolved["method"]["schedule"]["every"] == 100
    assert job.resolved["seed"] == 0
    assert job.label == "mlp set density=0.1 seed=0"


def test_yaml_is_1_2() -> None:
    values = parse_document("a: no\nb: 1e-3\nc: on\nd: 010\ne: 0x10\nf: 1_000", origin="x").tables
    assert values == {"a": "no", "b": 0.001, "c": "on", "d": 10, "e": 16, "f": 1000}


@each_case(
    ("text", "line", "expected"),
    [
        ("", 1, "is empty"),
        ("# only a comment\n", 1, "is empty"),
        ("- name: x\n", 1, "is a list; it must be a table"),
        ("just words\n", 1, "is a str; it must be a table"),
        (GOOD + "---\nname: other\n", 7, "another document"),
        (GOOD + "seeds: 1\nseeds: 2\n", 8, "the key seeds is given twice in one table"),
        (GOOD + "method: {name: set}\n", 7, "the key method is given twice in one table"),
        (GOOD + "seeds:\n\t- 1\n", 8, "is not valid YAML: a tab is used where only spaces are allowed"),
        ("model: {name: mlp\nkind: sparse\n", 2, "a table in { } lacks its } or a comma; it starts on line 1"),
        ("seeds: [1, 2\nkind: sparse\n", 2, "a list in [ ] lacks its ] or a comma; it starts on line 1"),
        ('name: "x\nkind: sparse\n', 3, "a text in quotes lacks its closing quote; it starts on line 1"),
        ("name: a: b\n", 1, "a key is not allowed here; check the indentation, and quote a value that contains a colon"),
        ("name: a\n kind: sparse\n", 2, "a key is not allowed here; check the indentation"),
        ("grid:\n  a: [1]\n b: [1]\n", 3, "is not indented like the lines around it"),
        ("name: a\nkind\nseeds: 1\n", 3, "a key lacks its colon"),
        ("name: a\x07\n", 0, "is not valid YAML: unacceptable character #x0007"),
        (GOOD + "x: !!python/object/apply:os.system [true]\n", 7, "tag"),
        ("a: &a [*a]", 0, "is nested deeper"),
        ("a: " + "[" * 1500, 0, "is nested deeper"),
        (
            "\n".join(f"k{i}: &k{i} [{', '.join([f'*k{i - 1}'] * 10 if i else ['x'])}]" for i in range(12)),
            0,
            "aliases",
        ),
    ],
)
def test_what_is_no_table_of_keys_is_refused_with_its_line(
    tmp_path: Path, text: str, line: int, expected: str
) -> None:
    ((found, _, message),) = problems(tmp_path, text)
    assert found == line
    assert expected in message


def test_bytes_that_are_no_text_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"spec\.yaml: is not UTF-8 text: invalid start byte at byte 6$"):
        read(tmp_path, b"name: \xff\xfe")


def test_windows_text_is_read(tmp_path: Path) -> None:
    assert read(tmp_path, b"\xef\xbb\xbf" + GOOD.replace("\n", "\r\n").encode()).name == "small"


def test_a_file_that_is_not_there_gets_the_packaged_names() -> None:
    with pytest.raises(
        UsageError, match=r"nowhere: there is no such file, and the packaged specs are .*quickstart"
    ):
        load_spec("nowhere")
    for wrong in (None, 3, ["quickstart"]):
        with pytest.raises(UsageError, match=rf"^the spec is of type {type(wrong).__name__}; it must be a path, the name of a"):
            load_spec(wrong)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match=r"^nowhere\.yaml: cannot be read: No such file or directory$"):
        load_spec("nowhere.yaml")


def test_a_folder_does_not_hide_the_packaged_spec_of_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "quickstart").mkdir()
    monkeypatch.chdir(tmp_path)
    assert load_spec("quickstart").name == "quickstart"


@each_case(
    ("old", "new", "line", "key", "expected"),
    [
        ("density: 0.1", "density: many", 5, "method.density", 'is "many"; it must be a number'),
        ("density: 0.1", "density: 1.5", 5, "method.density", r"is 1.5; it must lie in (0, 1]"),
        ("density: 0.1", "density: .nan", 5, "method.density", "is NaN; it must be a finite number"),
        ("density: 0.1", "density: -.inf", 5, "method.density", "is -Infinity; it must be a finite number"),
        (
            "density: 0.1",
            "density: 2024-01-01",
            5,
            "method.density",
            'is "2024-01-01"; it must be a number',
        ),
        (
            "density: 0.1",
            "density: [0.1, 0.2]",
            5,
            "method.density",
            "is [0.1, 0.2]; it must be a number",
        ),
        ("density: 0.1", "density: ~", 5, "method.density", "is null; it must be a number"),
        (", density: 0.1", "", 5, "method.density", "is missing; it must be a number"),
        (
            "density: 0.1",
            "density: 0.1, distribution: erq",
            5,
            "method.distribution",
            "it must be one of uniform, er, erk",
        ),
        (
            "density: 0.1",
            "density: 0.1, schedule: {evry: 3}",
            5,
            "method.schedule.evry",
            "did you mean every?",
        ),
        (
            "density: 0.1",
            "density: 0.1, schedule: 3",
            5,
            "method.schedule",
            "is 3; it must be a table with some of",
        ),
        ("density: 0.1", "densty: 0.1, density: 0.1", 5, "method.densty", "did you mean density?"),
        ("name: set", "name: sett", 5, "method.name", "'sett' is none of "),
        ("name: set", "name: sett", 5, "method.name", "did you mean set?"),
        ("name: set", "name: 3", 5, "method.name", "is 3; it must be one of "),
        ("name: set, ", "", 5, "method.name", "is missing; it must be one of "),
        ("{name: set, density: 0.1}", "[set]", 5, "method", 'is ["set"]; it must be a table with a name'),
        ("width: 16", "width: 16.5", 4, "model.width", "is 16.5; it must be a whole number"),
        ("width: 16", "width: true", 4, "model.width", "is true; it must be a whole number"),
        ("width: 16", 'width: "16"', 4, "model.width", 'is "16"; it must be a whole number'),
        ("width: 16", "width: 0", 4, "model.width", "is 0; it must be at least 1"),
        (
            "epochs: 1",
            "epochs: 1, channels_last: no",
            6,
            "budget.channels_last",
            'is "no"; it must be true or false',
        ),
        ("epochs: 1", "epochs: 1, steps: 2", 6, "budget.epochs", "is 1 and steps is 2"),
        ("{epochs: 1}", "{}", 6, "budget.epochs", "is missing, and so is steps"),
        ("{epochs: 1}", "30", 6, "budget", "is 30; it must be a table with some of epochs, steps"),
        (
            "kind: sparse",
            "kind: sprase",
            2,
            "kind",
            'is "sprase"; it must be one of calibrate, distill, features, function, merge, nodes, probe, sparse; '
            "did you mean sparse?",
        ),
        ("name: small", "name: a/b", 1, "name", 'is "a/b"; it must consist of letters'),
        ("name: small", "name: ..", 1, "name", "the first a letter or digit"),
        ("name: small", "name: 3", 1, "name", "is 3; it must be text"),
        ("name: small", "nme: small\nname: small", 1, "nme", "did you mean name?"),
        ("name: small", "1: 2\nname: small", 1, "1", "is unknown"),
        ("name: small", "? [a, b]\n: 1\nname: small", 0, "('a', 'b')", "is unknown"),
        ("epochs: 1}", "epochs: 1}\nmodel.depth: 1", 7, "model.depth", "is unknown; known are"),
        ("epochs: 1}", "epochs: 1}\nseed: 3", 7, "seed", "did you mean seeds?"),
        ("epochs: 1}", "epochs: 1}\nseeds: 0", 7, "seeds", "is 0; it must lie in 1 ..."),
        (
            "epochs: 1}",
            "epochs: 1}\nseeds: 1000000000",
            7,
            "seeds",
            "is 1000000000; it must lie in 1 ... 100000",
        ),
        ("epochs: 1}", "epochs: 1}\nseeds: [0, 0]", 7, "seeds", "is [0, 0]; it must list different"),
        ("epochs: 1}", "epochs: 1}\nseeds: [-1]", 7, "seeds", "every seed must lie in 0 ..."),
        (
            "epochs: 1}",
            "epochs: 1}\nseeds: [9223372036854775808]",
            7,
            "seeds",
            "every seed must lie in 0 ...",
        ),
        ("epochs: 1}", "epochs: 1}\nseeds: []", 7, "seeds", "is []"),
        ("epochs: 1}", "epochs: 1}\nseeds: 1.0", 7, "seeds", "is 1.0; it must be a whole number or a list"),
        ("epochs: 1}", "epochs: 1}\ngrid:", 7, "grid", "is null; it must be a table"),
        ("epochs: 1}", "epochs: 1}\ngrid: [1]", 7, "grid", "is [1]; it must be a table"),
        (
            "epochs: 1}",
            "epochs: 1}\ngrid: {method.density: 0.2}",
            7,
            "grid.method.density",
            "list of at least one",
        ),
        (
            "epochs: 1}",
            "epochs: 1}\ngrid: {method.density: []}",
            7,
            "grid.method.density",
            "list of at least one",
        ),
        ("epochs: 1}", "epochs: 1}\ngrid: {seed: [1, 2]}", 7, "grid.seed", "is not an axis; give `seeds: 3`"),
        (
            "epochs: 1}",
            "epochs: 1}\ngrid: {method.densty: [1]}",
            7,
            "grid.method.densty",
            "did you mean method.density?",
        ),
        (
            "epochs: 1}",
            "epochs: 1}\ngrid: {optimzer.lr: [1]}",
            7,
            "grid.optimzer.lr",
            "did you mean optimizer?",
        ),
        (
            "epochs: 1}",
            "epochs: 1}\ngrid: {resources.cpus: [1]}",
            7,
            "grid.resources.cpus",
            "applies to no job",
        ),
        ("epochs: 1}", "epochs: 1}\ngrid: {1: [1]}", 7, "grid.1", "applies to no job"),
        ("epochs: 1}", "epochs: 1}\ngrid: {'a.b[c': [1]}", 7, "grid.a.b[c", "applies to no job"),
        ("epochs: 1}", "epochs: 1}\nresources: {cpus: 0}", 7, "resources.cpus", "is 0; it must be 1 or more"),
        ("epochs: 1}", "epochs: 1}\nresources: {gpus: 1.5}", 7, "resources.gpus", "a fraction up to 1"),
        ("epochs: 1}", "epochs: 1}\nresources: {gpus: .inf}", 7, "resources.gpus", "finite number"),
    ],
)
def test_a_wrong_value_is_named_with_line_key_value_and_rule(
    tmp_path: Path, old: str, new: str, line: int, key: str, expected: str
) -> None:
    found = problems(tmp_path, with_line(old, new))
    assert [problem for problem in found if problem[1] == key], found
    ((found_line, _, message),) = [problem for problem in found if problem[1] == key]
    assert found_line == line
    assert expected in message


def test_every_problem_is_reported_at_once_in_the_order_of_the_lines(tmp_path: Path) -> None:
    text = """\
name: -x
kind: sparse
data: digitts
model: {name: mlp, width: -1}
method: {name: set, density: 2, colour: red}
optimizer: {lr: fast}
seeds: 0
grid:
  schedule.warmup: [0.1,
                    7]
"""
    found = problems(tmp_path, text)
    assert [(line, key) for line, key, _ in found] == [
        (0, "budget"),
        (1, "name"),
        (3, "data.name"),
        (4, "model.width"),
        (5, "method.colour"),
        (5, "method.density"),
        (6, "optimizer.lr"),
        (7, "seeds"),
        (10, "grid.schedule.warmup[1]"),
    ]


def test_several_values_out_of_range_in_one_table_are_all_reported(tmp_path: Path) -> None:
    optimizer = "optimizer: {name: adamw, lr: 0, beta1: 2, beta2: x, epsilon: -1, weight_decay: -1}\n"
    keys = [key.removeprefix("optimizer.") for _, key, _ in problems(tmp_path, GOOD + optimizer)]
    assert keys == ["beta1", "beta2", "epsilon", "lr", "weight_decay"]
    ((_, key, message),) = problems(tmp_path, GOOD.replace("epochs: 1", "epochs: 0"))
    assert (key, message) == ("budget.epochs", "is 0; it must be 1 or more")


def test_a_wrong_value_of_an_axis_is_reported_with_its_line(tmp_path: Path) -> None:
    grid = "grid:\n  method:\n    - {name: dense}\n    - {name: rigl, density: 3}\n"
    ((line, key, message),) = problems(tmp_path, GOOD + grid)
    assert (line, key) == (10, "grid.method[1].density")
    assert message.startswith("is 3.0; it must lie in")


def test_a_grid_too_large_is_refused_before_it_is_made(tmp_path: Path) -> None:
    axis = list(range(1, 400))
    grid = f"grid: {{model.width: {axis}, budget.batch_size: {axis}, optimizer.lr: {axis}}}\n"
    ((line, key, message),) = problems(tmp_path, GOOD + grid)
    assert (line, key) == (7, "grid")
    assert f"makes {399**3} jobs; at most {MAX_JOBS} are allowed" in message


def test_a_plugin_may_be_given_by_its_name_alone(tmp_path: Path) -> None:
    text = GOOD.replace("{name: digits}", "digits").replace("{name: mlp, width: 16}", "mlp")
    (short,) = read(tmp_path, text.replace("{name: set, density: 0.1}", "dense") + "optimizer: adamw\n").jobs
    assert [short.resolved[part]["name"] for part in ("data", "model", "method", "optimizer")] == [
        "digits",
        "mlp",
        "dense",
        "adamw",
    ]
    ((_, key, message),) = problems(tmp_path, GOOD.replace("{name: mlp, width: 16}", "mpl"))
    assert key == "model.name"
    assert "did you mean mlp?" in message


def test_a_plugin_with_a_default_may_be_given_without_its_name(tmp_path: Path) -> None:
    (job,) = read(tmp_path, GOOD + "optimizer: {lr: 0.5}\n").jobs
    assert job.resolved["optimizer"]["name"] == "sgd"
    assert job.resolved["optimizer"]["lr"] == 0.5


def test_seeds_are_counted_or_listed(tmp_path: Path) -> None:
    assert [job.workload.seed for job in read(tmp_path, GOOD + "seeds: 3\n").jobs] == [0, 1, 2]
    assert [job.workload.seed for job in read(tmp_path, GOOD + "seeds: [7, 3]\n").jobs] == [7, 3]


def test_tables_made_in_python_are_read_with_numpys_numbers_paths_and_tuples() -> None:
    import numpy as np

    tables: Mapping[str, Any] = {
        "name": "x",
        "kind": "sparse",
        "data": {"name": "mnist", "root": Path("/data")},
        "model": "mlp",
        "method": {"name": "set"},
        "budget": {"epochs": np.int64(2)},
        "seeds": (1, 2),
        "grid": {"method.density": (np.float64(0.1), 0.2)},
    }
    spec = load_spec(tables)
    assert len(spec.jobs) == 4
    assert [job.key for job in load_spec(parse_value(spec.to_yaml())).jobs] == [job.key for job in spec.jobs]
    with pytest.raises(SpecError, match=r"^spec: a\.: is unknown"):
        load_spec({**tables, "a.": 1, "b]": 2})


def test_text_that_looks_like_another_type_survives_writing_and_reading() -> None:
    texts = {
        "a": "no",
        "b": "1e-3",
        "c": "2024-01-01",
        "d": "null",
        "e": "0x10",
        "f": "x: y # z",
        "g": "",
        "h": "ü\n",
    }
    numbers = {"i": 0.1, "j": 1e-7, "k": 1e22, "l": -0.5, "m": [1, {"n": None}], "o": True}
    assert parse_value(dump_document(texts | numbers)) == texts | numbers
