"""The process of a script: its reports are read while it runs, its checkpoint folder is saved, and it ends with its run.

A script runs ahead while its reports are handled. So the folder that is saved may hold a later state than that of the report
before; what the script has printed until then, and nobody has handled, is saved with it and reported by the resumed run first.
"""

import json
import os
import selectors
import signal
import subprocess
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Self

from pruneyard.workloads.function.function_run import FunctionRun
from pruneyard.workloads.function.metric_values import MetricError
from pruneyard.workloads.user_code.files import base_folder

POLL_S = 0.2  # how often the file of metrics is read, and a stop is looked for
GRACE_S = 30.0  # for a script to end after SIGTERM
SHOWN_LINES = 20  # of output, in the error of a script that failed
SEED_VARIABLE = "PRUNEYARD_SEED"  # in the environment of the script
UNREPORTED = ".pruneyard-unreported"  # in the checkpoint folder, only while it is saved or restored


_Files = tuple[tuple[str, int, int], ...]
"""Path, size and time of the files in the checkpoint folder."""


class ScriptError(RuntimeError):
    """A script ended with another exit code than 0."""


class ScriptProcess:
    """One run of a script, and its temporary files. Leaving the block ends what is left of the script."""

    def __init__(self, run: FunctionRun) -> None:
        self._run = run
        self._scratch = TemporaryDirectory(prefix="pruneyard-script-")
        folder = Path(self._scratch.name)
        self.metrics_file, self.checkpoint_folder = folder / "metrics.jsonl", folder / "checkpoint"
        self._errors = folder / "stderr"
        self._popen: subprocess.Popen[bytes] | None = None
        self._saved_files: _Files = ()
        self._saved_lines: tuple[str, ...] = ()
        self._output: deque[str] = deque(maxlen=SHOWN_LINES)
        self._unreported: deque[str] = deque()
        self._may_repeat = False  # whether the script may print steps again that are reported already
        self._descriptors = ExitStack()

    def __enter__(self) -> Self:
        restored = self._run.restore()
        if restored is None:
            self.checkpoint_folder.mkdir()
        else:
            restored.rename(self.checkpoint_folder)
            self._may_repeat = True
            with suppress(FileNotFoundError):
                self._unreported += (self.checkpoint_folder / UNREPORTED).read_text().splitlines()
                (self.checkpoint_folder / UNREPORTED).unlink()
        self._saved_files, self._saved_lines = self._files_now(), tuple(self._unreported)
        return self

    def __exit__(self, *error: object) -> None:
        if self._popen is not None:
            self._terminate()
            assert self._popen.stdout is not None
            self._popen.stdout.close()
        self._descriptors.close()
        self._scratch.cleanup()

    def run(self, words: Sequence[str], *, reads_file: bool) -> None:
        """Runs the script to its end, or until the run is to stop.

        reads_file: reports are in `metrics_file`, not in the output.
        """
        with self._errors.open("wb") as errors:
            # In a session of its own, so that Ctrl-C reaches the study only, and all its processes can be ended.
            self._popen = subprocess.Popen(
                words,
                stdout=subprocess.PIPE,
                stderr=errors,
                cwd=base_folder(),
                env={**os.environ, SEED_VARIABLE: str(self._run.seed)},
                start_new_session=True,
            )
        assert self._popen.stdout is not None
        self._stdout = _Lines(self._popen.stdout.fileno())
        self._file: _Lines | None = None
        self._reads_file = reads_file
        for line in self._lines():
            self._report(line)
        if (code := self._popen.wait()) != 0 and not self._run.is_stopped:
            last = "\n".join([*self._output, *self._errors.read_text(errors="replace").splitlines()][-SHOWN_LINES:])
            how = f"exit code {code}" if code > 0 else f"signal {signal.Signals(-code).name}"
            raise ScriptError(f"{words[0]} ended with {how}; the last lines of its output:\n{last}")

    def _lines(self) -> Iterator[str]:
        """Yields the lines that may be reports, until the script has ended, or was asked to end."""
        assert self._popen is not None
        while True:
            has_ended = self._popen.poll() is not None  # asked before reading, so that nothing is missed
            # A process that the script has left behind may keep its output open.
            has_read = self._read(wait_s=0.0 if has_ended or self._unreported else POLL_S)
            reports = self._file if self._reads_file else self._stdout
            if has_ended and not has_read and reports is not None:
                self._unreported += reports.last()
            while self._unreported:
                yield self._unreported.popleft()
            if has_ended and not has_read:
                return
            if self._run.should_stop:
                self._stop()
                return

    def _read(self, *, wait_s: float) -> bool:
        """Reads what is there, at most one block of the output; returns whether there was anything."""
        assert self._popen is not None
        assert self._popen.stdout is not None
        lines, has_read = [], False
        if self._stdout.is_open:
            with selectors.DefaultSelector() as selector:
                selector.register(self._popen.stdout, selectors.EVENT_READ)
                if selector.select(wait_s):
                    lines, has_read = self._stdout.read(), self._stdout.is_open
        else:  # the script has closed its output and works on
            time.sleep(wait_s)
        self._output += lines
        if not self._reads_file:
            self._unreported += lines
            return has_read
        if self._file is None and self.metrics_file.exists():
            descriptor = os.open(self.metrics_file, os.O_RDONLY)
            self._descriptors.callback(os.close, descriptor)
            self._file = _Lines(descriptor)
        if self._file is not None:
            found = self._file.read()
            self._unreported += found
            has_read = has_read or self._file.is_open
        return has_read

    def _report(self, line: str) -> None:
        if not line.startswith("{"):
            return
        try:
            reported: Any = json.loads(line)
        except ValueError:
            return  # output that only looks like a report
        step, epoch = reported.pop("step", None), reported.pop("epoch", None)
        if not reported:
            raise MetricError(f"{line!r} has no metric; a report needs one number besides step and epoch")
        if self._may_repeat and isinstance(step, int) and step <= self._run.step:
            return
        self._run.report(reported, step=step, epoch=epoch)
        self._save()

    def _save(self) -> None:
        """Saves the checkpoint folder while the script stands still, if it has changed.

        A run that stops saves also what it has reported since, where all of that was printed before the folder was saved.
        """
        files = self._files_now()
        has_reported_more = self._run.is_stopped and bool(files) and tuple(self._unreported) != self._saved_lines
        if files == self._saved_files and not has_reported_more:
            return
        self._signal(signal.SIGSTOP)
        while self._read(wait_s=0.0):
            pass
        self._saved_files, self._saved_lines = self._files_now(), tuple(self._unreported)
        unreported = self.checkpoint_folder / UNREPORTED
        unreported.write_text("".join(f"{line}\n" for line in self._unreported))
        try:
            self._run.checkpoint(folder=self.checkpoint_folder)
        finally:
            unreported.unlink()
        self._signal(signal.SIGCONT)

    def _stop(self) -> None:
        """Asks the script to end, and saves what it leaves if it has ended by itself.

        A script that a signal has killed may have left half a file: then the checkpoint before counts.
        """
        assert self._popen is not None
        self._terminate()
        if self._popen.returncode >= 0:
            self._save()

    def _terminate(self) -> None:
        """Ends the script and its processes: by SIGTERM, and after `GRACE_S` by SIGKILL."""
        assert self._popen is not None
        if self._popen.poll() is None:
            self._signal(signal.SIGTERM)
            self._signal(signal.SIGCONT)  # it may stand still
            with suppress(subprocess.TimeoutExpired):
                self._popen.wait(GRACE_S)
        self._signal(signal.SIGKILL)
        self._popen.wait()

    def _files_now(self) -> _Files:
        files = [path for path in sorted(self.checkpoint_folder.rglob("*")) if path.is_file()]
        return tuple((str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in files)

    def _signal(self, number: signal.Signals) -> None:
        assert self._popen is not None
        with suppress(ProcessLookupError):  # it has ended
            os.killpg(self._popen.pid, number)


class _Lines:
    """Reads the complete lines of a file or a pipe as they come. is_open: whether the last read found anything."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor, self._rest = descriptor, b""
        self.is_open = True

    def read(self) -> list[str]:
        """Returns the lines that are there, of which the last may follow later."""
        content = os.read(self._descriptor, 2**16)
        self.is_open = bool(content)
        *lines, self._rest = (self._rest + content).split(b"\n")
        return [_decoded(line) for line in lines]

    def last(self) -> list[str]:
        """Returns the last line, which needs no line break."""
        rest, self._rest = self._rest, b""
        return [_decoded(rest)] if rest else []


def _decoded(line: bytes) -> str:
    return line.decode(errors="replace").strip()
