"""Attention whose projections are layers that it calls, so that each of them can be computed from stored values.

`nn.MultiheadAttention` reads the weights of its projections itself.
"""

import copy
import math
from typing import TypeGuard

import torch
from torch import Tensor, nn

from pruneyard.workloads.execution.captured import Captured
from pruneyard.workloads.execution.products import linear
from pruneyard.workloads.masks.sparse_index import SparseIndex


class AttentionOfLayers(nn.MultiheadAttention):
    """Attention that shares its parameters, with their names, with the module it replaces.

    index: of the stored values in `in_proj_weight`; None while it is stored dense. `out_proj` is a linear layer that is called.
    captured: see `pruneyard.workloads.execution.modules.SparseLinear`.

    Inputs that are not the same tensor are each multiplied by the whole of `in_proj_weight`. `is_causal` is not read: it only
    repeats what `attn_mask` says.
    """

    def __init__(self, attention: nn.MultiheadAttention) -> None:
        nn.Module.__init__(self)
        self.__dict__.update({name: copy.copy(value) for name, value in attention.__dict__.items()})
        out = attention.out_proj
        with torch.device("meta"):
            self.out_proj = nn.Linear(out.in_features, out.out_features, bias=out.bias is not None)  # type: ignore[assignment]
        self.out_proj.weight, self.out_proj.bias = out.weight, out.bias
        self.out_proj.train(attention.training)
        self.index: SparseIndex | None = None
        self.captured: list[Captured] | None = None

    def with_index(self, index: SparseIndex | None) -> "AttentionOfLayers":
        """Returns this module, whose `in_proj_weight` now holds the stored values of the index, or is dense."""
        self.index, self.captured = index, None
        return self

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """Returns what `nn.MultiheadAttention` returns.

        Legend: B rows, L and S tokens of query and key, E width, H heads, D = E / H.
        """
        is_single, is_first = query.ndim == 2, self.batch_first
        parts = self._projected(query, key, value)
        rows = [part[None] if is_single else part if is_first else part.transpose(0, 1) for part in parts]
        q_BHLD, k_BHSD, v_BHSD = (part.unflatten(-1, (self.num_heads, self.head_dim)).transpose(1, 2) for part in rows)
        padding = None if key_padding_mask is None else key_padding_mask.reshape(len(q_BHLD), 1, 1, -1)
        mask = self._merged(attn_mask, padding, batch=len(q_BHLD), dtype=query.dtype)
        dropout, weights = self.dropout if self.training else 0.0, None
        if need_weights:
            products = (q_BHLD * math.sqrt(1 / self.head_dim)) @ k_BHSD.transpose(-2, -1)
            weights = nn.functional.softmax(products if mask is None else products + mask, dim=-1)
            weights = nn.functional.dropout(weights, dropout) if dropout else weights
            mixed_BHLD = weights @ v_BHSD
        else:
            mixed_BHLD = nn.functional.scaled_dot_product_attention(q_BHLD, k_BHSD, v_BHSD, mask, dropout)
        outputs: Tensor = self.out_proj(mixed_BHLD.transpose(1, 2).flatten(2))
        if weights is not None and average_attn_weights:
            weights = weights.mean(1)
        if is_single:
            return outputs[0], None if weights is None else weights[0]
        return outputs if is_first else outputs.transpose(0, 1), weights

    def _projected(self, query: Tensor, key: Tensor, value: Tensor) -> list[Tensor]:
        """Returns the projections of queries, keys and values, with the sizes of the inputs."""
        products: dict[int, Tensor] = {}
        for inputs in (query, key, value):
            if id(inputs) not in products:
                products[id(inputs)] = self._in_proj(inputs)
        return [products[id(inputs)].chunk(3, dim=-1)[i] for i, inputs in enumerate((query, key, value))]

    def _in_proj(self, inputs: Tensor) -> Tensor:
        """Maps `(..., E)` to `(..., 3 E)`."""
        weight: Tensor = self.in_proj_weight  # it is None only where keys or values have a width of their own
        if self.index is None:
            return nn.functional.linear(inputs, weight, self.in_proj_bias)
        return linear(inputs, weight, self.in_proj_bias, index=self.index, captured=self.captured)

    def _merged(self, mask: Tensor | None, padding: Tensor | None, *, batch: int, dtype: torch.dtype) -> Tensor | None:
        """Returns both masks as one number to add to each product, `(B or 1, H or 1, L or 1, S)`."""
        if mask is not None and mask.ndim == 3:
            mask = mask.reshape(batch, self.num_heads, *mask.shape[1:])
        given = [each for each in (mask, padding) if each is not None]
        added = [
            torch.zeros_like(each, dtype=dtype).masked_fill(each, -math.inf) if each.dtype == torch.bool else each
            for each in given
        ]
        return sum(added[1:], added[0]) if added else None


def can_call_projections(module: nn.Module) -> TypeGuard[nn.MultiheadAttention]:
    """Returns whether `AttentionOfLayers` computes the same: one packed projection, nothing added to keys and values."""
    return (
        type(module) is nn.MultiheadAttention
        and module._qkv_same_embed_dim
        and module.bias_k is None
        and not module.add_zero_attn
    )
