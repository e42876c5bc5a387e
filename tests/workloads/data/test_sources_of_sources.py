"""A selected part of a set and a synthetic set as sources: their training rows, and that all else is unchanged."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from pruneyard.testing.cases import each_case
from pruneyard.workloads.data.artifact_file import content_digest
from pruneyard.workloads.data.dataset import Dataset, Split
from pruneyard.workloads.data.multi_formation import decode
from pruneyard.workloads.data.scoring import Scoring
from pruneyard.workloads.data.selectors.el2n import EL2N
from pruneyard.workloads.data.selectors.herding import Herding
from pruneyard.workloads.data.selectors.random import Random
from pruneyard.workloads.data.sources.digits import Digits
from pruneyard.workloads.data.sources.selected import Selected
from pruneyard.workloads.data.sources.synthetic import Synthetic
from pruneyard.workloads.data.synthetic_set import SyntheticSet
from pruneyard.workloads.models.mlp import Mlp

DIGITS = Digits(max_train=300, max_test=60)
SCORING = Scoring(epochs=2, batch_size=32)


def same_rows(one: Split, other: Split) -> bool:
    names = ("images", "labels", "row_ids")
    return all(np.array_equal(getattr(one, name), getattr(other, name)) for name in names)


def assert_only_training_rows_differ(made: Dataset, of: Dataset) -> None:
    assert made.classes == of.classes
    for name in ("val", "calib", "test"):
        assert same_rows(getattr(made, name), getattr(of, name))
    assert made.fingerprint != of.fingerprint


def selected(**fields: object) -> Selected:
    tables: dict[str, object] = {"base": DIGITS, "selector": Random(), "model": Mlp(width=16, depth=1), "scoring": SCORING}
    return Selected(**(tables | fields))  # type: ignore[arg-type]


@each_case("rule", [Random(), Herding(), EL2N()])
def test_some_training_rows_of_each_class_are_kept_and_all_else_is(rule: object) -> None:
    whole, data = DIGITS.load(), selected(selector=rule, per_class=4).load()
    assert_only_training_rows_differ(data, whole)
    assert np.bincount(data.train.labels).tolist() == [4] * 10
    assert set(data.train.row_ids) < set(whole.train.row_ids)
    assert (np.diff(data.train.row_ids) > 0).all()
    assert (data.mean, data.std) == (whole.mean, whole.std)
    assert data.name == "selected"


def test_a_share_is_one_of_each_class() -> None:
    whole = np.bincount(DIGITS.load().train.labels)
    kept = np.bincount(selected(fraction=0.25).load().train.labels)
    assert kept.tolist() == [round(0.25 * size) for size in whole]
    assert np.bincount(selected(fraction=0.001).load().train.labels).tolist() == [1] * 10
    assert same_rows(selected(fraction=1.0).load().train, DIGITS.load().train)


def test_the_seed_decides_which_rows() -> None:
    first, again, other = (selected(per_class=4, seed=seed).load().fingerprint for seed in (1, 1, 2))
    assert first == again
    assert first != other


def test_selected_rows_are_cached_until_anything_that_they_depend_on_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Selected] = []
    compute = Selected.rows

    def watched(self: Selected, data: Dataset) -> object:
        made.append(self)
        return compute(self, data)

    monkeypatch.setattr(Selected, "rows", watched)
    source = selected(selector=EL2N(), per_class=2)
    first = source.load()
    assert source.load().fingerprint == first.fingerprint
    assert len(made) == 1
    others = [
        replace(source, per_class=3),
        replace(source, seed=1),
        replace(source, selector=EL2N(keep="easiest")),
        replace(source, model=Mlp(width=8)),
        replace(source, scoring=replace(SCORING, epochs=1)),
        replace(source, base=replace(DIGITS, split_seed=1)),
    ]
    for number, other in enumerate(others, start=2):
        other.load()
        assert len(made) == number


def test_a_part_of_a_part_is_one() -> None:
    part = selected(base=selected(per_class=9), per_class=3).load()
    assert set(part.train.row_ids) < set(selected(per_class=9).load().train.row_ids)


@each_case(
    ("fields", "message"),
    [
        ({}, "per_class is missing; give per_class or fraction"),
        ({"per_class": 3, "fraction": 0.5}, "per_class is 3 and fraction is 0.5"),
        ({"per_class": 0}, "per_class is 0"),
        ({"fraction": 1.5}, "fraction is 1.5"),
    ],
)
def test_how_much_is_kept_is_said_once(fields: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}"):
        selected(**fields)


def test_more_rows_than_there_are_cannot_be_kept() -> None:
    with pytest.raises(ValueError, match=r"class \d has \d\d training rows, but 100 are needed"):
        selected(per_class=100).load()


def synthetic_set(*, factor: int = 1, side: int = 8, num_classes: int = 10) -> SyntheticSet:
    images = torch.rand((num_classes * 2, 1, side, side), generator=torch.Generator().manual_seed(0))
    return SyntheticSet(
        images=images,
        labels=torch.arange(num_classes).repeat_interleave(2),
        soft_labels=torch.zeros(0, num_classes),
        mean=(0.25,),
        std=(0.5,),
        factor=factor,
    )


def written(path: Path, made: SyntheticSet) -> str:
    path.write_bytes(made.to_bytes())
    return str(path)


def test_a_synthetic_set_is_trained_on_as_it_is(tmp_path: Path) -> None:
    made = synthetic_set()
    data = Synthetic(path=written(tmp_path / "set", made), base=DIGITS).load()
    assert_only_training_rows_differ(data, DIGITS.load())
    assert data.train.images.dtype == np.float32
    np.testing.assert_allclose(data.train.images, 255 * made.images.numpy(), rtol=1e-6)
    assert data.train.labels.tolist() == made.labels.tolist()
    assert (data.mean, data.std) == ((0.25,), (0.5,))


def test_soft_labels_of_a_set_are_not_those_of_training_rows(tmp_path: Path) -> None:
    """A row has one class: that of its image, even if the soft labels favour another one."""
    made = replace(synthetic_set(), soft_labels=torch.eye(10)[torch.arange(20) % 10])
    data = Synthetic(path=written(tmp_path / "set", made), base=DIGITS).load()
    assert data.train.labels.tolist() == made.labels.tolist() != made.soft_labels.argmax(1).tolist()


def test_images_that_share_one_are_decoded(tmp_path: Path) -> None:
    made = synthetic_set(factor=2)
    data = Synthetic(path=written(tmp_path / "set", made), base=DIGITS).load()
    assert len(data.train) == 80
    np.testing.assert_allclose(data.train.images, 255 * decode(made.images, 2).numpy(), rtol=1e-6)
    assert np.bincount(data.train.labels).tolist() == [8] * 10


def test_the_file_is_known_by_its_content(tmp_path: Path) -> None:
    one, copy = (written(tmp_path / name, synthetic_set()) for name in ("one", "copy"))
    other = written(tmp_path / "other", synthetic_set(factor=2))
    assert content_digest(one) == content_digest(copy) != content_digest(other)
    source = Synthetic(path=one, base=DIGITS)
    assert source.digest == content_digest(one)
    assert replace(source, path=copy).digest == source.digest
    with pytest.raises(ValueError, match=f"^digest is {source.digest}; .*other has"):
        replace(source, path=other)
    Path(one).write_bytes(Path(other).read_bytes())
    with pytest.raises(ValueError, match="one has changed: its digest was"):
        source.load()


def test_what_cannot_be_read_or_does_not_fit_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"^path is .*, which cannot be read: No such file"):
        Synthetic(path=str(tmp_path / "none"), base=DIGITS)
    (tmp_path / "text").write_text("no set")
    with pytest.raises(ValueError, match="text is not a synthetic set"):
        Synthetic(path=str(tmp_path / "text"), base=DIGITS).load()
    with pytest.raises(ValueError, match=r"has images of \(1, 6, 6\) \(C, H, W\); they must be \(1, 8, 8\)"):
        Synthetic(path=written(tmp_path / "small", synthetic_set(side=6)), base=DIGITS).load()
    with pytest.raises(ValueError, match=r"label 10; it must lie in 0 ... 9"):
        Synthetic(path=written(tmp_path / "many", synthetic_set(num_classes=11)), base=DIGITS).load()
