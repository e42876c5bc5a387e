"""The `search` table of a spec: distributions over dotted keys, and the proposals drawn from them.

A proposal is a value for every key of the space. A key that the chosen tables do not have is without effect, as in a grid, so
two proposals that mean the same job train it once. The proposals of `random` and `sobol` are known before anything runs;
`tpe` and `nsga2` learn from results (`orchestrator.search.optuna_search`); `pbt` and `pb2` change settings while networks
train (`orchestrator.search.pbt`).
"""

import hashlib
import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
from scipy.stats import qmc

from pruneyard.orchestrator.spec.codec import decode, short_json
from pruneyard.orchestrator.spec.job import MAX_JOBS
from pruneyard.orchestrator.spec.problem_log import ProblemLog
from pruneyard.orchestrator.spec.run_key import canonical
from pruneyard.orchestrator.spec.scheduler import check_metric

POPULATIONS = ("pbt", "pb2")
LEARNING = ("tpe", "nsga2", *POPULATIONS)
CHANGEABLE = ("optimizer", "schedule", "objective", "gradient", "augment", "weight_dropout")
"""Tables whose numbers may change while a network is trained: nothing that a checkpoint holds takes its shape from them."""


COLUMNS = ("num_active", "num_parameters", "train_flops")  # of the run table, that an objective may name
BATCH = 8
DIGITS = 6  # significant, of what is drawn from a range
MAX_CORNERS = 500
Proposal = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Range:
    """Numbers from `low` to `high`, both included; `log` draws their logarithms evenly, `int` whole numbers."""

    low: float
    high: float
    log: bool = False
    int: bool = False

    def __post_init__(self) -> None:
        if not self.low < self.high:
            raise ValueError(f"low is {self.low}; it must be below high, which is {self.high}")
        if self.log and self.low <= 0:
            raise ValueError(f"low is {self.low}; it must be above 0 where log is true")
        for name in ("low", "high"):
            if self.int and getattr(self, name) != math.floor(getattr(self, name)):
                raise ValueError(
                    f"{name} is {getattr(self, name)}; it must be a whole number where int is true"
                )

    def quantile(self, share: float) -> Any:
        """The value below which this share of draws lies, `share` in [0, 1)."""
        low, high = (self.low - 0.5, self.high + 0.5) if self.int else (self.low, self.high)
        if self.log:
            return self.rounded(low * (high / low) ** share)
        return self.rounded(low + share * (high - low))

    def rounded(self, value: float) -> Any:
        """A value of the range, as it enters a spec: few digits, so that people can read and repeat it."""
        if self.int:
            return int(min(max(math.floor(value + 0.5), self.low), self.high))
        return min(max(float(f"{value:.{DIGITS}g}"), self.low), self.high)


@dataclass(frozen=True, kw_only=True)
class Choices:
    """Any values, whole tables among them, each as likely as the others. A single one is a constant."""

    choices: tuple[Any, ...]

    def __post_init__(self) -> None:
        if not self.choices:
            raise ValueError("choices is []; it must list at least one value")

    def quantile(self, share: float) -> Any:
        """As of a range."""
        return self.choices[int(share * len(self.choices))]


