"""Slurm: a batch script that starts Ray on whole nodes, runs one study and ends with its exit code.

Reference: `ray symmetric-run --help` (Ray 2.60.0) and Slurm's sbatch manual.
"""

import shlex
from importlib.resources import files

from jinja2 import Environment, StrictUndefined

from pruneyard.cluster.manifests.nodes import GCS_PORT, STOP_WAIT_S, Study, exports, run_command
from pruneyard.cluster.manifests.written import comment
from pruneyard.cluster.profile import Profile

USAGE = [
    "sbatch FILE     # where `pruneyard` is installed, in an environment that every node sees; or name it by slurm.prologue",
    "squeue --me; scancel --signal=TERM --batch JOB     # stops gracefully",
]
UNREACHABLE = 4  # exit code: no cluster came up


def script(profile: Profile, study: Study) -> str:
    """Returns the batch script. All nodes are equal, so the head is one of the workers and runs trials as well."""
    name, group = profile.the_group("slurm")
    profile.need(f"workers.{name}.count", format_name="slurm")
    options = {
        "job-name": study.name,
        "nodes": str(group.count),
        "ntasks-per-node": "1",
        "cpus-per-task": str(group.cpus),
        "mem": f"{group.memory_gib}G",
        # Slurm takes `N` as well as `MODEL:N`.
        "gpus-per-node": f"{group.accelerator}:{group.gpus}".removeprefix(":") if group.gpus else "",
        "time": profile.slurm.time,
        "partition": profile.slurm.partition,
        "account": profile.slurm.account,
        # `B:` signals the batch shell alone, twice the driver's time before the limit; the shell passes the signal on.
        "signal": f"B:TERM@{2 * STOP_WAIT_S}",
        "output": f"{study.name}-%j.log",
    }
    # A variable that the template misses must fail here, not as an empty word on a cluster.
    template = Environment(undefined=StrictUndefined, keep_trailing_newline=True).from_string(
        files("pruneyard.cluster.manifests").joinpath("slurm.sh.j2").read_text(encoding="utf-8")
    )
    return template.render(
        head=comment(USAGE),
        options={option: value for option, value in options.items() if value},
        exports=exports(profile),
        prologue=profile.slurm.prologue.rstrip(),
        mount=shlex.quote(profile.storage.mount),
        spec=study.spec,
        study=study.name,
        run=run_command(study, "$spec", address="$address"),
        port=GCS_PORT,
        ray_options=f"--num-cpus={group.cpus} --num-gpus={group.gpus} --disable-usage-stats",
        unreachable=UNREACHABLE,
    )
