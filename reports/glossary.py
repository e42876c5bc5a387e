"""Definitions, display names and directions of all metrics and terms of the page."""

import math
from collections.abc import Collection

from pruneyard.reports import mechanism_glossary, probe_glossary

LARGER_IS_BETTER = {
    "accuracy": True,
    "robust_accuracy": True,
    "balanced_accuracy": True,
    "macro_f1": True,
    "accuracy_of_worst_class": True,
    "top5_accuracy": True,
    "loss": False,
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
    "ece_true": False,
    "brier_top_label": False,
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
    "ccr_10": True,
    "ccr_01": True,
    "auroc_positive": True,
    "aupr_positive": True,
    "brier_positive": False,
    "ece_positive": False,
    "hlr": False,
    "ior": True,
    "set_size": False,
    "set_size_median": False,
    "coverage_violation_by_size": False,
    "coverage_of_worst_class": True,
    "recall_minority": True,
    "precision_minority": True,
    "ece_20": False,
    "ace_20": False,
    "eice": False,
    **probe_glossary.LARGER_IS_BETTER,
}

FURTHER_MEASURES = ("ece_adaptive", "balanced_accuracy", "macro_f1", "accuracy_of_worst_class", "top5_accuracy", "accuracy_sd")
"""Measures that the page leaves out of the summary and shows in a table below it."""

# Fractions, except those listed below.
_BOUNDS = dict.fromkeys(LARGER_IS_BETTER, (0.0, 1.0)) | {
    "loss": (0.0, math.inf),
    "nll": (0.0, math.inf),
    "brier": (0.0, 2.0),
    "brier_reliability": (0.0, 2.0),
    "balance": (-1.0, 1.0),
    "ece_floor": (0.0, 1.0),
    "ece_floor_95": (0.0, 1.0),
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
    **probe_glossary.BOUNDS,
    **mechanism_glossary.BOUNDS,
}

