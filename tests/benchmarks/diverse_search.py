"""Best accuracy found by random search, TPE, LISSNAS and FGPS with equal numbers of trials, each of which takes milliseconds.

A trial fits a ridge regression on random features of the digits: kernel width, ridge, number of features, their function and the
scaling of inputs are searched. Each search chooses by val accuracy; the rows of test judge the setting that it chose. Searches
of one seed share the first round's stream. Differences from random are paired by seed, with a bootstrap interval.

    python tests/benchmarks/diverse_search.py [SEEDS] [TRIALS]
"""

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from itertools import combinations
from typing import Any

import numpy as np
import optuna
from sklearn.datasets import load_digits

from pruneyard.orchestrator.search.diverse_search import Trial, elite, from_diverse, in_pockets
from pruneyard.orchestrator.search.space import Point, Space
from pruneyard.orchestrator.spec.search import Choices, Range, stream

BATCH = 8
SPACE = Space(
    {
        "width": Range(low=0.03, high=30.0, log=True),
        "ridge": Range(low=1e-5, high=1e3, log=True),
        "features": Range(low=8, high=128, int=True),
        "function": Choices(choices=("cos", "relu", "tanh", "sign", "abs")),
        "scaling": Choices(choices=("none", "pixel", "row")),
    }
)
FUNCTIONS: Mapping[str, Callable[[np.ndarray], np.ndarray]] = {
    "cos": np.cos,
    "relu": lambda x: np.maximum(x, 0),
    "tanh": np.tanh,
    "sign": np.sign,
    "abs": np.abs,
}


@cache
def digits() -> tuple[np.ndarray, np.ndarray, list[np.ndarray]]:
    """Returns inputs, labels, and the rows of train, val and test."""
    inputs, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(labels))
    return inputs / 16, labels, [order[:300], order[300:900], order[900:]]


def evaluate(at: Point) -> tuple[float, float]:
    """Returns val and test accuracy."""
    inputs, labels, (train, val, test) = digits()
    scaling = SPACE.distributions["scaling"].choices[at["scaling"]]
    if scaling == "pixel":
        inputs = (inputs - inputs[train].mean(0)) / (inputs[train].std(0) + 0.01)
    elif scaling == "row":
        inputs = inputs / np.linalg.norm(inputs, axis=1, keepdims=True)
    generator = np.random.default_rng(1)
    weights = generator.normal(size=(inputs.shape[1], at["features"])) / at["width"]
    function = FUNCTIONS[SPACE.distributions["function"].choices[at["function"]]]
    made = function(inputs @ weights + generator.uniform(0, 2 * np.pi, at["features"]))
    gram = made[train].T @ made[train] + at["ridge"] * np.eye(at["features"])
    fitted = np.linalg.solve(gram, made[train].T @ np.eye(10)[labels[train]])
    right = (made @ fitted).argmax(1) == labels
    return float(right[val].mean()), float(right[test].mean())


def next_points(
    name: str, trials: Sequence[Trial], number: int, *, seed: int, rounds: int
) -> Sequence[Point]:
    """Returns the points of the next round of a search."""
    generator = stream(seed, f"round/{rounds}")
    if name == "tpe":
        return by_tpe(trials, number, seed=seed * 1000 + rounds)
    if name == "random" or not trials:
        return [SPACE.sample(generator) for _ in range(number)]
    if name == "lissnas":
        return in_pockets(trials, SPACE, number, share=0.25, generator=generator)[0]
    return from_diverse(trials, SPACE, number, share=0.25, chance=0.25, generator=generator)[0]


def by_tpe(trials: Sequence[Trial], number: int, *, seed: int) -> Sequence[Point]:
    """Returns proposals of Optuna's TPE after these trials."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=seed))
    found: dict[str, optuna.distributions.BaseDistribution] = {}
    for key, values in SPACE.distributions.items():
        if isinstance(values, Choices):
            found[key] = optuna.distributions.CategoricalDistribution(range(len(values.choices)))
        elif values.int:
            found[key] = optuna.distributions.IntDistribution(int(values.low), int(values.high))
        else:
            found[key] = optuna.distributions.FloatDistribution(values.low, values.high, log=values.log)
    for trial in trials:
        study.add_trial(
            optuna.trial.create_trial(value=trial.cost, params=dict(trial.at), distributions=found)
        )
    return [study.ask(found).params for _ in range(number)]


def search(name: str, seed: int, num_trials: int) -> dict[str, float]:
    """Returns what one search found: accuracies of the setting it chose, and how far apart its best quarter lies."""
    trials: list[Trial] = []
    tests: list[float] = []
    while len(trials) < num_trials:
        number = min(BATCH, num_trials - len(trials))
        for point in next_points(name, trials, number, seed=seed, rounds=len(trials) // BATCH):
            val, test = evaluate(point)
            trials.append(Trial(point, -val))
            tests.append(test)
    best = min(range(len(trials)), key=lambda place: trials[place].cost)
    pairs = list(combinations([trial.at for trial in elite(trials, 0.25)], 2))
    return {
        "val": -trials[best].cost,
        "test": tests[best],
        "spread_of_best": float(np.mean([SPACE.distance(a, b) for a, b in pairs])),
    }


def main(num_seeds: int, num_trials: int) -> None:
    """Prints means over seeds and paired differences from random search."""
    names = ("random", "tpe", "lissnas", "fgps")
    found = {name: [search(name, seed, num_trials) for seed in range(num_seeds)] for name in names}
    generator = np.random.default_rng(0)
    told: dict[str, Any] = {"seeds": num_seeds, "trials": num_trials}
    for name in names:
        told[name] = {
            key: round(float(np.mean([one[key] for one in found[name]])), 4) for key in found[name][0]
        }
        for key in ("val", "test"):
            pairs = zip(found[name], found["random"], strict=True)
            differences = np.array([one[key] - other[key] for one, other in pairs])
            means = generator.choice(differences, size=(10_000, num_seeds)).mean(1)
            low, high = np.quantile(means, [0.025, 0.975])
            told[name][f"{key}_minus_random"] = [round(float(x), 4) for x in (differences.mean(), low, high)]
    print(json.dumps(told, indent=1))


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 20, int(sys.argv[2]) if len(sys.argv) > 2 else 64)
