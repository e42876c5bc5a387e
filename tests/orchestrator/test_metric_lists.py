"""Every listed metric is explained on the page that shows it."""

import json

from click.testing import CliRunner

from pruneyard.orchestrator.cli import cli
from pruneyard.reports.glossary import METRICS, bounds, term_of
from pruneyard.workloads.calibrate.members import UNCERTAINTY_METRICS
from pruneyard.workloads.calibrate.set_metrics import SET_METRICS
from pruneyard.workloads.metrics.classification import (
    CALIBRATION_METRICS,
    MANY_CLASSES_METRICS,
    STANDARD_METRICS,
    TRUTH_METRICS,
)
from pruneyard.workloads.metrics.detection import CORRECT_RATE_METRICS, DETECTION_METRICS
from pruneyard.workloads.nodes.rare_metrics import RARE_METRICS
from pruneyard.workloads.plugins import describe
from pruneyard.workloads.probe.metric_names import PROBE_METRICS

LISTED = (
    STANDARD_METRICS
    | MANY_CLASSES_METRICS
    | CALIBRATION_METRICS
    | TRUTH_METRICS
    | UNCERTAINTY_METRICS
    | DETECTION_METRICS
    | CORRECT_RATE_METRICS
    | SET_METRICS
    | RARE_METRICS
)


def test_list_names_every_metric_of_calibration_and_detection_once() -> None:
    shown = json.loads(CliRunner().invoke(cli, ["list", "metrics", "--json"]).output)
    names = [entry["name"] for entry in shown]
    assert len(names) == len(set(names))
    assert set(names) >= LISTED.keys()


def test_the_page_explains_what_is_listed_and_knows_what_values_it_can_have() -> None:
    for name in PROBE_METRICS:
        assert term_of(name) in METRICS
    for name in LISTED:
        assert term_of(name) in METRICS
        low, _ = bounds(f"test/{name}")
        assert low in (0.0, -1.0), name


def test_metrics_of_one_group_of_nodes_are_explained_with_those_of_all() -> None:
    assert [term_of(f"{name}_true_minority") for name in ("ece_20", "gap")] == ["ece_20", "gap_true_minority"]


def test_scores_and_conformal_rules_are_listed_with_their_references() -> None:
    for topic, family in (("scores", "calibrate.scores"), ("conformal", "calibrate.conformal")):
        shown = json.loads(CliRunner().invoke(cli, ["list", topic, "--json"]).output)
        assert [entry["name"] for entry in shown] == [found.name for found in describe(family)]
        assert all(entry["summary"] and entry["reference"] for entry in shown)
