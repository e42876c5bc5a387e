"""Settings that are part of a job's identity, and those that are not."""

import dataclasses
import json
import math
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from pruneyard.orchestrator.spec.codec import encode, hints_of
from pruneyard.orchestrator.spec.load import load_spec
from pruneyard.orchestrator.spec.run_key import NOT_SET, canonical, differences, run_key
from pruneyard.testing.cases import each_case
from pruneyard.workloads.data.sources.noise import Noise
from pruneyard.workloads.fields import NEUTRAL_BY_DEFAULT
from pruneyard.workloads.sparse.methods.set import SET
from pruneyard.workloads.training.segment import Segment

BASE: dict[str, Any] = {
    "name": "small",
    "kind": "sparse",
    "data": "digits",
    "model": "mlp",
    "method": {"name": "set", "density": 0.1},
    "budget": {"epochs": 1},
}
OTHER: dict[str, Any] = {
    **BASE,
    "model": "convnet",
    "method": {"name": "magnitude", "density": 0.1},
    "optimizer": "adamw",
    "schedule": "step",
    "budget": {"steps": 10},
}
GOLDEN = "a41f8702f0246584"
INITIAL = ("path", "digest", "folder", "reset")
BY_HAND = {
    "prunable": ("*.weight",),  # another value for fields whose types do not say which ones are allowed
    "optimizer.lr_factors": (("*", 2.0),),
    "initial.runs": ("0123456789abcdef",),
    "budget.epochs": None,
    "budget.steps": None,
    "method.keep_dense": ("first",),
    "schedule.milestones": (0.5,),
    "ood": (Noise(),),
    "average.swag_rank": 20,
    "data.max_train": 100,
    "data.max_test": 50,
    "robust.max_samples": 50,
    "segment.runs": ("0123456789abcdef",),
    "objective.class_weight": "balanced",
}


def key(tables: dict[str, Any], **overrides: Any) -> str:
    (job,) = load_spec(tables, overrides=overrides).jobs
    return job.key


def test_the_key_of_a_fixed_spec_stays_what_it_was() -> None:
    """Finished runs are found by this key, so a change of it makes every user train everything again.

    It changes when a field or a default is added, removed or renamed. Where that is meant, and where the same spec
    starts to give other numbers without it, raise `IDENTITY_VERSION` in orchestrator/fingerprint.py and write the
    new key down here.
    """
    assert key(BASE) == GOLDEN


def test_the_key_is_the_same_in_another_process() -> None:
    program = f"from pruneyard.orchestrator.spec.load import load_spec; print(load_spec({BASE!r}).jobs[0].key)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == key(BASE)


def test_name_resources_and_the_order_of_keys_do_not_enter() -> None:
    assert key({**BASE, "name": "other", "resources": {"cpus": 4}}) == key(BASE)
    assert key(dict(reversed(BASE.items()))) == key(BASE)
    assert key({**BASE, "method": {"density": 0.1, "name": "set"}}) == key(BASE)


def test_defaults_written_out_do_not_enter() -> None:
    (job,) = load_spec(BASE).jobs
    assert key({**BASE, "optimizer": job.resolved["optimizer"], "gradient": "plain"}) == key(BASE)


@each_case(
    ("one", "other"),
    [
        ("lr: 1", "lr: 1.0"),
        ("lr: 0.1", "lr: 1e-1"),
        ("weight_decay: 0", "weight_decay: -0.0"),
        ("lr: 10", "lr: 1e1"),
    ],
)
def test_the_spelling_of_a_number_does_not_enter(one: str, other: str) -> None:
    from pruneyard.orchestrator.spec.yaml_document import parse_value

    assert key({**BASE, "optimizer": parse_value(f"{{{one}}}")}) == key(
        {**BASE, "optimizer": parse_value(f"{{{other}}}")}
    )


def test_the_seed_enters() -> None:
    keys = [job.key for job in load_spec({**BASE, "seeds": 20}).jobs]
    assert len(set(keys)) == 20


def fields_of(value: Any, prefix: str = "") -> Iterator[tuple[str, bool, Any]]:
    """Yields dotted key, whether it is identity, and type hint of every plain field of a decoded job, however deep."""
    for field in dataclasses.fields(value):
        content, dotted = getattr(value, field.name), f"{prefix}{field.name}"
        if dataclasses.is_dataclass(content):
            yield from fields_of(content, f"{dotted}.")
        elif field.name in hints_of(type(value)):  # no spec gives the others
            yield dotted, bool(field.metadata.get("identity", True)), hints_of(type(value))[field.name]


def changed(value: Any, dotted: str, new: Any) -> Any:
    head, _, other_fields = dotted.partition(".")
    return dataclasses.replace(value, **{head: changed(getattr(value, head), other_fields, new) if other_fields else new})


def another(dotted: str, value: Any, hint: Any) -> Any:
    """Returns another allowed value of the same type."""
    if dotted in BY_HAND:
        return BY_HAND[dotted]
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return value + 1
    if isinstance(value, float):
        return value / 2 if value else 0.25
    return next(choice for choice in hint.__args__ if choice != value)  # of a Literal


CASES = [
    (tables["model"], tables, dotted, identity, hint)
    for tables in (BASE, OTHER)
    for dotted, identity, hint in fields_of(load_spec(tables).jobs[0].workload)
    # These go by two, see below and tests/workloads/test_initial_weights.py.
    if dotted not in ("budget.epochs", "budget.steps", "segment.folder", *(f"initial.{name}" for name in INITIAL))
]


