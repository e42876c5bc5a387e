"""Shows a running study on stderr: a live table on a terminal, plain lines elsewhere."""

import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.markup import escape
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from pruneyard.orchestrator.progress.monitor import BEST_METRIC, Monitor, TrialPlace
from pruneyard.reports.formats import time_span
from pruneyard.reports.records import Status

MAX_ROWS = 20
MAX_FAILURES = 5  # that are told at the end
MAX_NODES = 4  # that a plain line names
LINE_EVERY_S = 60.0
CHANGE_EVERY_S = 1.0  # faster changes share a line


class Display(Protocol):
    """The interface that `run` calls while a study runs."""

    def show(self, monitor: Monitor) -> None:
        """Shows the current state. It is called often, and decides itself how often it draws."""
        ...


@contextmanager
def open_display(console: Console) -> Iterator[Display]:
    """Yields a live table on a terminal, and plain lines elsewhere."""
    if not console.is_terminal:
        yield LineDisplay(console)
        return
    # Transient, because the summary of the results takes the place of the table at the end.
    with Live(console=console, refresh_per_second=4, transient=True) as live:
        yield LiveDisplay(live)


class LineDisplay:
    """Prints one line on each change, at most one per second, and one per minute without a change."""

    def __init__(self, console: Console) -> None:
        self._console, self._last_line, self._last_at = console, "", 0.0

    def show(self, monitor: Monitor) -> None:
        """Prints the counts if they have changed or a minute has passed."""
        now = time.monotonic()
        # The last line of a study is printed however soon it follows the line before.
        if now - self._last_at < CHANGE_EVERY_S and monitor.done < monitor.total:
            return
        line = summary_line(monitor) + _describe_places(monitor)
        if line != self._last_line or now - self._last_at >= LINE_EVERY_S:
            left = time_left(monitor) if monitor.running else ""
            self._console.print(f"{line}{left}", markup=False, highlight=False, soft_wrap=True)
            self._last_line, self._last_at = line, now


class LiveDisplay:
    """Shows the counts, the best metric so far, and a row per running trial."""

    def __init__(self, live: Live) -> None:
        self._live = live

    def show(self, monitor: Monitor) -> None:
        """Passes the newest table to rich, which draws it four times a second."""
        self._live.update(render(monitor))


def render(monitor: Monitor) -> RenderableType:
    """Returns what the terminal shows."""
    head = Table.grid(padding=(0, 1))
    head.add_row(
        ProgressBar(total=max(1, monitor.total), completed=monitor.done, width=30),
        Text(summary_line(monitor)),
        Text(f"{time_span(monitor.elapsed_s())} elapsed{time_left(monitor)}", style="dim"),
    )
    rows = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    places = monitor.places
    on_nodes, on_gpus = len(monitor.nodes) > 1, any(place.gpu_bytes is not None for place in places.values())
    for column in ("run", "job", *["node"] * on_nodes, "step", BEST_METRIC, *["GPU memory"] * on_gpus):
        rows.add_column(column)
    running = list(monitor.running.items())
    for key, report in running[:MAX_ROWS]:
        step = f"{report.step}/{report.num_steps}" if report.num_steps else "starting"
        value = report.metrics.get(BEST_METRIC)
        place = places.get(key)
        node = [_nodes(place) if place else ""] * on_nodes
        gpu = [_gib(place.gpu_bytes) if place else ""] * on_gpus
        shown = "" if value is None else f"{value:.4f}"
        rows.add_row(key[:8], escape(monitor.labels[key]), *node, step, shown, *gpu)
    if len(running) > MAX_ROWS:
        rows.add_row("", f"and {len(running) - MAX_ROWS} more")
    return Group(head, rows)


def time_left(monitor: Monitor) -> str:
    """Returns the estimated time left, or nothing while the study stops."""
    if monitor.stopping:
        return ""
    seconds = monitor.time_left.seconds()
    if seconds is None:
        return ", estimating the time left"
    about = "more than" if monitor.time_left.is_lower_bound else "about"
    return f", {about} {time_span(seconds)} left"


def _nodes(place: TrialPlace) -> str:
    """Returns `1a2b3c4d`, or `1a2b3c4d and 1 more` if the workers of the trial run on two nodes."""
    first, *others = place.nodes or ("",)
    return f"{first} and {len(others)} more" if others else first


def _describe_places(monitor: Monitor) -> str:
    """Returns the number of trials on each node if there are several, and the largest peak of GPU memory of a trial."""
    places = monitor.places.values()
    several = len(monitor.nodes) > 1
    counts = Counter(node for place in places for node in place.nodes * several).most_common()
    listed = [f"{count} on node {node}" for node, count in counts[:MAX_NODES]]
    more = [f"{len(counts) - MAX_NODES} more nodes"] if len(counts) > MAX_NODES else []
    most = max((place.gpu_bytes or 0 for place in places), default=0)
    return "".join(f", {text}" for text in (*listed, *more, *([f"up to {_gib(most)} of a GPU"] if most else [])))


def _gib(size_bytes: int | None) -> str:
    return "" if size_bytes is None else f"{size_bytes / 2**30:.2f} GiB"


def closing_lines(monitor: Monitor, *, word: str) -> list[str]:
    """Returns how a study ended and how long it took, and a line for each of the first failures.

    word: what comes first, such as `finished`.
    """
    said = [f"FAILED {each.run_key} ({each.label}): {each.error}" for each in monitor.failures[:MAX_FAILURES]]
    left = len(monitor.failures) - len(said)
    more = [f"and {left} more failed"] if left else []
    return [f"{word} in {time_span(monitor.elapsed_s())}: {summary_line(monitor, has_ended=True)}", *said, *more]


def summary_line(monitor: Monitor, *, has_ended: bool = False) -> str:
    """Returns one line such as `12/27 done, 2 running, 12 waiting, 1 failed, best val/accuracy 0.9861 (mlp rigl seed=1)`.

    has_ended: whether nothing runs any more, so that jobs which have not run are `not started`.
    """
    parts = [f"{monitor.done}/{monitor.total} done"]
    if not has_ended:
        parts.append(f"{len(monitor.running)} running")
    if monitor.stopping and not has_ended:
        parts.append("stopping")
    elif monitor.waiting:
        parts.append(f"{monitor.waiting} {'not started' if has_ended else 'waiting'}")
    if monitor.paused:
        parts.append(f"{len(monitor.paused)} paused")
    for status in (Status.PRUNED, Status.FAILED, Status.INTERRUPTED):
        if count := monitor.count(status):
            parts.append(f"{count} {status.value.lower()}")
    if monitor.phase and not (monitor.stopping or has_ended):
        parts.append(monitor.phase)
    if monitor.best is not None:
        value, label = monitor.best
        parts.append(f"best {BEST_METRIC} {value:.4f} ({label})")
    return ", ".join(parts)
