"""Jobs made by grids, seeds and changes from the command line."""

from dataclasses import replace
from typing import Any

import pytest
from packaged import COMPLETE, packaged

from pruneyard.orchestrator.errors import SpecError, UsageError
from pruneyard.orchestrator.spec.load import Spec, load_spec
from pruneyard.orchestrator.spec.overrides import parse_assignment, parse_axis
from pruneyard.orchestrator.spec.yaml_document import parse_value
from pruneyard.testing.cases import each_case

BASE: dict[str, Any] = {
    "name": "small",
    "kind": "sparse",
    "data": "digits",
    "model": {"name": "mlp", "width": 16},
    "method": {"name": "set", "density": 0.1},
    "budget": {"epochs": 1},
}


def without(key: str) -> dict[str, Any]:
    return {name: value for name, value in BASE.items() if name != key}


def chosen(spec: Spec, *keys: str) -> list[tuple[Any, ...]]:
    """Returns the values of dotted keys of every job; None where a job has no such key."""

    def value(table: Any, path: list[str]) -> Any:
        for name in path:
            table = table.get(name) if isinstance(table, dict) else None
        return table

    return [tuple(value(job.resolved, key.split(".")) for key in keys) for job in spec.jobs]


def from_command_line(*options: str) -> Spec:
    sets = dict(parse_assignment(o, option="--set") for o in options if not o.startswith("+"))
    axes = dict(parse_axis(o.removeprefix("+")) for o in options if o.startswith("+"))
    return load_spec(BASE, overrides=sets, axes=axes)


def test_a_grid_is_the_cross_product_in_the_order_written() -> None:
    spec = load_spec({**BASE, "grid": {"method.density": [0.1, 0.2], "model.width": [4, 8]}, "seeds": 2})
    expected = [(d, w, s) for d in (0.1, 0.2) for w in (4, 8) for s in (0, 1)]
    assert chosen(spec, "method.density", "model.width", "seed") == expected


@pytest.mark.parametrize("tables_first", [True, False])
def test_a_dotted_key_applies_to_the_table_chosen_and_nothing_is_trained_twice(tables_first: bool) -> None:
    axes: list[tuple[str, list[Any]]] = [
        ("method", [{"name": "dense"}, {"name": "rigl"}, "set"]),
        ("method.density", [0.2, 0.1]),
        ("method.schedule.every", [10]),
    ]
    spec = load_spec({**without("method"), "grid": dict(axes if tables_first else reversed(axes))})
    assert sorted(map(str, chosen(spec, "method.name", "method.density", "method.schedule.every"))) == [
        "('dense', None, None)",
        "('rigl', 0.1, 10)",
        "('rigl', 0.2, 10)",
        "('set', 0.1, 10)",
        "('set', 0.2, 10)",
    ]
    assert len({job.key for job in spec.jobs}) == len(spec.jobs)


def test_an_axis_over_names_chooses_the_tables_that_other_axes_fill() -> None:
    spec = load_spec(
        {
            **without("method"),
            "grid": {"method.density": [0.2], "method.name": ["dense", "set"], "optimizer.name": ["sgd"]},
        }
    )
    assert chosen(spec, "method.name", "method.density") == [("dense", None), ("set", 0.2)]


def test_equal_values_on_an_axis_are_one_job() -> None:
    assert len(load_spec({**BASE, "grid": {"method.density": [0.1, 1e-1, 0.10]}}).jobs) == 1


def test_an_axis_that_no_table_has_is_an_error_and_one_that_some_have_is_not() -> None:
    with pytest.raises(SpecError, match=r"grid\.method\.scope: applies to no job"):
        load_spec({**BASE, "grid": {"method.scope": ["global"]}})
    spec = load_spec(
        {
            **BASE,
            "grid": {"method": ["dense", {"name": "magnitude", "density": 0.1}], "method.scope": ["global"]},
        }
    )
    assert chosen(spec, "method.name", "method.scope") == [("dense", None), ("magnitude", "global")]