METRICS = {
    "accuracy": "Fraction of samples whose largest logit belongs to the label, in [0, 1].",
    "robust_accuracy": "Fraction of test samples (evenly spaced ones if the spec limits their number) that the network "
    "classifies correctly without an attack and under every attack: projected gradient ascent within eps of every pixel, by "
    "default 8/255, with 50 steps from each of the random starts that the spec asks for. An upper bound: a stronger attack may "
    "break more samples.",
    "balanced_accuracy": "Mean over classes of the accuracy on the samples of the class; classes without samples do not count. "
    "Chance is 1 / classes, whatever their frequencies.",
    "macro_f1": "Mean over classes of the F1 score, the harmonic mean of precision and recall. Classes that have no samples and "
    "are never predicted do not count; among nodes, both classes do.",
    "accuracy_of_worst_class": "Smallest accuracy on the samples of a class. With few samples it is low by chance alone.",
    "top5_accuracy": "Fraction of samples whose label is among the five largest probabilities; only with more than five classes.",
    "nll": "Negative log-likelihood: mean negative log probability of the label, in nats, computed from logits by log-softmax.",
    "brier": "Squared distance between the probability vector and the one-hot label, summed over classes, mean over samples; in "
    "[0, 2].",
    "ece": "Expected calibration error of the largest probability: the mean gap between accuracy and confidence over 15 "
    "equal-width bins of confidence, weighted by samples. Bins are right-closed (0 belongs to the first); empty bins do not "
    "count. The estimate is biased upwards: a perfectly calibrated model shows about 0.04 on 1,000 samples.",
    "ece_adaptive": "ECE with 15 bins that hold equal numbers of samples. Samples are sorted stably and split by position.",
    "ece_floor": "The ECE that a perfectly calibrated network with the same confidences would show on as many samples in the "
    "same bins: the mean over 100 draws of labels from its own probabilities. An ECE close to this floor is no evidence of "
    "miscalibration.",
    "ece_floor_95": "The ECE that such a network exceeds in 5% of the same 100 draws. An ECE below it is no evidence of "
    "miscalibration; one above it is, at a level of 5% for a single comparison.",
    "ece_true": "ECE of the same bins with the true probability of being correct in place of correctness, as with infinitely "
    "many labels. Only data that are generated with known class probabilities have it (source oracle).",
    "ece_smooth": "smECE: confidence minus correctness, smoothed over confidence by a Gaussian kernel reflected at 0 and 1, and "
    "the integral of its absolute value. The kernel width is the one that equals the error it gives. It needs no bins; noise "
    "raises it, too.",
    "ece_classwise": "The calibration gap of ECE for the probability of each class over all samples, in bins of that "
    "probability; mean over the classes that occur. With many classes most probabilities lie near 0, so the value shrinks as "
    "classes are added.",
    "rmsce": "Root mean squared calibration error: the squared gap between accuracy and confidence over the bins of ECE, "
    "weighted by samples, then the root.",
    "rmsce_debiased": "RMSCE with the expected contribution of chance, accuracy (1 - accuracy) / (samples - 1), subtracted from "
    "each squared gap; 0 if chance explains more than was observed. Bins with one sample do not count.",
    "mce": "Maximum calibration error: the largest gap between accuracy and confidence of any bin of ECE with at least two "
    "samples. A single sample is right or wrong, so its gap is large whatever the calibration. Bins with few samples have large "
    "gaps by chance, too.",
    "ks": "Kolmogorov-Smirnov calibration error: samples are sorted by confidence, and the largest absolute running sum of "
    "confidence minus correctness is divided by the number of samples. Read between distinct confidences only; needs no bins.",
    "balance": "Accuracy minus mean confidence; negative means over-confident. Errors of opposite sign cancel.",
    "empty_bins": "Number of ECE bins without samples.",
    "brier_top_label": "Squared distance of the confidence from correctness (1 or 0), mean over samples: the Brier score of the "
    "predicted class alone, in [0, 1].",
    "brier_reliability": "Miscalibration part of the Brier score, over equal-width bins of each class's probability, summed "
    "over classes. Brier score = reliability - resolution + uncertainty + variation of the forecasts within bins.",
    "brier_resolution": "Reduction of the Brier score by forecasts that separate samples, over the bins of Brier reliability.",
    "brier_uncertainty": "Brier score of a constant forecast of the class frequencies of the split.",
    "aurc": "Area under the risk-coverage curve: samples are ranked by confidence, and the error rate among the k most "
    "confident samples is averaged over all k. Samples of equal confidence count with the mean over their orders.",
    "e_aurc": "AURC minus the AURC of the same errors all ranked last (the exact optimum, not its limit for many samples).",
    "augrc": "Area under the generalised risk-coverage curve: samples are ranked by confidence, and the number of errors among "
    "the k most confident samples, divided by the number of all samples, is averaged over all k.",
    "entropy_total": "Entropy of the mean probabilities of several members (an ensemble, dropout passes, networks sampled by "
    "SWAG), mean over samples, in nats.",
    "entropy_aleatoric": "Entropy of each member's own probabilities, mean over members and samples, in nats: the part of the "
    "total entropy that all members share.",
    "entropy_epistemic": "Total entropy minus aleatoric entropy, in nats: the mutual information between class and member; 0 if "
    "all members agree.",
    "auroc": "Probability that an in-distribution input (test split) has a higher confidence (largest class probability) than "
    "an out-of-distribution (OOD) input, ties counting half: the area under the ROC curve; 0.5 is chance. Split ood is the mean "
    "over the OOD sets, each compared with the same test split.",
    "aupr_in": "Average precision of confidence with in-distribution inputs as positives: precision summed over the steps of "
    "recall, not by the trapezoid rule. It depends on the numbers of in-distribution and OOD inputs.",
    "aupr_out": "Average precision with OOD inputs as positives and the least confident inputs first; computed like AUPR-In.",
    "fpr95": "False positive rate at 95% true positive rate: fraction of OOD inputs accepted at the largest confidence "
    "threshold that accepts at least 95% of the in-distribution inputs, ties accepted. In-distribution inputs are the positives.",
    "fpr95_out": "Fraction of in-distribution inputs rejected at the smallest confidence threshold that rejects at least 95% of "
    "the OOD inputs, ties rejected. OOD inputs are the positives. Current benchmarks call this FPR95; it is another number than "
    "fpr95.",
    "ccr_10": "Correct classification rate at a false positive rate of 10%: fraction of the in-distribution inputs that the "
    "network classifies correctly and that score above the threshold which lets at most 10% of the OOD inputs pass.",
    "ccr_01": "Correct classification rate at a false positive rate of 1%; needs far more than 100 OOD inputs to be precise.",
    "auroc_positive": "Probability that a sample of the positive class of two has a larger probability of that class than one of "
    "the other, ties counting half: the area under the ROC curve; 0.5 is chance.",
    "aupr_positive": "Average precision of the positive class's probability: precision summed over the steps of recall. Chance "
    "is the fraction of positive samples.",
    "brier_positive": "Squared distance of the positive class's probability from 1 for positive samples and 0 for others, mean "
    "over samples, in [0, 1]: half of the Brier score over both classes.",
    "ece_positive": "ECE of the positive class's probability over all samples: the mean gap between the fraction of positive "
    "samples and that probability, in bins of the probability.",
    "hlr": "Hard-label recovery: accuracy of networks trained on the whole training set minus that of networks trained on this "
    "set, both with hard labels and the same recipe. A difference of fractions, not percentages; smaller is better.",
    "ior": "Improvement over random: accuracy of networks trained on this set minus that of networks trained on as many random "
    "real images per class, both with hard labels and the same recipe. A difference of fractions.",
    "coverage": "Fraction of test samples whose prediction set contains the label. The target is 1 - alpha, on average over "
    "draws of the held-out samples and of the test samples.",
    "set_size": "Mean number of classes in a prediction set. Among rules that reach their target coverage, smaller sets are "
    "better.",
    "set_size_median": "Median number of classes in a prediction set.",
    "singleton_rate": "Fraction of prediction sets with exactly one class.",
    "empty_rate": "Fraction of prediction sets without any class.",
    "coverage_violation_by_size": "Size-stratified coverage violation: largest distance between coverage and 1 - alpha among "
    "sets of 0-1, 2-3, 4-10, 11-100 and more classes; empty strata are left out. A stratum with few sets deviates by chance "
    "alone.",
    "coverage_of_worst_class": "Smallest coverage of any class with test samples. With few samples per class it is below 1 - "
    "alpha by chance alone.",
    "threshold": "Largest nonconformity score of a class in a prediction set, for conformal rules with one threshold for all "
    "classes.",
    "infinite_thresholds": "Number of conformal thresholds without a finite value, because too few samples support them. Such a "
    "class is in every prediction set.",
    "temperature": "Divisor of the logits, fitted on held-out samples; values above 1 lower confidences.",
    "temperature_at_bound": "1 or -1 if the NLL has no minimum and the temperature is a bound of the search, else 0.",
    "converged": "1 if the gradient of a calibrator's fit vanished, else 0.",
    "weight_scaled": "Ensemble temperature scaling: weight of the probabilities at the fitted temperature.",
    "weight_plain": "Ensemble temperature scaling: weight of the original probabilities.",
    "weight_uniform": "Ensemble temperature scaling: weight of equal probabilities.",
    "bank": "Number of training samples that the kNN score measures distances to.",
    "recall_minority": "Fraction of the minority-class nodes that are predicted as minority.",
    "precision_minority": "Fraction of the nodes predicted as minority that belong to it; missing if no node is predicted so.",
    "ece_20": "ECE with 20 bins; restricted to the nodes that are predicted as a class or truly belong to it if the name says "
    "so. Some dozens of nodes in 20 bins show a large error by chance alone.",
    "ace_20": "ECE over 20 bins that hold equal numbers of nodes.",
    "gap_predicted_minority": "Accuracy minus mean confidence of the nodes predicted as minority; negative means over-confident.",
    "gap_predicted_majority": "Accuracy minus mean confidence of the nodes predicted as majority; negative means over-confident.",
    "gap_true_minority": "Recall minus mean confidence of the minority-class nodes; not 0 for a calibrated network either.",
    "gap_true_majority": "Recall minus mean confidence of the majority-class nodes; not 0 for a calibrated network either.",
    "eice": "Mean distance between a node's confidence and the centre of its jackknife interval for the predicted class, with "
    "the interval clipped to [0, 1].",
    "eice_released": "EICE as computed by CALIRARE's released code: intervals are not clipped and always belong to the minority "
    "probability.",
    "interval_coverage": "Fraction of nodes whose label (1 for the minority) lies in their jackknife interval.",
    "interval_width": "Mean width of the nodes' jackknife intervals, clipped to [0, 1].",
    "accuracy_sd": "Standard deviation of accuracy over the networks trained on one synthetic set, if there are several.",
    **probe_glossary.METRICS,
    **mechanism_glossary.METRICS,
}
"""Definition of every metric, by its name in the `metrics` table."""

