"""Which parameters weight decay acts on."""

from typing import Any

from pruneyard.workloads.interfaces import NamedParameters


def decay_groups(
    parameters: NamedParameters, *, weight_decay: float, decay_vectors: bool
) -> list[dict[str, Any]]:
    """Optimizer groups: with `decay_vectors` false, tensors of fewer than two dimensions are not decayed."""
    tensors = [parameter for _, parameter in parameters]
    decayed = [p for p in tensors if decay_vectors or p.ndim > 1]
    spared = [p for p in tensors if not decay_vectors and p.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": weight_decay}, {"params": spared, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]
