"""Self-attention with fewer heads than its width would allow, as it is left when heads are removed from torch's attention."""

import math
from typing import TypeGuard

from torch import Tensor, nn
from torch.nn import functional


class AttentionOfHeads(nn.Module):
    """Self-attention of `num_heads` heads of `head_dim` channels on tokens `(rows, tokens, width)`, without masks.

    The rows of `in_proj` are those of queries, keys and values, head after head in each.
    """

    def __init__(self, width: int, *, num_heads: int, head_dim: int, dropout: float, bias: bool) -> None:
        super().__init__()
        self.head_dim, self.dropout = head_dim, dropout
        self.in_proj = nn.Linear(width, 3 * num_heads * head_dim, bias=bias)
        self.out_proj = nn.Linear(num_heads * head_dim, width, bias=bias)

    @classmethod
    def of(cls, attention: nn.MultiheadAttention) -> "AttentionOfHeads":
        """Returns what computes the same as an attention, with its weights and all of its heads."""
        made = cls(
            attention.embed_dim,
            num_heads=attention.num_heads,
            head_dim=attention.head_dim,
            dropout=attention.dropout,
            bias=attention.in_proj_bias is not None,
        )
        made.in_proj.weight, made.in_proj.bias = attention.in_proj_weight, attention.in_proj_bias
        made.out_proj.weight, made.out_proj.bias = attention.out_proj.weight, attention.out_proj.bias
        return made.train(attention.training)

    @property
    def num_heads(self) -> int:
        """The number of heads."""
        return self.out_proj.in_features // self.head_dim

    def forward(self, query: Tensor, key: Tensor, value: Tensor, need_weights: bool = True) -> tuple[Tensor, Tensor | None]:
        """Returns what `nn.MultiheadAttention` returns for queries, keys and values that are the same tokens.

        Legend: B rows, L tokens, H heads, D channels of a head.
        """
        if not (query is key is value):
            raise ValueError("AttentionOfHeads is self-attention; query, key and value must be the same tensor")
        parts = self.in_proj(query).unflatten(-1, (3, self.num_heads, self.head_dim))
        q_BHLD, k_BHLD, v_BHLD = (part.transpose(1, 2) for part in parts.unbind(2))
        dropout, weights = self.dropout if self.training else 0.0, None
        if need_weights:
            weights = functional.softmax((q_BHLD * math.sqrt(1 / self.head_dim)) @ k_BHLD.transpose(-2, -1), dim=-1)
            weights = functional.dropout(weights, dropout) if dropout else weights
            mixed_BHLD = weights @ v_BHLD
            weights = weights.mean(1)
        else:
            mixed_BHLD = functional.scaled_dot_product_attention(q_BHLD, k_BHLD, v_BHLD, None, dropout)
        outputs: Tensor = self.out_proj(mixed_BHLD.transpose(1, 2).flatten(2))
        return outputs, weights


def can_lose_heads(module: nn.Module) -> TypeGuard[nn.MultiheadAttention]:
    """Returns whether `AttentionOfHeads` computes the same: packed projections, rows first, nothing added to keys and values."""
    return (
        type(module) is nn.MultiheadAttention
        and module._qkv_same_embed_dim
        and module.batch_first
        and module.bias_k is None
        and not module.add_zero_attn
    )
