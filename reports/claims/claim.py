"""What a paper's number is: value, spread, recipe and source, each checked on construction."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from pydantic import ConfigDict

RECIPE_KEYS = {
    "budget.epochs": "epochs",
    "budget.batch_size": "batch size",
    "gradient.name": "gradient rule",
    "objective.name": "loss",
    "objective.label_smoothing": "label smoothing",
    "optimizer.name": "optimizer",
    "optimizer.lr": "learning rate",
    "optimizer.momentum": "momentum",
    "optimizer.nesterov": "Nesterov momentum",
    "optimizer.weight_decay": "weight decay",
    "optimizer.decay_vectors": "weight decay of biases and norms",
    "schedule.name": "rate schedule",
    "schedule.gamma": "factor of the rate schedule",
    "schedule.milestones": "milestones of the rate schedule",
    "schedule.warmup": "warm-up",
    "weight_dropout.drop": "weight dropout",
    "average.begin": "begin of weight averaging",
}
"""The keys of a spec that a protocol of sparse training may speak of, in words."""
EVALUATION_KEYS = {
    "model.width": "width of the network",
    "model.depth": "depth of the network",
    "evaluation.epochs": "epochs of evaluation networks",
    "evaluation.batch_size": "batch size",
    "evaluation.lr": "learning rate",
    "evaluation.momentum": "momentum",
    "evaluation.weight_decay": "weight decay",
    "evaluation.milestones": "milestones of the rate",
    "evaluation.decay": "factor of the rate",
    "evaluation.augment": "augmentation",
    "evaluation.always": "transforms of every batch",
    "evaluation.cutmix": "share of batches with CutMix",
}
"""The same of distillation: how the networks are trained that a set is judged by."""
KEYS_OF_KIND = {"sparse": RECIPE_KEYS, "distill": EVALUATION_KEYS}
PLAIN = {
    "gradient.name": "plain",
    "objective.name": "cross_entropy",
    "weight_dropout.drop": 0.0,
    "average.begin": 1.0,
}
"""What every number here was trained with; a spec older than one of these keys means it too."""
TAGS = {
    "P": "paper text",
    "C": "code or README",
    "I": "issue thread, by its author",
    "A": "abstract only",
    "D": "derived from such numbers",
    "F": "figure or picture of a table in a repository",
}
NEARLY = 0.01
"""Numbers of two recipes that differ by less than this share of the larger one count as equal."""
SPREADS = {"": "", "sd": "standard deviation", "unknown": "kind of ± not stated"}

ALL = "all"
"""In place of images per class: the whole training set."""

Kind = Literal["sparse", "distill"]
Tag = Literal["P", "C", "I", "A", "D", "F"]
Scalar = bool | int | float | str


class _Strict:
    """Unknown keys are refused, and so are infinities."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid", allow_inf_nan=False)


@dataclass(frozen=True, kw_only=True)
class Data(_Strict):
    """A data set as people call it, how many training rows its publisher gives, and how many classes, where that matters."""

    title: str
    train_rows: int
    classes: int | None = None


@dataclass(frozen=True, kw_only=True)
class Source(_Strict):
    """Where a number can be looked up."""

    authors: str
    year: int
    title: str
    arxiv: str = ""
    repository: str = ""

    def __post_init__(self) -> None:
        if not (self.arxiv or self.repository):
            raise ValueError("arxiv is missing, and so is repository; one of them must be given")

    @property
    def cite(self) -> str:
        """`Evci et al. 2020, arXiv 1911.11134`."""
        place = f"arXiv {self.arxiv}" if self.arxiv else self.repository
        return f"{self.authors} {self.year}, {place}"


@dataclass(frozen=True, kw_only=True)
class Augment(_Strict):
    """Shift and mirroring as in the `augment` table of our specs."""

    pad: int = 0
    pad_mode: Literal["zeros", "reflect"] = "zeros"
    flip: bool = False
    cutout: int = 0

    def __str__(self) -> str:
        parts = [f"crop after padding {self.pad} ({self.pad_mode})"] if self.pad else []
        parts += ["flip"] if self.flip else []
        parts += [f"cutout {self.cutout}"] if self.cutout else []
        return ", ".join(parts) or "none"


@dataclass(frozen=True, kw_only=True)
class Protocol(_Strict):
    """How a number was trained, as far as it is known. `augment` is a text where our specs cannot express it."""

    train_rows: int | None = None
    augment: Augment | str = ""
    recipe: Mapping[str, Scalar | list[float]] = field(default_factory=dict)
    note: str = ""

    def __post_init__(self) -> None:
        _check_recipe(self.recipe)


