"""Rules that every probe must keep. Members are found by their files."""

import math
from functools import cache
from typing import Any

import pytest
import torch

from pruneyard.reports.glossary import METRICS, TITLES, term_of
from pruneyard.testing.cases import each_case
from pruneyard.testing.finished_runs import MODELS, random_networks, subjects_of
from pruneyard.testing.plug_in import build
from pruneyard.workloads.plugins import find, names
from pruneyard.workloads.probe.probe import Finding, Probe, Subject

FAMILY = "probe.methods"

pytestmark = pytest.mark.parametrize("name", names(FAMILY))


def subjects(probe: Probe, model: dict[str, Any]) -> list[Subject]:
    num = max(probe.fewest_runs, min(3, probe.most_runs or 3))
    return subjects_of(random_networks(model, num), reads_data=probe.reads_data)


@cache
def measured(name: str, model: int) -> Finding:
    probe: Probe = build(FAMILY, name)
    return probe.measure(subjects(probe, MODELS[model]), seed=0)


def test_says_how_many_runs_it_measures(name: str) -> None:
    probe: Probe = build(FAMILY, name)
    assert probe.fewest_runs >= 1
    assert probe.most_runs is None or probe.most_runs >= probe.fewest_runs


@each_case("model", range(len(MODELS)))
def test_finds_finite_numbers(name: str, model: int) -> None:
    found = measured(name, model)
    assert found.metrics
    assert all(split and metric for split, metric in found.metrics)
    assert all(isinstance(value, float) and math.isfinite(value) for value in found.metrics.values()), found.metrics
    for point in found.curves:
        assert math.isfinite(point.x), point
        assert math.isfinite(point.y), point
        assert point.count >= 1, point


def test_metrics_of_the_package_are_explained_on_the_page(name: str) -> None:
    if find(FAMILY, name).__module__ != f"pruneyard.workloads.{FAMILY}.{name}":
        pytest.skip("the page knows no metrics of other packages")
    assert {term_of(metric) for _, metric in measured(name, 0).metrics} <= METRICS.keys() & TITLES.keys()


@each_case("model", range(len(MODELS)))
def test_depends_on_the_runs_and_the_seed_alone(name: str, model: int) -> None:
    """Measures again with another state of torch's global generator, after other measurements."""
    probe: Probe = build(FAMILY, name)
    with torch.random.fork_rng():
        torch.manual_seed(12345)
        again = probe.measure(subjects(probe, MODELS[model]), seed=0)
    assert again == measured(name, model)


@each_case("model", range(len(MODELS)))
def test_changes_no_network(name: str, model: int) -> None:
    probe: Probe = build(FAMILY, name)
    given = subjects(probe, MODELS[model])
    before = [{key: tensor.clone() for key, tensor in each.finished.network.state_dict().items()} for each in given]
    probe.measure(given, seed=1)
    for each, state in zip(given, before, strict=True):
        network = each.finished.network
        assert not network.training
        assert not any(parameter.requires_grad for parameter in network.parameters())
        assert all(torch.equal(tensor, state[key]) for key, tensor in network.state_dict().items())
