"""Every packaged spec of evidence in a reduced form: it runs to its end, and its runs speak to the claims that name it."""

import json
from pathlib import Path
from typing import Any

import pytest

from pruneyard import run
from pruneyard.orchestrator.errors import ExitCode
from pruneyard.orchestrator.spec.load import load_spec
from pruneyard.orchestrator.spec.packaged import packaged_specs
from pruneyard.reports.cells import flat_spec
from pruneyard.reports.evidence.claim import Values
from pruneyard.reports.evidence.measured import findings
from pruneyard.reports.evidence.reading import packaged_evidence
from pruneyard.reports.study import Study
from pruneyard.testing.cases import each_case

DIGITS = {"name": "digits", "max_train": 200, "max_test": 60}
SMALL = {"tune.model.width": 8, "tune.budget.epochs": 4, "tune.budget.batch_size": 20, "tune.seeds": [100], "fresh.seeds": 2}
GRAPH = {"name": "block_model", "num_nodes": 150, "minority_fraction": 0.2}
REDUCED: dict[str, dict[str, Any]] = {
    "agent-evidence": {"data": DIGITS, **SMALL},
    "agent-pgd-evidence": {"data": DIGITS, **SMALL},
    "cigl-evidence": {"data": DIGITS, **SMALL, "tune.augment.pad": 1, "tune.budget.epochs": 10},  # two samples to average
    "moon-evidence": {"data": DIGITS, **SMALL, "tune.ood": [{"name": "noise", "shape": [1, 8, 8], "num_test": 50}]},
    "dst-ee-evidence": {"data": DIGITS, **SMALL, "tune.method.schedule.every": 5},
    "acc-dd-evidence": {
        "data": {**DIGITS, "max_train": 300},
        "tune.model.width": 4,
        "tune.evaluation.epochs": 2,
        "tune.evaluation.networks": 1,
        "tune.method.steps": 1,
        "tune.method.iterations": 2,
        "tune.method.pool": 1,
        "tune.method.measured": 2,
        "tune.method.real_batch": 8,
        "tune.search.max_trials": 1,
        "fresh.seeds": 2,
    },
    "masked-scaling-evidence": {
        "data": DIGITS,
        "distil.model.width": 4,
        "distil.evaluation.epochs": 2,
        "distil.method.iterations": 2,
        "distil.seeds": 2,
        "whole.model.width": 4,
        "whole.budget.epochs": 1,
        "whole.seeds": 2,
    },
    "calirare-evidence": {
        "data": GRAPH,
        "tune.minority": "rare",
        "tune.split": {"name": "drawn", "per_class": 5, "num_val": 30, "num_calib": 30, "num_test": 40},
        "tune.budget.steps": 20,
        "tune.jackknife.retrained": 1,
        "tune.jackknife.retrain_steps": 5,
        "fresh.seeds": 2,
    },
}


def test_every_spec_of_evidence_is_reduced_here() -> None:
    assert set(REDUCED) == {name for name in packaged_specs() if name.endswith("-evidence")}


def arms(name: str) -> dict[str, list[tuple[bool, bool]]]:
    """Returns, for the comparisons of each claim, whether a spec's first jobs have the base method and the method.

    Comparisons of calibrate jobs are left out: they are of finished runs.
    """
    specs = [flat_spec(json.dumps(job.resolved)) for job in load_spec(name).jobs]

    def has(values: Values) -> bool:
        return any(all(spec.get(key) == value for key, value in values.items()) for spec in specs)

    return {
        claim.claim: [(has({**each.where, **each.base}), has({**each.where, **each.method})) for each in claim.comparisons]
        for claim in packaged_evidence().claims
        if claim.spec == name.removesuffix("-full") and not any(key.startswith("input") for key in claim.match)
    }


@each_case("name", sorted(REDUCED))
def test_a_spec_and_its_form_of_the_papers_size_have_the_arms_of_every_claim(name: str) -> None:
    for form in (name, f"{name}-full"):
        for claim, both in arms(form).items():
            assert all(pair == (True, True) for pair in both), (form, claim)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(REDUCED))
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_reduced_form_runs_and_speaks_to_its_claims(name: str, tmp_path: Path) -> None:
    results = run(load_spec(name, overrides=REDUCED[name]), tmp_path / "out", local=True)
    assert results.exit_code == ExitCode.FINISHED
    claims = packaged_evidence()
    found = findings(Study.read([tmp_path / "out"]), claims)
    for claim in claims.claims:
        compared = {each.compared.label for each in found if each.claim is claim}
        assert compared == ({each.label for each in claim.comparisons} if claim.spec == name else set()), claim.claim
    for each in found:  # a quantity that only one arm has is not recorded in the others
        assert max(condition.num for condition in each.mechanism) == 2, (each.claim.claim, each.compared.label)
