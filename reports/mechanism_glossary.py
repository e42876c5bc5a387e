"""Definitions, display names and bounds of the metrics that say whether a method's mechanism acts; part of the glossary."""

import math

BOUNDS = {
    "gradient_variance_ratio": (0.0, math.inf),
    "c_hat": (0.0, 1.0),
    "average_spread": (0.0, math.inf),
    "mask_disagreement": (0.0, 1.0),
    "p_unknown": (0.0, 1.0),
    "unknown_gradient": (0.0, 1.0),
    "bonus_share": (0.0, 1.0),
    "seen_grown": (0.0, 1.0),
    "seen_candidates": (0.0, 1.0),
    "max_logit_spread": (0.0, math.inf),
    "loo_correlation": (-1.0, 1.0),
    "gradient_diversity": (0.0, 2.0),
    "fresh_matching": (0.0, 2.0),
}

METRICS = {
    "gradient_variance_ratio": "Variance of the gradients that the optimizer sees, divided by that of the batches' own ones, "
    "summed over active weights, in the epoch so far. Both come from the differences of successive steps. 1: the correction does "
    "nothing.",
    "c_hat": "AGENT's moving average of the covariance between the losses of new and old weights, divided by the variance of the "
    "old ones. The correction uses gamma times this value.",
    "average_spread": "Root mean squared distance of averaged weight samples from their mean, divided by the norm of the mean. "
    "Near 0 the samples are all alike, and averaging does nothing.",
    "mask_disagreement": "Fraction of validation samples (at most 2,000) on which a network under a random mask of its weights "
    "predicts another class than without, mean over eight masks. The rate of the mask is that of training.",
    "p_unknown": "Mean probability of the output for out-of-distribution inputs. On split train it is a moving average over "
    "training steps.",
    "unknown_gradient": "Share of the logits' gradient in training that acts through the probability of unknown, as a moving "
    "average: 0 if the loss of MOON trains as cross-entropy does.",
    "bonus_share": "Fraction of the weights grown by DST-EE that equally many candidates with the largest gradients would not "
    "contain: 0 if its bonus decides nothing.",
    "seen_grown": "Fraction of the grown weights that were active before.",
    "seen_candidates": "Fraction of the weights that an update could grow that were active before.",
    "max_logit_spread": "Standard deviation over samples of the largest logit above the mean logit, divided by its mean. A "
    "smaller value is a more concentrated distribution. No temperature changes it.",
    "loo_slope": "Estimated change of node probabilities when a training node is left out, over the change after training on "
    "without it: slope of a line through the origin. Below 1 estimates are too small.",
    "loo_correlation": "Correlation of the same changes.",
    "gradient_diversity": "1 minus the cosine between the gradients of two networks that distillation begins with, on the same "
    "real images of a class; mean over pairs of networks and classes. 0 if all networks have the same gradients.",
    "fresh_matching": "1 minus the cosine between the gradients on synthetic and on real images of a class in new, untrained "
    "networks that the set was not made with; mean over networks and classes.",
}

TITLES = {
    "gradient_variance_ratio": "gradient variance ratio",
    "c_hat": "c_hat",
    "average_spread": "spread of averaged weights",
    "mask_disagreement": "disagreement under masks",
    "p_unknown": "probability of unknown",
    "unknown_gradient": "gradient share of unknown",
    "bonus_share": "growth by the bonus",
    "seen_grown": "growth seen before",
    "seen_candidates": "candidates seen before",
    "max_logit_spread": "spread of largest logits",
    "loo_slope": "leave-one-out slope",
    "loo_correlation": "leave-one-out correlation",
    "gradient_diversity": "gradient diversity",
    "fresh_matching": "gradient distance in fresh networks",
}
