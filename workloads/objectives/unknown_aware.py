"""Cross-entropy with an output "unknown" that can take probability of misclassified samples (MOON).

Reference: Lei et al. 2024, Embracing Unknown Step by Step: Towards Reliable Sparse Training in Real World (arXiv:2403.20047)

Rebuilt from the released code, without access to the text of the paper. "Unknown" is never a label. With p the softmax over
all K + 1 outputs, h = -log p[label] and u = p[unknown], a sample weighs 1 where the largest of all outputs is its label's,
and 1 + a / (1 + a u) elsewhere; nothing is detached, so a wrong sample lowers its weight by raising u. This lowers the loss
where h is large: above 2 for a = 1 and above 14 for a = 0.3, at small u.

a is 0 in the first epochs. Then it begins at 1/64 of the mean of (1 - u) h seen so far, an exponential moving average over
steps, and rises by equal amounts, once an epoch, to `weight` in the last one. It begins no higher than `weight`, so that
0 is cross-entropy over K + 1 outputs; the released code would begin above it there.

Whether "unknown" acts is reported as moving averages over training rows, with the same `rate`: `p_unknown`, the mean of u, and
`unknown_gradient`, the share of the logits' gradient that comes from the weights w of the samples and not from h: the sum of
|h dw| over samples, divided by that of |h dw| + |w dh|, with Euclidean norms over logits. No gradient depends on these averages.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from pruneyard.workloads.fields import renamed
from pruneyard.workloads.interfaces import LossInputs, SplitLogits, Tensors
from pruneyard.workloads.plugins import Settings

__all__ = ["UnknownAware"]

UNSEEN = -1.0  # a moving average before its first value, which is never negative


@dataclass(frozen=True, kw_only=True)
class UnknownAware:
    """Unknown-aware loss, with `weight`, `rate` and `warmup_epochs` as in the README and the defaults of the released code."""

    num_extra: ClassVar[int] = 1
    is_batch_level: ClassVar[bool] = False
    refused: ClassVar[Mapping[str, str]] = {
        "class_weight": "does not go with this objective, which weighs rows by the probability of unknown; use sampler: weighted"
    }
    neutral_settings: ClassVar[tuple[Settings, ...]] = ()

    weight: float = 1.0  # a of the last epoch; 0: cross-entropy over K + 1 outputs
    # of cross-entropy, at the start; all of a shorter budget
    warmup_epochs: int = field(default=5, metadata=renamed("warm_epochs"))
    divisor: float = 64.0  # of the moving average, for the first a
    rate: float = 0.05  # share of the newest step in the moving average, in (0, 1]

    def __post_init__(self) -> None:
        if not self.weight >= 0:
            raise ValueError(f"weight is {self.weight}; it must be 0 or more")
        if self.warmup_epochs < 1:
            raise ValueError(f"warmup_epochs is {self.warmup_epochs}; it must be 1 or more: the first a is made of their losses")
        if not self.divisor > 0:
            raise ValueError(f"divisor is {self.divisor}; it must be above 0")
        if not 0 < self.rate <= 1:
            raise ValueError(f"rate is {self.rate}; it must lie in (0, 1]")

    @property
    def extra_forwards(self) -> float:
        """No extra work."""
        return 0.0

    def start(self) -> Tensors:
        """Returns a and the moving averages."""
        unseen = {name: torch.tensor(UNSEEN) for name in ("known_loss", "p_unknown", "unknown_gradient")}
        return {"unknown_weight": torch.zeros(()), **unseen}

    def on_epoch_start(self, memory: Tensors, *, epoch: int, num_epochs: int, split_logits: SplitLogits) -> Tensors:
        """Returns the memory, with a raised if this epoch does so."""
        if epoch < self.warmup_epochs:
            return memory
        a, last = memory["unknown_weight"], torch.full_like(memory["unknown_weight"], self.weight)
        if epoch == num_epochs - 1:
            raised = last
        elif epoch == self.warmup_epochs:
            raised = (memory["known_loss"] / self.divisor).clamp(max=self.weight)
        else:
            raised = a + (last - a) / (num_epochs - epoch)  # of what is left, over the raises that are left
        return {**memory, "unknown_weight": raised}

    def loss(self, inputs: LossInputs) -> tuple[Tensor, Tensors]:
        """Returns the mean over the batch, in nats, and the memory."""
        log_p = functional.log_softmax(inputs.network(inputs.images), dim=1)  # (B, K + 1)
        h = functional.nll_loss(log_p, inputs.labels, reduction="none")
        u = log_p[:, -1].exp()
        a = inputs.memory["unknown_weight"]
        is_right = log_p.argmax(dim=1) == inputs.labels
        weight = torch.where(is_right, 1.0, 1 + a / (1 + a * u))
        now = {
            "known_loss": ((1 - u) * h).mean().detach().float(),
            "p_unknown": u.mean().detach().float(),
            "unknown_gradient": _gradient_share(log_p, inputs.labels, weight=weight, is_right=is_right, a=a),
        }
        averages = {name: self._average(inputs.memory.get(name), value) for name, value in now.items()}
        return (h * weight).mean(), {**inputs.memory, **averages}

    def _average(self, seen: Tensor | None, now: Tensor) -> Tensor:
        """Returns a moving average with one more value; checkpoints of earlier versions have only some of the averages."""
        return now if seen is None else torch.where(seen < 0, now, seen.lerp(now, self.rate))


@torch.no_grad()
def _gradient_share(log_p: Tensor, labels: Tensor, *, weight: Tensor, is_right: Tensor, a: Tensor) -> Tensor:
    """Returns the share of the logits' gradient (B, K + 1) that acts through u, a scalar; see the module's docstring."""
    p, h = log_p.float().exp(), functional.nll_loss(log_p.float(), labels, reduction="none")
    u = p[:, -1]
    of_loss = p - functional.one_hot(labels, p.shape[1])  # dh / dlogits
    of_unknown = u[:, None] * (functional.one_hot(torch.full_like(labels, p.shape[1] - 1), p.shape[1]) - p)  # du / dlogits
    slope = torch.where(is_right, 0.0, (a / (1 + a * u)).square())  # -dw / du
    through_weight = h * slope * of_unknown.norm(dim=1)
    through_loss = weight * of_loss.norm(dim=1)
    total = (through_weight.sum() + through_loss.sum()).clamp(min=torch.finfo(torch.float32).tiny)
    share: Tensor = through_weight.sum() / total
    return share.float()
