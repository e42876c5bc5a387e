"""A chain whose second stage selects rows by the scores of the first."""

from pathlib import Path
from typing import Any

from pruneyard import run
from pruneyard.orchestrator.spec.load import load_spec

SMALL: dict[str, Any] = {
    "kind": "distill",
    "model": {"name": "mlp", "width": 8},
    "evaluation": {"networks": 1, "epochs": 1, "augment": ""},
    "seeds": 2,
}
CHAIN: dict[str, Any] = {
    "name": "chain",
    "data": {"name": "digits", "max_train": 200, "max_test": 60},
    "stages": {
        "score": {**SMALL, "method": {"name": "forgetting", "ipc": 1, "scoring": {"epochs": 2}}},
        "choose": {
            **SMALL,
            "method": {"name": "el2n", "scoring": {"from": "score"}},
            "grid": {"method.ipc": [1, 2]},
            "seeds": 1,
        },
    },
}


def test_scores_come_from_the_run_of_the_same_seed_and_nothing_is_scored_again(tmp_path: Path) -> None:
    spec = load_spec(CHAIN)
    scored, chosen = ([job for job in spec.jobs if job.stage == stage] for stage in ("score", "choose"))
    assert len(chosen) == 2 * len(scored)
    assert {job.parents for job in chosen} == {(job.key,) for job in scored}
    results = run(CHAIN, out=tmp_path / "out", local=True)
    runs = results.runs()
    assert set(runs["status"]) == {"COMPLETED"}
    steps = results.metrics().query("name == 'accuracy' and split == 'test'").groupby("run_key")["step"].max()
    assert {int(steps[job.key]) for job in scored} == {2}
    assert {int(steps[job.key]) for job in chosen} == {0}
    assert all((tmp_path / "out" / "artifacts" / job.key / "scores.safetensors").is_file() for job in scored)