@each_case(
    ("options", "key", "values"),
    [
        (["model.width=32"], "model.width", [32]),
        (["method.density=0.05"], "method.density", [0.05]),
        (["method.schedule.every=7"], "method.schedule.every", [7]),
        (["method.schedule={every: 7}"], "method.schedule.every", [7]),
        (["method=dense"], "method.name", ["dense"]),
        (["method={name: rigl, density: 0.3}"], "method.density", [0.3]),
        (["method.name=rigl"], "method.name", ["rigl"]),
        (["optimizer.name=adamw", "optimizer.lr=1e-3"], "optimizer.lr", [0.001]),
        (["optimizer.lr=1e-3"], "optimizer.lr", [0.001]),
        (["budget={steps: 5}"], "budget.steps", [5]),
        (["seeds=2"], "seed", [0, 1]),
        (["seeds=[4, 2]"], "seed", [4, 2]),
        (["grid={model.width: [1, 2]}"], "model.width", [1, 2]),
        (["grid.model.width=[1, 2]"], "model.width", [1, 2]),
        (["+model.width=1,2"], "model.width", [1, 2]),
        (["+method=dense,{name: static, density: 0.5}"], "method.name", ["dense", "static"]),
        (["+model.width=1, 2", "model.depth=1"], "model.width", [1, 2]),
    ],
)
def test_set_and_axis_reach_every_key(options: list[str], key: str, values: list[Any]) -> None:
    spec = from_command_line(*options)
    assert [value for (value,) in chosen(spec, key)] == values


def test_set_reaches_the_keys_of_the_header() -> None:
    spec = from_command_line("name=other", "resources.cpus=3", "resources.gpus=0.5")
    assert spec.name == "other"
    assert (spec.stages[0].header.resources.cpus, spec.stages[0].header.resources.gpus) == (3, 0.5)


def test_set_wins_over_an_axis_of_the_spec() -> None:
    swept = {**BASE, "grid": {"method.density": [0.1, 0.2], "method": ["dense", "set", "rigl"]}}
    spec = load_spec(swept, overrides={"method.density": 0.05})
    assert chosen(spec, "method.name", "method.density") == [("dense", None), ("set", 0.05), ("rigl", 0.05)]
    assert chosen(load_spec(swept, overrides={"method": "dense"}), "method.name") == [("dense",)]


