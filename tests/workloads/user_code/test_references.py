"""References name objects of modules and files; what cannot be found or imported is said."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from code_caches import forget_code, forget_modules_of

from pruneyard.workloads.user_code import files
from pruneyard.workloads.user_code.errors import UserCodeError
from pruneyard.workloads.user_code.identity import digest_of, files_of, identity_name
from pruneyard.workloads.user_code.references import is_reference, resolve


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A current folder with a package, whose modules and search path are forgotten afterwards."""
    (tmp_path / "my_pkg").mkdir()
    (tmp_path / "my_pkg" / "__init__.py").write_text("")
    (tmp_path / "my_pkg" / "nets.py").write_text("from my_pkg.sizes import WIDTH\n\n\nclass Net:\n    class Inner: ...\n")
    (tmp_path / "my_pkg" / "sizes.py").write_text("WIDTH = 3\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(files, "LOCATIONS", files.CodeLocations())
    yield tmp_path
    forget_modules_of(tmp_path)
    forget_code()


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("my_pkg.nets:Net", True),
        ("nets.py:Net", True),
        ("/a folder/nets.py:Outer.Net", True),
        ("Net@0123456789abcdef", True),
        ("mlp", False),
        ("Net@1", False),
        ("nets.py:", False),
        ("https://example.org/nets.py:Net", False),
        ("s3://bucket:Net", False),
    ],
)
def test_the_form_tells_a_reference_from_the_name_of_a_plug_in(name: str, expected: bool) -> None:
    assert is_reference(name) is expected


def test_a_module_is_found_in_the_current_folder(folder: Path) -> None:
    assert resolve("my_pkg.nets:Net").__module__ == "my_pkg.nets"
    assert resolve("my_pkg.nets:Net.Inner").__qualname__ == "Net.Inner"
    assert resolve("torch.nn:Linear") is torch.nn.Linear


def test_files_of_one_name_in_two_folders_are_two_modules_and_import_what_lies_beside_them(folder: Path) -> None:
    for name, size in (("a", 1), ("b", 2)):
        (folder / name).mkdir()
        (folder / name / "net.py").write_text("from .size import SIZE\n\n\nclass Net:\n    size = SIZE\n")
        (folder / name / "size.py").write_text(f"SIZE = {size}\n")
    assert [resolve(f"{name}/net.py:Net").size for name in ("a", "b")] == [1, 2]
    assert resolve(str(folder / "a" / "net.py") + ":Net") is resolve("a/net.py:Net")
    assert files_of("b/net.py:Net") == [folder / "b" / "net.py", folder / "b" / "size.py"]


def test_a_file_of_a_package_is_a_module_of_it(folder: Path) -> None:
    assert resolve("my_pkg/nets.py:Net") is resolve("my_pkg.nets:Net")


BESIDE = {
    "eager": ("import helpers\n\n\ndef f():\n    return helpers.VALUE\n", "helpers.py"),
    "lazy": ("def f():\n    from helpers import VALUE\n    return VALUE\n", "helpers.py"),
    "a further helper": ("import outer\n\n\ndef f():\n    return outer.VALUE\n", "helpers.py"),
    "a package": ("import pkg.sub.deep as deep\n\n\ndef f():\n    return deep.value()\n", "pkg/numbers_of.py"),
    "dotted": ("import pkg.numbers_of\n\n\ndef f():\n    return pkg.numbers_of.VALUE\n", "pkg/numbers_of.py"),
    "no package": ("from plain import inner\n\n\ndef f():\n    return inner.VALUE\n", "plain/inner.py"),
    "a class": ("from helpers import Held\n\n\ndef f():\n    return pickle.loads(pickle.dumps(Held())).value\n", "helpers.py"),
}


def write_two_folders(folder: Path, text: str) -> None:
    """Writes two folders that differ in the values of their modules alone."""
    for name, value in (("a", 1), ("b", 2)):
        held = f"VALUE = {value}\n\n\nclass Held:\n    value = {value}\n"
        for file, content in {
            "train.py": f"import pickle\n{text}",
            "helpers.py": held,
            "outer.py": "from helpers import VALUE\n",
            "pkg/__init__.py": "",
            "pkg/numbers_of.py": held,
            "pkg/sub/__init__.py": "import helpers\n",
            "pkg/sub/deep.py": "from ..numbers_of import Held\n\n\ndef value():\n    from pkg import numbers_of\n"
            "    assert numbers_of.Held is Held\n    return numbers_of.VALUE\n",
            "plain/inner.py": held,
            "queue.py": "raise AssertionError('hides a module of Python')\n",
        }.items():
            (folder / name / file).parent.mkdir(parents=True, exist_ok=True)
            (folder / name / file).write_text(content)


@pytest.mark.parametrize(("text", "helper"), BESIDE.values(), ids=BESIDE)
@pytest.mark.parametrize("order", [("a", "b"), ("b", "a")], ids=" then ".join)
def test_each_folder_has_the_modules_beside_its_files(folder: Path, text: str, helper: str, order: tuple[str, str]) -> None:
    write_two_folders(folder, f"import queue\n{text}")
    functions = {name: resolve(f"{name}/train.py:f") for name in order}
    digests = {name: digest_of(f"{name}/train.py:f") for name in order}
    assert {name: functions[name]() for name in order} == {"a": 1, "b": 2}
    assert digests["a"] != digests["b"]
    for name in order:
        beside = [file for file in files_of(f"{name}/train.py:f") if file.name != "train.py"]
        assert folder / name / helper in beside
        assert all(file.is_relative_to(folder / name) for file in beside)
        assert digest_of(f"{name}/train.py:f") == digests[name], "a call changes no digest"


