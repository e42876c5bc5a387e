"""Layers whose weight is stored as values and index, in place of dense layers with the same parameters."""

from typing import TypeGuard

from torch import Tensor, nn

from pruneyard.workloads.execution.attention import AttentionOfLayers
from pruneyard.workloads.execution.captured import Captured
from pruneyard.workloads.execution.lookups import lookup
from pruneyard.workloads.execution.products import linear, product
from pruneyard.workloads.masks.sparse_index import SparseIndex


class SparseLinear(nn.Linear):
    """A linear layer that shares its parameters with the layer it replaces, whose weight now holds the values `(num_active,)`.

    captured: where the next backward pass adds what the dense gradient of the weight is computed from; None: nowhere.
    """

    def __init__(self, layer: nn.Linear, index: SparseIndex) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features = layer.in_features, layer.out_features
        self.weight, self.bias = layer.weight, layer.bias
        self.index = index
        self.captured: list[Captured] | None = None
        self.train(layer.training)

    def forward(self, inputs: Tensor) -> Tensor:
        """Maps `(..., inputs)` to `(..., outputs)`."""
        return linear(inputs, self.weight, self.bias, index=self.index, captured=self.captured)

    def extra_repr(self) -> str:
        """Returns the sizes, with the number of stored weights."""
        return f"{super().extra_repr()}, num_active={self.index.num_active}"


class SparsePointwiseConv2d(nn.Module):
    """A convolution of kernel size 1 that shares its parameters with the layer it replaces; see `SparseLinear`."""

    def __init__(self, layer: nn.Conv2d, index: SparseIndex) -> None:
        super().__init__()
        self.stride = layer.stride
        self.weight, self.bias = layer.weight, layer.bias
        self.index = index
        self.captured: list[Captured] | None = None
        self.train(layer.training)

    def forward(self, images: Tensor) -> Tensor:
        """Maps `(..., inputs, height, width)` to `(..., outputs, height, width)`, height and width divided by the stride."""
        read = images[..., :: self.stride[0], :: self.stride[1]]
        by_channel = read.movedim(-3, 0)
        columns = by_channel.reshape(len(by_channel), -1)
        outputs = product(columns, self.weight, self.bias, index=self.index, captured=self.captured)
        return outputs.reshape(-1, *by_channel.shape[1:]).movedim(0, -3)


class SparseEmbedding(nn.Embedding):
    """An embedding that shares its parameter with the layer it replaces; see `SparseLinear`."""

    def __init__(self, layer: nn.Embedding, index: SparseIndex) -> None:
        nn.Module.__init__(self)
        self.num_embeddings, self.embedding_dim = layer.num_embeddings, layer.embedding_dim
        self.padding_idx = self.max_norm = None
        self.norm_type, self.scale_grad_by_freq, self.sparse = layer.norm_type, False, False
        self.weight = layer.weight
        self.index = index
        self.captured: list[Captured] | None = None
        self.train(layer.training)

    def forward(self, codes: Tensor) -> Tensor:
        """Maps codes `(...)` to rows of the weight `(..., embedding_dim)`."""
        rows = lookup(codes.reshape(-1), self.weight, index=self.index, captured=self.captured)
        return rows.reshape(*codes.shape, self.embedding_dim)

    def extra_repr(self) -> str:
        """Returns the sizes, with the number of stored weights."""
        return f"{super().extra_repr()}, num_active={self.index.num_active}"


Replaceable = nn.Linear | nn.Conv2d | nn.Embedding | AttentionOfLayers
SparseLayer = SparseLinear | SparsePointwiseConv2d | SparseEmbedding | AttentionOfLayers


def can_be_sparse(layer: nn.Module) -> TypeGuard[Replaceable]:
    """Returns whether a layer, dense as it is, has a sparse form.

    These are linear layers, convolutions of kernel size 1, embeddings without options, and attention that calls its projections.
    """
    # Subclasses may compute something else, as the output projection of torch's attention does.
    if type(layer) is nn.Conv2d:
        return layer.kernel_size == (1, 1) and layer.groups == 1 and layer.padding in ((0, 0), "valid", "same")
    if type(layer) is nn.Embedding:
        return layer.padding_idx is layer.max_norm is None and not (layer.scale_grad_by_freq or layer.sparse)
    return type(layer) in (nn.Linear, AttentionOfLayers)


def main_weight(layer: Replaceable) -> Tensor:
    """Returns the weight of a layer that can be stored sparse: of attention, the packed one of its input projections."""
    weight = layer.in_proj_weight if isinstance(layer, AttentionOfLayers) else layer.weight
    assert weight is not None
    return weight


def sparse_layer(layer: Replaceable, index: SparseIndex) -> SparseLayer:
    """Returns the sparse form of a layer with its parameters."""
    match layer:
        case AttentionOfLayers():
            return layer.with_index(index)
        case nn.Embedding():
            return SparseEmbedding(layer, index)
        case nn.Linear():
            return SparseLinear(layer, index)
        case _:
            return SparsePointwiseConv2d(layer, index)