@dataclass(frozen=True, kw_only=True)
class Search:
    """What is searched, and how.

    name: `random`; `sobol`, a low-discrepancy sequence with a random shift; `tpe`, tree-structured Parzen estimators;
        `nsga2`, an evolving population sorted by dominance; these two need the extra `pruneyard[search]`. `pbt`, population
        based training: after each part of the budget the worst members go on from the best ones, with settings changed by
        chance; `pb2`, the same with settings chosen by a Gaussian process.
    max_trials: proposals, at most; each is trained with every seed. Of `pbt` and `pb2` the members, each with the whole budget.
    space: by dotted key, `{low, high, log, int}`, `{choices: [...]}`, or a constant.
    seed: of the draws; the same one gives the same proposals.
    batch: of `tpe` and `nsga2`, proposals made at once, before any of them is known; for `nsga2` the population.
    max_time: of the same, in seconds of searching after which no further batch is proposed.
    metric, mode, objectives: of what learns, what is learned from: one `split/name`, or several, each with `max` or `min`;
        of several, the front is sought. The columns num_active, num_parameters and train_flops may be objectives too. `pbt`
        and `pb2` take a metric.
    generations: of `pbt` and `pb2`, equal parts of the budget; 5 unless told otherwise.
    quantile: of the same, the share of members that are replaced after each, by as many at the top; 0.25 unless told otherwise.
    resample: of `pbt`, how likely a setting is drawn anew instead of changed a little; 0.25 unless told otherwise.
    """

    name: Literal["random", "sobol", "tpe", "nsga2", "pbt", "pb2"]
    max_trials: int
    space: Mapping[str, Any]
    seed: int = 0
    batch: int | None = None
    max_time: float | None = None
    metric: str | None = None
    mode: Literal["max", "min"] | None = None
    objectives: Mapping[str, Literal["max", "min"]] = field(default_factory=dict)
    generations: int | None = None
    quantile: float | None = None
    resample: float | None = None

    def __post_init__(self) -> None:
        if not 1 <= self.max_trials <= MAX_JOBS:
            raise ValueError(f"max_trials is {self.max_trials}; it must lie in 1 ... {MAX_JOBS}")
        if self.seed < 0:
            raise ValueError(f"seed is {self.seed}; it must be 0 or more")
        if not self.space:
            raise ValueError(
                "space is {}; it must give at least one dotted key, such as optimizer.lr: {low: 0.01, high: 1}"
            )
        for name in ("batch", "max_time", "metric", "mode", "objectives", "generations", "quantile", "resample"):
            value = getattr(self, name)
            if value and not self.learns:
                raise ValueError(
                    f"{name} is {short_json(value)}; {self.name} learns nothing from results, so leave it out"
                )
        self._check_generations()
        if self.learns:
            self._check_learning()

    def _check_generations(self) -> None:
        useless = [] if self.name == "pbt" else ["resample"]
        useless += ["batch", "max_time", "objectives"] if self.is_population else ["generations", "quantile"]
        for name in useless:
            if self.learns and getattr(self, name):
                raise ValueError(f"{name} is {short_json(getattr(self, name))}; {self.name} has no use for it, so leave it out")
        if self.is_population and self.max_trials < 2:
            raise ValueError(f"max_trials is {self.max_trials}; it must be 2 or more members of {self.name}")
        if self.num_generations < 2:
            raise ValueError(f"generations is {self.generations}; it must be 2 or more")
        if not 0 < self.share_replaced <= 0.5:
            raise ValueError(f"quantile is {self.quantile}; it must lie in (0, 0.5]")
        if not 0 <= self.share_resampled <= 1:
            raise ValueError(f"resample is {self.resample}; it must lie in [0, 1]")

    def _check_learning(self) -> None:
        if self.batch is not None and self.batch < 1:
            raise ValueError(f"batch is {self.batch}; it must be 1 or more")
        if self.name == "nsga2" and self.num_at_once < 2:
            raise ValueError(f"batch is {self.num_at_once}; it must be 2 or more, the population of nsga2")
        if self.max_time is not None and self.max_time <= 0:
            raise ValueError(f"max_time is {self.max_time}; it must be above 0 seconds")
        if bool(self.metric) == bool(self.objectives):
            raise ValueError(
                "metric is missing, or objectives are given beside it; give one of the two, such as val/accuracy"
            )
        if self.objectives and self.mode:
            raise ValueError(f"mode is {self.mode} beside objectives, which have their own; leave it out")
        for name in self.directions:
            if name not in COLUMNS:
                check_metric(name, field="metric" if self.metric else "objectives")

    @property
    def learns(self) -> bool:
        """Whether later proposals rest on results of earlier ones."""
        return self.name in LEARNING

    @property
    def is_population(self) -> bool:
        """Whether settings change while networks are trained."""
        return self.name in POPULATIONS

    @property
    def num_at_once(self) -> int:
        """Proposals of one round."""
        return self.batch or BATCH

    @property
    def num_generations(self) -> int:
        """Equal parts of the budget."""
        return 5 if self.generations is None else self.generations

    @property
    def share_replaced(self) -> float:
        """Of the members, after each generation."""
        return 0.25 if self.quantile is None else self.quantile

    @property
    def share_resampled(self) -> float:
        """Of the settings of a member that is replaced."""
        return 0.25 if self.resample is None else self.resample

    @property
    def directions(self) -> dict[str, str]:
        """`max` or `min` by what is measured."""
        return {self.metric: self.mode or "max"} if self.metric else dict(self.objectives)

    @property
    def distributions(self) -> dict[str, Range | Choices]:
        """By dotted key, in an order that does not depend on how the spec is written."""
        return {key: self.space[key] for key in sorted(self.space)}

    def without(self, keys: Sequence[str]) -> "Search | None":
        """The same, with these keys settled elsewhere; None where nothing is left to search."""
        space = {key: value for key, value in self.space.items() if key not in keys}
        return replace(self, space=space) if space else None

    def planned(self) -> list[Proposal]:
        """All proposals of a search that learns nothing, in order."""
        return [{key: values.quantile(row[key]) for key, values in self.distributions.items()} for row in self.shares()]

    def shares(self) -> list[dict[str, float]]:
        """Where in each distribution the proposals stand, in [0, 1)."""
        return self._sobol() if self.name == "sobol" else self._random()

    def _random(self) -> list[dict[str, float]]:
        """A stream of its own for every key: one more key leaves what is drawn for the others as it was."""
        streams = {key: stream(self.seed, key).random(self.max_trials) for key in self.distributions}
        return [{key: float(draws[i]) for key, draws in streams.items()} for i in range(self.max_trials)]

    def _sobol(self) -> list[dict[str, float]]:
        """Reference: I. M. Sobol', 1967; the shift modulo 1 is that of Cranley and Patterson, 1976."""
        keys = list(self.distributions)
        points = qmc.Sobol(len(keys), scramble=False).random_base2(math.ceil(math.log2(self.max_trials)))
        shifts = {key: stream(self.seed, key).random() for key in keys}
        return [
            {key: float((point[i] + shifts[key]) % 1.0) for i, key in enumerate(keys)}
            for point in points[: self.max_trials]
        ]

    def corners(self) -> tuple[list[Proposal], bool]:
        """Proposals by which a space can be checked: every combination of choices with the ends of all ranges.

        The second value says whether these are all of them.
        """
        ranges = {key: values for key, values in self.distributions.items() if isinstance(values, Range)}
        chosen = {
            key: values.choices for key, values in self.distributions.items() if isinstance(values, Choices)
        }
        ends = [
            {key: values.rounded(getattr(values, end)) for key, values in ranges.items()}
            for end in ("low", "high")
        ]
        found = list(itertools.islice(itertools.product(*chosen.values()), MAX_CORNERS))
        ends = ends[: 1 + bool(ranges)]
        corners: list[Proposal] = [
            {**dict(zip(chosen, values, strict=True)), **end} for values in found for end in ends
        ]
        return corners, math.prod(len(values) for values in chosen.values()) <= MAX_CORNERS


