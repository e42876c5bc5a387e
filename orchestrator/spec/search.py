"""Defines the `search` table of a spec: distributions over dotted keys, and the proposals that are sampled from them.

A proposal holds a value for every key of the space. A key that the chosen tables do not have has no effect, as in a grid, so
two proposals that mean the same job train it once. The proposals of `random` and `sobol` are known before anything runs;
`tpe` and `nsga2` learn from results (`orchestrator.search.optuna_search`), and so do `lissnas` and `fgps`
(`orchestrator.search.diverse_search`); `pbt` and `pb2` change settings while networks train (`orchestrator.search.pbt`).
"""

import hashlib
import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np

from pruneyard.orchestrator.spec.codec import decode, short_json
from pruneyard.orchestrator.spec.direction import chosen_direction
from pruneyard.orchestrator.spec.job import MAX_JOBS
from pruneyard.orchestrator.spec.problem_log import ProblemLog
from pruneyard.orchestrator.spec.run_key import canonical
from pruneyard.orchestrator.spec.scheduler import check_metric

POPULATIONS = ("pbt", "pb2")
DIVERSE = ("lissnas", "fgps")
LEARNING = ("tpe", "nsga2", *DIVERSE, *POPULATIONS)
CHANGEABLE = ("optimizer", "schedule", "objective", "gradient", "augment", "weight_dropout", "arguments")
"""Tables whose values may change while a network is trained: the shape of no tensor in a checkpoint depends on them."""


COLUMNS = ("num_active", "num_parameters", "train_flops")  # columns of the run table that may be objectives
BATCH = 8  # proposals per round, by default
DIGITS = 6  # significant digits of values that are sampled from a range
MAX_CORNERS = 500  # combinations of choices by which a space is validated
Proposal = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Range:
    """Numbers from `low` to `high`, both included. `log` samples their logarithms uniformly, `int` whole numbers only."""

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
        """Returns the quantile at `share` in [0, 1): the value below which this share of samples lies."""
        # Half a step wider at both ends, so that every whole number has an interval of the same length.
        low, high = (self.low - 0.5, self.high + 0.5) if self.int else (self.low, self.high)
        if self.log:
            return self.rounded(low * (high / low) ** share)
        return self.rounded(low + share * (high - low))

    def rounded(self, value: float) -> Any:
        """Returns a value clipped to the range and rounded to few digits, so that people can read and repeat it."""
        if self.int:
            # Not `round`, which rounds halves to even numbers.
            return int(min(max(math.floor(value + 0.5), self.low), self.high))
        return min(max(float(f"{value:.{DIGITS}g}"), self.low), self.high)


@dataclass(frozen=True, kw_only=True)
class Choices:
    """A choice among values, each equally likely; values may be whole tables. A single value is a constant."""

    choices: tuple[Any, ...]

    def __post_init__(self) -> None:
        if not self.choices:
            raise ValueError("choices is []; it must list at least one value")

    def quantile(self, share: float) -> Any:
        """Returns the choice at this quantile, `share` in [0, 1)."""
        return self.choices[int(share * len(self.choices))]


