"""`ray up`: virtual machines of AWS, or machines that are there already. Reference: `ray-schema.json`, which ships with Ray."""

import shlex
from typing import Any

from pruneyard.cluster.manifests.nodes import DASHBOARD_PORT, GCS_PORT, exports, pip_install
from pruneyard.cluster.manifests.written import yaml_documents
from pruneyard.cluster.profile import TOKEN_FILE, Head, Profile, Workers

IDLE_MINUTES = 10
CONTAINER = "pruneyard"
USAGE = [
    "Make the token once, then start; the dashboard is reached through a tunnel:",
    f"  (umask 077; mkdir -p ~/.ray; [ -e {TOKEN_FILE} ] || openssl rand -hex 32 > {TOKEN_FILE})",
    "  ray up FILE",
    f"  ray dashboard FILE &                       # {DASHBOARD_PORT} of the head becomes {DASHBOARD_PORT} here",
    f"  pruneyard submit SPEC --address http://127.0.0.1:{DASHBOARD_PORT} --follow",
]


def cloud(profile: Profile) -> str:
    """Returns a configuration for virtual machines of AWS that scale with the load, with Ray in a container on each."""
    instance_types = [f"workers.{name}.instance_type" for name in profile.workers]
    profile.need(
        "cloud.region", "head.instance_type", *instance_types, "storage.nfs", format_name="ray-up-cloud"
    )
    mount = shlex.quote(profile.storage.mount)
    types = {"head": _node_type(profile, profile.head)}
    types |= {name: _node_type(profile, group) for name, group in profile.workers.items()}
    config = {
        "cluster_name": profile.name,
        "max_workers": sum(group.most for group in profile.workers.values()),
        "idle_timeout_minutes": IDLE_MINUTES,
        "provider": {"type": "aws", "region": profile.cloud.region, "cache_stopped_nodes": False},
        "auth": {"ssh_user": profile.cloud.ssh_user},
        "docker": {
            "image": profile.image,
            "container_name": CONTAINER,
            "pull_before_run": True,
            "run_options": [
                f"--volume={profile.storage.mount}:{profile.storage.mount}",
                "--ulimit=nofile=65536:65536",
            ],
        },
        "available_node_types": types,
        "head_node_type": "head",
        "file_mounts": {TOKEN_FILE: TOKEN_FILE},
        # These run on the machine itself, which passes the mount on to the container by --volume.
        "initialization_commands": [
            "sudo apt-get -qq update && sudo apt-get -qq install -y nfs-common",
            f"sudo mkdir -p {mount} && (mountpoint -q {mount} || sudo mount -t nfs4 {shlex.quote(profile.storage.nfs)} {mount})",
        ],
        # These run inside the container.
        "setup_commands": [f"chmod 600 {TOKEN_FILE}", *pip_install(profile)],
        # The machines are ours alone, so a second `ray up` may end the Ray that still runs there.
        **_start_commands(profile, fresh="ray stop; "),
    }
    return yaml_documents([config], head=[*USAGE, "  ray down FILE"])


def on_premise(profile: Profile) -> str:
    """Returns a configuration for machines reached by ssh, with Ray in the environment of their login shell."""
    profile.need("machines.head", "machines.ssh_user", format_name="ray-up-on-premise")
    machines = profile.machines
    config = {
        "cluster_name": profile.name,
        "max_workers": len(machines.workers),
        "provider": {"type": "local", "head_ip": machines.head, "worker_ips": list(machines.workers)},
        "auth": {"ssh_user": machines.ssh_user, "ssh_private_key": machines.ssh_key},
        "file_mounts": {TOKEN_FILE: TOKEN_FILE},
        "setup_commands": [
            f"chmod 600 {TOKEN_FILE}",
            f"test -w {shlex.quote(profile.storage.mount)}",  # the shared folder is there and ours to write
            *pip_install(profile),
        ],
        **_start_commands(profile, fresh=""),
    }
    note = [
        *USAGE,
        "  ray down FILE                              # before the next `ray up`; ends every Ray process of that user",
        "No `ray stop` stands in the commands below: these machines may be shared.",
    ]
    return yaml_documents([config], head=note)


def _start_commands(profile: Profile, *, fresh: str) -> dict[str, list[str]]:
    """Returns the commands that start Ray: its ports are open between nodes and need the token, the dashboard is on loopback."""
    settings = "; ".join([*exports(profile), "ulimit -n 65536"])
    cpus = [] if profile.head_cpus or not _has_workers(profile) else ["--num-cpus=0"]
    head = [
        "ray start --head",
        f"--port={GCS_PORT}",
        "--dashboard-host=127.0.0.1",
        f"--dashboard-port={DASHBOARD_PORT}",
    ]
    head += [*cpus, "--autoscaling-config=~/ray_bootstrap_config.yaml", "--disable-usage-stats"]
    worker = f"ray start --address=$RAY_HEAD_IP:{GCS_PORT} --disable-usage-stats"
    return {
        "head_start_ray_commands": [f"{fresh}{settings}; {' '.join(head)}"],
        "worker_start_ray_commands": [f"{fresh}{settings}; {worker}"],
    }


def _has_workers(profile: Profile) -> bool:
    return bool(profile.workers or profile.machines.workers)


def _node_type(profile: Profile, node: Head | Workers) -> dict[str, Any]:
    image = {"ImageId": profile.cloud.image_id} if profile.cloud.image_id else {}
    market: dict[str, Any] = {}
    if isinstance(node, Workers) and node.spot:
        market = {"InstanceMarketOptions": {"MarketType": "spot"}}
    made: dict[str, Any] = {"node_config": {"InstanceType": node.instance_type, **image, **market}}
    if isinstance(node, Head):
        # Zero further nodes of the head's type: only groups of workers scale.
        return made | {"resources": {"CPU": profile.head_cpus}, "min_workers": 0, "max_workers": 0}
    container = {"docker": {"worker_image": node.image}} if node.image else {}
    amounts = {"CPU": node.cpus} | ({"GPU": node.gpus} if node.gpus else {})
    return made | container | {"resources": amounts, "min_workers": node.count, "max_workers": node.most}
