"""Specs with stages: references, run keys, refused specs, and whole runs of a chain."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from pruneyard import run
from pruneyard.orchestrator.errors import ExitCode, SpecError, UsageError
from pruneyard.orchestrator.planning.plan import make_plan
from pruneyard.orchestrator.results import Results
from pruneyard.orchestrator.spec.load import Spec, load_spec
from pruneyard.orchestrator.spec.yaml_document import parse_document, parse_value
from pruneyard.reports.layout import RunFolder
from pruneyard.testing.cases import each_case
from pruneyard.workloads.data.sources.synthetic import Synthetic
from pruneyard.workloads.user_code.error_line import error_line

DIGITS = {"name": "digits", "max_train": 200, "max_test": 60}
DISTIL: dict[str, Any] = {
    "kind": "distill",
    "method": {"name": "random"},
    "model": {"name": "mlp", "width": 8},
    "evaluation": {"networks": 1, "epochs": 1, "augment": ""},
    "seeds": 2,
    "grid": {"method.ipc": [1, 2]},
}
TRAIN: dict[str, Any] = {
    "kind": "sparse",
    "data": {"from": "distil"},
    "model": {"name": "mlp", "width": 8},
    "method": {"name": "static", "density": 0.5},
    "budget": {"steps": 2, "batch_size": 5},
}
CHAIN: dict[str, Any] = {"name": "chain", "data": DIGITS, "stages": {"distil": DISTIL, "train": TRAIN}}


def chain(train: dict[str, Any] | None = None, distil: dict[str, Any] | None = None, **fields: Any) -> dict[str, Any]:
    stages = {"distil": DISTIL | (distil or {}), "train": TRAIN | (train or {})}
    return {**CHAIN, **fields, "stages": stages}


def of_stage(spec: Spec, name: str) -> list[Any]:
    return [job for job in spec.jobs if job.stage == name]


def complaints(tables: dict[str, Any], **options: Any) -> str:
    with pytest.raises(UsageError) as raised:
        load_spec(tables, **options)
    return str(raised.value)


def test_every_run_of_a_stage_is_followed_by_one_job_with_its_seed() -> None:
    spec = load_spec(CHAIN)
    distilled, trained = of_stage(spec, "distil"), of_stage(spec, "train")
    assert [job.parents for job in trained] == [(job.key,) for job in distilled]
    assert [job.workload.seed for job in trained] == [job.workload.seed for job in distilled] == [0, 1, 0, 1]
    assert all(isinstance(job.workload.data, Synthetic) for job in trained)
    assert trained[0].resolved["data"]["base"] == distilled[0].resolved["data"]
    assert len({job.label for job in spec.jobs}) == len(spec.jobs)
    assert all(job.label.startswith("train: ") for job in trained)


def test_seeds_of_its_own_are_nested_in_those_of_the_runs() -> None:
    spec = load_spec(chain(train={"seeds": 3}))
    trained = of_stage(spec, "train")
    assert len(trained) == 4 * 3
    assert sorted({(job.parents, job.workload.seed) for job in trained}) == sorted(
        ((job.key,), seed) for job in of_stage(spec, "distil") for seed in range(3)
    )
    assert len({job.label for job in trained}) == 12


def test_a_grid_is_crossed_with_the_runs() -> None:
    spec = load_spec(chain(train={"grid": {"method.density": [0.5, 0.2, 0.1]}}))
    assert len(of_stage(spec, "train")) == 4 * 3


def test_the_consumed_run_and_its_parents_are_identity() -> None:
    def keys(**changes: Any) -> set[str]:
        return {job.key for job in of_stage(load_spec(chain(**changes)), "train")}

    assert keys() == keys(distil={"evaluate_every": 7})  # changes no number of the set
    assert keys().isdisjoint(keys(distil={"method": {"name": "herding"}}))
    assert keys() < keys(distil={"seeds": 3})


def test_repetitions_on_repeated_runs_share_a_described_lineage() -> None:
    """Cells of a report are made of this: seeds of earlier runs must not tell them apart, their settings must."""
    trained = of_stage(load_spec(CHAIN), "train")
    told = [json.dumps({k: v for k, v in job.identity.items() if k != "seed"}, sort_keys=True) for job in trained]
    assert told[0] == told[1] != told[2] == told[3]
    assert trained[0].identity["data"]["runs"]["method"]["ipc"] == 1


def test_columns_that_a_job_lacks_are_those_of_the_run_that_it_consumes() -> None:
    job = of_stage(load_spec(CHAIN), "train")[2]
    assert (job.described["ipc"], job.described["density"], job.described["method"]) == (2, 0.5, "static")


@pytest.mark.parametrize(("over", "together"), [("seed", 2), ("all", 4)])
def test_groups_of_runs_are_taken_together(over: str, together: int) -> None:
    """`synthetic` takes one run, so the complaints show what was put together."""
    said = complaints(chain(train={"data": {"from": "distil", "over": over}}))
    groups = re.findall(r"runs: is \[(.*?)\]; it must name 1", said)
    assert [group.count("'") // 2 for group in groups] == [together] * (4 // together)


def test_where_keeps_the_runs_that_have_these_values() -> None:
    spec = load_spec(chain(train={"data": {"from": "distil", "where": {"method.ipc": 2, "seed": 1}}}))
    (job,) = of_stage(spec, "train")
    (parent,) = job.parents
    assert [j.described["ipc"] for j in spec.jobs if j.key == parent] == [2]
    said = complaints(chain(train={"data": {"from": "distil", "where": {"method.ipc": 3}}}))
    assert "stages.train.data.where.method.ipc: " in said
    assert "is 3; none of the 4 runs has this value; they have 1, 2" in said


@each_case(
    ("tables", "message"),
    [
        (chain(train={"data": {"from": "distill"}}), "did you mean distil?"),
        (chain(train={"data": {"from": 3}}), "name of a stage or a folder"),
        (chain(train={"data": {"from": "distil", "over": "seeds"}}), "seed, all"),
        (chain(train={"data": {"name": "synthetic", "runs": ["0" * 16], "base": DIGITS}}), "is not the key of a run of an earl"),
        (chain(train={"data": {"name": "synthetic", "base": DIGITS}}), "path: is missing; give path or from"),
        (chain(train={"method": {"name": "statik"}}), "stages.train.method.name"),
        (chain(colour="red"), "colour: is no key beside stages"),
        ({"name": "chain", "stages": {}}, "it must be a table of stages"),
        ({"name": "chain", "stages": {"a.b": DISTIL}}, "is no name of a stage"),
        ({"stages": {"distil": DISTIL}}, "name: is missing"),
        ({"name": "chain", "stages": {"train": TRAIN, "distil": DISTIL}, "data": DIGITS}, "there is no earlier stage; give a"),
    ],
)
def test_what_cannot_be_is_refused_with_key_and_rule(tables: dict[str, Any], message: str) -> None:
    assert message in complaints(tables)


def test_a_complaint_names_the_line(tmp_path: Path) -> None:
    text = "name: chain\ndata: digits\nstages:\n  one:\n    kind: sparse\n    model: mlp\n    method: {name: sett}\n"
    path = tmp_path / "chain.yaml"
    path.write_text(text)
    with pytest.raises(SpecError, match=r"chain.yaml:7: stages.one.method.name"):
        load_spec(path)
    assert parse_document(text, origin="x").lines["stages.one.method.name"] == 7


def test_the_command_line_names_the_stage() -> None:
    spec = load_spec(CHAIN, overrides={"train.method.density": 0.25, "distil.seeds": 1}, axes={"distil.method.ipc": [3]})
    assert [job.described["ipc"] for job in of_stage(spec, "distil")] == [3]
    assert [job.workload.method.density for job in of_stage(spec, "train")] == [0.25]
    wider = load_spec(CHAIN, overrides={"data": {**DIGITS, "max_train": 150}})
    assert wider.jobs[0].resolved["data"]["max_train"] == 150


def test_a_key_without_a_stage_applies_where_a_job_has_it() -> None:
    """A key of one stage comes first; `seeds` is given to stages that give seeds, so others keep those of their inputs."""
    spec = load_spec(
        CHAIN,
        overrides={"method.density": 0.25, "seeds": [7], "data.max_train": 150, "train.method.density": 0.75},
        axes={"method.ipc": [3], "model.width": [4, 5]},
    )
    distilled, trained = of_stage(spec, "distil"), of_stage(spec, "train")
    assert [(job.described["ipc"], job.workload.seed) for job in distilled] == [(3, 7), (3, 7)]
    assert [(job.workload.method.density, job.workload.seed) for job in trained] == [(0.75, 7)] * 4
    assert {job.resolved["data"]["max_train"] for job in distilled} == {150}
    assert sorted(job.resolved["model"]["width"] for job in trained) == [4, 4, 5, 5]
    assert [job.key for job in load_spec(parse_value(spec.to_yaml())).jobs] == [job.key for job in spec.jobs]
    for key in ("method.densty", "colour", "grid.method.density"):
        assert f"{key}: names no stage and applies to no job of any; with stages it may start with one of distil, train" in (
            complaints(CHAIN, overrides={key: 0.25})
        )


@each_case("axis", ["data", "data.name"])
def test_an_axis_over_data_is_added_to_stages_whose_data_come_from_no_other_stage(axis: str) -> None:
    spec = load_spec(CHAIN, axes={axis: ["digits", "mnist"]})
    assert sorted(job.described["data"] for job in of_stage(spec, "distil")) == 4 * ["digits"] + 4 * ["mnist"]
    assert {job.described["data"] for job in of_stage(spec, "train")} == {"synthetic"}


@each_case("changes", [{"axes": {"input": ["digits"]}}, {"overrides": {"input": {"from": "elsewhere"}}}])
def test_a_change_for_all_stages_replaces_no_reference_to_a_stage(changes: dict[str, Any]) -> None:
    trust = {"kind": "calibrate", "input": {"from": "train"}, "method": "temperature"}
    said = complaints({**CHAIN, "stages": {**CHAIN["stages"], "trust": trust}}, **changes)
    assert "input: every stage that has it takes it from another stage; give STAGE.input to replace that" in said


def test_a_change_of_a_key_beside_the_stages_reaches_stages_with_tables_of_their_own() -> None:
    """Data that come from another stage are replaced by a key with the name of the stage alone."""
    own = {**TRAIN, "data": {**DIGITS, "max_train": 100}, "seeds": 3, "grid": {"data.max_test": [20, 30]}}
    tables = {**CHAIN, "seeds": 2, "stages": {**CHAIN["stages"], "own": own}}
    spec = load_spec(tables, overrides={"data": "mnist", "seeds": [5], "name": "other"})
    assert {(job.stage, job.described["data"], job.workload.seed) for job in spec.jobs} == {
        ("distil", "mnist", 5),
        ("train", "synthetic", 5),
        ("own", "mnist", 5),
    }
    assert (spec.name, len(of_stage(spec, "own"))) == ("other", 2)
    again = load_spec(spec, overrides={"train.data": "digits", "distil.method.ipc": 1})
    assert [job.described["data"] for job in again.jobs] == ["mnist", "digits", "mnist", "mnist"]
    for spec_as_run in (spec, again):
        assert [job.key for job in load_spec(parse_value(spec_as_run.to_yaml())).jobs] == [job.key for job in spec_as_run.jobs]


def test_a_change_of_one_stage_comes_before_one_for_all() -> None:
    of_one = {"train.model.width": [5, 6], "distil.data": ["digits"]}
    spec = load_spec(CHAIN, overrides={"model.width": 4, "data": "mnist"}, axes=of_one)
    assert [job.resolved["model"]["width"] for job in of_stage(spec, "train")] == 4 * [5] + 4 * [6]
    assert {job.described["data"] for job in of_stage(spec, "distil")} == {"digits"}


@each_case("axis", ["stages", "name", "resources.cpus"])
def test_an_axis_over_what_no_job_has_is_refused(axis: str) -> None:
    said = complaints({**CHAIN, "resources": {"cpus": 1}}, axes={axis: [1, 2]})
    assert f"{axis}: names no stage and applies to no job of any" in said
    assert "did you mean" not in said


@each_case("changes", [{"axes": {"train": [1, 2]}}, {"overrides": {"train": {"seeds": 2}}}])
def test_the_name_of_a_stage_alone_is_no_key(changes: dict[str, Any]) -> None:
    assert "train: is a stage; give train.KEY, such as train.seeds" in complaints(CHAIN, **changes)


def test_a_renamed_key_without_a_stage_applies_too() -> None:
    spec = load_spec(CHAIN, overrides={"unknowns": ["noise"]})
    assert [len(job.workload.ood) for job in of_stage(spec, "train")] == [1, 1, 1, 1]


@each_case(
    "tables",
    [
        CHAIN,
        chain(train={"seeds": [3, 5]}),
        chain(train={"grid": {"method": [{"name": "set"}, {"name": "rigl"}], "method.density": [0.5, 0.2]}}),
        chain(train={"data": {"from": "distil", "where": {"method.ipc": 2}}}),
    ],
)
def test_the_spec_as_run_makes_the_same_jobs(tables: dict[str, Any]) -> None:
    spec = load_spec(tables)
    again = load_spec(parse_value(spec.to_yaml()))
    assert [job.key for job in again.jobs] == [job.key for job in spec.jobs]
    assert [job.parents for job in again.jobs] == [job.parents for job in spec.jobs]
    assert [job.label for job in again.jobs] == [job.label for job in spec.jobs]


def test_a_chain_runs_and_records_the_runs_that_it_consumes(tmp_path: Path) -> None:
    results = run(CHAIN, tmp_path, local=True)
    assert results.exit_code == ExitCode.FINISHED
    runs = results.runs().set_index("run_key")
    trained = runs[runs["stage"] == "train"]
    assert len(trained) == 4
    for key, row in trained.iterrows():
        parent = runs.loc[row["parent_key"]]
        assert (parent["stage"], parent["ipc"], parent["seed"]) == ("distil", row["ipc"], row["seed"])
        manifest = json.loads((tmp_path / "artifacts" / str(key) / "manifest.json").read_text())
        assert manifest["parents"] == [row["parent_key"]]
    assert len(results.summary()) == 4
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "artifacts").rglob("manifest.json")}
    run(CHAIN, tmp_path, local=True)
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "artifacts").rglob("manifest.json")} == before


def test_another_study_consumes_the_runs_of_a_finished_folder(tmp_path: Path) -> None:
    run({**DISTIL, "name": "sets", "data": DIGITS}, tmp_path / "sets", local=True)
    spec = {**TRAIN, "name": "on-sets", "data": {"from": str(tmp_path / "sets")}}
    alone, together = load_spec(spec), load_spec(CHAIN)
    assert [job.key for job in alone.jobs] == [job.key for job in of_stage(together, "train")]
    results = run(spec, tmp_path / "nets", local=True)
    assert results.exit_code == ExitCode.FINISHED
    again = load_spec(tmp_path / "nets" / "spec.yaml")
    assert [job.key for job in again.jobs] == [job.key for job in alone.jobs]


def test_jobs_that_consume_a_failed_run_fail_with_the_reason(tmp_path: Path) -> None:
    """With the second rate the evaluating network's numbers overflow, so that job fails."""
    tables = chain(distil={"seeds": 1, "grid": {"evaluation.lr": [0.01, 1e30]}, "method": {"name": "random", "ipc": 2}})
    results = run(tables, tmp_path, local=True)
    assert results.exit_code == ExitCode.FAILED
    runs = results.runs()
    assert sorted(zip(runs["stage"], runs["status"], strict=True)) == [
        ("distil", "COMPLETED"),
        ("distil", "FAILED"),
        ("train", "COMPLETED"),
        ("train", "FAILED"),
    ]
    failed = runs[runs["status"] == "FAILED"].set_index("stage")
    cause = error_line(failed.loc["distil", "error"])
    assert failed.loc["train", "error"] == f"its input {failed.loc['distil', 'run_key']} of stage distil failed: {cause}"


