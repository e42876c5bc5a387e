"""Every metric that is listed is explained on the page that shows it."""

import json

from click.testing import CliRunner

from orchestrator.commands.list import command
from reports.glossary import METRICS, bounds
from workloads.calibrate.detection import DETECTION_METRICS
from workloads.calibrate.metrics import CALIBRATION_METRICS, STANDARD_METRICS


def test_list_names_every_metric_of_calibration_and_detection_once() -> None:
    shown = json.loads(CliRunner().invoke(command, ["metrics", "--json"]).output)
    names = [entry["name"] for entry in shown]
    assert len(names) == len(set(names))
    assert set(names) >= STANDARD_METRICS.keys() | CALIBRATION_METRICS.keys() | DETECTION_METRICS.keys()


def test_the_page_explains_what_is_listed_and_knows_what_values_it_can_have() -> None:
    for name in STANDARD_METRICS | CALIBRATION_METRICS | DETECTION_METRICS:
        assert name in METRICS
        low, _ = bounds(f"test/{name}")
        assert low in (0.0, -1.0), name
