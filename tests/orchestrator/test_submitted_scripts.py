"""The files of scripts that travel with a submitted study, and those that cannot."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pruneyard.cluster.bundle import write_bundle
from pruneyard.orchestrator.errors import UsageError
from pruneyard.orchestrator.remote.submission import code_of
from pruneyard.orchestrator.spec.load import Spec, load_spec
from pruneyard.workloads.user_code import shipping

SCRIPT = """import json, sys
from helper import SCALE
print(json.dumps({"value": SCALE * json.load(open(sys.argv[1].split("=")[1]))}))
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A current folder with a script that imports and reads other files, and a script outside of it."""
    home = tmp_path / "home"
    for name, text in {
        "home/code/train.py": SCRIPT,
        "home/code/helper.py": "SCALE = 2",
        "home/conf/one.json": "1",
        "home/conf/two.json": "2",
        "home/spec.yaml": "",
        "outside.py": "",
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.chdir(home)
    monkeypatch.setattr(shipping, "_USED", {})
    return home


def spec_of(command: str, **tables: Any) -> Spec:
    return load_spec({"name": "s", "kind": "function", "command": command, **tables})


def test_the_files_that_the_commands_of_a_study_need_are_sent_and_suffice(folder: Path, tmp_path: Path) -> None:
    axes = {"arguments.conf": ["conf/one.json", "conf/two.json"]}
    code = code_of(spec_of("python code/train.py --conf={conf}", grid=axes))
    assert code == {name: folder / name for name in ("code/train.py", "code/helper.py", "conf/one.json", "conf/two.json")}
    bundle = tmp_path / "bundle"
    bundle.mkdir()
    (folder / "code" / "train.py").chmod(0o755)
    write_bundle(bundle, spec="name: s\n", code=code)
    done = subprocess.run(
        [sys.executable, "code/train.py", "--conf=conf/two.json"], cwd=bundle, capture_output=True, text=True, check=True
    )
    assert done.stdout == '{"value": 4}\n'
    assert [os.access(bundle / name, os.X_OK) for name in code] == [True, False, False, False]


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("python ../outside.py", "command: needs .*outside.py, which a cluster would not find: only files below .*home are sent"),
        ("python {folder}/code/train.py", "command: needs .*train.py, which .* found by relative paths; move it there"),
        ("cat spec.yaml", "command: needs .*spec.yaml, but the cluster keeps a file of its own as spec.yaml; rename it"),
    ],
)
def test_a_file_that_a_cluster_would_not_find_is_refused(folder: Path, command: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        code_of(spec_of(command.replace("{folder}", str(folder))))
