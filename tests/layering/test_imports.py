"""Who may import whom, read from every file's imports without running any of them."""

import ast
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
OURS = ("orchestrator", "workloads", "cluster", "reports")
MAY_IMPORT = {
    "orchestrator": {"orchestrator", "workloads", "cluster", "reports"},
    "workloads": {"workloads"},
    "cluster": {"cluster"},
    "reports": {"reports"},
}
BANNED = {
    "orchestrator": set[str](),
    "workloads": {"ray", "pyarrow", "pydantic", "click", "rich", "argparse"},
    "cluster": {"torch", "torchvision", "pyarrow"},
    "reports": {"ray", "torch", "torchvision"},
}
VAGUE = {"utils", "util", "helpers", "helper", "common", "misc"}
FILES = sorted(path for package in OURS for path in (ROOT / package).rglob("*.py"))
PACKAGES = sorted({path.parent for path in FILES})
TESTS = sorted((ROOT / "tests").rglob("*.py"))
IDS = [str(path.relative_to(ROOT)) for path in FILES]


def imports(path: Path) -> Iterator[tuple[ast.Import | ast.ImportFrom, str]]:
    """Every import of a file, wherever it stands, with the module it names."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((node, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node, node.module or ""


def top(path: Path) -> str:
    return path.relative_to(ROOT).parts[0]


def test_the_folders_are_where_this_test_looks() -> None:
    assert {top(path) for path in FILES} == set(OURS)


@pytest.mark.parametrize("path", FILES, ids=IDS)
def test_imports_follow_the_star(path: Path) -> None:
    for _, module in imports(path):
        package = module.partition(".")[0]
        assert package not in OURS or package in MAY_IMPORT[top(path)], f"{path} imports {module}"
        assert package not in BANNED[top(path)], f"{path} imports {module}"
        assert package not in {"tests", "pickle", "cloudpickle", "marshal", "shelve"}, (
            f"{path} imports {module}"
        )


@pytest.mark.parametrize("path", FILES, ids=IDS)
def test_imports_are_absolute(path: Path) -> None:
    assert all(not node.level for node, _ in imports(path) if isinstance(node, ast.ImportFrom))


@pytest.mark.parametrize("path", [path for path in FILES if path.name == "__init__.py"], ids=str)
def test_a_package_holds_a_docstring_and_nothing_else(path: Path) -> None:
    statements = ast.parse(path.read_text(encoding="utf-8")).body
    assert isinstance(statements[0], ast.Expr)
    assert isinstance(statements[0].value, ast.Constant)
    if path.parent != ROOT / "orchestrator":  # the public names, resolved on first use
        assert len(statements) == 1


def test_the_public_package_imports_nothing_of_ours_when_it_is_imported() -> None:
    body = ast.parse((ROOT / "orchestrator" / "__init__.py").read_text(encoding="utf-8")).body
    at_once = [node for node in body if isinstance(node, ast.Import | ast.ImportFrom)]
    names = {alias.name for node in at_once for alias in node.names}
    modules = {node.module for node in at_once if isinstance(node, ast.ImportFrom)} | names
    assert {
        str(module).partition(".")[0] for module in modules - {"Any", "TYPE_CHECKING"}
    } <= sys.stdlib_module_names


@pytest.mark.parametrize("path", FILES, ids=IDS)
def test_every_file_says_what_it_knows_and_is_named_after_it(path: Path) -> None:
    assert ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
    assert not VAGUE & {path.stem, *path.relative_to(ROOT).parts}
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 400


def test_every_package_on_disk_is_packaged_and_no_other() -> None:
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    on_disk = [".".join(path.relative_to(ROOT).parts) for path in PACKAGES]
    assert sorted(listed) == sorted(on_disk)
    assert all((path / "__init__.py").exists() for path in PACKAGES)


def test_every_file_that_is_read_at_run_time_is_packaged() -> None:
    data = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]
    for package in PACKAGES:
        patterns = data.get(".".join(package.relative_to(ROOT).parts), [])
        for file in package.iterdir():
            if file.is_file() and file.suffix not in {".py", ".pyc"}:
                assert any(file.match(pattern) for pattern in patterns), f"{file} is in no package-data"


def test_every_import_is_a_dependency_or_of_the_standard_library() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = [item for name, extra in project["optional-dependencies"].items() if name != "test" for item in extra]
    wanted = {requirement.split(">")[0].split("[")[0].strip() for requirement in (*project["dependencies"], *extras)}
    modules = {
        "pillow": "PIL",
        "ruamel.yaml": "ruamel",
        "scikit-learn": "sklearn",
        "vl-convert-python": "vl_convert",
    }
    known = {modules.get(name, name) for name in wanted} | set(OURS) | sys.stdlib_module_names
    for path in FILES:
        for _, module in imports(path):
            assert module.partition(".")[0] in known, (
                f"{path} imports {module}, which pyproject.toml does not ask for"
            )


def test_tests_have_unique_names_and_no_packages() -> None:
    names = [path.name for path in TESTS if path.name != "conftest.py"]
    assert sorted(set(names)) == sorted(names)
    assert "__init__.py" not in names
