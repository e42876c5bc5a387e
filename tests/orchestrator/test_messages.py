"""The exact words of messages about specs: each names the key, the value, what is allowed and the nearest known name."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import pytest

from pruneyard.cluster.profile import Profile
from pruneyard.orchestrator.errors import SpecError
from pruneyard.orchestrator.planning.job_problems import key_of_message
from pruneyard.orchestrator.planning.preflight import check_jobs, load_data
from pruneyard.orchestrator.spec.best_runs import Best
from pruneyard.orchestrator.spec.codec import describe_hint, hints_of, plugin_of, plugins_of
from pruneyard.orchestrator.spec.load import load_spec
from pruneyard.orchestrator.spec.plain_types import words_of
from pruneyard.orchestrator.spec.search import Choices, Range, Search
from pruneyard.orchestrator.spec.stage import Header
from pruneyard.testing.cases import each_case
from pruneyard.workloads.plugins import find, find_job, kinds, names

PLAIN: dict[str, Any] = {
    "name": "words",
    "kind": "sparse",
    "data": {"name": "digits", "max_train": 200, "max_test": 50},
    "model": {"name": "mlp", "width": 8},
    "method": {"name": "rigl", "density": 0.1},
    "budget": {"epochs": 1},
}
CALIBRATE: dict[str, Any] = {"kind": "calibrate", "method": "temperature"}
SEARCH: dict[str, Any] = {"name": "tpe", "max_trials": 4, "space": {"optimizer.lr": {"low": 0.01, "high": 1.0}}}
INPUT_KEYS = "from, over, where, best, calib_fraction, columns, digest, model, num_extra, path, split_seed, splits"
REFERENCE = "{from: STAGE or FOLDER}"


def said(tables: dict[str, Any], overrides: dict[str, Any] | None = None) -> list[str]:
    """Returns the lines of the error that a spec is refused with, without the name of the document."""
    with pytest.raises(SpecError) as caught:
        load_spec(tables, overrides=overrides)
    return [line.removeprefix("spec: ") for line in str(caught.value).split("\n")]


def chain(**second: Any) -> dict[str, Any]:
    """Returns a spec of three trainings and a stage with these tables."""
    train = {key: table for key, table in PLAIN.items() if key != "name"} | {"grid": {"method.name": ["rigl", "set"]}}
    return {"name": "chain", "stages": {"train": train, "second": {**CALIBRATE, **second}}}


@each_case(
    ("tables", "lines"),
    [
        (
            {"name": "c", **CALIBRATE, "input": {"frm": "train"}},
            [
                "input.frm: is unknown; known are " + INPUT_KEYS + "; did you mean from?",
                "input.path: is missing; give from, a stage or folder of finished runs, or path, a file of outputs",
            ],
        ),
        ({"name": "c", **CALIBRATE}, ["input: is missing; give " + REFERENCE + " or {path: FILE}"]),
        (
            {"name": "c", **CALIBRATE, "input": {"over": "seed", "best": "val/nll"}},
            [
                "input.best: needs from, a stage or folder of finished runs",
                "input.over: needs from, a stage or folder of finished runs",
            ],
        ),
        (
            {"name": "c", **CALIBRATE, "input": 3},
            [
                "input: is 3; it must be a table with some of from, over, where, best, path, digest, model, columns, splits, "
                "calib_fraction, split_seed, num_extra"
            ],
        ),
        ({"name": "m", "kind": "merge", "data": "digits", "method": "uniform"}, ["input: is missing; give " + REFERENCE]),
        (
            {"name": "m", "kind": "merge", "data": "digits", "method": "uniform", "input": {"frm": "train"}},
            [
                "input.frm: is unknown; known are from, over, where, best; did you mean from?",
                "input.from: is missing; give " + REFERENCE,
            ],
        ),
        (
            {"name": "m", "kind": "merge", "data": "digits", "method": "uniform", "input": {"over": "all"}},
            ["input.over: needs from, a stage or folder of finished runs"],
        ),
        (PLAIN | {"initial": {"where": {"seed": 0}}}, ["initial.where: needs from, a stage or folder of finished runs"]),
        (
            PLAIN | {"data": {"frm": "distil"}},
            [f"data.name: is missing; it must be one of {', '.join(names('data.sources'))}, or give " + REFERENCE],
        ),
    ],
)
def test_a_table_that_may_name_runs_lists_the_keys_that_a_spec_writes(tables: dict[str, Any], lines: list[str]) -> None:
    assert said(tables) == lines


def test_an_axis_over_a_misspelt_key_of_a_reference_is_answered_with_it() -> None:
    found = said(chain(input={"from": "train"}, grid={"input.ovr": ["seed"]}))
    assert found == [
        "stages.second.grid.input.ovr: applies to no job: none of the tables chosen has that key; did you mean input.over?"
    ]


@each_case(
    ("tables", "line"),
    [
        (
            {"scheduler": {"name": "ahsa", "metric": "val/accuracy"}},
            'scheduler.name: is "ahsa"; it must be one of fifo, asha, median, hyperband; did you mean asha?',
        ),
        (
            {"search": {**SEARCH, "name": "soboll", "batch": 3}},
            'search.name: is "soboll"; it must be one of random, sobol, tpe, nsga2, lissnas, fgps, pbt, pb2; did you mean sobol?',
        ),
        (
            {"search": {**SEARCH, "metric": "val/accuracy", "mode": "maxx"}},
            'search.mode: is "maxx"; it must be one of max, min; did you mean max?',
        ),
        (
            {"search": {**SEARCH, "objectives": {"val/accuracy": "mx"}}},
            'search.objectives: is {"val/accuracy": "mx"}; it must be a table, each value one of max, min; did you mean max?',
        ),
        ({"execution": "sparce"}, 'execution: is "sparce"; it must be one of masked, sparse, auto; did you mean sparse?'),
        (
            {"objective": {"name": "cross_entropy", "class_weight": "balancd"}},
            'objective.class_weight: is "balancd"; it must be one of none, balanced, or a list of numbers; '
            "did you mean balanced?",
        ),
        (
            {"data": {"name": "corrupted", "corruption": "rotatoin", "severity": 1, "base": "digits"}},
            "data.corruption: is 'rotatoin'; it must be one of gaussian_noise, shot_noise, impulse_noise, defocus_blur, "
            "glass_blur, motion_blur, zoom_blur, snow, frost, fog, brightness, contrast, elastic_transform, pixelate, "
            "jpeg_compression, gaussian_blur, rotation; did you mean rotation?",
        ),
        ({"seeds": ["a"]}, 'seeds: is ["a"]; it must be a whole number or a list of whole numbers'),
    ],
)
def test_an_unknown_name_of_a_closed_set_is_the_only_problem_of_its_table(tables: dict[str, Any], line: str) -> None:
    assert said(PLAIN | tables) == [line]


@each_case(
    ("metric", "rest"),
    [
        ("val/acuracy", "; did you mean val/accuracy? A metric of your own needs mode: max or min"),
        ("val/quux", "; a metric of your own needs mode: max or min"),
    ],
)
def test_a_metric_of_unknown_direction_is_answered_with_the_nearest_one(metric: str, rest: str) -> None:
    line = f"mode: is missing; metric {metric} is not known{rest}"
    assert said(PLAIN | {"scheduler": {"name": "asha", "metric": metric}}) == [f"scheduler.{line}"]
    assert said(PLAIN | {"search": {**SEARCH, "metric": metric}}) == [f"search.{line}"]
    assert said(chain(input={"from": "train", "best": metric})) == [f"stages.second.input.best.{line}"]


def test_a_metric_without_its_split_is_answered_with_the_whole_name() -> None:
    rule = "it must be split/name with a split of train, val, calib, such as val/accuracy; did you mean val/accuracy?"
    assert said(PLAIN | {"scheduler": {"name": "asha", "metric": "accuracy"}}) == [f'scheduler.metric: is "accuracy"; {rule}']


@each_case(
    ("table", "line"),
    [
        ({"over": "seeds"}, 'over: is "seeds"; it must be one of seed, all, siblings, or be left out; did you mean seed?'),
        (
            {"where": {"method.nam": "rigl"}},
            'where.method.nam: is "rigl"; none of the 2 runs has this key; did you mean method.name?',
        ),
        (
            {"where": {"method.name": "rgl"}},
            'where.method.name: is "rgl"; none of the 2 runs has this value; they have rigl, set; did you mean rigl?',
        ),
        (
            {"where": {"method.name": "rigl", "seed": 0, "method.density": 0.2}},
            "where.method.density: is 0.2; none of the 2 runs has this value; they have 0.1",
        ),
        (
            {"best": {"metric": "val/accuracy", "per": "method.nam"}},
            'best.per: is "method.nam"; none of the 2 runs has a value at method.nam; did you mean method.name?',
        ),
        (
            {"from": "trian"},
            'from: is "trian"; there is no such folder, and no earlier stage of that name (stages: train); did you mean train?',
        ),
        (
            {"from": "second"},
            'from: is "second", which is this stage itself; give an earlier stage (train) or a folder of results',
        ),
    ],
)
def test_a_reference_that_names_no_run_says_which_part_does_not(table: dict[str, Any], line: str) -> None:
    assert said(chain(input={"from": "train", **table})) == [f"stages.second.input.{line}"]


def test_values_that_no_run_has_together_are_shown_together() -> None:
    train = {"method.name": ["rigl", "set"], "model.width": [8, 16]}
    tables = chain(input={"from": "train", "where": {"method.name": "rigl", "model.width": 16}})
    tables["stages"]["train"]["grid"] = {}
    tables["stages"]["train"]["variants"] = [
        {"method": {"name": method, "density": 0.1}, "model": {"name": "mlp", "width": width}}
        for method, width in zip(*train.values(), strict=True)
    ]
    assert said(tables) == [
        'stages.second.input.where: is {"method.name": "rigl", "model.width": 16}; none of the 2 runs has these values together'
    ]


def test_a_missing_folder_is_called_missing() -> None:
    rule = 'is "out/nofolder"; there is no such folder, and this spec has no earlier stage'
    assert said(PLAIN | {"initial": {"from": "out/nofolder"}}) == [f"initial.from: {rule}"]


LAYERS = "hidden1.weight, hidden2.weight, classifier.weight"
SPEC = """name: words
kind: sparse
data: {name: digits, max_train: 200, max_test: 50}
model: {name: mlp, width: 8}
method:
  name: rigl
  density: 0.1
  keep_dense: [classifer]
