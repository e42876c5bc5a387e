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
from pruneyard.reports.records import Status

MAX_ROWS = 20


MAX_NODES = 4  # in a plain line


LINE_EVERY_S = 60.0


CHANGE_EVERY_S = 1.0  # changes that come faster share a line


class Display(Protocol):
    """What `population.run` calls."""

    def show(self, monitor: Monitor) -> None:
        """Called often; decides itself how often it draws."""
        ...


@contextmanager
def open_display(console: Console) -> Iterator[Display]:
    """The display that fits the console."""
    if not console.is_terminal:
        yield LineDisplay(console)
        return
    with Live(console=console, refresh_per_second=4, transient=True) as live:
        yield LiveDisplay(live)


class LineDisplay:
    """One line on each change, at most one a second, and one a minute anyway."""

    def __init__(self, console: Console) -> None:
        self._console, self._last_line, self._last_at = console, "", 0.0

    def show(self, monitor: Monitor) -> None:
        """Prints the counts if they changed."""
        now = time.monotonic()
        if now - self._last_at < CHANGE_EVERY_S and monitor.done < monitor.total:
            return
        line = summary_line(monitor) + _where(monitor)
        if line != self._last_line or now - self._last_at >= LINE_EVERY_S:
            left = _left(monitor) if monitor.running else ""
            self._console.print(f"{line}{left}", markup=False, highlight=False, soft_wrap=True)
            self._last_line, self._last_at = line, now


class LiveDisplay:
    """The counts, the best so far, and a row per running trial."""

    def __init__(self, live: Live) -> None:
        self._live = live

    def show(self, monitor: Monitor) -> None:
        """Hands the newest picture to rich, which draws it four times a second."""
        self._live.update(render(monitor))


def render(monitor: Monitor) -> RenderableType:
    """What the terminal shows."""
    head = Table.grid(padding=(0, 1))
    head.add_row(
        ProgressBar(total=max(1, monitor.total), completed=monitor.done, width=30),
        Text(summary_line(monitor)),
        Text(f"{duration(monitor.elapsed_s())} gone{_left(monitor)}", style="dim"),
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


def _left(monitor: Monitor) -> str:
    """Nothing where the jobs left will not be run."""
    return "" if monitor.stopping else f", {duration(monitor.seconds_left())} left"


def _nodes(place: TrialPlace) -> str:
    """`1a2b3c4d`, or `1a2b3c4d and 1 more` of a trial whose workers are on two."""
    first, *others = place.nodes or ("",)
    return f"{first} and {len(others)} more" if others else first


def _where(monitor: Monitor) -> str:
    """How many trials have workers on each node, where there are several, and the most that one has held of a GPU."""
    places = monitor.places.values()
    several = len(monitor.nodes) > 1
    counts = Counter(node for place in places for node in place.nodes * several).most_common()
    listed = [f"{count} on node {node}" for node, count in counts[:MAX_NODES]]
    more = [f"{len(counts) - MAX_NODES} more nodes"] if len(counts) > MAX_NODES else []
    most = max((place.gpu_bytes or 0 for place in places), default=0)
    return "".join(f", {text}" for text in (*listed, *more, *([f"up to {_gib(most)} of a GPU"] if most else [])))


def _gib(size_bytes: int | None) -> str:
    return "" if size_bytes is None else f"{size_bytes / 2**30:.2f} GiB"


def summary_line(monitor: Monitor) -> str:
    """`12/27 done, 2 running, 12 waiting, 1 failed, best val/accuracy 0.9861 (mlp rigl density=0.2 seed=1)`."""
    parts = [f"{monitor.done}/{monitor.total} done", f"{len(monitor.running)} running"]
    if monitor.stopping:
        parts.append("stopping")
    elif monitor.waiting:
        parts.append(f"{monitor.waiting} waiting")
    if monitor.paused:
        parts.append(f"{len(monitor.paused)} paused")
    for status in (Status.PRUNED, Status.FAILED, Status.INTERRUPTED):
        if count := monitor.count(status):
            parts.append(f"{count} {status.value.lower()}")
    if monitor.best is not None:
        value, label = monitor.best
        parts.append(f"best {BEST_METRIC} {value:.4f} ({label})")
    return ", ".join(parts)


def duration(seconds: float | None) -> str:
    """`45 s`, `3:20 min`, `2:05 h`, or `?`."""
    if seconds is None:
        return "?"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60}:{whole % 60:02d} min"
    return f"{whole // 3600}:{whole % 3600 // 60:02d} h"
