"""Keeps processes that compile nothing from importing torch's compiler, which takes two seconds of CPU time.

torch hides some of its functions from its compiler: steps and other methods of optimizers, reference implementations of
operators, methods of dispatch modes. The first call of any imports the compiler, whoever calls. But as long as nobody else has
imported it there is nothing to hide from, so `defer_compiler` makes such functions run as they are until then. If torch comes to
hide them in another way this has no effect, and a test says so.
"""

import gc
import inspect
import sys
from collections.abc import Callable, Iterator
from functools import cache
from types import FunctionType
from typing import Any

import torch
from torch.optim import Optimizer, optimizer

COMPILER = "torch._dynamo"
HIDDEN = "__dynamo_disable"  # attribute of a function in which torch keeps its hidden form


@cache
def defer_compiler() -> None:
    """Lets the functions that torch hides run without an import of the compiler; once per process is enough.

    Optimizers of torch must not have been used before.
    """
    _defer()


def freeze_imports() -> None:
    """Excludes all objects of this process from garbage collection for good, so that a full one need not visit half a million.

    For a process that has imported what it needs and holds nothing else. What is imported later is collected as ever.
    """
    _defer()  # the collector does not find frozen functions
    gc.freeze()


def _defer() -> None:
    for hiding, hidden in _wrappers(getattr(torch, "_disable_dynamo", None), "fn"):
        if not hasattr(hidden, HIDDEN):
            setattr(hidden, HIDDEN, _until_compiled(hidden, hiding=hiding))
    steps = dict(_wrappers(getattr(optimizer, "_use_grad_for_differentiable", None), "func"))
    for family in Optimizer.__subclasses__():
        if (step := vars(family).get("step")) in steps:
            family.step = _step_until_compiled(steps[step], hiding=step)  # type: ignore[method-assign]


def _wrappers(decorator: Callable[..., Any] | None, variable: str) -> Iterator[tuple[FunctionType, Callable[..., Any]]]:
    """Yields each function that a decorator made, and the one that it wraps, which is its variable of that name."""
    if decorator is None:
        return
    for function in gc.get_referrers(decorator(lambda: None).__code__):  # they share the code
        if isinstance(function, FunctionType):
            wrapped = inspect.getclosurevars(function).nonlocals.get(variable)
            if wrapped is not None:
                yield function, wrapped


def _until_compiled(hidden: Callable[..., Any], *, hiding: Callable[..., Any]) -> Callable[..., Any]:
    """Returns a function that calls `hidden`, and `hiding` as soon as the compiler is imported."""

    def call(*args: Any, **kwargs: Any) -> Any:
        if COMPILER not in sys.modules:
            return hidden(*args, **kwargs)
        if getattr(hidden, HIDDEN, None) is call:
            delattr(hidden, HIDDEN)
        return hiding(*args, **kwargs)

    return call


def _step_until_compiled(hidden: Callable[..., Any], *, hiding: Callable[..., Any]) -> Callable[..., Any]:
    """Returns a step of an optimizer that calls `hidden`, and `hiding` as soon as the compiler is imported."""

    def step(self: Optimizer, *args: Any, **kwargs: Any) -> Any:
        if COMPILER in sys.modules:
            return hiding(self, *args, **kwargs)
        with torch.set_grad_enabled(self.defaults["differentiable"]):
            return hidden(self, *args, **kwargs)

    return step
