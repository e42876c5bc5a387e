"""Output and exit codes of the verbs; those that run trials are in tests/integration."""

import csv
import io
import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

import pruneyard
from pruneyard.orchestrator.cli import VERBS
from pruneyard.orchestrator.driver.run import run
from pruneyard.orchestrator.errors import UsageError
from pruneyard.orchestrator.results import Results
from pruneyard.orchestrator.spec.codec import hints_of, plugin_of, plugins_of
from pruneyard.orchestrator.spec.load import load_spec
from pruneyard.reports import records
from pruneyard.testing.cases import each_case
from pruneyard.workloads.plugins import find_job, is_family, kinds, names

Pruneyard = Callable[..., Any]

SPEC = """\
name: small
kind: sparse
data: {name: digits, max_train: 100, max_test: 50}
model: {name: mlp, width: 8, depth: 1}
method: {name: set, density: 0.5}
budget: {steps: 6, batch_size: 16}
seeds: 2
grid:
  optimizer.lr: [0.1, 1.0e+30]   # the second one diverges
"""


@pytest.fixture
def spec(tmp_path: Path) -> Path:
    path = tmp_path / "small.yaml"
    path.write_text(SPEC)
    return path


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns a folder in which two jobs are COMPLETED and two FAILED."""
    folder = tmp_path_factory.mktemp("finished")
    (folder / "small.yaml").write_text(SPEC)
    run(folder / "small.yaml", out=folder / "out", local=True)
    return folder / "out"


def modules_after(statement: str) -> set[str]:
    """Returns the top-level modules that a fresh process has loaded after a statement."""
    program = f"import sys\n{statement}\nprint(*sorted({{name.partition('.')[0] for name in sys.modules}}))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return set(done.stdout.splitlines()[-1].split())


def command(*arguments: str) -> str:
    program = f"sys.argv = ['pruneyard', *{arguments!r}]\ntry:\n    main()\nexcept SystemExit as end:\n    assert not end.code"
    return f"from pruneyard.orchestrator.cli import main\n{program}"


@each_case(
    "statement",
    [
        "import orchestrator",
        command("--help"),
        command("list", "--json"),
        command("list"),
        command("completion", "bash"),
    ],
    ids=["import", "help", "list as json", "list", "completion"],
)
def test_quick_verbs_import_neither_ray_nor_torch(statement: str) -> None:
    assert not modules_after(statement) & {"ray", "torch", "pandas"}


def test_completing_a_verb_loads_no_verb() -> None:
    environment = {"COMP_WORDS": "pruneyard re", "COMP_CWORD": "1", "_PRUNEYARD_COMPLETE": "bash_complete"}
    program = (
        "import sys\nfrom pruneyard.orchestrator.cli import cli\n"
        "try:\n    cli.main(prog_name='pruneyard')\nexcept SystemExit:\n    pass\n"
        "print([n for n in sys.modules if n.startswith('pruneyard.orchestrator.commands.')])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | environment,
    )
    assert done.stdout.split() == ["plain,resume", "plain,retry", "plain,report", "[]"]


def test_the_package_offers_its_three_names_and_no_other() -> None:
    assert pruneyard.run is run
    assert pruneyard.load_spec is load_spec
    assert pruneyard.Results is Results
    with pytest.raises(AttributeError, match="has no attribute 'rum'"):
        pruneyard.rum  # noqa: B018


@each_case("verb", VERBS)
def test_every_verb_has_help(pruneyard: Pruneyard, verb: str) -> None:
    result = pruneyard(verb, "--help")
    assert result.code == 0
    assert f"Usage: pruneyard {verb}" in result.out


def test_help_and_version_are_on_stdout(pruneyard: Pruneyard) -> None:
    assert "pruneyard run quickstart" in pruneyard("--help").out
    assert pruneyard("--version").out.startswith("pruneyard, version ")


@each_case(
    "arguments",
    [
        (),
        ("rum", "quickstart"),
        ("plan",),
        ("plan", "nowhere"),
        ("plan", "quickstart", "--sett", "a=1"),
        ("plan", "quickstart", "--set", "a"),
        ("plan", "quickstart", "--set", "method.densty=1"),
        ("list", "methodss"),
        ("export", "nowhere"),
        ("report", "nowhere"),
        ("resume", "nowhere"),
        ("retry", ".", "--only", "pruned"),
        ("explain", "0123456789abcdef"),
        ("explain", "0123456789abcdef", "--out", "nowhere"),
        ("completion", "csh"),
    ],
)
def test_what_cannot_be_meant_exits_with_2_and_says_so_on_stderr(
    pruneyard: Pruneyard, arguments: tuple[str, ...]
) -> None:
    result = pruneyard(*arguments)
    assert result.code == 2
    assert result.err
    assert not result.out
    assert "Traceback" not in result.err


def test_all_problems_of_a_spec_are_printed_one_a_line(pruneyard: Pruneyard, spec: Path) -> None:
    spec.write_text(SPEC.replace("density: 0.5", "density: 5").replace("steps: 6", "stepps: 6"))
    lines = pruneyard("plan", spec).err.splitlines()
    assert lines[0].startswith(f"pruneyard: {spec}:5: method.density: is 5.0; it must lie in")
    assert any(line.startswith(f"{spec}:6: budget.stepps: is unknown") for line in lines)


def test_methods_are_listed_with_name_kind_summary_and_reference(pruneyard: Pruneyard) -> None:
    listed = json.loads(pruneyard("list", "methods", "--json").out)
    assert all(entry.keys() == {"name", "kind", "summary", "reference"} for entry in listed)
    assert all(isinstance(text, str) for entry in listed for text in entry.values())
    expected = [(kind, name) for kind in kinds() if is_family(f"{kind}.methods") for name in names(f"{kind}.methods")]
    expected += [("gradient", name) for name in names("gradients")]
    assert [(entry["kind"], entry["name"]) for entry in listed] == expected
    assert {"dense", "static", "set", "rigl", "magnitude", "agent"} <= {entry["name"] for entry in listed}
    assert all(entry["reference"] for entry in listed if entry["name"] not in ("dense", "plain"))


def families_of(cls: type[Any]) -> set[str]:
    """Returns the families of every plug-in field of a table and of the tables inside it."""
    found = set()
    for hint in hints_of(cls).values():
        marker = plugin_of(hint) or plugins_of(hint)
        if marker is not None:
            found.add(marker.family)
        elif is_dataclass(hint) and isinstance(hint, type):
            found |= families_of(hint)
    return found


def test_every_name_that_a_spec_may_use_is_listed(pruneyard: Pruneyard) -> None:
    listed = {entry["name"] for entry in json.loads(pruneyard("list", "--json").out)}
    families = set().union(*(families_of(find_job(kind)) for kind in kinds()))
    assert {"nodes.splits", "gradients", "models", "calibrate.scores"} <= families
    for family in families:
        assert set(names(family)) <= listed, family


@each_case(
    ("topic", "some"),
    [
        ("data", "digits"),
        ("selectors", "k_center"),
        ("methods", "herding"),
        ("models", "wrn22_2"),
        ("metrics", "nll"),
        ("metrics", "robust_accuracy"),
        ("metrics", "hlr"),
        ("objectives", "trades"),
        ("specs", "quickstart"),
        ("methods", "rigl"),
        ("objectives", "cross_entropy"),
        ("optimizers", "sgd"),
        ("schedules", "cosine"),
        ("claims", "cigl"),
    ],
)
def test_every_topic_has_a_table_and_json(pruneyard: Pruneyard, topic: str, some: str) -> None:
    assert some in [entry["name"] for entry in json.loads(pruneyard("list", topic, "--json").out)]
    assert some in pruneyard("list", topic).out
    assert some in pruneyard("list").out


def test_init_writes_a_spec_that_can_be_planned_and_spares_files(
    pruneyard: Pruneyard, tmp_path: Path
) -> None:
    result = pruneyard("init", "mine.yaml")
    assert result.code == 0
    assert "results go into out/mine" in pruneyard("plan", "mine.yaml").out
    before = (tmp_path / "mine.yaml").read_text()
    (tmp_path / "mine.yaml").write_text(before + "# mine\n")
    again = pruneyard("init", "mine.yaml")
    assert (again.code, "exists already" in again.err) == (2, True)
    assert (tmp_path / "mine.yaml").read_text().endswith("# mine\n")
    assert pruneyard("init").code == 0
    assert "\nname: sweep\n" in (tmp_path / "sweep.yaml").read_text()
    pruneyard("init", "12.yaml")
    assert '\nname: "12"\n' in (tmp_path / "12.yaml").read_text()
    assert pruneyard("init", "no/such/folder.yaml").code == 2


def test_plan_writes_nothing(pruneyard: Pruneyard, spec: Path, tmp_path: Path) -> None:
    result = pruneyard("plan", spec)
    assert result.code == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["small.yaml"]
    for job in load_spec(spec).jobs:
        assert job.key in result.out
    assert "4 missing" in result.out


def test_plan_as_json_has_status_and_spec_of_every_job(
    pruneyard: Pruneyard, spec: Path, finished: Path
) -> None:
    plan = json.loads(pruneyard("plan", spec, "--out", finished, "--json").out)
    assert plan["counts"] == {"completed": 2, "failed": 2, "interrupted": 0, "pruned": 0, "missing": 0}
    assert {job["run_key"]: job["status"] for job in plan["jobs"]} == {
        job.key: "COMPLETED" if "0.1" in str(job.resolved["optimizer"]["lr"]) else "FAILED"
        for job in load_spec(spec).jobs
    }
    assert plan["jobs"][0]["spec"]["budget"]["steps"] == 6
    assert plan["estimate"]["seconds"] > 0


def test_plan_reports_where_missing_data_was_searched(
    pruneyard: Pruneyard, spec: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PRUNEYARD_DATA", str(tmp_path / "nothing-here"))
    monkeypatch.setenv("HOME", str(tmp_path))
    result = pruneyard("plan", spec, "--set", "data=mnist")
    assert result.code == 0
    assert "nothing-here" in result.out


def test_explain_says_why_each_job_would_run(pruneyard: Pruneyard, spec: Path, finished: Path) -> None:
    lines = pruneyard("explain", spec, "--out", finished).out.splitlines()
    assert sum("finished; it will not run again" in line for line in lines) == 2
    assert sum("runs again because attempt 1 ended FAILED" in line for line in lines) == 2
    assert "NonFiniteError" in "\n".join(lines)


def test_explain_names_the_field_in_which_a_new_job_differs(
    pruneyard: Pruneyard, spec: Path, finished: Path
) -> None:
    out = pruneyard(
        "explain", spec, "--out", finished, "--set", "method.density=0.25", "--set", "seeds=1"
    ).out
    assert "runs because no run of this key is in" in out
    assert "method.density: 0.5 there, 0.25 here" in out


def test_explain_describes_a_run(pruneyard: Pruneyard, finished: Path) -> None:
    for row in Results(finished).runs().to_dict("records"):
        out = pruneyard("explain", row["run_key"], "--out", finished).out
        assert out.startswith(f"{row['run_key']}: {row['status']}, attempt 1 of study small")
        assert ("NonFiniteError" in out) == (row["status"] == "FAILED")


@each_case("table", ["summary", "runs", "metrics", "curves"])
@each_case("form", ["csv", "markdown", "latex"])
def test_every_table_is_exported_in_every_format(
    pruneyard: Pruneyard, finished: Path, table: str, form: str
) -> None:
    result = pruneyard("export", finished, "--table", table, "--format", form)
    assert result.code == 0
    assert result.out.strip()


def test_exported_csv_holds_the_rows(pruneyard: Pruneyard, finished: Path, tmp_path: Path) -> None:
    rows = list(csv.DictReader(io.StringIO(pruneyard("export", finished, "--table", "runs").out)))
    assert sorted(row["status"] for row in rows) == ["COMPLETED", "COMPLETED", "FAILED", "FAILED"]
    assert pruneyard("export", finished, "--table", "runs", "--out", "runs.csv").code == 0
    assert len((tmp_path / "runs.csv").read_text().splitlines()) >= 5


def test_report_writes_one_page_to_the_given_path(
    pruneyard: Pruneyard, finished: Path, tmp_path: Path
) -> None:
    result = pruneyard("report", finished, "--out", "page.html")
    assert (result.code, result.out.strip()) == (0, "page.html")
    assert "<html" in (tmp_path / "page.html").read_text()


def test_results_are_frames_in_python_and_a_table_in_a_notebook(finished: Path) -> None:
    results = Results(finished)
    assert len(results.runs()) == 4
    assert {"split", "name", "value"} <= set(results.metrics().columns)
    assert {"density", "reliability"} <= set(results.curves()["name"])
    assert results.exit_code == 1
    assert "<table" in results._repr_html_()
    assert repr(results).startswith("Results(")


def test_a_folder_in_which_a_run_just_began_has_empty_frames(tmp_path: Path) -> None:
    for there in ([], [".driver"], [".driver", "spec.yaml"]):
        for name in there:
            (tmp_path / name).write_text(SPEC)
        results = Results(tmp_path)
        assert len(results.runs()) == len(results.metrics()) == len(results.curves()) == 0
        assert results.exit_code == (3 if "spec.yaml" in there else 0)
        assert "Results(" in repr(results)


@pytest.mark.parametrize("name", ["nothing", "holiday"])
def test_every_verb_refuses_a_folder_without_results(
    pruneyard: Pruneyard, tmp_path: Path, name: str
) -> None:
    (tmp_path / "holiday").mkdir()
    (tmp_path / "holiday" / "picture.png").touch()
    results = Results(tmp_path / name)
    for ask in ("runs", "metrics", "curves", "summary", "report", "final", "best"):
        with pytest.raises(UsageError, match=rf"{name}: (there is no such folder|.*is no folder of results)"):
            getattr(results, ask)()
    with pytest.raises(UsageError, match=name):
        _ = results.exit_code
    assert name in repr(results)
    assert name in results._repr_html_()
    assert not (tmp_path / "nothing").exists()
    result = pruneyard("report", name)
    assert (result.code, name in result.err) == (2, True)
    assert [path.name for path in (tmp_path / "holiday").iterdir()] == ["picture.png"]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_prints_a_script(pruneyard: Pruneyard, shell: str) -> None:
    assert "_PRUNEYARD_COMPLETE" in pruneyard("completion", shell).out


def test_schema_prints_json(pruneyard: Pruneyard) -> None:
    assert json.loads(pruneyard("schema").out)["title"] == "pruneyard spec"


@pytest.mark.parametrize("arguments", [["report"], ["export"]])
def test_results_of_a_newer_version_are_refused_in_words(
    pruneyard: Pruneyard, tmp_path: Path, arguments: list[str]
) -> None:
    rows = tmp_path / "newer" / "results" / "runs"
    rows.mkdir(parents=True)
    newer = records.schema("runs").with_metadata({records.VERSION_KEY: b"99"})
    pq.write_table(newer.empty_table(), rows / "key-1.parquet")
    result = pruneyard(*arguments, tmp_path / "newer")
    assert result.code == 2
    assert "has schema_version 99" in result.err
    assert "Traceback" not in result.err


def test_text_that_the_terminal_cannot_show_ends_nothing() -> None:
    """The final table has a ± in it; under LANG=C it ended a finished study with a traceback."""
    program = (
        "from rich.console import Console\n"
        "from pruneyard.orchestrator import cli\n"
        "cli.cli.main = lambda **options: Console().print('0.97 \\u00b1 0.01')\n"
        "cli.main()"
    )
    env = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = subprocess.run([sys.executable, "-c", program], env=env, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "0.97 ? 0.01\n"), done.stderr
