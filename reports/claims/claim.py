"""Data classes of published results: value, spread, recipe and source, each validated on construction."""

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
    "optimizer.decay_bias_and_norm": "weight decay of biases and norm parameters",
    "schedule.name": "learning rate schedule",
    "schedule.gamma": "decay factor of the learning rate",
    "schedule.milestones": "milestones of the learning rate schedule",
    "schedule.warmup": "warm-up",
    "weight_dropout.drop": "weight dropout",
    "average.begin": "start of weight averaging",
}
"""Display names of the spec keys that a sparse-training protocol may contain."""
EVALUATION_KEYS = {
    "model.width": "network width",
    "model.depth": "network depth",
    "evaluation.epochs": "epochs of evaluation networks",
    "evaluation.batch_size": "batch size",
    "evaluation.lr": "learning rate",
    "evaluation.momentum": "momentum",
    "evaluation.weight_decay": "weight decay",
    "evaluation.milestones": "milestones of the learning rate schedule",
    "evaluation.decay": "decay factor of the learning rate",
    "evaluation.augment": "augmentation",
    "evaluation.always": "transforms applied to every batch",
    "evaluation.cutmix": "fraction of batches with CutMix",
}
"""Display names of the keys that a distillation protocol may contain: how evaluation networks are trained."""
KEYS_OF_KIND = {"sparse": RECIPE_KEYS, "distill": EVALUATION_KEYS}
PLAIN = {
    "gradient.name": "plain",
    "objective.name": "cross_entropy",
    "weight_dropout.drop": 0.0,
    "average.begin": 1.0,
}
"""Values that apply to every published number unless it states another, and to specs older than one of these keys."""
TAGS = {
    "P": "paper text",
    "C": "code or README",
    "I": "issue thread, written by an author",
    "A": "abstract only",
    "D": "derived from published numbers",
    "F": "figure, or image of a table in a repository",
}
NEARLY = 0.01
"""Relative tolerance within which numbers of two recipes count as equal."""
SPREADS = {"": "", "sd": "standard deviation", "unknown": "kind of ± not stated"}

ALL = "all"
"""Stands for the whole training set in place of a number of images per class."""

Kind = Literal["sparse", "distill"]
Tag = Literal["P", "C", "I", "A", "D", "F"]
Scalar = bool | int | float | str


class _Strict:
    """Base class whose validation rejects unknown keys and infinite numbers."""

    # Dataclasses of the standard library give pydantic its settings by this attribute.
    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid", allow_inf_nan=False)


@dataclass(frozen=True, kw_only=True)
class Data(_Strict):
    """A data set: its display name, the number of published training samples, and the number of classes if it matters."""

    title: str
    train_rows: int
    classes: int | None = None


@dataclass(frozen=True, kw_only=True)
class Source(_Strict):
    """The publication or repository that reports a number."""

    authors: str
    year: int
    title: str
    arxiv: str = ""
    repository: str = ""

    def __post_init__(self) -> None:
        if not (self.arxiv or self.repository):
            raise ValueError("arxiv and repository are both missing; give at least one of them")

    @property
    def cite(self) -> str:
        """Returns the citation, such as `Evci et al. 2020, arXiv 1911.11134`."""
        place = f"arXiv {self.arxiv}" if self.arxiv else self.repository
        return f"{self.authors} {self.year}, {place}"


@dataclass(frozen=True, kw_only=True)
class Augment(_Strict):
    """Crop, flip and cutout, as in the `augment` table of a spec."""

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
    """The training recipe of a number, as far as it is known. `augment` is a text if no spec can express it."""

    train_rows: int | None = None
    augment: Augment | str = ""
    recipe: Mapping[str, Scalar | list[float]] = field(default_factory=dict)
    note: str = ""

    def __post_init__(self) -> None:
        _check_recipe(self.recipe)


@dataclass(frozen=True, kw_only=True)
class Gain(_Strict):
    """A published improvement of a method over a baseline; never compared with the value of a cell.

    With unit `points`, `gain` is a difference of fractions; with `relative`, a fraction of the baseline's value. Losses are
    negative.
    """

    method: str
    baseline: str
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
    """One row of numbers over densities or images per class, as in the file."""

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
            raise ValueError("values is empty; it must have at least one number")
        if (self.metric == "ece") != (self.bins is not None):
            raise ValueError(f"bins is {self.bins}; metric ece needs it, and no other metric allows it")
        if self.length <= 0:
            raise ValueError(
                f"length is {self.length}; it must be above 0, a multiple of the protocol's epochs"
            )
        for place, value in self.values.items():
            _check_value(value, place, spread=self.spread)


@dataclass(frozen=True, kw_only=True)
class Claim:
    """One published number.

    It belongs to a `density` or to `ipc` images per class (0: the whole training set); the other of the two is None.
    `recipe` and `settings` (of the method) use dotted spec keys; an absent key is not known. `augment` and `train_rows` are
    empty if not known. `other` are facts that no spec can express.
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
    """Number of the row in the file; equal for all numbers of that row."""

    def is_of(self, *, density: float | None, ipc: float | None) -> bool:
        """Returns whether the number belongs to this density or number of images per class; None means not applicable."""
        if self.ipc is not None:
            # 0 is the whole set, whose cells have no images per class.
            return self.ipc == (ipc or 0)
        return self.density is not None and density is not None and math.isclose(density, self.density, rel_tol=NEARLY)


@dataclass(frozen=True, kw_only=True)
class Claims:
    """The content of the claims files: published numbers, improvements, and the display names that they use."""

    values: tuple[Claim, ...]
    gains: tuple[tuple[Gain, Source], ...]
    data: Mapping[str, Data]
    models: Mapping[str, str]
    methods: Mapping[str, str]
    sources: Mapping[str, Source]


def density_of(place: float | str) -> float:
    """Returns a key of `values` as a density. Raises `ValueError` if it is not in (0, 1]."""
    if isinstance(place, str) or not 0 < place <= 1:
        raise ValueError(f"density is {place}; it must lie in (0, 1]")
    return place


def ipc_of(place: float | str) -> int:
    """Returns a key of `values` as images per class, 0 for `all`. Raises `ValueError` for any other value."""
    if place == ALL:
        return 0
    if isinstance(place, str) or place < 1 or place != int(place):
        raise ValueError(f"ipc is {place}; it must be a positive integer or {ALL}")
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
        raise ValueError(f"values.{place} has a spread, but the key spread is missing; it must be sd or unknown")
