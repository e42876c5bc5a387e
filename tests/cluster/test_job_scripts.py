"""The scripts of batch jobs, run by a real shell with programs that replace those of the batch system."""

import os
import re
import shlex
import shutil
import stat
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from pruneyard.cluster.manifests.nodes import Study
from pruneyard.cluster.manifests.rendering import JOBS
from pruneyard.cluster.profile import Profile, SkyPilot, Slurm, Storage, Workers

SPEC = "name: small\nkind: sparse\ngrid:\n  method.density: [0.1, 0.02]\n"
STUDY = Study(name="small", spec=SPEC)
REPOSITORY = "git+https://example.org/pruneyard@0123abc"
GROUP = Workers(count=3, cpus=8, memory_gib=32, gpus=2, accelerator="a100")


def slurm_profile(mount: Path, **slurm: str) -> Profile:
    return Profile(
        name="batch", workers={"gpu": GROUP}, storage=Storage(mount=str(mount)), slurm=Slurm(**slurm)
    )


def sbatch_options(script: str) -> dict[str, str]:
    lines = [line.removeprefix("#SBATCH --") for line in script.splitlines() if line.startswith("#SBATCH")]
    return dict(line.partition("=")[::2] for line in lines)


def test_slurm_asks_for_whole_nodes_and_a_signal_before_the_end() -> None:
    script = JOBS["slurm"](slurm_profile(Path("/shared/x"), partition="gpu", time="2-00:00:00"), STUDY)
    assert script.startswith("#!/bin/bash\n#SBATCH ")
    assert sbatch_options(script) == {
        "job-name": "small",
        "nodes": "3",
        "ntasks-per-node": "1",
        "cpus-per-task": "8",
        "mem": "32G",
        "gpus-per-node": "a100:2",
        "time": "2-00:00:00",
        "partition": "gpu",
        "signal": "B:TERM@120",
        "output": "small-%j.log",
        "exclusive": "",
    }
    before = script.splitlines()
    last = max(i for i, line in enumerate(before) if line.startswith("#SBATCH"))
    assert all(line.startswith("#") for line in before[: last + 1]), (
        "Slurm stops reading at the first command"
    )


FAKES = {
    "scontrol": 'printf "node-1\\nnode-2\\nnode-3\\n"',
    "srun": 'exec "$@"',
    "ray": 'printf "%s\\n" "$@" > "$CALLS"; [ "$RAY_AUTH_MODE$RAY_FAILS" = token ] || exit 0\n'
    'while [ "$1" != -- ]; do shift; done; shift; exec "$@"',
    "pruneyard": 'trap \'kill $!; exit 3\' TERM; cp "$2" "$CALLS.spec"\n'
    'sleep ${SLEEPS:-0} & printf "%s" "$RAY_AUTH_TOKEN" > "$CALLS.token"; wait $!; exit 0',
}
"""Stand for the programs of a batch system; the script between them is the real one."""


@pytest.fixture
def batch(tmp_path: Path) -> Callable[..., subprocess.Popen[str]]:
    """Returns a function that starts the script as Slurm would on the first of three nodes."""
    programs, mount = tmp_path / "bin", tmp_path / "shared"
    programs.mkdir()
    mount.mkdir()
    for name, body in FAKES.items():
        (programs / name).write_text(f"#!/bin/bash\n{body}\n")
        (programs / name).chmod(stat.S_IRWXU)
    script = tmp_path / "job.sh"
    script.write_text(JOBS["slurm"](slurm_profile(mount), STUDY))
    assert subprocess.run(["bash", "-n", str(script)], check=False).returncode == 0

    def start(**more: str) -> subprocess.Popen[str]:
        environment = {
            "PATH": f"{programs}:{os.environ['PATH']}",
            "SLURM_JOB_ID": "7",
            "SLURM_JOB_NODELIST": "node-[1-3]",
            "SLURM_NNODES": "3",
            "CALLS": str(tmp_path / "calls"),
            **more,
        }
        return subprocess.Popen(
            ["bash", str(script)], env=environment, text=True, stderr=subprocess.PIPE, start_new_session=True
        )

    return start


def test_the_batch_script_starts_ray_once_per_node_and_runs_the_spec(
    batch: Callable[..., subprocess.Popen[str]], tmp_path: Path
) -> None:
    job = batch()
    _, output = job.communicate(timeout=120)
    assert (job.returncode, output) == (0, "")
    calls = (tmp_path / "calls").read_text().splitlines()
    assert calls[:5] == ["symmetric-run", "--address", "node-1:6379", "--min-nodes", "3"]
    assert {"--num-cpus=8", "--num-gpus=2"} <= set(calls)
    assert (tmp_path / "calls.spec").read_text() == SPEC
    assert re.fullmatch(r"[0-9a-f]{64}", (tmp_path / "calls.token").read_text())
    assert not list((tmp_path / "shared" / "out").iterdir()), "its own files are gone"


@pytest.mark.parametrize("pause_s", [0, 0.5])
def test_the_batch_script_stops_the_driver_gracefully_and_returns_its_exit_code(
    batch: Callable[..., subprocess.Popen[str]], tmp_path: Path, pause_s: float
) -> None:
    """With a pause, the driver has ended before the script continues after its signal; the exit code is still the driver's."""
    script, telling = tmp_path / "job.sh", 'kill -TERM "$(cat "$job/driver")"'
    assert telling in script.read_text()
    script.write_text(script.read_text().replace(telling, f"{telling}; sleep {pause_s}"))
    job = batch(SLEEPS="60")
    while not (tmp_path / "calls.token").exists():
        assert job.poll() is None
    job.terminate()
    _, output = job.communicate(timeout=120)
    assert (job.returncode, output) == (3, "")


