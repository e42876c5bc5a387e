"""The one line in which tables and messages show the error of a run."""

import re
import runpy
import traceback
from pathlib import Path

import pytest

from pruneyard.workloads.user_code.error_line import error_line
from pruneyard.workloads.workload import NonFiniteError


def test_names_file_and_line_of_the_users_code_last_passed_through(tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text("import json\n\ndef train():\n    return json.loads('{')\n\ntrain()\n")
    with pytest.raises(ValueError, match="Expecting") as caught:
        runpy.run_path(str(tmp_path / "train.py"))
    text = "".join(traceback.format_exception(caught.value))
    assert error_line(text).endswith("column 2 (char 1) (train.py:4)")


def test_an_error_of_this_package_has_no_place_and_no_module() -> None:
    (line,) = traceback.format_exception_only(NonFiniteError("train/loss is nan"))
    assert error_line(f"Traceback (most recent call last):\n{line}") == "NonFiniteError: train/loss is nan"


@pytest.mark.parametrize(
    ("message", "line"),
    [
        ("CUDA error: no memory\nCompile with TORCH_USE_CUDA_DSA\n", "RuntimeError: CUDA error: no memory"),
        ("\n    Some tensors share memory: [{'a', 'b'}].\n    More information at https", "RuntimeError: Some tensors share"),
        ("Error(s) in loading state_dict for Net:\n\tMissing key(s): a.\n\tUnexpected", "state_dict for Net: Missing key(s): a."),
    ],
)
def test_the_first_line_of_a_message_of_several_says_what_is_wrong(message: str, line: str) -> None:
    def fail() -> None:
        raise RuntimeError(message)

    with pytest.raises(RuntimeError) as caught:
        fail()
    text = "".join(traceback.format_exception(caught.value))
    found = error_line(text)
    assert line in found
    assert found.startswith("RuntimeError: ")
    assert re.fullmatch(r".*[^\n] \(test_error_line.py:\d+\)", found)


def test_an_error_without_traceback_is_its_last_line() -> None:
    assert error_line("the node ran low\nout of memory\n") == "out of memory"


def test_installed_packages_are_not_the_users_code() -> None:
    frame = '  File "/opt/lib/python3.12/site-packages/torch/nn/modules/module.py", line 7, in forward\n'
    assert error_line(f"{frame}RuntimeError: shapes") == "RuntimeError: shapes"
