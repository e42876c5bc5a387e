"""Commands, links, files and names in README and the manuals exist, and CI runs what README says."""

import ast
import importlib
import os
import re
import shlex
import subprocess
import tomllib
from itertools import pairwise
from pathlib import Path
from typing import Any

import click
import pytest
from manuals import (
    MANUALS,
    PAGES,
    README,
    ROOT,
    SHELL,
    anchors,
    blocks,
    command_lines,
    inline_code,
    name_of,
    prose,
    user_files,
)
from published_schemas import check_kuberay, check_ray_up, documents
from ruamel.yaml import YAML
from user_outputs import made_up, write_outputs

import pruneyard
from pruneyard.cluster.manifests.rendering import FORMATS
from pruneyard.orchestrator.cli import VERBS, cli, main
from pruneyard.orchestrator.errors import ExitCode
from pruneyard.orchestrator.spec.codec import hints_of
from pruneyard.orchestrator.spec.load import load_spec
from pruneyard.orchestrator.spec.stage import Header
from pruneyard.reports.records import schema_markdown
from pruneyard.workloads.function.context import FunctionContext
from pruneyard.workloads.plugins import find_job, kinds, names
from pruneyard.workloads.workload import Context

MAX_WORDS = 2200
FIRST_SCREEN = 20  # lines
FAMILIES = {
    ".".join(path.parent.relative_to(ROOT / "workloads").parts)
    for folder in ("methods", "objectives", "gradients", "optimizers", "schedules", "models", "sources", "selectors", "conformal")
    for path in (ROOT / "workloads").rglob(f"{folder}/__init__.py")
} | {"calibrate.scores", "deploy.formats", "nodes.splits", "sparse.patterns"}
EXAMPLES = ("sensitivity_drop", "confidence_penalty", "stripes", "pooled_convnet", "nearest_mean")  # files to copy

every_page = pytest.mark.parametrize("page", PAGES, ids=name_of)


def test_readme_is_short_and_both_commands_are_on_its_first_screen() -> None:
    text = README.read_text()
    assert len(text.split()) <= MAX_WORDS
    first = text.splitlines()[:FIRST_SCREEN]
    starts = [line for line in first if line.startswith("python3 -m venv .venv && .venv/bin/pip install ")]
    assert len(starts) == 2
    assert starts[0].endswith("&& .venv/bin/pruneyard run quickstart")
    assert starts[1].endswith("&& .venv/bin/python -m pytest")


def test_the_spec_of_readme_is_short_and_means_the_same_jobs_in_python() -> None:
    (text,) = blocks(README, "yaml")
    assert len(text.splitlines()) <= 15
    code, _ = blocks(README, "python")
    call = next(node for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Call) and node.args)
    written, in_python = load_spec(YAML(typ="safe").load(text)), load_spec(ast.literal_eval(call.args[0]))
    assert [job.key for job in written.jobs] == [job.key for job in in_python.jobs]


def test_the_sweep_of_readme_runs_as_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    _, code = blocks(README, "python")
    names: dict[str, Any] = {"__name__": "__main__"}
    exec(code.replace('out="out/train"', 'out="out/train", local=True'), names)
    assert len(names["results"].runs()) == 9
    assert names["results"].best("accuracy")["val/accuracy"] == pytest.approx(1, abs=0.05)
    assert Path("out/train/report.html").is_file()


@every_page
def test_every_command_and_option_is_known(page: Path) -> None:
    for words in command_lines(page):
        if words[0] != "pruneyard":
            continue
        assert words[1] in VERBS, shlex.join(words)
        verb = cli.get_command(click.Context(cli), words[1])
        assert verb is not None
        known = {option for parameter in verb.params for option in parameter.opts} | {"--help", "-h"}
        given = {word.partition("=")[0] for word in words[2:] if re.match(r"--?[a-z]", word)}
        assert given <= known, shlex.join(words)


@every_page
def test_every_spec_that_a_command_names_is_packaged_or_shown(page: Path) -> None:
    """And the changes that the command makes to it fit it."""
    shown = {"sweep.yaml", "nearest.yaml", "SPEC"}
    for words in command_lines(page):
        if words[1:2] not in (["run"], ["plan"], ["submit"]) or len(words) < 3 or words[2] in shown or words[2].startswith("-"):
            continue
        changes = [value for option, value in pairwise(words) if option == "--set"]
        overrides = {key: YAML(typ="safe").load(value) for key, _, value in (text.partition("=") for text in changes)}
        if not any(key.startswith("input.") for key in overrides):  # names a folder of results, which is not here
            load_spec(words[2], overrides=overrides)


