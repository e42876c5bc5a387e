"""One sweep in several ways, the scripts in own_function/: lines of code, time to the first number, work repeated after a kill.

Each sweeps the same training function over 3 learning rates x 3 seeds, resumes after it was killed, and writes a page. Lines are
those with code. The first number is there when a script has written any result that outlives it: a record, a report of Tune, or a
checkpoint. For the kill, epochs are made to last half a second, and the script is killed by SIGKILL, with all of its processes,
when half of all epochs are computed. The same script then runs to its end. Counted are the finished runs of which any epoch is
computed again, and the epochs that are computed again.

Run: python tests/benchmarks/own_function_sweep.py [--repeat 3] [--benchopt PYTHON]

--benchopt: the interpreter of an environment with benchopt, torch and scikit-learn; without it, benchopt is left out.
"""

import argparse
import ast
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

FOLDER = Path(__file__).parent / "own_function"
NUM_RUNS, NUM_EPOCHS = 9, 5
EPOCH_S = 0.5
WITHIN_S = 600.0


@dataclass(frozen=True)
class Contender:
    """A way to write the sweep: a script or a folder, and how it is run.

    source: in own_function/. arguments: for Python, in the folder that holds a copy of the source. first_number: the files of
    which any holds the first number. training: the file with the training function, where the line that starts with `report`
    reports an epoch; `run` are expressions there for the learning rate and the seed.
    """

    title: str
    source: str
    arguments: tuple[str, ...]
    first_number: str
    training: str
    report: str
    run: str


@dataclass(frozen=True)
class Repeated:
    """Counts what a script computed again after a kill: finished runs, of how many that were finished, and epochs of all runs."""

    finished: int
    runs: int
    epochs: int


CONTENDERS = (
    Contender(
        title="pruneyard",
        source="with_pruneyard.py",
        arguments=("with_pruneyard.py", "out"),
        first_number="out/artifacts/*/checkpoints/*/meta.json",
        training="with_pruneyard.py",
        report="context.report(",
        run="lr, context.seed",
    ),
    Contender(
        title="Ray Tune",
        source="with_ray_tune.py",
        arguments=("with_ray_tune.py", "out"),
        first_number="out/sweep/*/result.json",
        training="with_ray_tune.py",
        report="with tempfile.",
        run="config['lr'], config['seed']",
    ),
    Contender(
        title="Optuna",
        source="with_optuna.py",
        arguments=("with_optuna.py", "out"),
        first_number="out/*.pt",
        training="with_optuna.py",
        report="trial.report(",
        run="lr, seed",
    ),
)
BENCHOPT = Contender(
    title="benchopt",
    source="with_benchopt",
    arguments=("-m", "benchopt", "run", "with_benchopt", "--no-display"),
    first_number="with_benchopt/*.pt",
    training="with_benchopt/solvers/sgd.py",
    report="state = {",
    run="self.lr, self.seed",
)


def lines_of_code(text: str) -> int:
    """Returns the number of lines with code: neither empty, nor a comment, nor the docstring."""
    first = ast.parse(text).body[1].lineno
    return sum(1 for line in text.splitlines()[first - 1 :] if line.strip() and not line.strip().startswith("#"))


def files_of(contender: Contender) -> list[Path]:
    """Returns the files of a contender."""
    source = FOLDER / contender.source
    return sorted(source.rglob("*.py")) if source.is_dir() else [source]


@contextmanager
def copied(contender: Contender) -> Iterator[Path]:
    """Yields a temporary folder with a copy of the contender's files."""
    with tempfile.TemporaryDirectory() as scratch:
        for file in files_of(contender):
            copy = Path(scratch) / file.relative_to(FOLDER)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(file, copy)
        yield Path(scratch)


def start(contender: Contender, python: str, folder: Path) -> "subprocess.Popen[bytes]":
    """Starts the copy of a contender."""
    # With Ray's default of 15, its workers get nothing on a busy machine; the other contenders compute in their own process.
    env = {**os.environ, "RAY_worker_niceness": "0"}
    return subprocess.Popen([python, *contender.arguments], cwd=folder, env=env, stdout=subprocess.DEVNULL)


def wait_for(condition: Callable[[], bool], process: "subprocess.Popen[bytes]") -> None:
    """Waits until a condition holds; fails if the process ends before."""
    deadline = time.monotonic() + WITHIN_S
    while not condition():
        assert process.poll() is None, f"{process.args} ended too early"
        assert time.monotonic() < deadline, f"{process.args} takes more than {WITHIN_S} s"
        time.sleep(0.02)


