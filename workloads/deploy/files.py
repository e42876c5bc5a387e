"""Exported files: safetensors with a header that describes the model, so that a file can be run without its run folder.

Reading a file executes no code from it: it contains only tensors and the names of installed plug-ins.
"""

import json
from collections.abc import Container, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import safetensors
import safetensors.torch
from torch import Tensor

from pruneyard.workloads.deploy.compressed import pack_csr, unpack
from pruneyard.workloads.deploy.dead_units import resize
from pruneyard.workloads.deploy.format import Exported, Format
from pruneyard.workloads.networks.finished import Blueprint, FinishedNetwork
from pruneyard.workloads.networks.shared_tensors import first_names, with_later_names
from pruneyard.workloads.plugins import find

VERSION = 1
_KEY = "pruneyard"


@dataclass(frozen=True, kw_only=True)
class Header:
    """The description in a file, besides its tensors."""

    format: str
    blueprint: Blueprint


def pack(finished: FinishedNetwork, tensors: Mapping[str, Tensor], *, format: str) -> bytes:
    """Returns the content of a file with these tensors and a header."""
    described = {name: value for name, value in asdict(finished.blueprint).items() if value or name != "sources"}
    header = {"version": VERSION, "format": format, **described}
    later = first_names(finished.network)
    # safetensors refuses tensors that are not contiguous, or share memory.
    contiguous = {name: tensor.contiguous() for name, tensor in tensors.items() if name not in later}
    content: bytes = safetensors.torch.save(contiguous, metadata={_KEY: json.dumps(header)})
    return content


def pack_sparse(
    finished: FinishedNetwork, packed: Mapping[str, Mapping[str, Tensor]], *, format: str
) -> bytes:
    """Returns the content of a file in which some weights are replaced by their `packed` tensors; the others are complete."""
    whole = {name: tensor for name, tensor in finished.network.state_dict().items() if name not in packed}
    masks = {f"{name}.mask": mask for name, mask in finished.masks.items() if name not in packed}
    parts = {name: tensor for tensors in packed.values() for name, tensor in tensors.items()}
    return pack(finished, whole | masks | parts, format=format)


def pack_csr_layers(finished: FinishedNetwork, dense: Container[str], *, format: str) -> bytes:
    """Returns the content of a file with masked weights as CSR matrices, except those named in `dense`."""
    weights = finished.network.state_dict()
    sparse = {n: pack_csr(n, weights[n], m) for n, m in finished.masks.items() if n not in dense}
    return pack_sparse(finished, sparse, format=format)


def read_header(path: Path) -> Header:
    """Reads the header of a file. Raises `ValueError` for a file that `pack` did not write, or that a later version wrote."""
    try:
        with safetensors.safe_open(str(path), framework="pt") as file:
            text = (file.metadata() or {}).get(_KEY)
    except safetensors.SafetensorError as error:
        raise ValueError(f"{path} is not a complete safetensors file: {error}") from error
    if text is None:
        raise ValueError(f"{path} was not exported by pruneyard: it has no pruneyard header")
    try:
        table = json.loads(text)
        # Raised inside the `try`, so that the message gets the path in front.
        if table["version"] > VERSION:
            raise ValueError(
                f"it has version {table['version']}; this pruneyard reads up to {VERSION}, so update pruneyard"
            )
        return Header(format=str(table["format"]), blueprint=Blueprint.of_table(table))
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} has a header that cannot be read: {error}") from error


def read_network(path: Path) -> FinishedNetwork:
    """Reads the network of an exported file with its masks, for every format that `pack` wrote.

    A compact network has fewer units and no masks. Raises `ValueError` for files that `pack` did not write.
    """
    header = read_header(path)
    network = header.blueprint.empty_network()
    # The shapes of the complete network. `unpack` does not compare them for dense tensors, and a compact file has dense
    # tensors only, so its smaller shapes pass.
    shapes = {name: tensor.shape for name, tensor in network.state_dict().items()}
    weights, masks = unpack(safetensors.torch.load_file(path), shapes)
    if header.format == "compact":
        weights = with_later_names(network, weights)  # layers that get a size of their own share nothing
        resize(network, weights)
    return FinishedNetwork.of(header.blueprint, weights=weights, masks=masks, network=network)


def load(path: str | Path, *, batch_size: int = 1) -> Exported:
    """Loads the network of an exported file, ready to run on this machine; kernels are chosen for `batch_size`.

    Raises `ValueError` for other files, ONNX files included, which are meant for other programs.
    """
    finished = read_network(Path(path))
    # Compact networks have no masks, and sparse formats would refuse a network without masks.
    if not finished.masks:
        return Exported(run=finished.network, kernels=dict.fromkeys(finished.layers, "dense"))
    chosen: Format = find("deploy.formats", read_header(Path(path)).format)()
    return chosen.build(finished, batch_size=batch_size)