def test_the_digest_is_the_same_where_another_folder_is_in_use(folder: Path) -> None:
    write_two_folders(folder, BESIDE["a further helper"][0])
    alone = digest_of("b/train.py:f")
    forget_modules_of(folder)
    forget_code()
    files.LOCATIONS.folders.clear()
    files.LOCATIONS.modules.clear()
    sys.path[:] = [place for place in sys.path if not place.startswith(str(folder))]
    digest_of("a/train.py:f")
    assert digest_of("b/train.py:f") == alone


def test_a_module_in_the_current_folder_does_not_hide_the_one_beside_a_file(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_two_folders(folder, BESIDE["eager"][0])
    monkeypatch.syspath_prepend(folder)
    (folder / "helpers.py").write_text("VALUE = 3\n")
    (folder / "plain").mkdir()  # of data
    (folder / "c").mkdir()
    (folder / "c" / "train.py").write_text("import helpers\nimport my_pkg.sizes\n\n\ndef f():\n    return helpers.VALUE\n")
    (folder / "c" / "my_pkg").mkdir()
    (folder / "c" / "my_pkg" / "sizes").mkdir()
    assert [resolve(f"{name}/train.py:f")() for name in ("a", "c")] == [1, 3]


def test_packages_of_two_folders_import_what_lies_beside_them(folder: Path) -> None:
    for name, value in (("one", 1), ("two", 2)):
        (folder / name / f"of_{name}").mkdir(parents=True)
        (folder / name / f"of_{name}" / "__init__.py").write_text("")
        (folder / name / f"of_{name}" / "net.py").write_text("import shared\n\n\ndef f():\n    return shared.VALUE\n")
        (folder / name / "shared.py").write_text(f"VALUE = {value}\n")
    assert [resolve(f"{name}/of_{name}/net.py:f")() for name in ("one", "two")] == [1, 2]
    assert resolve("two/of_two/net.py:f") is resolve("of_two.net:f")


@pytest.mark.parametrize("call", ["importlib.import_module('helpers')", "importlib.import_module(f'pkg.{NAME}')"])
def test_a_computed_import_that_would_find_another_folder_is_refused(folder: Path, call: str) -> None:
    write_two_folders(folder, f"import importlib\n\nNAME = 'numbers_of'\n\n\ndef f():\n    return {call}.VALUE\n")
    assert resolve("a/train.py:f")() == 1
    with pytest.raises(UserCodeError, match=r"b/train.py: importlib.import_module finds .* in .*/a/.*; write an import"):
        resolve("b/train.py:f")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("my_pkgs.nets:Net", r"'my_pkgs.nets:Net' cannot be imported: there is no module my_pkgs on sys.path or in /"),
        ("my_pkg.net:Net", r"there is no module my_pkg.net on sys.path"),
        ("my_pkg.nets:Nett", r"my_pkg.nets has no Nett; did you mean Net\?"),
        ("missing.py:Net", r"missing.py is no file; /.*missing.py does not exist"),
        ("raises.py:Net", r"raises raised KeyError in line \d+: 'x'"),
        ("exits.py:Net", r"raised SystemExit in line 1: 3"),
        ("lacks.py:Net", r"raised ModuleNotFoundError in line \d+: No module named 'not_there'"),
        ("my-nets.py:Net", r"my-nets.py cannot be imported; its name must consist of letters"),
        ("Net@0123456789abcdef", r"was handed over from Python in another process; hand over the same object again"),
    ],
)
def test_what_cannot_be_resolved_is_said(folder: Path, name: str, message: str) -> None:
    for file, text in {
        "raises.py": "{}['x']",
        "exits.py": "raise SystemExit(3)",
        "lacks.py": "import not_there",
        "my-nets.py": "",
    }.items():
        (folder / file).write_text(text)
    with pytest.raises(UserCodeError, match=message):
        resolve(name)


def test_a_package_that_another_one_hides_is_refused(folder: Path) -> None:
    (folder / "torch").mkdir()
    (folder / "torch" / "__init__.py").write_text("")
    (folder / "torch" / "nn.py").write_text("class Net: ...")
    with pytest.raises(UserCodeError, match=r"torch/nn.py is hidden by .*torch/nn/__init__.py.*rename one of them"):
        resolve("torch/nn.py:Net")


def test_the_digest_covers_what_a_module_imports_and_not_the_folder_of_a_file(folder: Path) -> None:
    for name in ("a", "b"):
        (folder / name).mkdir()
        (folder / name / "net.py").write_text("from .size import SIZE\n\n\nclass Net:\n    size = SIZE\n")
        (folder / name / "size.py").write_text("SIZE = 1\n")
    assert digest_of("a/net.py:Net") == digest_of("b/net.py:Net")
    assert identity_name("a/net.py:Net") == identity_name(f"{folder}/b/net.py:Net") == "net.py:Net"
    before = digest_of("my_pkg.nets:Net")
    (folder / "my_pkg" / "sizes.py").write_text("WIDTH = 4\n")
    forget_code()
    assert digest_of("my_pkg.nets:Net") != before


def test_code_of_an_installed_package_is_identified_by_its_version() -> None:
    assert digest_of("torch.nn:Linear") == digest_of("torch.nn:Conv2d") != digest_of("numpy:ndarray")
    assert files_of("torch.nn:Linear") == []