def seconds(contender: Contender, python: str) -> tuple[float, float]:
    """Returns the time until a contender has left its first number, and until it has ended with its page."""
    with copied(contender) as folder:
        started = time.perf_counter()
        process = start(contender, python, folder)
        wait_for(lambda: any(path.stat().st_size for path in folder.glob(contender.first_number)), process)
        first = time.perf_counter() - started
        assert process.wait(WITHIN_S) == 0
        whole = time.perf_counter() - started
        assert list(folder.rglob("*.html"))
        return first, whole


def record_epochs(contender: Contender, folder: Path, log: Path) -> None:
    """Adds a line before the report of an epoch, by which it takes at least `EPOCH_S` and leaves a line in `log`."""
    training = folder / contender.training
    lines = training.read_text().splitlines()
    (place,) = [number for number, line in enumerate(lines) if line.lstrip().startswith(contender.report)]
    indent = lines[place][: -len(lines[place].lstrip())]
    record = f"print({contender.run}, epoch, file=open({str(log)!r}, 'a'), flush=True)"
    lines.insert(place, f"{indent}__import__('time').sleep({EPOCH_S}); {record}")
    training.write_text("\n".join([*lines, ""]))


def computed(log: Path) -> list[tuple[str, str, str]]:
    """Returns learning rate, seed and epoch of every epoch that was computed, in order."""
    lines = log.read_text().splitlines() if log.exists() else []
    return [(lr, seed, epoch) for lr, seed, epoch in map(str.split, lines)]


def repeated_after_a_kill(contender: Contender, python: str) -> Repeated:
    """Kills all processes of a contender when half of the epochs are computed, starts it again, and counts what it repeats."""
    with copied(contender) as folder:
        log = folder / "epochs"
        record_epochs(contender, folder, log)
        process = start(contender, python, folder)
        wait_for(lambda: len(computed(log)) > NUM_RUNS * NUM_EPOCHS // 2, process)
        time.sleep(EPOCH_S / 2)  # into the epoch after
        everyone = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
        for each in everyone:
            with suppress(psutil.NoSuchProcess):
                each.kill()
        process.wait()
        psutil.wait_procs(everyone, timeout=30)
        before = computed(log)
        assert start(contender, python, folder).wait(WITHIN_S) == 0
        assert list(folder.rglob("*.html"))
        again = computed(log)[len(before) :]
    assert len({*before, *again}) == NUM_RUNS * NUM_EPOCHS, "an epoch is missing"
    finished = {run for run, count in Counter((lr, seed) for lr, seed, _ in set(before)).items() if count == NUM_EPOCHS}
    repeated = [(lr, seed) for lr, seed, epoch in again if (lr, seed, epoch) in set(before)]
    return Repeated(finished=len(finished), runs=len(finished & set(repeated)), epochs=len(repeated))


def main() -> None:
    """Prints a table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeat", type=int, default=3, help="how often each script is timed; the best counts")
    parser.add_argument("--benchopt", metavar="PYTHON", help="an interpreter that has benchopt")
    options = parser.parse_args()
    contenders = [(contender, sys.executable) for contender in CONTENDERS]
    contenders += [(BENCHOPT, options.benchopt)] if options.benchopt else []
    repeated = {contender: repeated_after_a_kill(contender, python) for contender, python in contenders}
    # In turn, so that other work on the machine disturbs all of them alike.
    rounds = [[seconds(contender, python) for contender, python in contenders] for _ in range(options.repeat)]
    print("| | lines of code | first number | page | finished runs repeated after a kill | epochs repeated |")
    print("|---|---|---|---|---|---|")
    for (contender, _), measured in zip(contenders, zip(*rounds, strict=True), strict=True):
        lines = sum(lines_of_code(file.read_text(encoding="utf-8")) for file in files_of(contender))
        first, page = (min(column) for column in zip(*measured, strict=True))
        found = repeated[contender]
        cells = (f"{lines}", f"{first:.0f} s", f"{page:.0f} s", f"{found.runs} of {found.finished}", f"{found.epochs}")
        print(f"| {contender.title} | {' | '.join(cells)} |")

if __name__ == "__main__":
    main()
