"""Outputs and features of a finished network for given rows, and the rows that are refused."""

import dataclasses

import numpy as np
import pytest
import torch
from torch import nn

from pruneyard.testing.cases import each_case
from pruneyard.testing.plug_in import examples
from pruneyard.testing.sample_evidence import (
    SHAPE,
    evidence_of_features,
    images,
    network,
    network_evidence,
    random_evidence,
)
from pruneyard.workloads.calibrate.evidence import (
    FEATURES,
    LABELS,
    LOGITS,
    NETWORK,
    Evidence,
    LastLayer,
    blocks,
    evidence_of,
)
from pruneyard.workloads.data.batches import DeviceSplit
from pruneyard.workloads.data.dataset import Split
from pruneyard.workloads.networks.finished import FinishedNetwork
from pruneyard.workloads.plugins import find, names


@each_case("model", names("models"))
def test_every_model_ends_with_the_layer_whose_inputs_are_the_features(model: str) -> None:
    shape = (3, 32, 32)
    settings = examples("models", model)[0]
    table = {"name": model, **settings}
    blueprint = dataclasses.replace(
        network().blueprint, model=table, image_shape=shape, num_outputs=4, mean=(0.5,) * 3, std=(0.3,) * 3
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        built = blueprint.builder.build(image_shape=shape, num_classes=4)
    pixels = np.random.default_rng(0).integers(0, 256, size=(3, *shape), dtype=np.uint8)
    finished = FinishedNetwork.of(blueprint, weights=built.state_dict(), masks={})
    found = evidence_of(finished, Split.from_arrays(pixels, [0, 1, 2]))  # refuses what W h + b is not
    assert found.logits.shape == (3, 4)
    assert found.holds == {LOGITS, FEATURES, LABELS, NETWORK}


@each_case("batch_size", [1, 7, 100])
def test_logits_and_features_are_those_of_the_network_in_the_order_of_the_rows(batch_size: int) -> None:
    finished, split = network(), images(20)
    found = evidence_of(finished, split, batch_size=batch_size)
    scale = np.array(finished.blueprint.std)[:, None, None]
    normal = (split.images / 255 - np.array(finished.blueprint.mean)[:, None, None]) / scale
    inputs = torch.from_numpy(normal.astype(np.float32))
    below = nn.Sequential(*list(finished.network.children())[:-1])
    assert found.logits == pytest.approx(finished.network(inputs).numpy(), abs=1e-5)
    assert found.features == pytest.approx(below(inputs).numpy(), abs=1e-5)
    assert found.logits.dtype == found.features.dtype == np.float32
    assert (found.class_labels == split.labels).all()
    assert not list(finished.network.get_submodule("classifier")._forward_pre_hooks)


def test_a_split_on_a_device_gives_the_same() -> None:
    finished, split = network(), images(20)
    rows = DeviceSplit(split, mean=finished.blueprint.mean, std=finished.blueprint.std)
    first, second = evidence_of(finished, split), evidence_of(finished, rows)
    assert (first.logits == second.logits).all()
    assert (first.features == second.features).all()


def test_outputs_beyond_the_classes_are_separated() -> None:
    rows = random_evidence(5, num_extra=2)
    assert rows.num_classes == 3
    assert rows.class_logits.shape == (5, 3)
    weight, bias = rows.class_layer
    assert weight.shape == (3, 6)
    assert rows.features @ weight.T + bias == pytest.approx(rows.class_logits)


def test_logits_alone_hold_logits_alone() -> None:
    bare = Evidence(logits=np.zeros((2, 3), dtype=np.float32))
    assert bare.holds == {LOGITS}
    with pytest.raises(ValueError, match="the evidence has no features"):
        _ = bare.features
    with pytest.raises(ValueError, match="the evidence has no features"):
        _ = bare.class_layer
    with pytest.raises(ValueError, match="the evidence has no labels"):
        _ = bare.class_labels
    with pytest.raises(ValueError, match="the evidence has no network"):
        _ = bare.run_again


def test_labels_that_are_no_classes_may_be_held_but_not_learned_from() -> None:
    rows = Evidence(logits=np.zeros((3, 3)), labels=np.array([0, 2, -1]))
    with pytest.raises(ValueError, match=r"row 2 has label -1; it must lie in \[0, 3\)"):
        _ = rows.class_labels
    extra = Evidence(logits=np.zeros((3, 3)), labels=np.array([0, 2, 1]), num_extra=1)
    with pytest.raises(ValueError, match=r"row 1 has label 2; it must lie in \[0, 2\)"):
        _ = extra.class_labels


@each_case("num_rows", [1, 4, 9])
def test_blocks_hold_every_row_once_in_order(num_rows: int) -> None:
    assert [row for rows in blocks(num_rows, 4) for row in range(rows.start, rows.stop)] == list(
        range(num_rows)
    )


GOOD = evidence_of_features([[1.0, 2.0], [3.0, 4.0]], np.eye(3, 2), np.zeros(3))


def changed(**fields: object) -> dict[str, object]:
    return {"logits": GOOD.logits, "last_layer": GOOD.last_layer} | fields


def layer(**fields: object) -> LastLayer:
    assert GOOD.last_layer is not None
    return dataclasses.replace(GOOD.last_layer, **fields)  # type: ignore[arg-type]


@each_case(
    ("fields", "message"),
    [
        ({"logits": np.zeros((0, 3))}, r"logits have shape \(0, 3\); it must be \(N, C\) with N >= 1"),
        ({"logits": np.zeros(3)}, r"logits have shape \(3,\)"),
        (
            {"logits": np.zeros((2, 3)), "num_extra": 2},
            "num_extra is 2; it must leave at least 2 of 3 outputs",
        ),
        ({"logits": np.array([[0, 1], [np.nan, 0]])}, "row 1 of the logits is .*; it must be finite"),
        ({"logits": np.zeros((2, 3)), "labels": np.zeros(3, dtype=int)}, r"labels are int64 \(3,\)"),
        ({"logits": np.zeros((2, 3)), "labels": np.zeros(2)}, "labels are float64"),
        (changed(last_layer=layer(features=np.ones((3, 2)))), r"they must be \(2, d\), \(3, d\) and \(3,\)"),
        (changed(last_layer=layer(features=np.ones(2))), "features, weight and bias have shapes"),
        (changed(last_layer=layer(features=np.array([[1, np.inf], [3, 4]]))), "row 0 of the features"),
        (
            changed(last_layer=layer(bias=np.array([0, np.nan, 0]))),
            "the last layer has numbers that are not finite",
        ),
        (
            changed(last_layer=layer(features=np.array([[1, 2], [3, 4.1]]))),
            "row 1 has logits that differ by 0.1 from W h",
        ),
    ],
)
def test_arrays_that_do_not_fit_are_refused_by_row(fields: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Evidence(**fields)  # type: ignore[arg-type]


def test_a_network_of_other_rows_is_refused() -> None:
    rows = network_evidence(20)
    with pytest.raises(ValueError, match="the network has 20 input rows, but there are 19 rows of logits"):
        Evidence(logits=rows.logits[:19], rerun=rows.rerun)


class Rescaled(nn.Module):
    """A network that rescales the output of the layer that is called last."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network, self.classifier = network, network.get_submodule("classifier")

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return 1.1 * self.network(images)  # type: ignore[no-any-return]


def test_a_network_with_operations_after_its_last_layer_is_refused() -> None:
    finished = network()
    longer = dataclasses.replace(finished, network=Rescaled(finished.network).eval())
    with pytest.raises(
        ValueError, match=r"row 0 has logits that differ by .* from W h \+ b of its features"
    ):
        evidence_of(longer, images(4))


def test_networks_and_rows_that_do_not_fit_are_refused() -> None:
    finished, split = network(), images(4)
    with pytest.raises(ValueError, match=r"inputs have the shape \(2, 3, 4\); the network expects \(2, 3, 3\)"):
        evidence_of(finished, Split.from_arrays(np.zeros((2, 2, 3, 4), dtype=np.uint8), [0, 1]))
    with pytest.raises(ValueError, match="there are no rows; there must be at least one"):
        evidence_of(finished, split.take(np.zeros(0, dtype=np.int64)))
    training = dataclasses.replace(finished, network=network().network.train())
    with pytest.raises(ValueError, match="in training mode; it must be in evaluation mode"):
        evidence_of(training, split)
    bent = network().network
    bent.classifier = nn.LayerNorm(3)
    with pytest.raises(ValueError, match=r"layer classifier is LayerNorm; it must be nn\.Linear"):
        evidence_of(dataclasses.replace(finished, network=bent), split)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
def test_a_network_on_a_gpu_gives_the_same_up_to_rounding() -> None:
    finished, split = network(), images(20)
    on_cpu = evidence_of(finished, split)
    rows = DeviceSplit(split, mean=finished.blueprint.mean, std=finished.blueprint.std, device="cuda")
    moved = dataclasses.replace(finished, network=network().network.cuda())
    on_gpu = evidence_of(moved, rows)
    assert on_gpu.logits == pytest.approx(on_cpu.logits, abs=1e-2)
    odin = find("calibrate.scores", "odin")(eps=0.01)
    first, second = (odin.fit(None, seed=0).score(part) for part in (on_cpu, on_gpu))
    assert second == pytest.approx(first, abs=1e-2)
    assert on_gpu.run_again.rows.image_shape == SHAPE
