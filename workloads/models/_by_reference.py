"""Networks of the user's own: a class of `nn.Module`, or a function that returns a network; its arguments are keys of the table.

    model: {name: "my_package.nets:Net", width: 64}

Where the signature has these arguments, they are filled in from the data: `num_classes`, `image_shape` (C, H, W), `in_channels`,
which is C, and `in_features`, which is C * H * W.
"""

import dataclasses
import inspect
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from math import prod
from typing import Any, ClassVar

from torch import nn

from pruneyard.workloads.networks.output_check import check_outputs
from pruneyard.workloads.plugins import find
from pruneyard.workloads.user_code.errors import UserCodeError
from pruneyard.workloads.user_code.references import resolve
from pruneyard.workloads.user_code.signature import arguments_of, signature_of

__all__ = ["adapt"]

FILLED_IN = ("num_classes", "image_shape", "in_channels", "in_features")


@dataclass(frozen=True, kw_only=True)
class UserNetwork:
    """Base class of the tables of such networks; each reference has a class of its own with a field for each argument."""

    reference: ClassVar[str]
    target: ClassVar[Callable[..., Any]]
    provided: ClassVar[frozenset[str]]
    may_sample: ClassVar[bool] = True  # which layers it has is known only once it is built

    def build(self, *, image_shape: tuple[int, ...], num_classes: int) -> nn.Module:
        """Returns a new network, see `pruneyard.workloads.networks.builder.ModelBuilder`.

        Raises `ValueError` for what its code raises, and if it does not return logits (B, num_classes).
        """
        filled_in = {
            "num_classes": num_classes,
            "image_shape": image_shape,
            "in_channels": image_shape[0],
            "in_features": prod(image_shape),
        }
        arguments = arguments_of(self) | {name: filled_in[name] for name in self.provided}
        call = f"{self.reference}({', '.join(f'{name}={value!r}' for name, value in arguments.items())})"
        try:
            network: nn.Module = type(self).target(**arguments)
        except Exception as error:  # whatever the code raises
            raise UserCodeError(f"model: {call} raised {type(error).__name__}: {error}") from error
        check_outputs(network, table=self, call=call, image_shape=image_shape, num_classes=num_classes)
        return network

    def __hash__(self) -> int:
        return hash((self.reference, json.dumps(arguments_of(self), sort_keys=True, default=list)))

    def __reduce__(self) -> tuple[Any, ...]:
        return _restore, (self.reference, arguments_of(self))


def adapt(reference: str) -> type[UserNetwork]:
    """Returns the class of the tables of the network that a reference names.

    Raises `UserCodeError` if the reference cannot be resolved, names neither a class of `nn.Module` nor a function, or has an
    argument that plain data cannot give.
    """
    target = resolve(reference)
    is_network = inspect.isclass(target) and issubclass(target, nn.Module)
    if not is_network and not inspect.isroutine(target):
        kind = "a class" if inspect.isclass(target) else f"a {type(target).__name__}"
        raise UserCodeError(f"{reference!r} is {kind}; it must be a class of nn.Module, or a function that returns a network")
    return _table_class(target, reference)


@cache  # by the object too: what was handed over again under an equal reference may be another one
def _table_class(target: Any, reference: str) -> type[UserNetwork]:
    signature = signature_of(target, reference=reference, provided=FILLED_IN, reserved=_names_in_use())
    named = {"reference": reference, "target": staticmethod(target), "provided": signature.provided}
    own = {"__hash__": UserNetwork.__hash__, "__module__": UserNetwork.__module__, "__doc__": f"The table of {reference}."}
    return dataclasses.make_dataclass(
        getattr(target, "__name__", "Network"),
        list(signature.fields),
        bases=(UserNetwork,),
        namespace={**own, **named},
        frozen=True,
        kw_only=True,
    )


def _names_in_use() -> set[str]:
    return {name for name in dir(UserNetwork) if not name.startswith("_")}


def _restore(reference: str, arguments: Mapping[str, Any]) -> UserNetwork:
    restored: UserNetwork = find("models", reference)(**arguments)
    return restored
