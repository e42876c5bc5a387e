"""A trial that holds its resources and starts slowly is neither reported as stalled nor given up for want of resources."""

import logging

import pytest
import ray
from ray.util import placement_group, remove_placement_group

from pruneyard.cluster.session import session
from pruneyard.orchestrator.progress.monitor import Monitor
from pruneyard.orchestrator.ray_backend import watchdog
from pruneyard.orchestrator.ray_backend.watchdog import ClusterLost
from pruneyard.orchestrator.spec.job import Resources

pytestmark = [pytest.mark.ray, pytest.mark.slow]


def test_only_trials_without_resources_are_said_to_wait(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(watchdog, "WARN_AFTER_S", 0.0)
    with session(num_cpus=2) as joined:
        monitor = Monitor(total=3, num_already_done=0)
        detector = watchdog.StallDetector(joined.head, Resources, monitor)
        impatient = watchdog.StallDetector(joined.head, lambda: Resources(place_within_s=1e-6), monitor)
        group = placement_group([{"CPU": 2.0}])
        ray.get(group.ready(), timeout=60)
        with caplog.at_level(logging.WARNING):
            detector.check(running=0, waiting=3)
            detector.check(running=0, waiting=3)
            impatient.check(running=0, waiting=3)
            impatient.check(running=0, waiting=3)
            assert not caplog.records
            remove_placement_group(group)
            with pytest.raises(ClusterLost, match=r"^nothing runs, and no trial has started for 0 s: 3 jobs wait"):
                impatient.check(running=0, waiting=3)
            detector.check(running=0, waiting=3)
            detector.check(running=0, waiting=3)
        (record,) = caplog.records
        assert "nothing runs, and no trial has started for" in record.getMessage()
