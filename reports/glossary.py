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
    "set_size": False,
    "set_size_median": False,
    "coverage_violation_by_size": False,
    "coverage_of_worst_class": True,
    "recall_minority": True,
    "precision_minority": True,
    "macro_f1": True,
    "ece_20": False,
    "ace_20": False,
    "eice": False,
}

_BOUNDS = dict.fromkeys(LARGER_IS_BETTER, (0.0, 1.0)) | {
    "nll": (0.0, math.inf),
    "brier": (0.0, 2.0),
    "brier_reliability": (0.0, 2.0),
    "balance": (-1.0, 1.0),
    "ece_floor": (0.0, 1.0),
    "brier_uncertainty": (0.0, 1.0),
    "empty_bins": (0.0, math.inf),
    **{f"entropy_{part}": (0.0, math.inf) for part in ("total", "aleatoric", "epistemic")},
    "set_size": (0.0, math.inf),
    "set_size_median": (0.0, math.inf),
    **dict.fromkeys(("coverage", "singleton_rate", "empty_rate", "interval_coverage", "interval_width"), (0.0, 1.0)),
    **dict.fromkeys(
        [f"gap_{way}_{group}" for way in ("predicted", "true") for group in ("minority", "majority")], (-1.0, 1.0)
    ),
    "eice_released": (0.0, math.inf),
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
    "entropy_total": "Entropy of the mean probabilities of several members (an ensemble, passes with dropout, networks drawn by "
    "SWAG), mean over samples, in nats.",
    "entropy_aleatoric": "Mean over members and samples of the entropy of a member's own probabilities, in nats: the part of "
    "entropy_total that all members agree on.",
    "entropy_epistemic": "entropy_total less entropy_aleatoric, in nats: the mutual information of class and member; 0 where all "
    "members say the same.",
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
    "coverage": "Share of test samples whose set of classes holds the label; 1 - alpha is promised, on average over draws of the "
    "held-out rows and of the test rows.",
    "set_size": "Mean number of classes in a set: of rules that cover as promised, the one with smaller sets says more.",
    "set_size_median": "Median number of classes in a set.",
    "singleton_rate": "Share of sets with exactly one class.",
    "empty_rate": "Share of sets without any class.",
    "coverage_violation_by_size": "Largest distance of coverage to 1 - alpha among sets of 0-1, 2-3, 4-10, 11-100 and more "
    "classes, strata without sets left out. A stratum of few sets is far off by chance.",
    "coverage_of_worst_class": "Smallest coverage of a class that has test samples; by chance alone below 1 - alpha where "
    "classes are small.",
    "threshold": "Of a conformal rule: the largest score of a class that is in a set, where there is one for all classes.",
    "infinite_thresholds": "Of a conformal rule: thresholds without a finite value, as too few rows stood behind them; such a "
    "class is in every set.",
    "temperature": "What divides logits, fitted on held-out rows; above 1 makes confidences smaller.",
    "temperature_at_bound": "1 or -1 where nll has no minimum and the temperature is a bound of the search, else 0.",
    "converged": "1 where the gradient of a calibrator's fit vanished, else 0.",
    "weight_scaled": "Of an ensemble temperature: the weight of probabilities at the fitted temperature.",
    "weight_plain": "Of an ensemble temperature: the weight of probabilities as they were.",
    "weight_uniform": "Of an ensemble temperature: the weight of equal probabilities.",
    "bank": "Training samples that the knn score keeps to measure distances to.",
    "recall_minority": "Share of the minority's nodes that are predicted so.",
    "precision_minority": "Share of the nodes predicted minority that are it; missing where none is.",
    "macro_f1": "Mean of both classes' F1, the harmonic mean of precision and recall.",
    "ece_20": "As ece, with 20 bins; with _predicted_ or _true_ and a class behind it, of the nodes predicted so or of it. "
    "Dozens of nodes in 20 bins show a large error by chance alone.",
    "ace_20": "As ece_20, with 20 bins of equally many nodes.",
    "gap_predicted_minority": "Accuracy less mean confidence of the nodes predicted minority; negative: over-confident.",
    "gap_predicted_majority": "Accuracy less mean confidence of the nodes predicted majority; negative: over-confident.",
    "gap_true_minority": "Recall less mean confidence of the minority's nodes; a calibrated network does not make it 0.",
    "gap_true_majority": "Recall less mean confidence of the majority's nodes; a calibrated network does not make it 0.",
    "eice": "Mean distance between a node's confidence and the middle of its jackknife interval for the predicted class, the "
    "interval cut to [0, 1].",
    "eice_released": "As eice, the way CALIRARE's code has it: intervals not cut, always of the minority's probability.",
    "interval_coverage": "Share of nodes whose label, 1 for the minority, lies in their jackknife interval.",
    "interval_width": "Mean width of the nodes' jackknife intervals, cut to [0, 1].",
    "accuracy_sd": "Standard deviation of accuracy among the networks trained on one set, where there are several.",
}

TERMS = {
    "seed": "The unit of repetition: one run with all its random streams drawn from that seed. Runs that "
    "differ in nothing else make one row of the summary.",
    "mean ± half width": "Mean over completed seeds of each run's value at its last step, with half the "
    "width of the 95% Student t interval (n - 1 degrees of freedom). It says how sure the mean is, not "
    "how far single runs spread, and it may reach beyond 0 or 1. With one seed there is no interval.",
    "bold": "The interval lies beyond those of all other rows on the same data and model; of calibrate runs, of all others on "
    "the same earlier runs. Nothing is bold if any of them rests on a single seed. No other ranking is claimed.",
    "band": "Of a reliability diagram: the middle 95% of a bin's accuracy over 1,000 draws of the split's samples with "
    "replacement (percentile bootstrap, fixed seed), as many as one run has, from the bins of all runs together: runs may share "
    "their samples, so that more of them do not make the band narrower. Where all samples of a bin are right, or all wrong, "
    "draws show no spread, and the band ends where so many would all be so in 2.5% of cases. It holds bin by bin, not for all "
    "of them at once.",
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
    return _BOUNDS.get(term_of(measure.partition("/")[2]), (-math.inf, math.inf))


def term_of(name: str) -> str:
    """The entry of `METRICS` that explains a metric: `ece_20` for `ece_20_true_minority`; the name itself where there is none."""
    ways = ("_predicted_", "_true_")
    return name if name in METRICS else next((name.partition(way)[0] for way in ways if way in name), name)


def terms(measures: Collection[str], kinds: Collection[str] = ()) -> dict[str, str]:
    """The definitions that a page with these measures on runs of these kinds needs."""
    names = dict.fromkeys(term_of(measure.partition("/")[2]) for measure in measures)
    general = {name: text for name, text in TERMS.items() if name not in COSTS.values()}
    shown = TERMS if cost_names(kinds) is COSTS else general | DISTILLATION_TERMS
    return {name: METRICS[name] for name in names if name in METRICS} | shown
