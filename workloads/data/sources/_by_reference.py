"""Data sets of the user's own: a class of `torch.utils.data.Dataset`, or a function that returns one, by its import path.

    data: {name: "my_package.data:Pets", root: pictures}

Its arguments are keys of the table. Where the signature has `split`, it is called once with split="train" and once with
split="test"; where it has `train`, with true and with false, as the sets of torchvision. Otherwise test rows are held out. Items
are (input, label). They are read once, in order, into memory. The global generators of Python, NumPy and PyTorch start from one
seed for that, so random transforms give the same inputs at every load: augment in the spec.
"""

import dataclasses
import inspect
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar

from pruneyard.workloads.data.array_splits import splits_of
from pruneyard.workloads.data.dataset import PublishedDataset
from pruneyard.workloads.data.held_out import HeldOutTestSource
from pruneyard.workloads.data.materialised import materialise
from pruneyard.workloads.plugins import find
from pruneyard.workloads.seeding import seeded_globals
from pruneyard.workloads.user_code.errors import UserCodeError
from pruneyard.workloads.user_code.references import resolve
from pruneyard.workloads.user_code.signature import signature_of

__all__ = ["adapt"]

PARTS: dict[str, Mapping[str, Any]] = {"train": {"split": "train", "train": True}, "test": {"split": "test", "train": False}}
"""The arguments that choose a part, by part."""


@dataclass(frozen=True, kw_only=True)
class UserDataset(HeldOutTestSource):
    """Base class of the tables of such data sets; each reference has a class of its own with a field for each argument."""

    reference: ClassVar[str]
    target: ClassVar[Callable[..., Any]]
    provided: ClassVar[frozenset[str]]

    def read(self) -> PublishedDataset:
        """Reads all items. Raises `UserCodeError` for what its code raises, and `ValueError` for what it returns."""
        parts = PARTS if self.provided else {"train": {}}
        with seeded_globals(0):
            found = {part: self._made(arguments) for part, arguments in parts.items()}
            arrays = {part: materialise(dataset, name=f"{self.reference}, {part}") for part, dataset in found.items()}
        names = {part: (f"{self.reference}, {part}: inputs", f"{self.reference}, {part}: labels") for part in parts}
        classes = tuple(str(name) for name in getattr(found["train"], "classes", ()))
        splits, classes = splits_of(
            {part: inputs for part, (inputs, _) in arrays.items()},
            {part: labels for part, (_, labels) in arrays.items()},
            names=names,
            classes=classes,
        )
        if "test" in splits:
            return PublishedDataset(classes=classes, **splits)
        return self.hold_out_test(splits["train"], classes)

    @property
    def arguments(self) -> dict[str, Any]:
        """The arguments of the reference, without the fields of every source."""
        common = {field.name for field in dataclasses.fields(UserDataset)}
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self) if field.name not in common}

    def _made(self, chosen: Mapping[str, Any]) -> Any:
        arguments = self.arguments | {name: value for name, value in chosen.items() if name in self.provided}
        try:
            return type(self).target(**arguments)
        except Exception as error:  # whatever the code raises
            call = f"{self.reference}({', '.join(f'{name}={value!r}' for name, value in arguments.items())})"
            raise UserCodeError(f"{call} raised {type(error).__name__}: {error}") from error

    def __hash__(self) -> int:
        return hash((self.reference, json.dumps(dataclasses.asdict(self), sort_keys=True, default=str)))

    def __reduce__(self) -> tuple[Any, ...]:
        return _restore, (self.reference, {field.name: getattr(self, field.name) for field in dataclasses.fields(self)})


def adapt(reference: str) -> type[UserDataset]:
    """Returns the class of the tables of the data set that a reference names.

    Raises `UserCodeError` if the reference cannot be resolved, names neither a class nor a function, or has an argument that
    plain data cannot give.
    """
    target = resolve(reference)
    is_code = inspect.isclass(target) or inspect.isroutine(target)
    if not is_code:
        raise UserCodeError(f"{reference!r} is a {type(target).__name__}; it must be a class of data sets, or a function")
    return _table_class(target, reference)


@cache  # by the object too: what was handed over again under an equal reference may be another one
def _table_class(target: Any, reference: str) -> type[UserDataset]:
    reserved = {name for name in dir(UserDataset) if not name.startswith("_")}
    signature = signature_of(target, reference=reference, provided=("split", "train"), reserved=reserved)
    own = {"__hash__": UserDataset.__hash__, "__module__": UserDataset.__module__, "__doc__": f"The table of {reference}."}
    named = {"reference": reference, "target": staticmethod(target), "provided": signature.provided}
    return dataclasses.make_dataclass(
        getattr(target, "__name__", "UserData"),
        list(signature.fields),
        bases=(UserDataset,),
        namespace={**own, **named},
        frozen=True,
        kw_only=True,
    )


def _restore(reference: str, fields: Mapping[str, Any]) -> UserDataset:
    restored: UserDataset = find("data.sources", reference)(**fields)
    return restored
