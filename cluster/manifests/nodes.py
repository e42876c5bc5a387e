"""The environment and commands of every node of a cluster, whatever system starts it."""

import shlex
from dataclasses import dataclass

from pruneyard.cluster.pins import extras, installed, requirements
from pruneyard.cluster.profile import Profile, ProfileError

GCS_PORT = 6379
DASHBOARD_PORT = 8265
STOP_WAIT_S = 60  # the time that a stopped driver has to write its checkpoints
PACKAGE_ADVICE = (
    "needs it: a wheel or repository that nodes reach, such as git+https://HOST/pruneyard@COMMIT, "
    "or the path of a wheel on the shared folder; where the image has pruneyard, set install to false"
)
CHECKED_WITH = "Ray 2.60.0 and KubeRay 1.7.0"


@dataclass(frozen=True, kw_only=True)
class Study:
    """The study that a job manifest runs."""

    name: str
    spec: str  # YAML, every default written out


def environment(profile: Profile) -> dict[str, str]:
    """Returns the environment variables of every Ray process; none is secret."""
    return {
        "RAY_AUTH_MODE": "token",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_JOB_STOP_WAIT_TIME_S": str(STOP_WAIT_S),
        "PRUNEYARD_OUT": f"{profile.storage.mount}/out",
        "PRUNEYARD_DATA": f"{profile.storage.mount}/data",
    }


def need_package(profile: Profile, *, format_name: str) -> None:
    """Raises `ProfileError` without a package to install: unlike `pruneyard submit`, such a job does not bring the code along."""
    if profile.install and not profile.package:
        raise ProfileError("package", f"is missing; {format_name} {PACKAGE_ADVICE}")


def pip_install(profile: Profile) -> list[str]:
    """Returns the command that installs the dependencies in this machine's versions; empty if the image has them."""
    if not profile.install:
        return []
    wanted = [f"ray[default,tune]=={profile.ray}", *requirements(installed() | extras())]
    named = [profile.package] if profile.package else []
    return [f"pip install --quiet {' '.join(map(shlex.quote, [*named, *wanted]))}"]


def exports(profile: Profile) -> list[str]:
    """Returns the environment as shell lines."""
    return [f"export {name}={shlex.quote(value)}" for name, value in environment(profile).items()]


def run_command(study: Study, spec_path: str, *, address: str) -> str:
    """Returns the command that runs the study; `address` and `spec_path` may contain shell variables."""
    return f'pruneyard run "{spec_path}" --out "$PRUNEYARD_OUT/{study.name}" --address "{address}"'
