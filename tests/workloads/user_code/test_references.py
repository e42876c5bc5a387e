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
