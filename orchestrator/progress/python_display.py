"""Shows a study that Python code runs: below the cell of a notebook, on the terminal of a script, or not at all."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol, TextIO

from rich.console import Console
from rich.live import Live

from pruneyard.orchestrator.progress.display import Display, LineDisplay, LiveDisplay, closing_lines
from pruneyard.orchestrator.progress.monitor import Monitor
from pruneyard.orchestrator.progress.notebook import notebook_display


class ClosedDisplay(Display, Protocol):
    """A display that also says how the study ended."""

    def close(self, *, word: str) -> None:
        """Shows how the study ended; `word` comes first, such as `finished`."""
        ...


class ScriptDisplay:
    """Shows a study on stderr, and ends with how it ended. A study in which nothing is left to do shows nothing."""

    def __init__(self, console: Console, *, is_live: bool) -> None:
        """is_live: whether a table is redrawn in place, instead of a line for each change."""
        self._console, self._is_live = console, is_live
        self._live: Live | None = None
        self._display: Display | None = None
        self._monitor: Monitor | None = None

    def show(self, monitor: Monitor) -> None:
        """Shows the current state."""
        if self._display is None:
            self._display = self._open()
        self._monitor = monitor
        self._display.show(monitor)

    def close(self, *, word: str) -> None:
        """Removes the table and prints how the study ended, how long it took, and what failed."""
        if self._live is not None:
            self._live.stop()
        if self._monitor is not None:
            for line in closing_lines(self._monitor, word=word):
                self._console.print(line, markup=False, highlight=False, soft_wrap=True)

    def _open(self) -> Display:
        if not self._is_live:
            return LineDisplay(self._console)
        self._live = Live(console=self._console, refresh_per_second=4, transient=True)
        self._live.start()
        return LiveDisplay(self._live)


@contextmanager
def python_display(*, verbose: bool | None, local: bool) -> Iterator[Display | None]:
    """Yields the display of a study that Python code runs, and closes it; yields None where nothing is to be shown.

    verbose: False shows nothing, True also shows lines where there is neither a notebook nor a terminal. None shows progress in
        notebooks and on terminals, which stdout and stderr both must be: a script whose output goes elsewhere is left alone.
    local: whether trials run in this process. Then lines are shown instead of a table that is redrawn, so that the prints and the
        debugger of the user's code work.
    """
    display = None if verbose is False else _display(verbose=bool(verbose), local=local)
    if display is None:
        yield None
        return
    try:
        yield display
    except BaseException as error:
        display.close(word=f"stopped ({type(error).__name__})")
        raise
    display.close(word="finished")


def _display(*, verbose: bool, local: bool) -> ClosedDisplay | None:
    if (of_cell := notebook_display()) is not None:
        return of_cell
    on_terminal = _is_terminal(sys.stdout) and _is_terminal(sys.stderr)
    if not (on_terminal or verbose):
        return None
    console = Console(stderr=True)
    return ScriptDisplay(console, is_live=on_terminal and not local and not console.is_dumb_terminal)


def _is_terminal(stream: TextIO | None) -> bool:
    """Returns whether a stream is a terminal; a process without a console may have no stream."""
    return stream is not None and stream.isatty()
