"""What a method's masks do to the weights of a network: kept at zero outside, narrowed or thinned out inside a step."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import Tensor, nn

from pruneyard.workloads.interfaces import Tensors
from pruneyard.workloads.training.mask_updater import MaskUpdater, SparseState
from pruneyard.workloads.training.weight_dropout import WeightDropout

Places = tuple[Tensor, ...]


"""Entries of a tensor, one index per dimension."""


class AppliedMasks:
    """The prunable weights of a network under the state of its method.

    Weights, gradients and optimizer state are zeroed outside masks when these change; from then on masked gradients keep
    them zero.
    """

    def __init__(
        self,
        weights: Mapping[str, nn.Parameter],
        *,
        method: MaskUpdater,
        dropout: WeightDropout,
        stream_of: Callable[[int], torch.Generator | None],
    ) -> None:
        """stream_of: the generator of a step's weight dropout; None where all weights are to be seen, as by an update."""
        self.weights, self.state = weights, SparseState({})
        self._method, self._dropout, self._stream_of = method, dropout, stream_of
        self._factors: dict[str, Tensor] = {}  # masks, in the type and layout of their weights
        self._forward_factors: dict[str, Tensor] = {}
        self._decay: Tensors = {}
        self._active: dict[str, Places] = {}  # of layers with weight dropout

    def apply(self, state: SparseState, optimizer: torch.optim.Optimizer) -> None:
        """Takes a state over, on the weights' device."""
        device = next(iter(self.weights.values())).device if self.weights else torch.device("cpu")

        def there(tensors: Tensors) -> dict[str, Tensor]:
            return {name: tensor.to(device) for name, tensor in tensors.items()}

        self.state = SparseState(there(state.masks), there(state.tensors), there(state.forward))
        self._factors = self._as_factors(self.state.masks, before=self._factors)
        self._forward_factors = self._as_factors(self.state.forward, before=self._forward_factors)
        for name, factor in self._factors.items():
            weight = self.weights[name]
            with torch.no_grad():
                weight.mul_(factor)
                if name in state.revived:
                    weight.add_(state.revived[name])
            for buffer in optimizer.state.get(weight, {}).values():
                if isinstance(buffer, Tensor) and buffer.shape == weight.shape:
                    buffer.mul_(factor)
        self._decay = there(self._method.extra_decay(self.state))
        self._active = {name: self._places(name) for name in self._dropout.layers(self.weights)}
        self.mask_gradients()

    def mask_gradients(self) -> None:
        """One multiplication per masked layer: with it, weight, gradient and momentum stay exactly zero outside."""
        masked = [
            (grad, f) for name, f in self._factors.items() if (grad := self.weights[name].grad) is not None
        ]
        if masked:
            gradients, factors = zip(*masked, strict=True)
            torch._foreach_mul_(gradients, factors)

    def decay_gradients(self) -> None:
        """Adds the method's own weight decay."""
        for name, factor in self._decay.items():
            weight = self.weights[name]
            if weight.grad is not None:
                weight.grad.addcmul_(factor, weight.detach())

    def in_step(self, step: int) -> AbstractContextManager[None]:
        """In the block the weights are those that this step computes with; gradients taken in it are cut alike.

        Whatever weights stand in the network when it is entered are narrowed and thinned out, and stand there after it.
        """
        if not (self._forward_factors or self._active):
            return nullcontext()
        return self._cut(self._left_out(step))

    def finished(self) -> AbstractContextManager[None]:
        """In the block the weights are those of the finished network."""
        return self._cut({}) if self._forward_factors else nullcontext()

    def sample(self, step: int) -> dict[str, Tensor]:
        """Copies of the prunable weights as this step computes with them."""
        with self.in_step(step):
            return {name: weight.detach().clone() for name, weight in self.weights.items()}

    @contextmanager
    def _cut(self, left_out: Mapping[str, Places]) -> Iterator[None]:
        """left_out: entries that are zero in the block; afterwards gradients are those of the weights put back."""
        before, scale = {}, self._dropout.scale
        for name in {**self._forward_factors, **left_out}:
            weight = self.weights[name]
            before[name] = weight.data
            narrow = name in self._forward_factors
            cut = weight.data * self._forward_factors[name] if narrow else weight.data.clone()
            if name in left_out:
                cut[left_out[name]] = 0
                cut.mul_(scale)
            weight.data = cut
        try:
            yield
        finally:
            for name, data in before.items():
                self.weights[name].data = data
            for name, places in left_out.items():
                gradient = self.weights[name].grad
                if gradient is not None:
                    gradient[places] = 0
                    gradient.mul_(scale)

    def _left_out(self, step: int) -> dict[str, Places]:
        generator = self._stream_of(step)
        if generator is None:
            return {}
        return {name: self._drawn(places, generator) for name, places in self._active.items()}

    def _drawn(self, places: Places, generator: torch.Generator) -> Places:
        chosen = self._dropout.draw(len(places[0]), generator).to(places[0].device)
        return tuple(index[chosen] for index in places)

    def _places(self, name: str) -> Places:
        """Entries of the weight that the network computes with."""
        mask = self.state.used.get(name, torch.ones_like(self.weights[name], dtype=torch.bool))
        return mask.nonzero(as_tuple=True)

    def _as_factors(self, masks: Tensors, *, before: Tensors) -> dict[str, Tensor]:
        """In the memory of those before, where there were some: they are as large as the weights."""
        return {
            name: (before[name] if name in before else torch.empty_like(self.weights[name])).detach().copy_(mask)
            for name, mask in masks.items()
        }
