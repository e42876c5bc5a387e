"""Progress of `pruneyard.run` and `pruneyard.sweep` in a script: on a terminal by itself, elsewhere on request."""

import io
import os
import pty
import re
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from rich.console import Console

from pruneyard.orchestrator.execution.report import Report
from pruneyard.orchestrator.progress.monitor import Monitor
from pruneyard.orchestrator.progress.python_display import ScriptDisplay
from pruneyard.reports.records import Status

SCRIPT = """
import sys, pruneyard

def train(lr, context):
    print(f"trains with {lr}")
    context.report(step=1, accuracy=lr)
    if lr > 1:
        raise ValueError("lr is too large")

verbose = {"none": None, "true": True, "false": False}[sys.argv[1]]
for _ in range(2):
    results = pruneyard.sweep(train, {"lr": [0.25, 0.5, 2.0]}, out="out", local=True, verbose=verbose)
    print("ended with", int(results.exit_code))
"""


def run_script(folder: Path, verbose: str) -> tuple[str, str]:
    """Runs the script without a terminal; returns stdout and stderr."""
    (folder / "script.py").write_text(SCRIPT)
    command = [sys.executable, "script.py", verbose]
    ended = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120, check=True)
    return ended.stdout, ended.stderr


def run_on_terminal(folder: Path, verbose: str) -> str:
    """Runs the script on a terminal of its own; returns what the terminal shows."""
    (folder / "script.py").write_text(SCRIPT)
    keyboard, screen = pty.openpty()
    shown: list[bytes] = []

    def read() -> None:
        while True:
            try:
                content = os.read(keyboard, 65536)
            except OSError:  # the script, which alone has the other end, has ended
                return
            if not content:
                return
            shown.append(content)

    reader = threading.Thread(target=read)
    command = [sys.executable, "script.py", verbose]
    env = {**os.environ, "TERM": "xterm", "COLUMNS": "120", "LINES": "40"}
    process = subprocess.Popen(command, cwd=folder, env=env, stdin=screen, stdout=screen, stderr=screen)
    os.close(screen)
    reader.start()
    assert process.wait(timeout=120) == 0
    reader.join()
    os.close(keyboard)
    return b"".join(shown).decode().replace("\r\n", "\n")


def test_a_script_on_a_terminal_shows_lines_and_how_the_study_ended(tmp_path: Path) -> None:
    shown = run_on_terminal(tmp_path, "none")
    assert "0/3 done, 0 running" in shown
    assert "trains with 0.25\n" in shown
    _, _, ending = shown.partition("finished in ")
    assert ": 2/3 done, 1 failed, best val/accuracy 2.0000 (lr=2 seed=0)\nFAILED " in ending
    assert re.search(r"ValueError: lr is too large \(script\.py:\d+\)\nended with 1\n", ending)
    assert "\x1b[?25l" not in shown, "a table that is redrawn would disturb the debugger"
    # The failed run is run again by the second call, and only that.
    assert shown.count("trains with 0.25") == 1
    assert shown.count("trains with 2.0") == 2


@pytest.mark.slow
def test_nothing_is_shown_without_a_terminal_or_where_it_is_not_wanted(tmp_path: Path) -> None:
    stdout, stderr = run_script(tmp_path, "none")
    assert "done" not in stdout + stderr
    assert stdout.count("ended with 1\n") == 2
    assert " done" not in run_on_terminal(tmp_path, "false")


@pytest.mark.slow
def test_verbose_shows_lines_on_stderr_without_a_terminal(tmp_path: Path) -> None:
    stdout, stderr = run_script(tmp_path, "true")
    assert "done" not in stdout
    assert "0/3 done" in stderr
    assert "2/3 done, 1 failed, best val/accuracy 2.0000 (lr=2 seed=0)" in stderr
    assert stderr.count("finished in ") == 2


def test_a_table_is_redrawn_in_place_and_gives_way_to_the_last_line() -> None:
    screen = Console(file=io.StringIO(), force_terminal=True, width=120)
    monitor = Monitor(total=1, num_already_done=0, labels={"aaaaaaaa": "lr=0.1"})
    display = ScriptDisplay(screen, is_live=True)
    monitor.time_left.expect("aaaaaaaa", None)
    monitor.start("aaaaaaaa")
    monitor.record(Report(run_key="aaaaaaaa", step=2, num_steps=5, metrics={"val/accuracy": 0.5}))
    display.show(monitor)
    monitor.end("aaaaaaaa", Status.COMPLETED)
    display.close(word="finished")
    text = screen.file.getvalue()  # type: ignore[attr-defined]
    table, _, ending = text.partition("finished in ")
    assert "2/5" in table
    assert table.endswith("\x1b[2K"), "the table is still there"
    assert ending.rstrip("\n").endswith("1/1 done, best val/accuracy 0.5000 (lr=0.1)")


@pytest.mark.parametrize("is_live", [True, False])
def test_a_study_without_work_shows_nothing(is_live: bool) -> None:
    screen = Console(file=io.StringIO(), force_terminal=True)
    ScriptDisplay(screen, is_live=is_live).close(word="finished")
    assert screen.file.getvalue() == ""  # type: ignore[attr-defined]