def test_the_batch_script_does_not_pass_off_a_cluster_that_never_came_as_success(
    batch: Callable[..., subprocess.Popen[str]],
) -> None:
    job = batch(RAY_FAILS="yes")
    _, output = job.communicate(timeout=120)
    assert job.returncode == 4
    assert "Ray did not start" in output


def test_the_batch_script_says_which_program_the_environment_lacks(
    batch: Callable[..., subprocess.Popen[str]], tmp_path: Path
) -> None:
    (tmp_path / "bin" / "pruneyard").unlink()
    for name in ("bash", "od", "tr", "hostname"):
        found = shutil.which(name)
        assert found is not None
        (tmp_path / "bin" / name).symlink_to(found)
    job = batch(PATH=str(tmp_path / "bin"))
    _, output = job.communicate(timeout=120)
    assert job.returncode == 2
    assert re.match(r"no pruneyard on .*; activate its environment by slurm.prologue", output)


TASK_KEYS = {
    "name",
    "num_nodes",
    "resources",
    "envs",
    "secrets",
    "file_mounts",
    "volumes",
    "setup",
    "run",
    "workdir",
}
RESOURCE_KEYS = {
    *(
        "infra",
        "accelerators",
        "accelerator_args",
        "cpus",
        "memory",
        "instance_type",
        "use_spot",
        "disk_size",
    ),
    *(
        "disk_tier",
        "network_tier",
        "max_hourly_cost",
        "image_id",
        "ports",
        "labels",
        "autostop",
        "any_of",
        "ordered",
    ),
    "job_recovery",
}
"""As its documentation lists them."""


@pytest.mark.parametrize(
    ("storage", "skypilot"),
    [
        (Storage(nfs="server:/export"), SkyPilot()),
        (Storage(), SkyPilot(bucket="s3://b", infra="aws/us-east-1")),
    ],
    ids=["nfs", "bucket"],
)
def test_a_skypilot_task_has_documented_keys_and_keeps_the_token_secret(
    storage: Storage, skypilot: SkyPilot, tmp_path: Path
) -> None:
    profile = Profile(
        name="sky", package=REPOSITORY, workers={"gpu": GROUP}, storage=storage, skypilot=skypilot
    )
    task = YAML(typ="safe", pure=True).load(JOBS["skypilot"](profile, STUDY))
    assert task.keys() <= TASK_KEYS
    assert task["resources"].keys() <= RESOURCE_KEYS
    assert task["num_nodes"] == 3
    assert task["resources"]["accelerators"] == "a100:2"
    assert task["secrets"] == {"RAY_AUTH_TOKEN": None}
    mounts = task.get("file_mounts", {})
    assert all(isinstance(m, str) or m.keys() <= {"source", "mode", "name", "store"} for m in mounts.values())
    assert shlex.split(task["setup"].splitlines()[-1])[:4] == ["pip", "install", "--quiet", REPOSITORY]
    assert ("mount -t nfs4 server:/export" in task["setup"]) == (not mounts)
    for part in ("setup", "run"):
        (tmp_path / part).write_text(task[part])
        subprocess.run(["bash", "-n", str(tmp_path / part)], check=True)
    assert "ray stop" not in task["run"], "SkyPilot's own Ray runs on the same machines"
    assert "export RAY_AUTH_MODE=token" in task["run"]


def test_a_skypilot_task_runs_the_spec_on_the_first_node_and_ends_with_its_code(tmp_path: Path) -> None:
    profile = Profile(
        name="sky",
        install=False,
        workers={"gpu": GROUP},
        storage=Storage(mount=str(tmp_path)),
        skypilot=SkyPilot(bucket="s3://b"),
    )
    task = YAML(typ="safe", pure=True).load(JOBS["skypilot"](profile, STUDY))
    templates = tmp_path / "sky_templates" / "ray"
    templates.mkdir(parents=True)
    programs = {
        templates / "start_cluster": 'echo start "$RAY_DASHBOARD_HOST" >> "$CALLS"',
        templates / "stop_cluster": 'echo stop >> "$CALLS"',
        tmp_path / "pruneyard": 'cp "$2" "$CALLS.spec"; echo "${@: -1}" >> "$CALLS"; exit 3',
    }
    for path, body in programs.items():
        path.write_text(f"#!/bin/bash\n{body}\n")
        path.chmod(stat.S_IRWXU)
    calls = tmp_path / "calls"
    settings = {
        "HOME": str(tmp_path),
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
        "SKYPILOT_NODE_IPS": "10.0.0.1\n10.0.0.2",
        "CALLS": str(calls),
    }
    first = subprocess.run(
        ["bash", "-c", task["run"]], env={**settings, "SKYPILOT_NODE_RANK": "0"}, check=False
    )
    assert first.returncode == 3
    assert calls.read_text().splitlines() == ["start 127.0.0.1", "10.0.0.1:6379", "stop"]
    assert Path(f"{calls}.spec").read_text() == SPEC
    other = subprocess.run(
        ["bash", "-c", task["run"]], env={**settings, "SKYPILOT_NODE_RANK": "1"}, check=False
    )
    assert other.returncode == 0
    assert calls.read_text().splitlines()[3:] == ["start 127.0.0.1"]
