"""The recommender: what it looks up, and which of its weights are pruned."""

import pytest
import torch

from pruneyard.workloads.data.sources.clicks import Clicks
from pruneyard.workloads.masks.masks import prunable_weights
from pruneyard.workloads.models.recommender import Recommender
from pruneyard.workloads.networks.flops import count_macs


def test_the_hidden_layer_sees_the_rows_of_the_codes_and_large_codes_are_hashed() -> None:
    network = Recommender(rows=(4, 3), size=2, width=5).build(image_shape=(2,), num_classes=2)
    tables = network.get_submodule("tables")
    codes = torch.tensor([[3.0, 1.0], [6.0, 5.0]])  # the second row: modulo 4 and 3
    expected = [torch.cat([tables[0].weight[a], tables[1].weight[b]]) for a, b in ((3, 1), (2, 2))]
    assert torch.equal(tables(codes), torch.stack(expected))


def test_tables_are_prunable_and_lookups_count_no_flops() -> None:
    network = Recommender(rows=(4, 3), size=2, width=5).build(image_shape=(2,), num_classes=2)
    names = ["tables.0.weight", "tables.1.weight", "hidden.weight", "classifier.weight"]
    assert list(prunable_weights(network)) == names
    assert count_macs(network, (2,)).by_weight == dict(zip(names, (0, 0, 4 * 5, 5 * 2), strict=True))


def test_by_default_there_is_a_row_for_every_code_of_the_click_log() -> None:
    assert Recommender().rows == Clicks().cardinalities


def test_another_number_of_fields_is_refused() -> None:
    with pytest.raises(ValueError, match=r"rows is \[4, 3\]; it must be one number, or one for each of 3 fields"):
        Recommender(rows=(4, 3)).build(image_shape=(3,), num_classes=2)
