"""Every export format: outputs equal those of the dense network, files are read back, refusals are clear."""

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import Tensor

from pruneyard.testing.cases import each_case
from pruneyard.testing.finished_networks import MakeMask, finished, random_mask
from pruneyard.testing.test_network_formats import blocks, equal_rows, two_of_four, whole_rows
from pruneyard.workloads.deploy.files import load, read_header, read_network
from pruneyard.workloads.deploy.format import Exported, Format, relative_difference
from pruneyard.workloads.deploy.timing import Network
from pruneyard.workloads.networks.finished import FinishedNetwork
from pruneyard.workloads.plugins import find, names

FORMATS = names("deploy.formats")


FITTING: dict[str, MakeMask] = {"bsr": blocks, "compact": whole_rows, "constant_fan_in": equal_rows}
"""Masks that a format can take where it cannot take random ones."""


def network_for(form: str, model: str) -> FinishedNetwork:
    return finished(model, FITTING.get(form, random_mask(0.1)), except_for=("classifier.weight",))


def outputs(exported: Exported, images: Tensor) -> Tensor:
    with torch.inference_mode():
        return exported.run(images)


def on_cpu(form: str) -> Format:
    chosen: Format = find("deploy.formats", form)()
    if chosen.device.type != "cpu":
        pytest.skip("needs a GPU")
    if form == "onnx" and find_spec("onnxruntime") is None:
        pytest.skip("needs the extra onnx")
    return chosen


@pytest.mark.parametrize("form", [form for form in FORMATS if form not in ("onnx", "semi_structured")])
def test_a_file_alone_gives_the_network_back(form: str, tmp_path: Path) -> None:
    chosen, network = on_cpu(form), network_for(form, "convnet")
    path = tmp_path / "network.safetensors"
    path.write_bytes(chosen.encode(network))
    assert read_header(path).format == form
    assert read_header(path).blueprint == network.blueprint
    images = network.random_images(3)
    expected = outputs(Exported(run=network.network, kernels={}), images)
    assert relative_difference(outputs(load(path, batch_size=3), images), expected) <= chosen.tolerance
    if form != "compact":  # whose masks are gone with the units
        back = read_network(path)
        assert back.masks.keys() == network.masks.keys()
        assert all(torch.equal(back.masks[name], mask) for name, mask in network.masks.items())
        weights = network.network.state_dict()
        assert all(torch.equal(weights[name], t) for name, t in back.network.state_dict().items())


@each_case("form", ["csr", "gather", "auto", "bsr", "constant_fan_in", "compact"])
def test_zeros_are_gone_from_the_file(form: str) -> None:
    network = network_for(form, "resnet20")
    small, full = (len(find("deploy.formats", name)().encode(network)) for name in (form, "dense"))
    assert small < 0.8 * full


def test_csr_holds_exactly_the_active_weights() -> None:
    network = finished("mlp", random_mask(0.1))
    tensors = safetensors.torch.load(find("deploy.formats", "csr")().encode(network))
    for name, mask in network.masks.items():
        assert name not in tensors
        assert torch.equal(tensors[f"{name}.values"], network.network.get_parameter(name)[mask])


@each_case("form", [form for form in FORMATS if form not in ("dense", "onnx")])
def test_a_network_without_zeros_is_refused_with_the_reason(form: str) -> None:
    chosen: Format = find("deploy.formats", form)()
    network = finished("mlp")
    assert chosen.fit(network).refusal
    with pytest.raises(ValueError, match=r"no mask|no dead unit"):
        chosen.build(network, batch_size=1)
    with pytest.raises(ValueError, match=r"no mask|no dead unit"):
        chosen.encode(network)


@pytest.mark.parametrize("form", ["bsr", "constant_fan_in", "semi_structured"])
def test_a_random_pattern_is_refused_layer_by_layer(form: str) -> None:
    fit = find("deploy.formats", form)().fit(finished("mlp", random_mask(0.5)))
    assert set(fit.dense) == {"hidden1.weight", "hidden2.weight", "classifier.weight"}
    assert all(f"{name}: {reason}" in fit.refusal for name, reason in fit.dense.items())


def test_what_stays_dense_is_said() -> None:
    network = finished("mlp", random_mask(0.1), except_for=("hidden2.weight",))
    chosen: Format = find("deploy.formats", "csr")()
    assert chosen.fit(network).dense == {"hidden2.weight": "it has no mask"}
    kernels = chosen.build(network, batch_size=1).kernels
    assert kernels == {"hidden1.weight": "csr", "hidden2.weight": "dense", "classifier.weight": "csr"}


def test_two_of_four_is_written_anywhere_and_run_only_on_a_gpu(tmp_path: Path) -> None:
    network = finished("mlp", two_of_four, except_for=("classifier.weight", "hidden2.weight"))
    chosen: Format = find("deploy.formats", "semi_structured")()
    path = tmp_path / "network.safetensors"
    path.write_bytes(chosen.encode(network))
    mask = network.masks["hidden1.weight"]
    assert torch.equal(read_network(path).masks["hidden1.weight"], mask)
    if not torch.cuda.is_available():
        assert "need a CUDA GPU" in chosen.fit(network).refusal
        with pytest.raises(ValueError, match="CUDA"):
            chosen.build(network, batch_size=1)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_two_of_four_gives_the_dense_outputs_on_a_gpu() -> None:
    network = finished("mlp", two_of_four, except_for=("classifier.weight", "hidden2.weight"))
    chosen: Format = find("deploy.formats", "semi_structured")()
    images = network.random_images(64)
    expected = outputs(Exported(run=network.network, kernels={}), images)
    exported = chosen.build(network, batch_size=64)
    assert exported.kernels["hidden1.weight"] == "2:4"
    assert relative_difference(outputs(exported, images), expected) <= chosen.tolerance


def test_onnx_refuses_in_words_where_its_packages_are_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pruneyard.workloads.deploy.formats.onnx._PACKAGES", ("onnx", "no_such_package"))
    refusal = find("deploy.formats", "onnx")().fit(finished("mlp", random_mask(0.1))).refusal
    assert "no_such_package is not installed" in refusal
    assert "pruneyard[onnx]" in refusal


def test_auto_uses_the_regular_index_where_it_is_fastest_and_the_mask_allows_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def regular_is_fastest(networks: Mapping[str, Network], inputs: Tensor, *, rounds: int) -> dict[str, float]:
        return {name: 1.0 if name == "constant_fan_in" else 2.0 + ("mixed" not in name) for name in networks}

    monkeypatch.setattr("pruneyard.workloads.deploy.formats.auto.least_times", regular_is_fastest)
    kernels = [
        find("deploy.formats", "auto")().build(finished("mlp", mask), batch_size=2).kernels.values()
        for mask in (equal_rows, random_mask(0.5))
    ]
    assert set(kernels[0]) == {"constant_fan_in"}
    assert set(kernels[1]) == {"dense"}


def test_without_mkl_blocks_are_refused_and_csr_still_computes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.mkl, "is_available", lambda: False)
    network = network_for("bsr", "mlp")
    assert "need MKL" in find("deploy.formats", "bsr")().fit(network).refusal
    assert "bsr" not in find("deploy.formats", "auto")().build(network, batch_size=2).kernels.values()
    images = network.random_images(1)
    found = find("deploy.formats", "csr")().build(network, batch_size=1).run(images)
    torch.testing.assert_close(found, network.network(images))
