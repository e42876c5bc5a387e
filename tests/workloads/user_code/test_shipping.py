"""A process that has installed a shipment finds the modules, files and objects of the process that made it."""

import subprocess
import sys
from pathlib import Path

DRIVER = """
import sys
from pruneyard.workloads.user_code.identity import digest_of
from pruneyard.workloads.user_code.references import resolve
from pruneyard.workloads.user_code.registration import register
from pruneyard.workloads.user_code.shipping import shipment

WIDTH = 5

def by_value():
    import my_pkg.sizes
    return WIDTH + my_pkg.sizes.SIZE

names = ["my_pkg.nets:f", "files/net.py:f", "others/net.py:f", register(by_value)]
found = [(name, resolve(name)(), digest_of(name)) for name in names]
open("shipment", "wb").write(shipment())
print(found)
"""
WORKER = """
import ast, sys
from pathlib import Path
from pruneyard.workloads.user_code.shipping import install, shipment
sent = Path(sys.argv[1]).read_bytes()
install(sent)
from pruneyard.workloads.user_code.identity import digest_of
from pruneyard.workloads.user_code.references import resolve
names = [name for name, _, _ in ast.literal_eval(sys.argv[2])]
print([(name, resolve(name)(), digest_of(name)) for name in names])
assert shipment() == sent
"""


SOURCES = {
    "my_pkg/__init__.py": "",
    "my_pkg/sizes.py": "SIZE = 10\n",
    "my_pkg/nets.py": "from my_pkg.sizes import SIZE\n\n\ndef f():\n    return SIZE\n",
    "files/beside.py": "NUMBER = 1\n",
    "files/net.py": "from beside import NUMBER\n\n\ndef f():\n    return NUMBER\n",
    "others/beside.py": "NUMBER = 2\n",
    "others/net.py": "def f():\n    import beside\n    return beside.NUMBER\n",
    "driver.py": DRIVER,
}


def write(folder: Path, sources: dict[str, str]) -> None:
    for name, text in sources.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


def output(*command: object, cwd: Path) -> str:
    done = subprocess.run([sys.executable, *map(str, command)], cwd=cwd, capture_output=True, text=True)
    assert not done.returncode, done.stderr
    return done.stdout


def test_a_worker_computes_the_same_here_and_on_other_machines(tmp_path: Path) -> None:
    home, away, older = tmp_path / "home", tmp_path / "away", tmp_path / "older"
    write(home, SOURCES)
    told = output("driver.py", cwd=home)
    away.mkdir()
    content = (home / "shipment").rename(tmp_path / "shipment")
    assert output("-c", WORKER, content, told, cwd=away) == told
    home.rename(tmp_path / "gone")
    assert output("-c", WORKER, content, told, cwd=away) == told
    changed = dict.fromkeys(("my_pkg/sizes.py", "files/beside.py", "others/beside.py"), "NUMBER = SIZE = 0\n")
    for folder in (older, home):
        write(folder, SOURCES | changed)
        assert output("-c", WORKER, content, told, cwd=folder) == told