TITLES = {
    "accuracy": "accuracy",
    "robust_accuracy": "robust accuracy",
    "balanced_accuracy": "balanced accuracy",
    "macro_f1": "macro F1",
    "accuracy_of_worst_class": "worst-class accuracy",
    "top5_accuracy": "top-5 accuracy",
    "nll": "NLL",
    "brier": "Brier score",
    "ece": "ECE",
    "ece_adaptive": "adaptive ECE",
    "ece_floor": "ECE noise floor",
    "ece_floor_95": "95% quantile of the noise floor",
    "ece_true": "true ECE",
    "ece_smooth": "smooth ECE",
    "ece_classwise": "classwise ECE",
    "rmsce": "RMSCE",
    "rmsce_debiased": "debiased RMSCE",
    "mce": "MCE",
    "ks": "KS calibration error",
    "balance": "accuracy minus confidence",
    "empty_bins": "empty bins",
    "brier_top_label": "top-label Brier score",
    "brier_reliability": "Brier reliability",
    "brier_resolution": "Brier resolution",
    "brier_uncertainty": "Brier uncertainty",
    "aurc": "AURC",
    "e_aurc": "excess AURC",
    "augrc": "AUGRC",
    "entropy_total": "total entropy",
    "entropy_aleatoric": "aleatoric entropy",
    "entropy_epistemic": "epistemic entropy",
    "auroc": "AUROC",
    "aupr_in": "AUPR-In",
    "aupr_out": "AUPR-Out",
    "fpr95": "FPR95",
    "fpr95_out": "FPR95 (OOD as positives)",
    "ccr_10": "CCR at 10% FPR",
    "ccr_01": "CCR at 1% FPR",
    "auroc_positive": "AUROC of the positive class",
    "aupr_positive": "AUPR of the positive class",
    "brier_positive": "Brier score of the positive class",
    "ece_positive": "ECE of the positive class",
    "hlr": "hard-label recovery",
    "ior": "improvement over random",
    "coverage": "coverage",
    "set_size": "mean set size",
    "set_size_median": "median set size",
    "singleton_rate": "singleton rate",
    "empty_rate": "empty-set rate",
    "coverage_violation_by_size": "size-stratified coverage violation",
    "coverage_of_worst_class": "worst-class coverage",
    "threshold": "conformal threshold",
    "infinite_thresholds": "infinite thresholds",
    "temperature": "temperature",
    "temperature_at_bound": "temperature at bound",
    "converged": "converged",
    "weight_scaled": "weight of scaled probabilities",
    "weight_plain": "weight of original probabilities",
    "weight_uniform": "weight of uniform probabilities",
    "bank": "kNN bank size",
    "recall_minority": "minority recall",
    "precision_minority": "minority precision",
    "ece_20": "ECE (20 bins)",
    "ace_20": "adaptive ECE (20 bins)",
    "gap_predicted_minority": "calibration gap of predicted minority",
    "gap_predicted_majority": "calibration gap of predicted majority",
    "gap_true_minority": "confidence gap of true minority",
    "gap_true_majority": "confidence gap of true majority",
    "eice": "EICE",
    "eice_released": "EICE (released code)",
    "interval_coverage": "interval coverage",
    "interval_width": "interval width",
    "accuracy_sd": "SD of accuracy",
    "explored": "explored weights",
    **probe_glossary.TITLES,
    **mechanism_glossary.TITLES,
}
"""Display name of every metric, as tables and figures print it."""

