"""Parameter groups with and without weight decay."""

from typing import Any

from pruneyard.workloads.interfaces import NamedParameters


def decay_groups(
    parameters: NamedParameters, *, weight_decay: float, decay_bias_and_norm: bool
) -> list[dict[str, Any]]:
    """Returns optimizer groups; with `decay_bias_and_norm` false, tensors of fewer than two dimensions have no weight decay."""
    tensors = [parameter for _, parameter in parameters]
    decayed = [p for p in tensors if decay_bias_and_norm or p.ndim > 1]
    undecayed = [p for p in tensors if not decay_bias_and_norm and p.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": weight_decay}, {"params": undecayed, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]