budget: {epochs: 1}
"""


@each_case(
    ("spec", "overrides", "message"),
    [
        (
            SPEC,
            {"seeds": 2},
            f"8: method.keep_dense: has 'classifer'; it must match one of {LAYERS}; did you mean classifier? "
            "(in mlp rigl density=0.1)",
        ),
        (
            SPEC.replace("  keep_dense: [classifer]\n", "") + "grid:\n  method.density: [0.1, 0.2]\n"
            "  method.keep_dense: [[classifer]]\n",
            {},
            f"11: grid.method.keep_dense: has 'classifer'; it must match one of {LAYERS}; did you mean classifier? "
            "(in mlp rigl density=0.1, and 1 other job)",
        ),
        (
            SPEC,
            {"method.keep_dense": ["frist"]},
            f" method.keep_dense: has 'frist'; it must match one of {LAYERS}; did you mean first? "
            "(in mlp rigl density=0.1) (from an override)",
        ),
    ],
)
def test_what_only_the_data_shows_is_reported_with_file_line_and_key(
    tmp_path: Path, spec: str, overrides: dict[str, Any], message: str
) -> None:
    file = tmp_path / "words.yaml"
    file.write_text(spec)
    loaded = load_spec(file, overrides=overrides)
    with pytest.raises(SpecError) as caught:
        check_jobs(loaded.jobs, load_data(loaded.jobs, loaded), spec=loaded)
    assert str(caught.value) == f"{file}:{message}"


def test_a_field_that_several_tables_have_is_not_guessed() -> None:
    (job,) = load_spec(PLAIN).jobs
    assert key_of_message(job.workload, "keep_dense has 'x'; no") == ("method.keep_dense", "has 'x'; no")
    assert key_of_message(job.workload, "initial.reset[0] is 'x'; no") == ("initial.reset[0]", "is 'x'; no")
    assert key_of_message(job.workload, "initial: a.bin lacks x") == ("initial", "a.bin lacks x")
    assert key_of_message(job.workload, "folder is 'x'; no") == ("", "folder is 'x'; no")
    assert key_of_message(job.workload, "masks move at step 2") == ("", "masks move at step 2")


def every_field() -> dict[str, Any]:
    """Returns the type of each field of the specs' and profiles' tables, of all jobs and of all plug-ins."""
    found: dict[str, Any] = {}
    waiting: list[type[Any]] = [Header, Search, Range, Choices, Best, Profile, *map(find_job, kinds())]
    seen: set[type[Any]] = set()
    while waiting:
        cls = waiting.pop()
        if cls in seen:
            continue
        seen.add(cls)
        for name, hint in hints_of(cls).items():
            found[f"{cls.__name__}.{name}"] = hint
            if (marker := plugin_of(hint) or plugins_of(hint)) is not None:
                waiting += [find(marker.family, each) for each in names(marker.family)]
            elif dataclasses.is_dataclass(hint) and isinstance(hint, type):
                waiting.append(hint)
    return found


def test_no_field_is_described_by_a_type_of_python() -> None:
    found = {place: describe_hint(hint) for place, hint in every_field().items()}
    assert len(found) > 500
    # The names of choices contain no bracket either.
    wrong = {place: words for place, words in found.items() if any(part in words for part in ("[", "typing", "<", "right type"))}
    assert not wrong


@each_case(
    ("hint", "words"),
    [
        (int | None, "a whole number or null"),
        (str | tuple[str, ...], "text or a list of texts"),
        (Literal["none", "balanced"] | tuple[float, ...], "one of none, balanced, or a list of numbers"),
        (tuple[int, int, int], "a list of 3 whole numbers"),
        (tuple[tuple[str, float], ...], "a list, each item a list of text, then a number"),
        (tuple[dict[str, Any], ...], "a list, each item a table"),
        (dict[str, Literal["max", "min"]], "a table, each value one of max, min"),
        (list[bool], "a list, each item true or false"),
        (Callable[[int], str], "a value of the right type"),
    ],
)
def test_plain_types_are_described_in_words(hint: Any, words: str) -> None:
    assert words_of(hint) == words