@each_case(
    ("option", "message"),
    [
        (
            "method.densty=0.1",
            r"^spec: method\.densty: applies to no job.*did you mean method\.density\?.*an override",
        ),
        (
            "method.density=7",
            r"^spec: method\.density: is 7.0; it must lie in \(0, 1\] \(from an override\)",
        ),
        ("grid.method.density=[7]", r"^spec: method\.density: is 7.0; .*from an override"),
        ("grid.a]=[1]", r"^spec: a\]: applies to no job.*from an override"),
        ("resources.cpu=2", r"^spec: resources\.cpu: is unknown.*did you mean cpus\?.*from an override"),
        ("seed=2", r"^spec: seed: is not an axis"),
        ("+seeds=1,2", r"^spec: seeds: is not an axis"),
        ("+model.width=", r"^spec: model\.width: is \[\]"),
        ("name=", r"^spec: name: is null"),
        ("grid=5", r"^grid: is 5; it must be a table of axes"),
        ("=5", r"^--set =5: must have the form KEY=VALUE"),
        ("model.width", r"^--set model\.width: must have the form"),
        ("+model.width", r"^--axis model\.width: must have the form KEY=VALUE,VALUE"),
        (
            "model.width={1: ",
            r"^--set model\.width=\{1: : the value is not valid YAML: it ends where a value is expected$",
        ),
        (
            "model={1: 2",
            r"^--set model=\{1: 2: the value is not valid YAML: a table in { } lacks its } or a comma$",
        ),
        (
            "model.width=[1",
            r"^--set model\.width=\[1: the value is not valid YAML: a list in .* lacks its \] or a comma$",
        ),
        (
            'name="x',
            r'^--set name="x: the value is not valid YAML: a text in quotes lacks its closing quote$',
        ),
        ("name=a: b: c", r"^--set name=a: b: c: the value is not valid YAML: a key is not allowed here[^\n]*$"),
        (
            "+model.width=1]",
            r"^--axis model\.width=1\]: the value is not valid YAML: there is text after the end[^\n]*$",
        ),
        ("+model.width=1,[", r"^--axis model\.width=1,\[: the value is not valid YAML: a list in [^\n]*$"),
        (
            "model.width=2.5",
            r"^spec: model\.width: is 2\.5; it must be a whole number \(from an override\)$",
        ),
        (
            "model.width=" + "[" * 3000,
            r"^--set [^\n]*: the value is not valid YAML: it is nested too deeply$",
        ),
    ],
)
def test_mistakes_on_the_command_line_are_attributed_to_it(option: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        from_command_line(option)


@each_case(
    "options",
    [
        [],
        ["method.density=0.05"],
        ["+method={name: dense},{name: rigl}", "method.density=0.3", "seeds=[5, 1]"],
        ["+model.width=4,8", "+method.density=0.1,0.2", "name=no", "resources.cpus=2"],
        ["method.keep_dense=[first]", "optimizer=adamw", "data.max_train=100"],
    ],
)
def test_the_spec_as_run_reads_again_as_the_same_jobs(options: list[str]) -> None:
    spec = from_command_line(*options)
    again = load_spec(parse_value(spec.to_yaml()))
    assert replace(again.stages[0].header, grid={}) == replace(spec.stages[0].header, grid={})
    assert [job.key for job in again.jobs] == [job.key for job in spec.jobs]
    assert [job.resolved for job in again.jobs] == [job.resolved for job in spec.jobs]
    assert again.to_yaml() == spec.to_yaml()
    assert [job.key for job in load_spec(spec).jobs] == [job.key for job in spec.jobs]


def test_a_resolved_job_is_a_spec_of_itself() -> None:
    """What is recorded of a run is enough to ask for it again."""
    for job in load_spec("quickstart").jobs[:8]:
        table = {name: value for name, value in job.resolved.items() if name != "seed"}
        (again,) = load_spec({"name": "x", "kind": job.kind, **table, "seeds": [job.workload.seed]}).jobs
        assert again.key == job.key


@each_case("name", COMPLETE)
def test_every_packaged_spec_names_itself_and_trains_nothing_twice(name: str) -> None:
    spec = packaged(name)
    assert spec.name == spec.stages[0].header.name == name
    assert len({job.key for job in spec.jobs}) == len(spec.jobs) > 1


def test_a_spec_loaded_again_is_the_same_also_where_an_axis_lost_its_table() -> None:
    chosen = load_spec("mnist-density", overrides={"method": "dense"})
    assert load_spec(chosen) is chosen
    assert [job.key for job in load_spec(chosen.tables).jobs] == [job.key for job in chosen.jobs]


def test_a_whole_grid_from_the_command_line_keeps_other_changes() -> None:
    before = load_spec("mnist-density", overrides={"model": "convnet", "grid": {}, "method": "dense"})
    after = load_spec("mnist-density", overrides={"grid": {}, "model": "convnet", "method": "dense"})
    assert [job.key for job in before.jobs] == [job.key for job in after.jobs]
    assert {job.resolved["model"]["name"] for job in before.jobs} == {"convnet"}


def test_a_key_that_is_both_set_and_an_axis_is_refused() -> None:
    with pytest.raises(UsageError, match=r"optimizer\.lr: is both set and an axis"):
        load_spec("mnist-density", overrides={"optimizer.lr": 0.5}, axes={"optimizer.lr": [0.1, 0.03]})


@pytest.mark.parametrize(("key", "values", "shown"), [("optimizer.lr", 0.1, "0.1"), ("method", "set", '"set"')])
def test_an_axis_that_is_no_list_is_refused(key: str, values: Any, shown: str) -> None:
    with pytest.raises(UsageError, match=rf"axes\.{key} is {shown}; it must be a list, such as \[{shown}\]"):
        load_spec("mnist-density", axes={key: values})


CONTROLS: list[dict[str, Any]] = [
    {"method": "dense"},
    {"method": {"name": "rigl"}},
    {"method": {"name": "rigl"}, "average": {"begin": 0.8}},
    {"method": {"name": "cigl"}},
]


def test_variants_set_several_tables_at_once_and_are_crossed_with_the_grid() -> None:
    spec = load_spec(
        {**without("method"), "variants": CONTROLS, "grid": {"method.density": [0.2, 0.1]}, "seeds": 2}
    )
    assert chosen(spec, "method.name", "average.begin", "method.density", "seed")[::2] == [
        ("dense", 1.0, None, 0),
        ("rigl", 1.0, 0.2, 0),
        ("rigl", 1.0, 0.1, 0),
        ("rigl", 0.8, 0.2, 0),
        ("rigl", 0.8, 0.1, 0),
        ("cigl", 1.0, 0.2, 0),
        ("cigl", 1.0, 0.1, 0),
    ]
    assert len(spec.jobs) == 14


def test_a_variant_replaces_tables_of_the_spec_and_keeps_the_others() -> None:
    spec = load_spec(
        {**BASE, "average": {"begin": 0.9}, "variants": [{"average": {"per_epoch": 2}}, {"model": "convnet"}]}
    )
    assert chosen(spec, "method.name", "model.name", "average.begin", "average.per_epoch") == [
        ("set", "mlp", 1.0, 2),
        ("set", "convnet", 0.9, 1),
    ]


def test_the_command_line_wins_over_variants_and_replaces_them() -> None:
    tables = {**without("method"), "variants": CONTROLS, "grid": {"method.density": [0.2, 0.1]}}
    one = load_spec(tables, overrides={"method": {"name": "set", "density": 0.5}})
    assert chosen(one, "method.name", "average.begin", "method.density") == [
        (name, begin, density) for begin in (1.0, 0.8) for name, density in (("set", 0.2), ("set", 0.1))
    ]
    every = load_spec(
        tables,
        overrides={"budget.epochs": 7, "average.begin": 0.7, "method.density": 0.3, "variants": CONTROLS[:2]},
    )
    assert chosen(every, "method.name", "average.begin", "budget.epochs") == [
        ("dense", 0.7, 7),
        ("rigl", 0.7, 7),
    ]


@each_case(
    ("variants", "message"),
    [
        (5, r"spec: variants: is 5; it must be a list"),
        ([5], r"spec: variants: is \[5\]; it must be a list, each item a table"),
        ([{}], r"spec: variants\[0\]: is empty; it must give at least one of the tables .*method"),
        ([{"metod": "set"}], r"spec: variants\[0\]\.metod: is not a table of a job.*did you mean method\?"),
        (
            [{"method.density": 0.1}],
            r"spec: variants\[0\]\.method\.density: is not a table of a job; a variant gives whole tables",
        ),
        ([{"seed": 1}], r"spec: variants\[0\]\.seed: is not a table of a job"),
        (
            [{"model": "mlp"}, {"method": {"name": "set", "density": 7}}],
            r"spec: variants\[1\]\.method\.density: is 7\.0; it must",
        ),
        ([{"model": "mlp"}, {"method": "sett"}], r"spec: variants\[1\]\.method\.name: is unknown.*set"),
    ],
)
def test_what_is_wrong_with_a_variant_is_said_with_its_place(variants: Any, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        load_spec({**BASE, "variants": variants})


def test_an_axis_that_no_variant_has_is_an_error() -> None:
    with pytest.raises(SpecError, match=r"grid\.method\.scope: applies to no job"):
        load_spec(
            {**without("method"), "variants": [{"method": "dense"}], "grid": {"method.scope": ["global"]}}
        )


def test_too_many_variants_are_counted() -> None:
    with pytest.raises(SpecError, match=r"grid: makes 120000 jobs"):
        load_spec(
            {**BASE, "variants": [{"model": "mlp"}] * 1200, "grid": {"model.width": list(range(1, 101))}}
        )