def stream(seed: int, key: str) -> np.random.Generator:
    """The draws that belong to one key."""
    digest = hashlib.sha256(f"search/{seed}/{key}".encode()).digest()
    return np.random.default_rng(np.frombuffer(digest, dtype=np.uint32).tolist())


def decode_search(table: Any, log: ProblemLog) -> Search | None:
    """Returns the `search` table with its distributions decoded; None where it does not fit, with every problem in the log."""
    num_before = log.num_problems
    space = table.get("space") if isinstance(table, Mapping) else None
    distributions = (
        {key: _decode_distribution(value, f"search.space.{key}", log) for key, value in space.items()}
        if isinstance(space, Mapping)
        else None
    )
    search: Search | None = decode(Search, table, "search", log)
    if log.num_problems > num_before or search is None:
        return None
    return search if distributions is None else replace(search, space=distributions)


def _decode_distribution(value: Any, key: str, log: ProblemLog) -> Any:
    if isinstance(value, Mapping) and "choices" in value:
        return decode(Choices, value, key, log)
    if isinstance(value, Mapping) and {"low", "high"} & value.keys():
        return decode(Range, value, key, log)
    if isinstance(value, list):
        log.add(key, f"is {short_json(value)}; it must be {{choices: [...]}}, {{low: ..., high: ...}} or one value")
    return Choices(choices=(value,))


def encode_search(search: Search) -> dict[str, Any]:
    """Plain data from which the same search is read."""
    names = ("batch", "max_time", "metric", "mode", "generations", "quantile", "resample")
    given = {name: getattr(search, name) for name in names if getattr(search, name) is not None}
    objectives = {"objectives": dict(search.objectives)} if search.objectives else {}
    space = {key: _encode_distribution(values) for key, values in search.space.items()}
    return {
        "name": search.name,
        "max_trials": search.max_trials,
        "seed": search.seed,
        **given,
        **objectives,
        "space": space,
    }


def _encode_distribution(values: Range | Choices) -> dict[str, Any]:
    if isinstance(values, Choices):
        return {"choices": list(values.choices)}
    low, high = (values.rounded(end) if values.int else end for end in (values.low, values.high))
    return {"low": low, "high": high, "log": values.log, "int": values.int}


def search_identity(search: Search, corners: Sequence[str]) -> str:
    """16 digits that change with whatever changes proposals or what they mean; `corners` are the run keys of the corners.

    More trials or more time leave it as it is: such a search goes on; but of another population every generation is another.
    """
    told = {
        **encode_search(search),
        "max_trials": search.max_trials if search.is_population else None,
        "max_time": None,
        "batch": search.num_at_once,
        "space": None,
    }
    ranges = {
        key: _encode_distribution(values) for key, values in search.distributions.items() if isinstance(values, Range)
    }
    told |= {"keys": sorted(search.space), "ranges": ranges, "corners": list(corners)}
    return hashlib.sha256(canonical(told).encode()).hexdigest()[:16]
