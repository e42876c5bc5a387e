"""SkyPilot: a task that starts Ray beside SkyPilot's own and runs one study.

Reference: SkyPilot's task YAML and its distributed Ray example, as documented in 2026.
"""

import shlex
from typing import Any

from pruneyard.cluster.manifests.nodes import (
    DASHBOARD_PORT,
    GCS_PORT,
    Study,
    exports,
    need_package,
    pip_install,
    run_command,
)
from pruneyard.cluster.manifests.written import Block, yaml_documents
from pruneyard.cluster.profile import Profile, ProfileError

START = "~/sky_templates/ray/start_cluster"  # on every node of SkyPilot; Ray's own `ray start` would meet SkyPilot's
STOP = "~/sky_templates/ray/stop_cluster"


def task(profile: Profile, study: Study) -> str:
    """Returns a task on equal nodes; the first node runs the driver and trials as well."""
    name, group = profile.the_group("skypilot")
    # `max_count` does not help: a task has a fixed number of nodes.
    profile.need(f"workers.{name}.count", format_name="skypilot")
    if not profile.skypilot.bucket and not profile.storage.nfs:
        raise ProfileError(
            "skypilot.bucket", "is missing, and so is storage.nfs; skypilot needs one of them for results"
        )
    need_package(profile, format_name="skypilot")
    resources: dict[str, Any] = {
        **({"infra": profile.skypilot.infra} if profile.skypilot.infra else {}),
        **({"accelerators": f"{group.accelerator}:{group.gpus}"} if group.gpus else {}),
        **({"instance_type": group.instance_type} if group.instance_type else {"cpus": f"{group.cpus}+"}),
        **({} if group.instance_type else {"memory": f"{group.memory_gib}+"}),
        "use_spot": group.spot,
        "image_id": f"docker:{group.image or profile.image}",
    }
    if group.gpus:
        profile.need(f"workers.{name}.accelerator", format_name="skypilot")
    config: dict[str, Any] = {
        "name": study.name,
        "num_nodes": group.count,
        "resources": resources,
        "secrets": {"RAY_AUTH_TOKEN": None},  # must be given when the task is launched
    }
    if profile.skypilot.bucket:
        config["file_mounts"] = {profile.storage.mount: {"source": profile.skypilot.bucket, "mode": "MOUNT"}}
    config |= {"setup": Block(_lines(_setup(profile))), "run": Block(_lines(_run(profile, study)))}
    head = [
        "export RAY_AUTH_TOKEN=$(openssl rand -hex 32)",
        f"sky launch -c {profile.name} FILE --secret RAY_AUTH_TOKEN",
        f"sky logs {profile.name}; sky down {profile.name}",
    ]
    return yaml_documents([config], head=head)


def _setup(profile: Profile) -> list[str]:
    mount, nfs = shlex.quote(profile.storage.mount), shlex.quote(profile.storage.nfs)
    if profile.skypilot.bucket:
        return pip_install(profile)
    return [
        f"sudo mkdir -p {mount}",
        "sudo apt-get -qq update && sudo apt-get -qq install -y nfs-common",
        f"mountpoint -q {mount} || sudo mount -t nfs4 {nfs} {mount}",
        *pip_install(profile),
    ]


def _run(profile: Profile, study: Study) -> list[str]:
    return [
        "set -euo pipefail",
        *exports(profile),
        f"export RAY_HEAD_PORT={GCS_PORT} RAY_DASHBOARD_PORT={DASHBOARD_PORT} RAY_DASHBOARD_HOST=127.0.0.1",
        START,
        'if [ "$SKYPILOT_NODE_RANK" = 0 ]; then',
        "  spec=$(mktemp --suffix=.yaml)",
        # The quotes around the mark keep the shell from expanding `$` in the spec.
        "  cat > \"$spec\" <<'END-OF-SPEC'",
        *study.spec.splitlines(),
        "END-OF-SPEC",
        # One address a line, that of rank 0 first.
        "  head=${SKYPILOT_NODE_IPS%%$'\\n'*}",
        # `set -e` would otherwise leave at a failure, before Ray is stopped and the code is passed on.
        "  code=0",
        f"  {run_command(study, '$spec', address=f'$head:{GCS_PORT}')} || code=$?",
        f"  {STOP}",
        '  exit "$code"',
        "fi",
    ]


def _lines(lines: list[str]) -> str:
    return "\n".join(lines) + "\n"