TERMS = {
    "seed": "The unit of replication: one run whose random streams all derive from that seed. Runs that differ only in their "
    "seed form one row of the summary.",
    "mean ± half width": "Mean over completed seeds of each run's value at its last step, with half the width of the 95% "
    "Student t interval (n - 1 degrees of freedom). The interval states the uncertainty of the mean, not the spread of single "
    "runs, and may extend beyond 0 or 1. A single seed has no interval.",
    "bold": "The interval lies beyond the intervals of all other rows on the same data and model; for calibrate runs, of all "
    "others on the same input runs. Nothing is bold if any of these rows has a single seed. The page claims no other ranking.",
    "confidence band": "In a reliability diagram: the middle 95% of a bin's accuracy, or observed frequency, over 1,000 "
    "bootstrap draws of the split's samples (percentile bootstrap, fixed seed). Each draw has as many samples as one run and "
    "uses the bins of all runs together: runs may share their samples, so more runs do not narrow the band. If all samples of a "
    "bin are correct, or all are wrong, draws have no spread; the band then ends at the accuracy at which so many samples would "
    "all agree in 2.5% of cases. The band holds for each bin, not for all bins at once.",
    "density": "The method's target: active weights divided by all weights of the prunable tensors (convolutions and linear "
    "layers) that are not kept dense. The final density of each layer is shown separately.",
    "explored weights": "Weights that were active in at least one training step so far, divided by all weights of the prunable "
    "tensors. A network that starts dense has explored all of them.",
    "pruned run": "A run that the scheduler stopped early. Tables list its values but never average them with those of "
    "completed runs.",
    "active parameters": "Parameters that are not masked at the end of training, mean over completed seeds.",
    "training FLOPs": "Counted, not measured: two per multiply-add of every forward and backward pass, times the density of "
    "each layer at that step. Missing if they cannot be counted.",
    "training time": "Time spent in training steps, without set-up and evaluation; depends on the machine.",
}

