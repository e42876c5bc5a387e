from dataclasses import replace

import numpy as np
import pytest

from pruneyard.testing.cases import each_case
from pruneyard.workloads.nodes.graph import Graph
from pruneyard.workloads.nodes.sources.block_model import BlockModel
from pruneyard.workloads.nodes.splits.drawn import Drawn
from pruneyard.workloads.nodes.splits.published import Published
from pruneyard.workloads.nodes.splitting import SPLITS

GRAPH = BlockModel(num_nodes=600, minority_fraction=0.1).load()
DRAWN = Drawn(per_class=15, extra_minority=4, num_val=150, num_calib=100, num_test=200)


def masked(**masks: list[int]) -> Graph:
    return replace(GRAPH, published={name: np.array(ids, dtype=np.int64) for name, ids in masks.items()})


def test_splits_are_disjoint_and_of_the_sizes_asked_for() -> None:
    found = DRAWN.split(GRAPH, minority=0, seed=1)
    assert {name: len(found[name]) for name in SPLITS} == {"train": 49, "val": 150, "calib": 100, "test": 200}
    everyone = np.concatenate([found[name] for name in SPLITS])
    assert len(np.unique(everyone)) == len(everyone)
    assert np.bincount(GRAPH.labels[found["train"]]).tolist() == [19, 15, 15]


def test_held_out_nodes_hold_the_rare_class_about_as_the_graph_does_without_train() -> None:
    """An order from which training nodes were picked by class would leave the first split short of the rare ones."""
    rest_share = (60 - 19) / (600 - 49)
    for name in ("val", "calib", "test"):
        shares = [
            (GRAPH.labels[DRAWN.split(GRAPH, minority=0, seed=s)[name]] == 0).mean() for s in range(100)
        ]
        assert np.mean(shares) == pytest.approx(rest_share, abs=0.006)


def test_the_seed_decides_and_nothing_else_does() -> None:
    first, again, other = (DRAWN.split(GRAPH, minority=0, seed=seed) for seed in (1, 1, 2))
    assert all(np.array_equal(first[name], again[name]) for name in SPLITS)
    assert not np.array_equal(first["test"], other["test"])


def test_more_nodes_of_the_rare_class_leave_the_others_in_train() -> None:
    few = replace(DRAWN, extra_minority=0).split(GRAPH, minority=0, seed=1)["train"]
    more = DRAWN.split(GRAPH, minority=0, seed=1)["train"]
    assert set(few) < set(more)
    assert set(GRAPH.labels[sorted(set(more) - set(few))]) == {0}


@each_case(
    ("split", "message"),
    [
        (replace(DRAWN, per_class=61), "per_class is 61; class 'rare' has 60 nodes"),
        (replace(DRAWN, extra_minority=46), "extra_minority is 46, but only 45 nodes of that class"),
        (
            replace(DRAWN, num_test=400),
            r"num_val 150 \+ num_test 400 \+ num_calib 100 add up to 650 nodes, but only 551 are left",
        ),
    ],
)
def test_too_few_nodes_are_an_error(split: Drawn, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        split.split(GRAPH, minority=0, seed=0)


def test_published_splits_are_taken_as_they_are() -> None:
    graph = masked(train=[0, 1, 2], val=[3, 4], test=[5, 9])
    found = Published(extra_minority=2, num_calib=50).split(graph, minority=0, seed=0)
    assert set(found["train"]) > {0, 1, 2}
    assert len(found["train"]) == 5
    assert (found["val"].tolist(), found["test"].tolist(), len(found["calib"])) == ([3, 4], [5, 9], 50)
    assert not set(found["calib"]) & {*found["train"], 3, 4, 5, 9}


def test_missing_or_overlapping_masks_are_an_error() -> None:
    with pytest.raises(ValueError, match="has no val_mask, or an empty one; use the split `drawn`"):
        Published().split(masked(train=[0], test=[1]), minority=0, seed=0)
    with pytest.raises(ValueError, match="share nodes"):
        Published().split(masked(train=[0], val=[1], test=[1]), minority=0, seed=0)


@each_case("field", ["per_class", "num_val", "num_test", "extra_minority", "num_calib"])
def test_negative_sizes_are_refused(field: str) -> None:
    with pytest.raises(ValueError, match=f"{field} is -1"):
        Drawn(**{field: -1})
