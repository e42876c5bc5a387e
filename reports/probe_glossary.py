"""Definitions, display names, bounds and directions of the metrics of probes; part of the glossary."""

import math

LARGER_IS_BETTER = {
    "loss_barrier": False,
    "loss_barrier_highest": False,
    "accuracy_barrier": False,
    "accuracy_barrier_highest": False,
    "insertion": True,
    "insertion_gain": True,
    "deletion": False,
    "diffroar": True,
}

BOUNDS = {
    "loss_barrier": (0.0, math.inf),
    "loss_barrier_highest": (0.0, math.inf),
    **dict.fromkeys(("jaccard", "jaccard_lowest", "jaccard_highest", "jaccard_chance"), (0.0, 1.0)),
    "tail_exponent": (1.0, math.inf),
    "tail_exponent_whole": (1.0, math.inf),
    "hessian_trace_se": (0.0, math.inf),
    "num_functions": (1.0, math.inf),
    "num_hashes": (1.0, math.inf),
    "duplicate_share": (0.0, 1.0),
    "complexity": (0.0, 1.0),
    "complexity_importance": (-1.0, 1.0),
    "insertion_gain": (-1.0, 1.0),
    "diffroar": (-1.0, 1.0),
    "diffroar_random": (-1.0, 1.0),
}
"""Bounds of those that have any, besides the fractions of `LARGER_IS_BETTER`."""

METRICS = {
    "jaccard": "Overlap of the masks of two networks: weights active in both, divided by those active in at least one, over all "
    "prunable weights. Mean over all pairs of the networks probed together. 1 for equal masks.",
    "jaccard_lowest": "Smallest mask overlap of any pair.",
    "jaccard_highest": "Largest mask overlap of any pair.",
    "jaccard_chance": "Mask overlap expected of independent random masks with the same number of active weights in every layer.",
    "loss_barrier": "Largest height of the loss on the straight segment between the weights of two networks above the line "
    "between their losses, in nats; 0 if the loss nowhere exceeds it. Batch-norm statistics are computed at every point. Mean "
    "over pairs.",
    "loss_barrier_highest": "Largest loss barrier of any pair.",
    "accuracy_barrier": "Largest depth of the accuracy on the segment between two networks below the line between their "
    "accuracies, a difference of fractions; 0 if it is nowhere below. Mean over pairs.",
    "accuracy_barrier_highest": "Largest accuracy barrier of any pair.",
    "tail_exponent": "Exponent a of the tail x^-a of the squared singular values of a layer, by the Hill estimator on "
    "submatrices of one aspect ratio; mean over layers. A smaller exponent is a heavier tail. Random Gaussian weights have no "
    "such tail but get a number, too: compare networks, not numbers.",
    "tail_exponent_whole": "The same on whole weight matrices, which depends on their shapes.",
    "hessian_trace": "Trace of the Hessian of the training loss by the active weights: mean of v'Hv over random sign vectors v.",
    "hessian_trace_se": "Standard error of the trace over the random sign vectors.",
    "hessian_top": "Eigenvalue of this Hessian with the largest magnitude, by power iteration; a lower bound of its magnitude.",
    "sharpness": "Rise of the training loss after a step of fixed length along its gradient, in nats.",
    "num_functions": "Number of different functions among the networks probed together: two networks compute the same if they "
    "predict the same classes on random inputs and no log-probability differs by more than the tolerance.",
    "num_hashes": "Number of different hashes of the classes predicted on random inputs. Fewer hashes than functions are "
    "collisions.",
    "duplicate_share": "Fraction of the networks probed together that compute the function of an earlier one.",
    "complexity": "1 minus the share of a feature's variance that a linear map of a layer's inputs explains on held-out samples, "
    "mean over the layers before the last and over features. 0: every feature can be read off the input linearly.",
    "complexity_importance": "Spearman correlation over features of their complexity and their importance, the deviation of a "
    "feature times the mean magnitude of its weights in the last layer.",
    "information_input": "Information of the features about the input in nats, after projection onto principal components and "
    "with Gaussian noise. At most the logarithm of the number of samples.",
    "information_label": "Information of the features about the label in nats, after the same compression and noise.",
    "deletion": "Mean probability of the predicted class while pixels are replaced by the mean input in the order of their "
    "attribution: the area below the curve. Small if the attribution names the pixels that decide. It also depends on how "
    "confident the network is.",
    "insertion": "Mean probability of the predicted class while pixels are put back into an empty image in the order of their "
    "attribution: the area below the curve. It also depends on how confident the network is.",
    "insertion_gain": "Insertion minus the insertion of a random order of the pixels.",
    "diffroar": "Test accuracy of networks retrained on the pixels with the largest input gradients of this network, minus that "
    "on those with the smallest; mean over the shares of pixels that are kept. Above 0: gradients rank better than chance.",
    "diffroar_random": "The same for a random ranking, which tells nothing: how far from 0 chance alone leads.",
}

TITLES = {
    "jaccard": "mask overlap",
    "jaccard_lowest": "lowest mask overlap",
    "jaccard_highest": "highest mask overlap",
    "jaccard_chance": "mask overlap by chance",
    "loss_barrier": "loss barrier",
    "loss_barrier_highest": "highest loss barrier",
    "accuracy_barrier": "accuracy barrier",
    "accuracy_barrier_highest": "highest accuracy barrier",
    "tail_exponent": "tail exponent",
    "tail_exponent_whole": "tail exponent of whole matrices",
    "hessian_trace": "Hessian trace",
    "hessian_trace_se": "standard error of the Hessian trace",
    "hessian_top": "largest Hessian eigenvalue",
    "sharpness": "sharpness",
    "num_functions": "different functions",
    "num_hashes": "different hashes",
    "duplicate_share": "duplicates",
    "complexity": "feature complexity",
    "complexity_importance": "correlation of complexity and importance",
    "information_input": "information about the input",
    "information_label": "information about the label",
    "deletion": "deletion",
    "insertion": "insertion",
    "insertion_gain": "insertion gain",
    "diffroar": "DiffROAR",
    "diffroar_random": "DiffROAR of a random ranking",
}
