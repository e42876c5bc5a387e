"""A user with neither $HOME nor an entry in passwd, as in a container under an arbitrary user id."""

import os
import subprocess
import sys

WITHOUT_HOME = """
import os, pwd
os.environ.pop("HOME", None)
def getpwuid(uid):
    raise KeyError(f"getpwuid(): uid not found: {uid}")
pwd.getpwuid = getpwuid
import pruneyard
import altair
from pruneyard.workloads.data.folders import cache_folder
print(os.environ["HOME"], cache_folder())
"""


def test_charts_and_caches_work_without_a_home() -> None:
    env = {name: value for name, value in os.environ.items() if name not in ("HOME", "PRUNEYARD_CACHE", "XDG_CACHE_HOME")}
    result = subprocess.run([sys.executable, "-c", WITHOUT_HOME], env=env, capture_output=True, text=True, check=True)
    home, cache = result.stdout.split()
    assert home.endswith(f"pruneyard-{os.getuid()}/home")
    assert cache == f"{home}/.cache/pruneyard"
