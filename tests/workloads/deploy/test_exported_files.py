"""Exported files that are refused on reading; nothing in them is executed."""

import json
import pickle
from pathlib import Path

import pytest
import safetensors.torch
import torch

from pruneyard.testing.cases import each_case
from pruneyard.testing.finished_networks import finished, random_mask
from pruneyard.workloads.deploy.files import load, pack, read_header, read_network
from pruneyard.workloads.networks.finished import Blueprint, FinishedNetwork
from pruneyard.workloads.plugins import find


class Trap:
    """Raises when it is unpickled."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return exec, ("raise SystemExit('executed')",)


def with_header(path: Path, **changes: object) -> Path:
    """Writes a file of ours with changes to its header; returns its path."""
    network = finished("mlp", random_mask(0.2))
    content = find("deploy.formats", "csr")().encode(network)
    path.write_bytes(content)
    with safetensors.safe_open(str(path), framework="pt") as file:
        header = json.loads(file.metadata()["pruneyard"])
    changed = {"pruneyard": json.dumps(header | changes)}
    path.write_bytes(safetensors.torch.save(safetensors.torch.load(content), metadata=changed))
    return path


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (pickle.dumps(Trap()), "not a complete safetensors file"),
        (b"", "not a complete safetensors file"),
        (safetensors.torch.save({"a": torch.ones(1)}), "not exported by pruneyard"),
    ],
    ids=["pickle", "empty", "foreign"],
)
def test_other_files_are_refused_in_words(content: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        load(path)


@each_case(
    ("changes", "message"),
    [
        ({"version": 99}, "version 99"),
        ({"image_shape": 8}, "header that cannot be read"),
        ({"image_shape": [1, 0, 8]}, "image_shape"),
        ({"mean": []}, "mean"),
        ({"model": {"name": "os.system"}}, "none of"),
        ({"model": {"name": "mlp", "width": 31}}, "damaged|do not fit"),
        ({"model": {"name": "mlp", "colour": 3}}, "does not fit that model"),
        ({"model": {}}, "none of"),
    ],
    ids=str,
)
def test_a_header_that_cannot_be_is_refused(changes: dict[str, object], message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        load(with_header(tmp_path / "file", **changes))


def test_a_file_says_what_the_network_wants_to_see(tmp_path: Path) -> None:
    blueprint = read_header(with_header(tmp_path / "file", mean=[0.25])).blueprint
    assert (blueprint.image_shape, blueprint.mean, blueprint.std) == ((1, 8, 8), (0.25,), (0.25,))


def test_a_dense_network_comes_back_without_masks(tmp_path: Path) -> None:
    network = finished("mlp")
    path = tmp_path / "file"
    path.write_bytes(pack(network, network.network.state_dict(), format="dense"))
    assert read_network(path).masks == {}
    assert set(load(path).kernels.values()) == {"dense"}


def test_weights_outside_masks_become_zero_and_what_does_not_fit_is_refused() -> None:
    network = finished("mlp")
    weights, blueprint = network.network.state_dict(), network.blueprint
    mask = torch.zeros(32, 64, dtype=torch.bool)
    masked = FinishedNetwork.of(blueprint, weights=weights, masks={"hidden1.weight": mask})
    assert not masked.network.get_parameter("hidden1.weight").any()
    assert masked.density == pytest.approx(1 - 32 * 64 / (32 * 64 + 32 * 32 + 10 * 32))
    assert masked.forward_flops == 2 * (32 * 32 + 10 * 32)
    assert masked.dense_forward_flops == 2 * (32 * 64 + 32 * 32 + 10 * 32)
    with pytest.raises(ValueError, match="boolean tensor"):
        FinishedNetwork.of(blueprint, weights=weights, masks={"hidden1.weight": mask.T})
    with pytest.raises(ValueError, match="not finite"):
        FinishedNetwork.of(
            blueprint, weights=weights | {"hidden1.bias": torch.full((32,), torch.nan)}, masks={}
        )
    with pytest.raises(ValueError, match="do not fit"):
        FinishedNetwork.of(blueprint, weights={}, masks={})


def test_a_blueprint_without_outputs_is_refused() -> None:
    table = {
        "model": {"name": "mlp"},
        "image_shape": [1, 8, 8],
        "num_outputs": 0,
        "mean": [0.0],
        "std": [1.0],
    }
    with pytest.raises(ValueError, match="num_outputs"):
        Blueprint.of_table(table)
