"""What README.md promises exists: its commands, its links, its Python; and CI runs what it says."""

import ast
import os
import re
import shlex
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from published_schemas import check_kuberay, check_ray_up, documents

import pruneyard
from pruneyard.cluster.manifests.rendering import FORMATS
from pruneyard.orchestrator.cli import VERBS, cli, main
from pruneyard.orchestrator.spec.load import load_spec

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"


def blocks(*languages: str) -> Iterator[str]:
    """Contents of README's fenced blocks in some languages; `` for blocks that name none."""
    for language, text in re.findall(
        r"^ *```(\w*)[^\n]*\n(.*?)^ *```", README.read_text(), flags=re.M | re.S
    ):
        if language in languages:
            yield text


def command_lines() -> list[list[str]]:
    """Every `pruneyard ...` of README's shell blocks, as words."""
    joined = "\n".join(blocks("", "bash", "sh", "shell", "console", "text")).replace("\\\n", " ")
    lines = [line.strip().removeprefix("$ ") for line in joined.splitlines()]
    return [shlex.split(line, comments=True) for line in lines if re.match(r"pruneyard\b", line)]


def test_readme_shows_how_to_run_the_command() -> None:
    verbs = {words[1] for words in command_lines() if len(words) > 1}
    assert {"run", "plan"} <= verbs


def test_every_command_of_readme_is_known() -> None:
    for words in command_lines():
        plain = [word for word in words[1:] if not word.startswith("-")]
        if not plain:
            continue
        assert plain[0] in VERBS, shlex.join(words)
        verb = cli.get_command(click.Context(cli), plain[0])
        assert verb is not None
        known = {option for parameter in verb.params for option in parameter.opts} | {"--help", "-h"}
        given = {word.partition("=")[0] for word in words[2:] if re.match(r"--?[a-z]", word)}
        assert given <= known, shlex.join(words)


def test_every_spec_that_readme_names_is_packaged_or_written_by_init() -> None:
    written = {"sweep.yaml"} | {
        words[2] for words in command_lines() if words[1:2] == ["init"] and len(words) > 2
    }
    for words in command_lines():
        named = words[2] if words[1:2] in (["run"], ["plan"]) and len(words) > 2 else "SPEC"
        if not named.startswith(("-", "SPEC")) and named not in written and not (ROOT / named).is_file():
            load_spec(named)


MANIFESTS = [words for words in command_lines() if words[1:2] == ["manifest"]]


def test_readme_starts_a_cluster_in_every_way() -> None:
    assert sorted(words[words.index("--format") + 1] for words in MANIFESTS) == sorted(FORMATS)


@pytest.mark.parametrize("words", MANIFESTS, ids=lambda words: words[words.index("--format") + 1])
def test_a_manifest_as_readme_asks_for_it_is_rendered_and_fits(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And the file is the one that the line below hands on."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", words)
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 0
    (path,) = tmp_path.iterdir()
    assert re.search(rf"--out {path.name}\n.*(apply|up|sbatch|launch).* {path.name}\b", README.read_text())
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


def test_python_of_readme_parses_and_imports_names_that_exist() -> None:
    for text in blocks("python", "py"):
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.ImportFrom) and node.module == "pruneyard":
                assert {alias.name for alias in node.names} <= set(pruneyard.__all__)


def test_relative_links_of_readme_resolve() -> None:
    text = README.read_text()
    headings = {
        re.sub(r"[^\w\- ]", "", h.lower()).strip().replace(" ", "-")
        for h in re.findall(r"^#+ (.*)$", text, re.M)
    }
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        assert (ROOT / path).exists() if path else anchor in headings, target


def test_files_that_readme_names_exist() -> None:
    packages = ("orchestrator", "workloads", "cluster", "reports", "tests")
    for name in re.findall(rf"`((?:{'|'.join(packages)})/[\w./-]+)`", README.read_text()):
        assert (ROOT / name).exists(), name


def test_markers_of_readme_are_those_of_pytest() -> None:
    options = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["pytest"]["ini_options"]
    markers = {text.partition(":")[0] for text in options["markers"]}
    for expression in re.findall(r"pytest[^\n`]* -m ['\"]([^'\"]+)['\"]", README.read_text()):
        assert set(re.findall(r"\w+", expression)) - {"not", "and", "or"} <= markers


def test_ci_is_executable_and_runs_the_test_command_as_readme_gives_it() -> None:
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    (reading,) = re.findall(r"test_command=\$\((sed -n '[^']+' README\.md)\)", script.read_text())
    read = subprocess.run(shlex.split(reading), cwd=ROOT, capture_output=True, text=True, check=True).stdout
    shown = [
        line for text in blocks("", "bash", "sh", "console") for line in text.splitlines() if "pytest" in line
    ]
    assert read.splitlines() == shown[:1]
    assert re.search(r'^part .* eval "\$test_command"$', script.read_text(), flags=re.MULTILINE)


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_stands_in_readme(verb: str) -> None:
    assert re.search(rf"pruneyard {verb}\b|`{verb}`", README.read_text())
