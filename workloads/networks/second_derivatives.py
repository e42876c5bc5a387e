"""A context in which the gradients of every network can be differentiated again."""

from contextlib import AbstractContextManager

from torch.nn.attention import SDPBackend, sdpa_kernel


def twice_differentiable_attention() -> AbstractContextManager[None]:
    """Returns a context in which PyTorch computes attention by plain products: its fused kernels have no second derivative."""
    context: AbstractContextManager[None] = sdpa_kernel(SDPBackend.MATH)
    return context
