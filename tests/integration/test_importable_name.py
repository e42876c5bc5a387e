"""Everything is installed under one name: modules of a user with the names of our folders do no harm anywhere."""

import json
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import yaml_spec
from installs import source_files
from shared_head import SharedHead

from pruneyard.orchestrator.results import Results

IMPORTS = """
import json, sys
import pruneyard
loaded = [name for name in ("torch", "ray") if name in sys.modules]
print(json.dumps({"loaded": loaded, "study": pruneyard.load_spec("quickstart").name, "file": pruneyard.__file__}))
"""
STUDY = """
import json, ray, pruneyard

results = pruneyard.run("spec.yaml", out="out", address=ADDRESS)
ray.init(ADDRESS, log_to_driver=False)

@ray.remote
def where():
    import pruneyard.cluster, pruneyard.reports, pruneyard.workloads
    return pruneyard.__file__

print(json.dumps({"exit_code": results.exit_code, "worker": ray.get(where.remote()), "driver": pruneyard.__file__}))
"""


def run_python(*arguments: str | Path, folder: Path, env: dict[str, str]) -> str:
    """Runs Python in that folder; returns the last line that it prints."""
    command = [sys.executable, *map(str, arguments)]
    completed = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=300, check=False)
    assert completed.returncode == 0, completed.stdout + completed.stderr
    return completed.stdout.splitlines()[-1]


@pytest.mark.slow
def test_the_wheel_holds_exactly_the_files_of_the_source_tree(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        found = {name for name in archive.namelist() if ".dist-info/" not in name}
        assert found == set(source_files())
        for name, source in source_files().items():
            assert archive.read(name) == source.read_bytes(), name
    assert "pruneyard/py.typed" in found


def test_importing_loads_neither_torch_nor_ray_and_no_module_of_the_user(
    installed: dict[str, str], hostile: Path, tmp_path: Path
) -> None:
    """From a script next to the user's modules, run in any folder, and as a command in the folder of those modules."""
    (hostile / "script.py").write_text(IMPORTS)
    (elsewhere := tmp_path / "elsewhere").mkdir()
    output = json.loads(run_python(hostile / "script.py", folder=elsewhere, env=installed))
    assert output["loaded"] == []
    assert output["study"] == "quickstart"
    assert ("WHEEL" in installed) == output["file"].startswith(installed.get("WHEEL", "no wheel"))
    assert run_python("-m", "pruneyard", "--version", folder=hostile, env=installed).startswith("pruneyard")


@pytest.mark.ray
@pytest.mark.slow
def test_a_study_on_ray_imports_no_module_of_the_user(
    wheel_env: dict[str, str], head: SharedHead, hostile: Path
) -> None:
    """Ray puts the folder of the driver's script on the path of its workers."""
    tables = yaml_spec.spec_of([{"name": "dense"}], name="small", schedule={"name": "cosine"})
    yaml_spec.write(hostile / "spec.yaml", {**tables, "budget": {"steps": 3, "batch_size": 32}})
    script = hostile / "script.py"
    script.write_text(STUDY.replace("ADDRESS", repr(head.address)))
    output = json.loads(run_python(script, folder=hostile, env=head.env({"PYTHONPATH": wheel_env["PYTHONPATH"]})))
    assert output["exit_code"] == 0
    assert output["worker"] == output["driver"]
    assert list(Results(hostile / "out").runs()["status"]) == ["COMPLETED"]
    head.wait_until_idle()
