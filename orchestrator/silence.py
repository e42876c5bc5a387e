"""Says which running trials have told nothing for much longer than any did before: they may hang, and nobody ends them."""

import logging

from orchestrator.monitor import Monitor
from orchestrator.trial import Report

logger = logging.getLogger(__name__)

QUIET_S = 600.0  # below that nobody is surprised
TIMES = 5.0  # as long as the longest silence that a report ended
MOST_NAMED = 3


class Silence:
    """Looks at what a monitor has heard. Each silence is said once; an epoch of hours is one, so it ends nothing."""

    def __init__(self, monitor: Monitor) -> None:
        self._monitor = monitor
        self._heard: dict[str, tuple[Report, float]] = {}
        self._said: set[str] = set()
        self._longest = 0.0

    def look(self, now: float) -> None:
        """At the time `now` in seconds, which never falls."""
        running = dict(self._monitor.running)
        self._heard = {key: heard for key, heard in self._heard.items() if key in running}
        for key, report in running.items():
            before, since = self._heard.get(key, (report, now))
            if before is not report:
                self._longest = max(self._longest, now - since)
                self._said.discard(key)
            self._heard[key] = (report, since if before is report else now)
        quiet = [key for key in running if key not in self._said and self._is_quiet(key, now)]
        if quiet:
            self._said.update(quiet)
            logger.warning("%s", self._words(quiet, now))

    def _is_quiet(self, key: str, now: float) -> bool:
        return now - self._heard[key][1] > max(QUIET_S, TIMES * self._longest)

    def _words(self, quiet: list[str], now: float) -> str:
        named = [self._named(key, now) for key in quiet[:MOST_NAMED]]
        more = [f"and {len(quiet) - MOST_NAMED} more"] if len(quiet) > MOST_NAMED else []
        before = f"the longest silence before was {self._longest:.0f} s" if self._longest else "none has reported yet"
        advice = "if they hang, end their processes on these nodes: they go on from their checkpoints"
        return "\n".join([f"running trials are silent, {before}; {advice}", *(f"  {line}" for line in [*named, *more])])

    def _named(self, key: str, now: float) -> str:
        place = self._monitor.places.get(key)
        where = f" on node {', '.join(place.nodes)}" if place and place.nodes else ""
        return f"{key} ({self._monitor.labels.get(key, '')}){where}: nothing for {now - self._heard[key][1]:.0f} s"