@each_case(
    ("tables", "dotted", "identity", "hint"),
    [case[1:] for case in CASES],
    ids=[f"{c[0]}-{c[2]}" for c in CASES],
)
def test_every_field_that_may_change_a_number_enters_and_no_other(
    tables: dict[str, Any], dotted: str, identity: bool, hint: Any
) -> None:
    job = load_spec(tables).jobs[0].workload
    value: Any = job
    for name in dotted.split("."):
        value = getattr(value, name)
    if dotted == "optimizer.nesterov":
        assert job.optimizer.momentum > 0  # type: ignore[attr-defined]
    new = changed(job, dotted, another(dotted, value, hint))
    assert new != job
    assert (run_key("sparse", new) != run_key("sparse", job)) == identity


def test_epochs_and_steps_enter() -> None:
    keys = {key(BASE, budget=budget) for budget in ({"epochs": 1}, {"epochs": 2}, {"steps": 1}, {"steps": 2})}
    assert len(keys) == 4


def test_intervals_and_places_are_recorded_and_do_not_enter() -> None:
    free = {dotted for _, _, dotted, identity, _ in CASES if not identity}
    assert free == {"budget.evaluate_every", "budget.checkpoint_every_s"}
    mnist = {**BASE, "data": {"name": "mnist"}}
    placed = {**BASE, "data": {"name": "mnist", "root": "/elsewhere", "download": True}}
    assert key(mnist) == key(placed)
    assert load_spec(placed).jobs[0].resolved["data"]["root"] == "/elsewhere"
    job: Any = load_spec(BASE).jobs[0].workload
    ours = changed(job, "segment", Segment(runs=("0123456789abcdef",)))
    assert run_key("sparse", changed(ours, "segment.folder", "elsewhere")) == run_key("sparse", ours)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Inner:
    size: int = 1
    trim: float = dataclasses.field(default=0.0, metadata=NEUTRAL_BY_DEFAULT)


@dataclasses.dataclass(frozen=True, kw_only=True)
class JobWithNewFields:
    """A job that had one field and later got three neutral ones."""

    inner: Inner = Inner()
    whole: Inner = dataclasses.field(default=Inner(), metadata=NEUTRAL_BY_DEFAULT)
    several: tuple[int, ...] = dataclasses.field(default=(), metadata=NEUTRAL_BY_DEFAULT)


def test_a_later_neutral_field_enters_only_where_it_is_not_at_its_default() -> None:
    assert encode(JobWithNewFields(), identity_only=True) == {"inner": {"size": 1}}
    assert encode(JobWithNewFields(whole=Inner(size=1), several=()), identity_only=True) == {"inner": {"size": 1}}
    assert encode(JobWithNewFields(inner=Inner(trim=0.5)), identity_only=True) == {"inner": {"size": 1, "trim": 0.5}}
    assert encode(JobWithNewFields(whole=Inner(size=2)), identity_only=True) == {"inner": {"size": 1}, "whole": {"size": 2}}
    assert encode(JobWithNewFields(several=(3,)), identity_only=True) == {"inner": {"size": 1}, "several": [3]}
    plain = {"size": 1, "trim": 0.0}
    assert encode(JobWithNewFields()) == {"inner": plain, "whole": plain, "several": []}  # what people read has every default


def test_the_name_of_a_plugin_enters_where_its_fields_are_the_same() -> None:
    assert key({**BASE, "method": {"name": "set", "density": 0.1}}) != key(
        {**BASE, "method": {"name": "rigl", "density": 0.1}}
    )


def test_the_canonical_form_is_one_text_per_value() -> None:
    assert canonical({"b": (1, 2.0), "a": None}) == '{"a":null,"b":[1,2.0]}'
    assert canonical({"a": -0.0}) == canonical({"a": 0.0})
    assert json.loads(canonical({"ü": 0.1 + 0.2})) == {"ü": 0.1 + 0.2}


@each_case("value", [math.nan, math.inf, {1, 2}, b"x", object()])
def test_what_has_no_stable_form_is_refused(value: object) -> None:
    with pytest.raises(ValueError, match="has no stable form"):
        canonical({"x": [value]})


def test_differences_are_listed_value_by_value() -> None:
    (old,), (new,) = (
        load_spec(BASE).jobs,
        load_spec(BASE, overrides={"method.schedule.every": 7, "model": {"name": "mlp", "width": 3}}).jobs,
    )
    assert list(differences(old.resolved, new.resolved)) == [
        ("method.schedule.every", 100, 7),
        ("model.width", 256, 3),
    ]
    assert list(differences({"a": 1}, {"b": {"c": 2}})) == [("a", 1, NOT_SET), ("b", NOT_SET, {"c": 2})]
    assert f"{NOT_SET!r} there" == "not set there"
    assert list(differences({"a": None}, {})) == [("a", None, NOT_SET)]
    sets = [{"name": "noise", "seed": 0}, {"name": "mnist"}]
    assert list(differences({"u": sets}, {"u": [{"name": "noise", "seed": 1}]})) == [
        ("u[0].seed", 0, 1),
        ("u[1]", {"name": "mnist"}, NOT_SET),
    ]
    assert list(differences({"u": [1, 2]}, {"u": [1, 3]})) == [("u", [1, 2], [1, 3])]
    assert list(differences(encode(old.workload), old.resolved)) == []


def test_a_plug_in_whose_numbers_changed_has_another_key_by_its_revision(monkeypatch: pytest.MonkeyPatch) -> None:
    before = key(BASE)
    monkeypatch.setattr(SET, "revision", 2, raising=False)
    assert key(BASE) != before
    monkeypatch.setattr(SET, "revision", 1)
    assert key(BASE) == before
