"""Shows a running study in a notebook: one line below the cell, updated in place, that ends with how the study ended."""

import html
import sys
import time
from typing import Any

from pruneyard.orchestrator.progress.display import closing_lines, summary_line, time_left
from pruneyard.orchestrator.progress.monitor import Monitor
from pruneyard.reports.formats import time_span

UPDATE_EVERY_S = 0.5  # every update is stored in the notebook's output until the next one replaces it


class Line:
    """Some text with the share that is done; notebooks show it as a bar, other front ends as text."""

    def __init__(self, text: str, share: float, *, failures: tuple[str, ...] = ()) -> None:
        self._text, self._share, self._failures = text, share, failures

    def __repr__(self) -> str:
        return "\n".join((self._text, *self._failures))

    def _repr_html_(self) -> str:
        bar = f'<progress max="1" value="{self._share:.4f}" style="width: 14em; vertical-align: middle"></progress>'
        rows = "".join(f"<br>{html.escape(failure)}" for failure in self._failures)
        return f"<div>{bar} {html.escape(self._text)}{rows}</div>"


class NotebookDisplay:
    """Shows the counts of a study in one output of the cell, at most every `UPDATE_EVERY_S`."""

    def __init__(self, show: Any) -> None:
        """show: `IPython.display.display`."""
        self._show, self._shown_at = show, 0.0
        self._handle: Any = None  # of the output in the page, which is updated in place
        self._monitor: Monitor | None = None

    def show(self, monitor: Monitor) -> None:
        """Updates the line if the last update is long enough ago."""
        self._monitor = monitor
        now = time.monotonic()
        if now - self._shown_at >= UPDATE_EVERY_S:
            self._shown_at = now
            spent = f"{time_span(monitor.elapsed_s())} elapsed{time_left(monitor) if monitor.running else ''}"
            self._draw(Line(f"{summary_line(monitor)}, {spent}", _share(monitor)))

    def close(self, *, word: str) -> None:
        """Replaces the line by the last one: how the study ended, how long it took, and what failed.

        word: what comes first, such as `finished`. A study in which nothing was left to do has shown nothing, and shows nothing.
        """
        monitor = self._monitor
        if monitor is None:
            return
        text, *failures = closing_lines(monitor, word=word)
        self._draw(Line(text, _share(monitor), failures=tuple(failures)))

    def _draw(self, line: Line) -> None:
        if self._handle is None:
            self._handle = self._show(line, display_id=True)
        else:
            self._handle.update(line)


def _share(monitor: Monitor) -> float:
    return min(1.0, monitor.done / max(1, monitor.total))


def notebook_display() -> NotebookDisplay | None:
    """Returns a display for the cell that runs; None outside of notebooks."""
    show = _display_of_cell()
    return None if show is None else NotebookDisplay(show)


def _display_of_cell() -> Any:
    """Returns the function that shows an object below the cell that runs; None if this process runs no cells."""
    # Whoever runs cells has imported IPython, so that it is no dependency.
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    # A shell on a terminal has no kernel; it cannot update an output.
    if shell is None or getattr(shell, "kernel", None) is None:
        return None
    return sys.modules["IPython.display"].display
