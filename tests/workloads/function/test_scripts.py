"""Scripts as the code of jobs: no report is lost or repeated by a stop, run keys follow their files, and all of them end."""

import textwrap
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pruneyard.workloads.checkpoint import CheckpointFolder
from pruneyard.workloads.function.job import FunctionJob
from pruneyard.workloads.training.segment import Segment
from pruneyard.workloads.workload import Context, InterruptedJobError, Outcome

COUNTER = """
import json, sys
from pathlib import Path
saved, new = Path(sys.argv[1]) / "state.json", Path(sys.argv[1]) / "state.new"
def report(state): print(json.dumps(state), flush=True)
state = {"step": 0, "loss": 10}
if saved.exists():
    state = json.loads(saved.read_text())
    report(state)
while state["step"] < 5:
    state = {"step": state["step"] + 1, "loss": state["loss"] - 1}
    new.write_text(json.dumps(state))
    new.replace(saved)
    report(state)
"""


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Returns a function that writes files into the current folder."""
    monkeypatch.chdir(tmp_path)

    def write_files(**texts: str) -> None:
        for name, text in texts.items():
            file = Path(name.replace("__", "/") + ".py")
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(textwrap.dedent(text))

    return write_files


def source_of(command: str, **arguments: Any) -> str:
    return str(FunctionJob(command=command, arguments=arguments).code_identity()["source_code"])


def finish(job: FunctionJob, folder: Path, **context: Any) -> tuple[list[tuple[int, float]], Outcome, int]:
    """Runs a job to its end, resuming after every stop; returns steps and losses, the outcome, and the number of stops."""
    stops = 0
    while True:
        found, last = [], None
        try:
            for progress in job.run(Context(checkpoints=CheckpointFolder(folder), **context)):
                found += [(m.step, m.value) for m in progress.metrics]
                last = progress.outcome or last
        except InterruptedJobError:
            stops += 1
            continue
        assert last is not None
        return found, last, stops


def test_a_script_that_runs_ahead_while_its_report_is_handled_loses_no_report(write: Callable[..., None], tmp_path: Path) -> None:
    write(count=COUNTER)

    def pause() -> bool:
        time.sleep(0.2)  # in which the script ends
        return True

    found, _, stops = finish(FunctionJob(command="python count.py {checkpoint}"), tmp_path / "run", should_pause=pause)
    assert found == [(step, 10.0 - step) for step in range(1, 6)]
    assert stops >= 1


def test_a_script_that_handles_sigterm_saves_what_it_leaves(
    write: Callable[..., None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pruneyard.workloads.workload.STOP_CHECK_EVERY_S", 0.0)
    write(
        polite="""
        import json, signal, sys, time
        from pathlib import Path
        saved = Path(sys.argv[1]) / "state.json"
        if saved.exists():
            print(json.dumps({"step": 2, "loss": json.loads(saved.read_text())}), flush=True)
            sys.exit()
        def end(*_):
            saved.write_text("7")
            sys.exit()
        signal.signal(signal.SIGTERM, end)
        print('{"step": 1, "loss": 9}', flush=True)
        time.sleep(30)
        """
    )
    job, reported = FunctionJob(command="python polite.py {checkpoint}"), []
    context = Context(checkpoints=CheckpointFolder(tmp_path / "run"), should_stop=lambda: len(reported) == 1)
    progress = job.run(context)
    reported.append(next(progress))
    with pytest.raises(InterruptedJobError):
        next(progress)
    found, _, _ = finish(job, tmp_path / "run")
    assert found[-1] == (2, 7.0)


def test_a_script_ends_although_a_process_that_it_has_started_goes_on(write: Callable[..., None], tmp_path: Path) -> None:
    write(
        parent="""
        import subprocess
        subprocess.Popen(["sleep", "60"])
        print('{"loss": 1}')
        """
    )
    started = time.monotonic()
    found, _, _ = finish(FunctionJob(command="python parent.py"), tmp_path / "run")
    assert found == [(1, 1.0)]
    assert time.monotonic() - started < 50


def test_the_run_key_of_a_script_follows_every_file_that_it_runs(write: Callable[..., None], tmp_path: Path) -> None:
    write(work="import helper", helper="LR = 1", sub__train="import tools", sub__tools="A = 1", tools="A = 1")
    write(package____init__="", package__main="from . import part", package__part="A = 1")
    for command, changed in (
        ("python work.py", "helper"),
        (f"python {tmp_path / 'work.py'}", "helper"),
        ("python sub/train.py", "sub__tools"),
        ("python -m package.main", "package__part"),
    ):
        before = source_of(command)
        assert source_of(command) == before
        write(**{changed: "A = 2  # " + command})
        assert source_of(command) != before, command
    before = source_of("python sub/train.py")
    write(tools="A = 3")  # not the one beside the script
    assert source_of("python sub/train.py") == before
    (tmp_path / "train-script.py").write_text("A = 1")
    assert source_of("python train-script.py")
    (tmp_path / "old.py").write_text("print 'of Python 2'")
    assert source_of("python old.py")


@pytest.mark.parametrize(
    "command",
    ["--config=conf.json", "--config={file}", "--config {file}", "--config={stem}.json", "config=settings.py", "--text {text}"],
)
def test_the_run_key_of_a_script_follows_files_in_options_and_arguments(write: Callable[..., None], command: str) -> None:
    write(work="", settings="import values", values="A = 1")
    Path("conf.json").write_text("{}")
    given = {"file": "conf.json", "stem": "conf", "text": ["no file"] * 100}
    arguments = {name: value for name, value in given.items() if f"{{{name}}}" in command}
    before = source_of(f"python work.py {command}", **arguments)
    Path("conf.json").write_text('{"lr": 1}')
    write(values="A = 2")
    assert (source_of(f"python work.py {command}", **arguments) != before) is ("text" not in command)


def test_an_option_names_a_file_by_the_name_that_a_word_would(write: Callable[..., None]) -> None:
    write(work="import sys")
    Path("conf.json").write_text("{}")
    digests = {source_of("python work.py " + words) for words in ("conf.json", "--config conf.json", "--config=conf.json")}
    assert digests == {"6d9662253ebd9313"}, "run keys of earlier versions stay valid"


@pytest.mark.parametrize("command", ["--config=gone.py", "{file}", "--config={file}"])
def test_a_python_file_that_is_missing_is_refused(write: Callable[..., None], command: str) -> None:
    write(work="")
    arguments = {"file": "gone.py"} if "{" in command else {}
    with pytest.raises(ValueError, match=r"^command names gone.py, but there is no such file"):
        FunctionJob(command=f"python work.py {command}", arguments=arguments)
    write(gone="")
    assert FunctionJob(command=f"python work.py {command}", arguments=arguments)
    assert FunctionJob(command="python work.py --config=conf-{seed}.py")


@pytest.mark.parametrize(
    ("command", "is_seeded"),
    [
        ("python work.py --seed={seed}", True),
        ("python work.py", False),
        ("python -m package.main", True),
        ("python imports.py", True),
        ("bash {file}", True),
        ("env SEED={seed} true", True),
        ("python work.py {file}", True),
        ("true", False),
    ],
)
def test_a_script_has_several_seeds_where_its_text_mentions_the_seed(
    write: Callable[..., None], tmp_path: Path, command: str, is_seeded: bool
) -> None:
    read = "import os\nos.environ['PRUNEYARD_SEED']"
    write(work="", imports="import helper", helper=read, package____init__="", package__main=read)
    (tmp_path / "run.sh").write_text("python work.py --seed $PRUNEYARD_SEED")
    arguments = {"file": str(tmp_path / "run.sh")} if "{file}" in command else {}
    assert (FunctionJob(command=command, arguments=arguments).seeds_problem == "") is is_seeded


def test_a_script_cannot_be_trained_in_parts(write: Callable[..., None]) -> None:
    write(work="")
    with pytest.raises(ValueError, match="command cannot be trained in parts"):
        FunctionJob(command="python work.py", segment=Segment(until=0.5))


def test_a_file_of_metrics_is_closed_and_read_to_its_end(write: Callable[..., None], tmp_path: Path) -> None:
    write(many="import sys\nopen(sys.argv[1], 'w').write('{\"loss\": 1}\\n' * 3000)")
    descriptors = Path("/proc/self/fd")
    before = len(list(descriptors.iterdir())) if descriptors.exists() else 0
    found, _, _ = finish(FunctionJob(command="python many.py {metrics}"), tmp_path / "run")
    assert len(found) == 3000
    assert (len(list(descriptors.iterdir())) if descriptors.exists() else 0) <= before
