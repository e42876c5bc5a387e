"""How every number of the page was computed, and whether more of it is better."""

import math

LARGER_IS_BETTER = {
    "accuracy": True,
    "robust_accuracy": True,
    "nll": False,
    "brier": False,
    "ece": False,
    "ece_adaptive": False,
    "auroc": True,
    "aupr_in": True,
    "aupr_out": True,
    "fpr95": False,
    "hlr": False,
    "ior": True,
}

_BOUNDS = dict.fromkeys(LARGER_IS_BETTER, (0.0, 1.0)) | {
    "nll": (0.0, math.inf),
    "brier": (0.0, 2.0),
    "hlr": (-1.0, 1.0),
    "ior": (-1.0, 1.0),
}

METRICS = {
    "accuracy": "Share of samples whose largest logit is that of the label. Fraction in [0, 1].",
    "robust_accuracy": "Share of test samples (of evenly spaced ones where the spec limits their number) that are right as "
    "they are and after every attack: projected gradient ascent within eps of every pixel, by default 8/255, 50 steps "
    "from each of the random starts the spec asks for. An upper bound: a stronger attack may break more.",
    "nll": "Mean negative log probability of the label, in nats, computed from logits by log-softmax.",
    "brier": "Mean over samples of the squared distance between the probability vector and the one-hot "
    "label, summed over classes; in [0, 2].",
    "ece": "Expected calibration error of the largest probability: 15 equal-width bins of confidence, "
    "right-closed (0 belongs to the first); the mean gap between accuracy and confidence, weighted by "
    "samples. Empty bins count nothing. It is biased upwards: a perfectly calibrated model shows about "
    "0.04 on 1,000 samples.",
    "ece_adaptive": "As ece, with 15 bins of equal numbers of samples, sorted stably and cut by position.",
    "auroc": "How often an input of the test split is given more confidence (largest probability of a known class) "
    "than an unknown one, ties counting half: the area under the ROC curve; 0.5 is chance. Split ood is the mean over "
    "the unknown sets, each of which is counted against the same test split.",
    "aupr_in": "Average precision of confidence with known inputs as positives: precision summed over the steps of "
    "recall, not by the trapezoid rule. It depends on how many inputs of each kind there are.",
    "aupr_out": "As aupr_in, with unknown inputs as positives and the least confident first.",
    "fpr95": "Share of unknown inputs accepted at the largest threshold of confidence that accepts at least 95% of "
    "the known ones, ties accepted. Known inputs are the positives.",
    "hlr": "Hard-label recovery: accuracy of networks trained on the whole training set less that of networks trained on "
    "this set, both with hard labels and by the same recipe. A difference of fractions, not of percents; smaller is better.",
    "ior": "Improvement over random: accuracy of networks trained on this set less that of networks trained on as many "
    "random real images of each class, both with hard labels and by the same recipe. A difference of fractions.",
    "accuracy_sd": "Standard deviation of accuracy among the networks trained on one set, where there are several.",
}

TERMS = {
    "seed": "The unit of repetition: one run with all its random streams drawn from that seed. Runs that "
    "differ in nothing else make one row of the summary.",
    "mean ± half width": "Mean over completed seeds of each run's value at its last step, with half the "
    "width of the 95% Student t interval (n - 1 degrees of freedom). It says how sure the mean is, not "
    "how far single runs spread, and it may reach beyond 0 or 1. With one seed there is no interval.",
    "bold": "The interval lies beyond those of all other rows on the same data and model. Nothing is bold"
    " if any of them rests on a single seed. No other ranking is claimed.",
    "density": "The method's target: active weights divided by all weights of the prunable tensors (convolutions and "
    "linear layers) that are not kept dense. What each layer has at the end is shown as its own density.",
    "explored": "Weights that were active in any training step so far, divided by all weights of the prunable "
    "tensors. A network that starts dense has explored everything.",
    "pruned run": "Stopped early by the scheduler. Its values are kept in the tables but never averaged "
    "with those of completed runs.",
    "active parameters": "Parameters not masked out at the end, mean over completed seeds.",
    "training FLOPs": "Counted, not measured: two per multiply-add of every forward and backward pass, "
    "times the density of each layer at the time. Missing where it cannot be counted.",
    "training time": "Seconds spent in training steps, without set-up and evaluation; depends on the "
    "machine.",
}


def bounds(measure: str) -> tuple[float, float]:
    """The values that `split/name` can have at all; infinite where nothing is known."""
    return _BOUNDS.get(measure.partition("/")[2], (-math.inf, math.inf))


def terms(measures: list[str]) -> dict[str, str]:
    """The definitions that a page with these measures needs."""
    names = dict.fromkeys(measure.partition("/")[2] for measure in measures)
    return {name: METRICS[name] for name in names if name in METRICS} | TERMS
