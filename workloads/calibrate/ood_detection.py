"""Evaluates OOD scores of a finished network on near and far OOD sets.

Scores that use logits only need no network; all others run it again on the training rows and on every OOD set. Options are
chosen on validation rows only. Metrics have the splits `ood.<set>@<score>`, their means under
`ood@<score>`, `ood.near@<score>` and `ood.far@<score>`; splits without a score are those of the calibrated confidence.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from pruneyard.workloads.calibrate.evidence import FEATURES, LABELS, LOGITS, NETWORK, Evidence, evidence_of
from pruneyard.workloads.calibrate.score import FittedScore, Score
from pruneyard.workloads.calibrate.score_choice import candidates, choose
from pruneyard.workloads.data.dataset import Dataset, Source, Split
from pruneyard.workloads.metrics.detection import correct_rates, detection_metrics
from pruneyard.workloads.networks.finished import FinishedNetwork
from pruneyard.workloads.plugins import name_of
from pruneyard.workloads.training.ood_evaluation import NO_LABEL, check_ood, fit_images, split_names

NEAR, FAR = "ood.near", "ood.far"
OOD = "ood"
ALL = frozenset({LOGITS, FEATURES, LABELS, NETWORK})


@dataclass(frozen=True, kw_only=True)
class Sets:
    """OOD rows in the image shape of the in-distribution data, by split; `near` and `far` are the splits of each group."""

    rows: Mapping[str, Split]
    near: frozenset[str]
    far: frozenset[str]

    @classmethod
    def of(
        cls, near: Sequence[Source], far: Sequence[Source], load: Callable[[Source], Dataset], *, known: Dataset
    ) -> "Sets":
        """Loads the test rows of the sets. Raises `ValueError` for the in-distribution data itself or an incompatible shape."""
        sources = [*near, *far]
        names = split_names(sources)
        rows = {}
        for name, source in zip(names, sources, strict=True):
            dataset = load(source)
            check_ood(dataset, known=known)
            rows[name] = unknown_rows(dataset.test, known)
        return cls(rows=rows, near=frozenset(names[: len(near)]), far=frozenset(names[len(near) :]))


def unknown_rows(split: Split, known: Dataset) -> Split:
    """Returns rows in the shape of the in-distribution images, with label -1."""
    return Split(
        images=fit_images(split.images, known.image_shape),
        labels=np.full(len(split), NO_LABEL, dtype=np.int64),
        row_ids=split.row_ids,
        pixels=split.pixels,
    )


@dataclass(frozen=True, kw_only=True)
class Witness:
    """A finished network with its training data; returns evidence for scores."""

    network: FinishedNetwork
    data: Dataset
    num_extra: int

    @cached_property
    def train(self) -> Evidence:
        """Evidence of the training rows."""
        return self.of(self.data.train)

    def of(self, rows: Split) -> Evidence:
        """Returns the evidence of rows."""
        return evidence_of(self.network, rows, num_extra=self.num_extra)


def fitted_score(score: Score, witness: Witness, choose_on: Sequence[Dataset], *, seed: int) -> FittedScore:
    """Fits a score to training rows, with the best options on the validation rows of `choose_on` if there are any."""
    # Running the network on all training rows is slow, and many scores learn nothing from them.
    train = witness.train if score.learns_from else None
    if not choose_on:
        return score.fit(train, seed=seed)
    unknown = Split(
        # All sets together, so that one choice of options holds for all of them.
        images=np.concatenate([unknown_rows(data.val, witness.data).images for data in choose_on]),
        labels=np.full(sum(len(data.val) for data in choose_on), NO_LABEL, dtype=np.int64),
        row_ids=np.concatenate([data.val.row_ids for data in choose_on]),
        pixels=witness.data.pixels,
    )
    return choose(
        candidates(score),
        train=train,
        val_known=witness.of(witness.data.val),
        val_unknown=witness.of(unknown),
        seed=seed,
    ).fitted


def scores_of(rule: FittedScore, known: Evidence, unknown: Mapping[str, Evidence]) -> dict[str, np.ndarray]:
    """Returns scores by split; those of the in-distribution rows are under `test`."""
    return {"test": rule.score(known)} | {name: rule.score(evidence) for name, evidence in unknown.items()}


def needs_network(scores: Sequence[Score]) -> bool:
    """Returns whether any score needs more than logits."""
    return any(not uses_logits_only(score) for score in scores)


def uses_logits_only(score: Score | type[Score]) -> bool:
    """Returns whether stored logits are enough for a score."""
    return not score.learns_from and not score.needs - {LOGITS}


def detection_rows(
    scores: Mapping[str, np.ndarray], correct: np.ndarray, *, near: frozenset[str], far: frozenset[str], suffix: str = ""
) -> dict[tuple[str, str], float]:
    """Returns metrics by split and name: of every OOD set against `test`, and means over near, far and all sets.

    correct: `(N,)` booleans, whether the network classifies the rows of `test` correctly.
    """
    test = scores["test"]
    found = {
        name: detection_metrics(test, values) | correct_rates(test, correct, values)
        for name, values in scores.items()
        if name != "test"
    }
    rows = {(f"{split}{suffix}", name): value for split, named in found.items() for name, value in named.items()}
    for mean, members in ((OOD, found.keys()), (NEAR, near), (FAR, far)):
        # In the order of `found`: sets have no order, and a sum of floats depends on it.
        of_part = [found[name] for name in found if name in members]
        if of_part:
            rows |= {(f"{mean}{suffix}", name): float(np.mean([m[name] for m in of_part])) for name in of_part[0]}
    return rows


def suffix_of(score: Score) -> str:
    """Returns the suffix of a score's splits: `@name`."""
    return f"@{name_of(score)}"