@every_page
def test_every_whole_spec_is_valid(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_outputs(tmp_path / "outputs.csv", *made_up())
    monkeypatch.chdir(tmp_path)
    for name, text in user_files().items():
        Path(name).write_text(text)
    for text in blocks(page, "yaml"):
        tables = YAML(typ="safe").load(text)
        if "name" in tables and tables.get("kind", "sparse") in kinds():
            assert load_spec(tables).jobs


@every_page
def test_every_part_of_a_spec_fits_a_job(page: Path) -> None:
    base = {"name": "part", "kind": "sparse", "data": {"name": "digits"}, "model": {"name": "mlp"}, "budget": {"epochs": 10}}
    base["method"] = {"name": "rigl", "density": 0.1, "schedule": {"until": 0.5}}
    for text in blocks(page, "yaml"):
        tables = YAML(typ="safe").load(text)
        if "name" not in tables and "path" not in tables.get("data", {}):
            load_spec(base | tables)


@every_page
def test_every_key_in_a_code_span_is_one_of_specs(page: Path) -> None:
    fields = {name for kind in kinds() for name in hints_of(find_job(kind))} | set(hints_of(Header)) | {"networks", "plugins"}
    for code in inline_code(page):
        if found := re.match(r"(\w+): [\[{].*[\]}]$", code):
            assert found[1] in fields, code
            YAML(typ="safe").load(code)


MANIFESTS = [words for words in command_lines(MANUALS["cluster"]) if words[1] == "manifest" and "--out" in words]


def test_the_manual_starts_a_cluster_in_every_way() -> None:
    assert sorted(words[words.index("--format") + 1] for words in MANIFESTS) == sorted(FORMATS)
    for page in (README, MANUALS["cluster"]):
        assert set(FORMATS) <= set(inline_code(page))


@pytest.mark.parametrize("words", MANIFESTS, ids=lambda words: words[words.index("--format") + 1])
def test_a_manifest_as_the_manual_asks_for_it_is_rendered_and_fits(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And the line below the command uses the file."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", words)
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 0
    (path,) = tmp_path.iterdir()
    manual = MANUALS["cluster"].read_text()
    assert re.search(rf"--out {path.name}\n.*(apply|up|sbatch|launch).* {path.name}\b", manual)
    form, text = words[words.index("--format") + 1], path.read_text()
    if form.startswith("kuberay"):
        check_kuberay(text)
    elif form.startswith("ray-up"):
        check_ray_up(text)
    elif form == "slurm":
        subprocess.run(["bash", "-n", str(path)], check=True)
    else:
        (task,) = documents(text)
        for part in ("setup", "run"):
            subprocess.run(["bash", "-n"], input=task[part], text=True, check=True)


@every_page
def test_python_parses_and_uses_names_that_exist(page: Path) -> None:
    for text in blocks(page, "python"):
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("pruneyard"):
                module = importlib.import_module(str(node.module))
                assert all(hasattr(module, alias.name) for alias in node.names), ast.unparse(node)
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in ("pruneyard", "results"):
                _resolve(ast.unparse(node).replace("results.", "pruneyard.Results."))


@every_page
def test_dotted_names_in_code_spans_exist(page: Path) -> None:
    for code in inline_code(page):
        if found := re.match(r"((?:pruneyard|results)(?:\.\w+)+)(\(|$)", code):
            _resolve(found[1].replace("results.", "pruneyard.Results."))
        if found := re.match(r"context\.(\w+)", code):
            assert found[1] in Context.__dataclass_fields__ or hasattr(FunctionContext, found[1]), code


def _resolve(name: str) -> Any:
    """Returns the module, or attribute of one, with this dotted name."""
    found: Any = pruneyard
    for number, part in enumerate(name.split(".")[1:], start=2):
        module = ".".join(name.split(".")[:number])
        found = getattr(found, part) if hasattr(found, part) else importlib.import_module(module)
    return found


def test_the_manual_names_all_that_the_package_and_results_offer() -> None:
    text = MANUALS["orchestrator"].read_text()
    offered = [name for name in vars(pruneyard.Results) if not name.startswith("_")]
    for name in [*pruneyard.__all__, *offered]:
        assert re.search(rf"\b{name}\b", text), name


@every_page
def test_relative_links_resolve(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        linked = (page.parent / path).resolve() if path else page
        assert linked.exists(), target
        assert not anchor or anchor in anchors(linked), target


@every_page
def test_files_in_code_spans_exist(page: Path) -> None:
    tests = {path.name for path in (ROOT / "tests").rglob("*.py")}
    for code in [word for span in inline_code(page) for word in span.split()]:
        if any(name in code for name in EXAMPLES):
            continue
        if re.fullmatch(r"test_\w+\.py", code):
            assert code in tests, code
        elif re.fullmatch(r"\w+(/\w+)+\.(py|md|yaml)|(orchestrator|workloads|cluster|reports|tests)/[\w./-]*", code):
            assert (ROOT / code).exists() or (page.parent / code).exists(), code


@every_page
def test_names_said_to_be_in_a_file_are_there(page: Path) -> None:
    for listed, path in re.findall(r"((?:`\w+`,? (?:and )?)+)in `([\w/]+\.py)`", prose(page)):
        text = (ROOT / path).read_text()
        for name in re.findall(r"`(\w+)`", listed):
            assert re.search(rf"^(class |def )?{name}\b", text, re.M), f"{name} in {path}"


@every_page
def test_scripts_and_their_options_exist(page: Path) -> None:
    for words in command_lines(page):
        if words[0] == "python" and words[1].startswith("tests/"):
            text = (ROOT / words[1]).read_text()
            assert all(word in text for word in words[2:] if word.startswith("--")), shlex.join(words)


@every_page
def test_extras_and_markers_exist(page: Path) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    extras = project["project"]["optional-dependencies"]
    assert set(re.findall(r"pruneyard\[(\w+)\]", page.read_text())) <= set(extras)
    markers = {text.partition(":")[0] for text in project["tool"]["pytest"]["ini_options"]["markers"]}
    for expression in re.findall(r"pytest[^\n`]* -m ['\"]([^'\"]+)['\"]", page.read_text()):
        assert set(re.findall(r"\w+", expression)) - {"not", "and", "or"} <= markers
    if page == MANUALS["tests"]:
        assert {f"| `{marker}` |" for marker in markers} <= set(re.findall(r"^\| `\w+` \|", page.read_text(), re.M))


def test_ci_is_executable_and_runs_the_test_command_as_readme_gives_it() -> None:
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    (reading,) = re.findall(r"test_command=\$\((sed -n '[^']+' README\.md)\)", script.read_text())
    read = subprocess.run(shlex.split(reading), cwd=ROOT, capture_output=True, text=True, check=True).stdout
    shown = [line for text in blocks(README, *SHELL) for line in text.splitlines() if "pytest" in line]
    assert read.splitlines() == shown
    assert re.search(r'^part .* eval "\$test_command"$', script.read_text(), flags=re.MULTILINE)


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_is_in_the_manual(verb: str) -> None:
    assert f"`{verb}`" in MANUALS["orchestrator"].read_text()


@pytest.mark.parametrize("kind", kinds())
def test_every_key_of_a_kind_is_in_the_manual(kind: str) -> None:
    (row,) = re.findall(rf"^\| `{kind}` \| (`.*) \|$", MANUALS["orchestrator"].read_text(), re.M)
    given = {name for name in hints_of(find_job(kind)) if name not in ("seed", "workers")}
    assert set(re.findall(r"`(\w+)`", row)) == given


def test_every_key_of_all_specs_and_every_exit_code_is_in_the_manual() -> None:
    text = MANUALS["orchestrator"].read_text()
    for name in hints_of(Header):
        assert f"`{name}`" in text
    codes = re.findall(r"^\| (\d+) \|", text, re.M)
    assert [int(code) for code in codes] == sorted(ExitCode)


def test_every_environment_variable_is_in_the_manual() -> None:
    files = [path for folder in ("orchestrator", "workloads", "cluster", "reports") for path in (ROOT / folder).rglob("*.py")]
    used = {name for path in files for name in re.findall(r"\bPRUNEYARD_[A-Z]+", path.read_text())} - {"PRUNEYARD_COMPLETE"}
    assert set(re.findall(r"\| `(PRUNEYARD_[A-Z]+)` \|", MANUALS["orchestrator"].read_text())) == used


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_every_plugin_is_in_the_manual(family: str) -> None:
    text = MANUALS["workloads"].read_text()
    for name in names(family):
        assert f"`{name}`" in text, name


def test_readme_counts_the_plugins() -> None:
    """Each count of the sentence is that of a family."""
    families = ("sparse.methods", "distill.methods", "calibrate.methods", "calibrate.scores", "merge.methods", "probe.methods")
    stated = re.findall(r"(\d+) (?:sparse-|of dist|calib|OOD|merges|probes)", README.read_text())
    assert [int(number) for number in stated] == [len(names(family)) for family in families]


def test_every_packaged_spec_and_profile_is_in_a_manual() -> None:
    for folder, page in (("orchestrator/specs", MANUALS["orchestrator"]), ("cluster/profiles", MANUALS["cluster"])):
        for path in (ROOT / folder).glob("*.yaml"):
            assert f"`{path.stem}`" in page.read_text()


@pytest.mark.parametrize("folder", ["orchestrator", "workloads", "cluster", "reports", "tests"])
def test_every_subfolder_is_in_the_manual_of_its_folder(folder: str) -> None:
    subfolders = [path.name for path in (ROOT / folder).iterdir() if path.is_dir() and any(path.rglob("*.py"))]
    for name in subfolders:
        assert re.search(rf"\b{name}/", MANUALS[folder].read_text()), f"{folder}/{name}"


def test_every_benchmark_is_in_the_manual() -> None:
    for path in (ROOT / "tests" / "benchmarks").glob("*.py"):
        assert f"tests/benchmarks/{path.name}" in MANUALS["tests"].read_text()


def test_the_page_of_the_schema_is_what_the_code_generates() -> None:
    page = ROOT / "reports" / "schema.md"
    assert page.read_text() == schema_markdown() + "\n", "run: pruneyard schema --tables > reports/schema.md"