COSTS = {"num_active": "active parameters", "train_flops": "training FLOPs", "train_s": "training time"}
"""Display names of a cell's costs, by column of `runs`."""
DISTILLATION_COSTS = {
    "num_active": "parameters of the evaluated network",
    "train_flops": "distillation FLOPs",
    "train_s": "distillation time",
}
"""The names of the same costs on a page whose runs are all distillations."""
DISTILLATION_TERMS = {
    "parameters of the evaluated network": "Parameters of each newly initialised network that is trained on the synthetic set.",
    "distillation FLOPs": "Counted, not measured: two per multiply-add of every pass over images that produces the synthetic "
    "set, gradients of gradients included. Training of the evaluation networks is excluded. Missing if a method's work is not "
    "counted.",
    "distillation time": "Time spent on producing the synthetic set: all iterations and the method's own preparation, but not "
    "data loading or training of the evaluation networks. Depends on the machine and its load.",
}


def title(name: str) -> str:
    """Returns the display name of a metric: `adaptive ECE` for `ece_adaptive`; unknown names with spaces for underscores."""
    base = term_of(name)
    group = name.removeprefix(base).strip("_").replace("_", " ")
    shown = TITLES.get(base, base.replace("_", " "))
    return f"{shown}, {group}" if group else shown


def measure_title(measure: str) -> str:
    """Returns the display name of `split/name`: `test adaptive ECE` for `test/ece_adaptive`, `OOD AUROC` for `ood/auroc`."""
    split, _, name = measure.partition("/")
    split = "OOD" + split.removeprefix("ood").replace(".", " ", 1) if split.partition(".")[0] == "ood" else split
    if measure == "train/explored":
        return "fraction of weights explored"
    return f"{split} {title(name)}" if name else split


def is_known(measure: str) -> bool:
    """Returns whether a measure, such as `val/accuracy`, is one of pruneyard's own jobs, and not a metric of the user's own."""
    name = term_of(measure.partition("/")[2])
    return any(name in known for known in (METRICS, TITLES, TERMS, DISTILLATION_TERMS))


def larger_is_better(measure: str) -> bool:
    """Returns whether a larger value of `split/name` is better. Raises `ValueError` where that is not known."""
    larger = LARGER_IS_BETTER.get(measure.partition("/")[2])
    if larger is None:
        raise ValueError(f"{measure}: it is not known whether larger is better")
    return larger


def cost_names(kinds: Collection[str]) -> dict[str, str]:
    """Returns the display names of the cost columns for runs of these kinds."""
    return DISTILLATION_COSTS if set(kinds) == {"distill"} else COSTS


def bounds(measure: str) -> tuple[float, float]:
    """Returns the lowest and highest possible value of `split/name`; infinite if no bound is known."""
    return _BOUNDS.get(term_of(measure.partition("/")[2]), (-math.inf, math.inf))


def term_of(name: str) -> str:
    """Returns the key of `METRICS` that explains a metric: `ece_20` for `ece_20_true_minority`; unknown names unchanged."""
    if name in METRICS:
        return name
    # Metrics of a group of nodes are named after their metric and the group.
    groups = ("_predicted_", "_true_")
    return next((name.partition(group)[0] for group in groups if group in name), name)


def terms(measures: Collection[str], kinds: Collection[str] = ()) -> dict[str, str]:
    """Returns the definitions, by display name, that a page with these measures on runs of these kinds needs."""
    names = dict.fromkeys(term_of(measure.partition("/")[2]) for measure in measures)
    metrics = {TITLES[name]: _definition(name) for name in names if name in METRICS}
    general = {name: text for name, text in TERMS.items() if name not in COSTS.values()}
    return metrics | (TERMS if cost_names(kinds) is COSTS else general | DISTILLATION_TERMS)


def _definition(name: str) -> str:
    """Returns the text of `METRICS`, with the metric's name in the results files if the page prints another one."""
    return METRICS[name] if TITLES[name] == name else f"{METRICS[name]} Metric name: {name}."