@dataclass(frozen=True, kw_only=True)
class Search:
    """A search: its space, its algorithm and its objectives.

    name: `random`; `sobol`, a low-discrepancy sequence with a random shift; `tpe`, tree-structured Parzen estimators;
        `nsga2`, an evolving population sorted by dominance; these two need the extra `pruneyard[search]`. `lissnas`
        shrinks the space to pockets around good settings after each round; `fgps` changes those of the good settings that lie
        farthest apart. `pbt`, population
        based training: after each part of the budget the worst members resume from the best ones, with settings changed at
        random; `pb2`, the same with settings chosen by a Gaussian process.
    max_trials: the maximum number of proposals, each trained with every seed; for `pbt` and `pb2` the number of members, each
        trained with the whole budget.
    space: by dotted key, `{low, high, log, int}`, `{choices: [...]}`, or a constant.
    seed: seed of the random numbers; the same seed gives the same proposals.
    batch: for searches in rounds, `tpe`, `nsga2`, `lissnas` and `fgps`, the number of proposals per round; for `nsga2` also the
        size of the population. Default 8.
    max_time: for searches in rounds, seconds of searching after which no further round is proposed.
    metric, mode: for searches that learn from results, the `split/name` that is optimised, and `max` (default) or `min`.
    objectives: instead of metric, several objectives, each with `max` or `min`; the search looks for the Pareto front. The
        columns num_active, num_parameters and train_flops may be objectives too. Only `tpe` and `nsga2` take objectives.
    generations: for `pbt` and `pb2`, the number of equal parts of the budget. Default 5.
    quantile: for `pbt` and `pb2`, the share of members that are replaced after each part by as many of the best; for `lissnas`
        and `fgps`, the share of trials that count as good. Default 0.25.
    resample: for `pbt`, the probability that a setting is sampled anew instead of perturbed; for `fgps`, that a further setting
        is sampled anew beside the one that always is. Default 0.25.
    skip_equal: for searches in rounds, whether proposals that compute the same as an earlier one take its runs instead of their
        own; see `orchestrator.search.equal_jobs`.
    """

    name: Literal["random", "sobol", "tpe", "nsga2", "lissnas", "fgps", "pbt", "pb2"]
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
    skip_equal: bool = False

    def __post_init__(self) -> None:
        if not 1 <= self.max_trials <= MAX_JOBS:
            raise ValueError(f"max_trials is {self.max_trials}; it must lie in 1 ... {MAX_JOBS}")
        if self.seed < 0:
            raise ValueError(f"seed is {self.seed}; it must be 0 or more")
        if not self.space:
            raise ValueError(
                "space is {}; it must give at least one dotted key, such as optimizer.lr: {low: 0.01, high: 1}"
            )
        for name in ("batch", "max_time", "metric", "mode", "objectives", "generations", "quantile", "resample", "skip_equal"):
            value = getattr(self, name)
            if value and not self.learns:
                raise ValueError(
                    f"{name} is {short_json(value)}; {self.name} learns nothing from results, so leave it out"
                )
        if self.skip_equal and self.is_population:
            raise ValueError(f"skip_equal is true; the members of {self.name} change while they train, so leave it out")
        self._check_generations()
        if self.learns:
            self._check_learning()

    def _check_generations(self) -> None:
        useless = [] if self.name in ("pbt", "fgps") else ["resample"]
        if self.is_population:
            useless += ["batch", "max_time", "objectives"]
        elif self.name in DIVERSE:
            useless += ["generations", "objectives"]
        else:
            useless += ["generations", "quantile"]
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
        for name in (self.metric,) if self.metric else self.objectives:
            if name not in COLUMNS:
                check_metric(name, field="metric" if self.metric else "objectives")
        if self.metric and chosen_direction(self.metric, self.mode, field="mode") == "min":
            object.__setattr__(self, "mode", "min")  # None means max, so that journals of earlier calls stay valid
        for name, mode in self.objectives.items():
            chosen_direction(name, mode, field="objectives")

    @property
    def learns(self) -> bool:
        """Returns whether later proposals depend on the results of earlier ones."""
        return self.name in LEARNING

    @property
    def is_population(self) -> bool:
        """Returns whether settings change while networks are trained."""
        return self.name in POPULATIONS

    @property
    def num_at_once(self) -> int:
        """Returns the number of proposals of one round."""
        return self.batch or BATCH

    @property
    def num_generations(self) -> int:
        """Returns the number of equal parts of the budget."""
        return 5 if self.generations is None else self.generations

    @property
    def share_replaced(self) -> float:
        """Returns the share of members that are replaced after each generation, or of trials that count as good."""
        return 0.25 if self.quantile is None else self.quantile

    @property
    def share_resampled(self) -> float:
        """Returns the probability that a setting of a replaced member, or a further one of a changed trial, is sampled anew."""
        return 0.25 if self.resample is None else self.resample

    @property
    def directions(self) -> dict[str, str]:
        """Returns `max` or `min` by the name of each objective."""
        return {self.metric: self.mode or "max"} if self.metric else dict(self.objectives)

    @property
    def distributions(self) -> dict[str, Range | Choices]:
        """Returns the distributions by dotted key, sorted: the order in the spec must not change the proposals."""
        return {key: self.space[key] for key in sorted(self.space)}

    def without(self, keys: Sequence[str]) -> "Search | None":
        """Returns the search without these keys; None where nothing is left to search."""
        space = {key: value for key, value in self.space.items() if key not in keys}
        return replace(self, space=space) if space else None

    def planned(self) -> list[Proposal]:
        """Returns all proposals of a search that does not learn from results, in order."""
        return [{key: values.quantile(row[key]) for key, values in self.distributions.items()} for row in self.shares()]

    def shares(self) -> list[dict[str, float]]:
        """Returns each proposal as quantiles of the distributions, by key, in [0, 1)."""
        return self._sobol() if self.name == "sobol" else self._random()

    def _random(self) -> list[dict[str, float]]:
        """Returns uniform samples. Every key has a stream of its own, so a new key does not change the values of others."""
        streams = {key: stream(self.seed, key).random(self.max_trials) for key in self.distributions}
        return [{key: float(draws[i]) for key, draws in streams.items()} for i in range(self.max_trials)]

    def _sobol(self) -> list[dict[str, float]]:
        """Reference: I. M. Sobol', 1967; the shift modulo 1 is that of Cranley and Patterson, 1976."""
        # Lazily: it takes half a second, which every command that reads a spec would wait for.
        from scipy.stats import qmc

        keys = list(self.distributions)
        # A power of 2, because SciPy warns of any other number of points.
        points = qmc.Sobol(len(keys), scramble=False).random_base2(math.ceil(math.log2(self.max_trials)))
        shifts = {key: stream(self.seed, key).random() for key in keys}
        return [
            {key: float((point[i] + shifts[key]) % 1.0) for i, key in enumerate(keys)}
            for point in points[: self.max_trials]
        ]

    def corners(self) -> tuple[list[Proposal], bool]:
        """Returns proposals by which the space is validated: every combination of choices with the ends of all ranges.

        The second value is whether these are all combinations: at most `MAX_CORNERS` combinations of choices are returned.
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
        # Without a range, both ends are the same proposal.
        ends = ends[: 1 + bool(ranges)]
        corners: list[Proposal] = [
            {**dict(zip(chosen, values, strict=True)), **end} for values in found for end in ends
        ]
        return corners, math.prod(len(values) for values in chosen.values()) <= MAX_CORNERS


def stream(seed: int, key: str) -> np.random.Generator:
    """Returns the random generator of one key."""
    digest = hashlib.sha256(f"search/{seed}/{key}".encode()).digest()
    # A hash of the key and not its position, so that other keys may come and go.
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
    # `Search` takes the space as plain values, so that a problem of a distribution is reported at its own key.
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
    """Returns plain data that decodes to the same search."""
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
        **({"skip_equal": True} if search.skip_equal else {}),
        "space": space,
    }


def _encode_distribution(values: Range | Choices) -> dict[str, Any]:
    if isinstance(values, Choices):
        return {"choices": list(values.choices)}
    low, high = (values.rounded(end) if values.int else end for end in (values.low, values.high))
    return {"low": low, "high": high, "log": values.log, "int": values.int}


def search_identity(search: Search, corners: Sequence[str]) -> str:
    """Returns 16 hexadecimal digits that change with everything that changes the proposals or their meaning.

    More trials or more time do not change it, so that the search resumes. For `pbt` and `pb2` the number of members does change
    it: with another population every generation is different.

    corners: run keys of the jobs at the corners of the space; they stand for everything else that jobs depend on.
    """
    identity = {
        **encode_search(search),
        "max_trials": search.max_trials if search.is_population else None,
        "max_time": None,
        "batch": search.num_at_once,
        "space": None,
    }
    ranges = {
        key: _encode_distribution(values) for key, values in search.distributions.items() if isinstance(values, Range)
    }
    identity |= {"keys": sorted(search.space), "ranges": ranges, "corners": list(corners)}
    return hashlib.sha256(canonical(identity).encode()).hexdigest()[:16]
