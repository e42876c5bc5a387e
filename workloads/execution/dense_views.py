"""Tensors by name that are computed on access, so that only one of them need exist in its dense shape at a time."""

from collections.abc import Callable, Iterable, Iterator, Mapping

from torch import Tensor


class DenseViews(Mapping[str, Tensor]):
    """A mapping whose tensors are made anew at each access, in the order of the names."""

    def __init__(self, names: Iterable[str], make: Callable[[str], Tensor]) -> None:
        self._names, self._make = dict.fromkeys(names), make

    def __getitem__(self, name: str) -> Tensor:
        if name not in self._names:
            raise KeyError(name)
        return self._make(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)
