"""Checks which module imports which, from every file's imports without running any of them."""

import ast
import functools
import sys
import tomllib
from collections.abc import Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

ROOT = Path(__file__).parents[2]
OURS = ("orchestrator", "workloads", "cluster", "reports")
ALLOWED = {
    "orchestrator": set(OURS),
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
EXECUTES_WHAT_IT_READS = {"pickle", "cloudpickle", "marshal", "shelve"}
SENDS_TO_WORKERS = ROOT / "workloads" / "user_code" / "pickling.py"  # between processes of one study; it reads no file
VAGUE = {"utils", "util", "helpers", "helper", "common", "misc"}
MAX_LINES = 400
MAX_LOOSE_FILES = 8  # at the root of a folder, its __init__ apart
API = ROOT / "orchestrator" / "api"  # installed as the package `pruneyard` itself
FILES = [path for folder in OURS for path in sorted((ROOT / folder).rglob("*.py"))]
TESTS = sorted((ROOT / "tests").rglob("*.py"))


def module_of(path: Path) -> str:
    """Returns the name under which a file is imported once it is installed."""
    parts = list(path.relative_to(API if path.is_relative_to(API) else ROOT).with_suffix("").parts)
    return ".".join(["pruneyard", *(parts[:-1] if parts[-1] == "__init__" else parts)])


MODULES = {module_of(path): path for path in FILES}


@functools.cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def imports(tree: ast.Module) -> Iterator[str]:
    """Yields every module that a file imports at the top, in a function, or for types only."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, "imports are absolute"
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                yield full if full in MODULES else node.module or ""


def room(path: Path) -> str:
    """Returns the folder of a file below one of the four, or the file itself where it lies loose there."""
    folder, *rest = path.relative_to(ROOT).parts
    return f"{folder}/{rest[0]}"


def graph() -> dict[str, set[str]]:
    return {name: {used for used in imports(parsed(path)) if used in MODULES} - {name} for name, path in MODULES.items()}


def assert_has_no_circle(arrows: Mapping[str, set[str]]) -> None:
    try:
        TopologicalSorter(arrows).prepare()
    except CycleError as error:
        raise AssertionError(f"these import each other: {' -> '.join(reversed(error.args[1]))}") from None


def test_imports_follow_the_star() -> None:
    for path in FILES:
        folder = path.relative_to(ROOT).parts[0]
        for module in imports(parsed(path)):
            package, *rest = module.split(".")
            assert package not in OURS, f"{path} imports {module}; installed, it is pruneyard.{module}"
            if package == "pruneyard" and path.parent != API:
                assert rest, f"{path} imports the public module, which imports it"
                assert rest[0] in ALLOWED[folder], f"{path} imports {module}"
            executing = set() if path == SENDS_TO_WORKERS else EXECUTES_WHAT_IT_READS
            assert package not in BANNED[folder] | executing | {"tests"}, f"{path} imports {module}"


def test_no_file_imports_itself_through_others() -> None:
    assert_has_no_circle(graph())


def test_no_folder_imports_itself_through_others() -> None:
    arrows: dict[str, set[str]] = {}
    for name, used in graph().items():
        here = room(MODULES[name])
        arrows.setdefault(here, set()).update({room(MODULES[other]) for other in used} - {here})
    assert_has_no_circle(arrows)


def test_a_root_has_few_loose_files() -> None:
    for folder in ("orchestrator", "workloads"):
        loose = [path.name for path in (ROOT / folder).glob("*.py") if path.name != "__init__.py"]
        assert len(loose) <= MAX_LOOSE_FILES, f"{folder}/ has {len(loose)} loose files: {', '.join(sorted(loose))}"


def test_every_file_says_what_it_knows_and_is_named_after_it() -> None:
    for path in FILES:
        assert ast.get_docstring(parsed(path)), f"{path} has no docstring"
        assert not VAGUE & {path.stem, *path.relative_to(ROOT).parts}, f"{path}: name the file after what it knows"
        assert len(path.read_text(encoding="utf-8").splitlines()) <= MAX_LINES, f"{path} has over {MAX_LINES} lines"


def test_a_package_holds_a_docstring_and_nothing_else() -> None:
    for path in FILES:
        assert (path.parent / "__init__.py").exists(), f"{path.parent} has no __init__.py"
        if path.name == "__init__.py" and path.parent != API:
            assert len(parsed(path).body) == 1, f"{path} holds more than a docstring"


def test_the_public_module_imports_only_the_standard_library_at_once() -> None:
    for node in parsed(API / "__init__.py").body:
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [node.module] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
            assert {str(name).partition(".")[0] for name in names} <= sys.stdlib_module_names


def test_every_import_is_a_dependency_or_of_the_standard_library() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = [item for name, extra in project["optional-dependencies"].items() if name != "test" for item in extra]
    wanted = {requirement.split(">")[0].split("[")[0].strip() for requirement in (*project["dependencies"], *extras)}
    modules = {
        "mlflow-skinny": "mlflow",
        "pillow": "PIL",
        "ruamel.yaml": "ruamel",
        "scikit-learn": "sklearn",
        "vl-convert-python": "vl_convert",
    }
    known = {modules.get(name, name) for name in wanted} | {"pruneyard"} | sys.stdlib_module_names
    for path in FILES:
        for module in imports(parsed(path)):
            assert module.partition(".")[0] in known, f"{path} imports {module}, which pyproject.toml does not ask for"


def test_tests_have_unique_names_and_one_package() -> None:
    """Modules of folders without a package are imported by their file's name alone; the conformance suites are installed."""
    names = [path.name for path in TESTS if path.name not in ("conftest.py", "__init__.py")]
    assert sorted(set(names)) == sorted(names)
    packages = [path.parent for path in TESTS if path.name == "__init__.py"]
    assert packages == [ROOT / "tests" / "conformance"]


def test_the_installed_conformance_suites_import_nothing_of_the_other_tests() -> None:
    suites = [path for path in TESTS if path.parent.name == "conformance"]
    others = {path.stem for path in TESTS if path not in suites}
    for path in suites:
        for module in imports(parsed(path)):
            assert module.partition(".")[0] not in others, f"{path} imports {module}, which is not installed"
