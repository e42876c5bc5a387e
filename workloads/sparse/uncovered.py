"""Finds what sparse training does not cover of a network: parts that stay dense, are not counted, or have no sparse kernel."""

from collections.abc import Iterator, Mapping

from torch import nn

from pruneyard.workloads.deploy.kernels import why_no_kernel
from pruneyard.workloads.deploy.replacing import READ_DIRECTLY
from pruneyard.workloads.masks.choice import frozen_weights, listed
from pruneyard.workloads.masks.masks import all_prunable_layers, prunable_layers
from pruneyard.workloads.networks.flops import count_macs
from pruneyard.workloads.networks.weight_reads import weights_read_directly

_NORMS = (nn.LayerNorm, nn.RMSNorm)  # their weights have the shape of what they normalise, and scale it


def uncovered_parts(model: nn.Module, image_shape: tuple[int, ...], *, prunes: bool) -> list[str]:
    """Returns a warning for each kind of layer that cannot be pruned, counted or run by a sparse kernel.

    prunes: whether the method leaves weights out; without it only the counting matters. `image_shape` is (C, H, W).
    """
    layers, macs = prunable_layers(model), count_macs(model, image_shape)
    warnings = []
    multiplied = [name for name, layer in layers.items() if not isinstance(layer, nn.Embedding)]  # a lookup multiplies nothing
    if uncounted := [name for name in multiplied if not macs.by_weight[name]]:
        warnings.append(
            f"counted FLOPs leave out {listed(uncounted)}: the forward pass multiplies by values computed from it, or not at all"
        )
    if unknown := [name for name, module in model.named_modules() if isinstance(module, nn.Bilinear)]:
        warnings.append(f"counted FLOPs leave out {listed(unknown)}: products of three factors are not counted")
    if not prunes:
        return warnings
    prunable = {**all_prunable_layers(model), **layers}
    if dense := sorted({*_dense_parameters(model, prunable), *macs.dense_factors} - prunable.keys()):
        warnings.append(
            f"{listed(dense)} stay dense: density counts the weights of convolutions, linear layers and attention, and embeddings"
            " where a pattern of `prunable` matches nothing else"
        )
    if frozen := [name for name in frozen_weights(model) if name not in layers]:
        warnings.append(f"{listed(frozen)} stay dense: they are frozen (requires_grad is False), unless `prunable` names them")
    read = weights_read_directly(model, image_shape)
    reasons = {name: why_no_kernel(layer) or (READ_DIRECTLY if name in read else "") for name, layer in layers.items()}
    for reason in dict.fromkeys(filter(None, reasons.values())):
        names = [name for name in reasons if reasons[name] == reason]
        warnings.append(f"exports and latency keep {listed(names)} dense: {reason}")
    return warnings


def _dense_parameters(model: nn.Module, layers: Mapping[str, nn.Module]) -> Iterator[str]:
    """Yields the weights of torch's own layers that are not prunable: embeddings, recurrent layers, parametrised weights."""
    prunable = {id(model.get_parameter(name)) for name in layers}
    for path, module in model.named_modules():
        if type(module).__module__.startswith("torch.nn.") and not isinstance(module, _NORMS):
            for name, parameter in module.named_parameters(recurse=False):
                full = f"{path}.{name}" if path else name
                if parameter.ndim > 1 and id(parameter) not in prunable and not name.startswith("bias"):
                    yield full
