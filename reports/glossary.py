"""How every number of the page was computed, and whether more of it is better."""

import math
from collections.abc import Collection

LARGER_IS_BETTER = {
    "accuracy": True,
    "robust_accuracy": True,
    "nll": False,
    "brier": False,
    "ece": False,
    "ece_adaptive": False,
    "ece_smooth": False,
    "ece_classwise": False,
    "rmsce": False,
    "rmsce_debiased": False,
    "mce": False,
    "ks": False,
    "brier_reliability": False,
    "brier_resolution": True,
    "aurc": False,
    "e_aurc": False,
    "augrc": False,
    "auroc": True,
    "aupr_in": True,
    "aupr_out": True,
    "fpr95": False,
    "fpr95_out": False,
    "hlr": False,
    "ior": True,
}

_BOUNDS = dict.fromkeys(LARGER_IS_BETTER, (0.0, 1.0)) | {
    "nll": (0.0, math.inf),
    "brier": (0.0, 2.0),
    "brier_reliability": (0.0, 2.0),
    "balance": (-1.0, 1.0),
    "ece_floor": (0.0, 1.0),
    "brier_uncertainty": (0.0, 1.0),
    "empty_bins": (0.0, math.inf),
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
    "ece_floor": "The ece that a perfectly calibrated network with the same confidences would show on as many samples in the "
    "same bins: the mean over 100 draws of labels from its own probabilities. An ece near it says nothing against calibration.",
    "ece_smooth": "smECE: confidence less correctness, smoothed over confidence by a Gaussian reflected at 0 and 1, its size "
    "integrated. The width of the Gaussian is the one that equals the error it gives. No bins; noise raises it, too.",
    "ece_classwise": "The gap of ece for the probability of each class over all samples, in bins of that probability; the mean "
    "over the classes that occur. With many classes most of it lies near 0, so it shrinks as classes are added.",
    "rmsce": "Root of the mean squared gap between accuracy and confidence, over the bins of ece, weighted by samples.",
    "rmsce_debiased": "As rmsce, less the part of each squared gap that chance makes, accuracy (1 - accuracy) / (samples - 1); 0 "
    "where chance makes more than there is. Bins of one sample count nothing.",
    "mce": "Largest gap between accuracy and confidence of any bin of ece that holds samples, were it a single one.",
    "ks": "Kolmogorov-Smirnov calibration error: samples sorted by confidence, the largest size of the running sum of "
    "confidence less correctness, divided by the number of samples. Read between distinct confidences only; no bins.",
    "balance": "Accuracy less mean confidence: negative where over-confident. Errors of opposite sign cancel.",
    "empty_bins": "How many bins of ece hold no sample.",
    "brier_reliability": "Miscalibration part of brier, over equal-width bins of each class's probability, summed over classes. "
    "brier = reliability - resolution + uncertainty + what forecasts vary inside bins.",
    "brier_resolution": "By how much forecasts that tell samples apart lower brier, over the bins of brier_reliability.",
    "brier_uncertainty": "The brier of always forecasting how frequent the classes are in the split.",
    "aurc": "Samples ranked by confidence: the share of errors among the k most confident ones, mean over all k. Samples of "
    "equal confidence count with the mean over their orders.",
    "e_aurc": "aurc less its value when all errors are ranked last; the exact optimum, not its limit for many samples.",
    "augrc": "Samples ranked by confidence: the errors among the k most confident ones divided by all samples, mean over all k.",
    "auroc": "How often an input of the test split is given more confidence (largest probability of a known class) "
    "than an unknown one, ties counting half: the area under the ROC curve; 0.5 is chance. Split ood is the mean over "
    "the unknown sets, each of which is counted against the same test split.",
    "aupr_in": "Average precision of confidence with known inputs as positives: precision summed over the steps of "
    "recall, not by the trapezoid rule. It depends on how many inputs of each kind there are.",
    "aupr_out": "As aupr_in, with unknown inputs as positives and the least confident first.",
    "fpr95": "Share of unknown inputs accepted at the largest threshold of confidence that accepts at least 95% of "
    "the known ones, ties accepted. Known inputs are the positives.",
    "fpr95_out": "Share of known inputs rejected at the smallest threshold of confidence that rejects at least 95% of the "
    "unknown ones, ties rejected. Unknown inputs are the positives: what current benchmarks call FPR95, another number.",
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

COSTS = {"num_active": "active parameters", "train_flops": "training FLOPs", "train_s": "training time"}
"""How the costs of a cell are called, by column of `runs`."""
DISTILLATION_COSTS = {
    "num_active": "parameters of the evaluated network",
    "train_flops": "distillation FLOPs",
    "train_s": "distillation time",
}
"""The same where all runs distil, which also says what each term means."""
DISTILLATION_TERMS = {
    "parameters of the evaluated network": "Of each fresh network of the job's model that is trained on the synthetic set.",
    "distillation FLOPs": "Counted, not measured: two per multiply-add of every pass over images that makes the set, gradients "
    "of gradients included; networks trained to evaluate it are not. Missing where a method's work is not counted.",
    "distillation time": "Seconds spent in making the set: all iterations, and the preparation that a method does itself, but "
    "not the loading of data or the networks trained to evaluate the set. Depends on the machine and its load.",
}


def cost_names(kinds: Collection[str]) -> dict[str, str]:
    """By column, for runs of these kinds."""
    return DISTILLATION_COSTS if set(kinds) == {"distill"} else COSTS


def bounds(measure: str) -> tuple[float, float]:
    """The values that `split/name` can have at all; infinite where nothing is known."""
    return _BOUNDS.get(measure.partition("/")[2], (-math.inf, math.inf))


def terms(measures: list[str], kinds: Collection[str] = ()) -> dict[str, str]:
    """The definitions that a page with these measures on runs of these kinds needs."""
    names = dict.fromkeys(measure.partition("/")[2] for measure in measures)
    general = {name: text for name, text in TERMS.items() if name not in COSTS.values()}
    shown = TERMS if cost_names(kinds) is COSTS else general | DISTILLATION_TERMS
    return {name: METRICS[name] for name in names if name in METRICS} | shown