def test_no_trial_waits_at_a_rung_for_jobs_that_consume_a_failed_run(tmp_path: Path) -> None:
    """Six of the twelve configurations can start: all of them are compared, and those that continue are trained to the end."""
    distil = {"seeds": 1, "grid": {"evaluation.lr": [0.01, 1e30]}, "method": {"name": "random", "ipc": 2}}
    train = {
        "grid": {"optimizer.lr": [0.1, 0.05, 0.02, 1e-5, 1e-6, 1e-7]},
        "budget": {"epochs": 4, "batch_size": 10},
        "scheduler": {"name": "hyperband", "metric": "val/accuracy", "grace": 0.5, "reduction_factor": 2.0},
    }
    results = run(chain(train=train, distil=distil), tmp_path, local=True)
    runs = results.runs()
    ended = runs[runs["stage"] == "train"].sort_values("started_at").drop_duplicates("run_key", keep="last")
    assert ended["status"].value_counts()["FAILED"] == 6  # their input has failed
    others = set(ended["status"]) - {"FAILED"}
    assert others == {"COMPLETED", "PRUNED"}
    assert len(ended) == 12
    assert results.exit_code == ExitCode.FAILED


def test_an_interrupted_chain_says_what_never_ran(tmp_path: Path) -> None:
    run({**DISTIL, "name": "chain", "data": DIGITS}, tmp_path, local=True)
    spec = load_spec(CHAIN)
    assert Results(tmp_path, spec=spec).exit_code == ExitCode.PARTIAL
    assert make_plan(spec, RunFolder(tmp_path)).counts()["missing"] == 4