@dataclass(frozen=True, kw_only=True)
class Gain(_Strict):
    """A gain of a method over its host: never the value of a cell.

    `points` are differences of fractions, `relative` shares of the host's value; losses are below 0.
    """

    method: str
    host: str
    metric: str
    gain: float
    unit: Literal["points", "relative"]
    source: str
    tag: Tag
    up_to: bool = False
    data: str = ""
    model: str = ""
    density: float | None = None
    ipc: int | None = None
    note: str = ""

    def __post_init__(self) -> None:
        if not -1 <= self.gain <= 1 or self.gain == 0:
            raise ValueError(f"gain is {self.gain}; it must be a fraction in [-1, 1] other than 0")
        if self.density is not None:
            density_of(self.density)
        if self.ipc is not None:
            ipc_of(self.ipc)


@dataclass(frozen=True, kw_only=True)
class Row(_Strict):
    """One line of numbers over densities or images per class, as the file holds it."""

    source: str
    tag: Tag
    data: str
    model: str
    method: str
    metric: Literal["accuracy", "ece"]
    values: Mapping[float | Literal["all"], float | tuple[float, float]]
    protocol: str = ""
    recipe: Mapping[str, Scalar | list[float]] = field(default_factory=dict)
    distribution: Literal["uniform", "er", "erk", ""] = ""
    settings: Mapping[str, Scalar | list[str]] = field(default_factory=dict)
    length: float = 1.0
    runs: int | None = None
    spread: Literal["sd", "unknown", ""] = ""
    bins: int | None = None
    other: Mapping[str, str] = field(default_factory=dict)
    note: str = ""

    def __post_init__(self) -> None:
        _check_recipe(self.recipe)
        if not self.values:
            raise ValueError("values is empty; it must hold one number or more")
        if (self.metric == "ece") != (self.bins is not None):
            raise ValueError(f"bins is {self.bins}; it must be given for ece and for nothing else")
        if self.length <= 0:
            raise ValueError(
                f"length is {self.length}; it must be above 0, a multiple of the protocol's epochs"
            )
        for place, value in self.values.items():
            _check_value(value, place, spread=self.spread)


@dataclass(frozen=True, kw_only=True)
class Claim:
    """One reported number.

    It stands at a `density`, or at `ipc` images per class: 0 are all images. The other of the two is None.
    `recipe` and `settings` (of the method) are in the dotted keys of our specs, what is absent is not known.
    `augment` and `train_rows` are empty where not known; `other` are facts that our specs cannot express.
    """

    kind: Kind
    source: Source
    where: str
    tag: Tag
    data: str
    model: str
    method: str
    metric: str
    density: float | None
    ipc: int | None
    value: float
    spread: float | None
    spread_is: str
    runs: int | None
    distribution: str
    length: float
    train_rows: int | None
    augment: Augment | str
    recipe: Mapping[str, Any]
    settings: Mapping[str, Any]
    bins: int | None
    other: Mapping[str, str]
    notes: tuple[str, ...]
    line: int
    """Equal for the numbers of one line of a table of one kind."""

    def is_of(self, *, density: float | None, ipc: float | None) -> bool:
        """Whether the number speaks of such a set-up; None is what does not apply."""
        if self.ipc is not None:
            return self.ipc == (ipc or 0)
        return self.density is not None and density is not None and math.isclose(density, self.density, rel_tol=NEARLY)


@dataclass(frozen=True, kw_only=True)
class Claims:
    """All that the files hold, with the names that they use."""

    values: tuple[Claim, ...]
    gains: tuple[tuple[Gain, Source], ...]
    data: Mapping[str, Data]
    models: Mapping[str, str]
    methods: Mapping[str, str]
    sources: Mapping[str, Source]


def density_of(place: float | str) -> float:
    """A key of `values`. Raises `ValueError` for what is none."""
    if isinstance(place, str) or not 0 < place <= 1:
        raise ValueError(f"density is {place}; it must lie in (0, 1]")
    return place


def ipc_of(place: float | str) -> int:
    """A key of `values`: 0 for all images. Raises `ValueError` for what is none."""
    if place == ALL:
        return 0
    if isinstance(place, str) or place < 1 or place != int(place):
        raise ValueError(f"ipc is {place}; it must be a whole number above 0, or {ALL}")
    return int(place)


def _check_recipe(recipe: Mapping[str, Any]) -> None:
    allowed = [key for keys in KEYS_OF_KIND.values() for key in keys]
    for key in recipe:
        if key not in allowed:
            raise ValueError(f"recipe.{key} is unknown; allowed are {', '.join(allowed)}")


def _check_value(value: float | tuple[float, float], place: float | str, *, spread: str) -> None:
    numbers = value if isinstance(value, tuple) else (value,)
    for number in numbers:
        if not 0 <= number <= 1 or math.isnan(number):
            raise ValueError(f"values.{place} is {number}; it must be a fraction in [0, 1], never percent")
    if len(numbers) == 2 and not spread:
        raise ValueError(f"spread is missing beside values.{place}; it must be sd or unknown")
