"""What every node of a cluster is told, whatever system starts it."""

import shlex
from dataclasses import dataclass

from cluster.pins import PACKAGE, installed, requirements
from cluster.profile import Profile

GCS_PORT = 6379
DASHBOARD_PORT = 8265
STOP_WAIT_S = 60  # a stopped driver may take so long to leave its checkpoints
CHECKED_WITH = "Ray 2.60.0 and KubeRay 1.7.0"


@dataclass(frozen=True, kw_only=True)
class Study:
    """What a job manifest runs."""

    name: str
    spec: str  # YAML, every default written out


def environment(profile: Profile) -> dict[str, str]:
    """Environment variables of every process of Ray; none is secret."""
    return {
        "RAY_AUTH_MODE": "token",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_JOB_STOP_WAIT_TIME_S": str(STOP_WAIT_S),
        "PRUNEYARD_OUT": f"{profile.storage.mount}/out",
        "PRUNEYARD_DATA": f"{profile.storage.mount}/data",
    }


def packages(profile: Profile) -> list[str]:
    """Requirements that nodes install, pinned to what is installed here; none where the image has them."""
    if not profile.package:
        return []
    pins = installed()
    package = f"{PACKAGE}=={pins[PACKAGE]}" if profile.package == PACKAGE else profile.package
    return [package, *requirements(pins)]


def pip_install(profile: Profile) -> list[str]:
    """The command for it, or none."""
    wanted = " ".join(map(shlex.quote, packages(profile)))
    return (
        [f"pip install --quiet {shlex.quote(f'ray[default,tune]=={profile.ray}')} {wanted}"] if wanted else []
    )


def exports(profile: Profile) -> list[str]:
    """The environment as lines of a shell."""
    return [f"export {name}={shlex.quote(value)}" for name, value in environment(profile).items()]


def run_command(study: Study, spec_path: str, *, address: str) -> str:
    """`address` and `spec_path` are put into double quotes, so that the shell may fill them in."""
    return f'pruneyard run "{spec_path}" --out "$PRUNEYARD_OUT/{study.name}" --address "{address}"'
