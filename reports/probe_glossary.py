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
    "signal_share": True,
    "error_confidence": True,
    "concept_deletion": False,
    "concept_deletion_gain": True,
    "concept_insertion": True,
    "concept_insertion_gain": True,
    "concept_map_gain": True,
    "concept_error": False,
    "concept_agreement": True,
    "concept_stability": True,
    "shifted_accuracy": True,
}

_PAIRS = ("accuracy_shifted", "accuracy_explained", "shifted_explained", "confidence_insertion", "confidence_deletion")

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
    "inductive_bias": (0.0, math.inf),
    "inductive_bias_se": (0.0, math.inf),
    "inductive_bias_counted": (0.0, math.inf),
    "hypothesis_loss": (0.0, math.inf),
    "target_loss": (0.0, math.inf),
    "scored_sets": (1.0, math.inf),
    "concept_error": (0.0, math.inf),
    "concept_importance_top": (0.0, 1.0),
    **dict.fromkeys(("concept_deletion_gain", "concept_insertion_gain", "concept_stability"), (-1.0, 1.0)),
    "concept_map_gain": (-math.inf, math.inf),
    "concept_parts": (0.0, 1.0),
    "concept_sparsity": (0.0, 1.0),
    "num_strategies": (1.0, math.inf),
    "mean_confidence": (0.0, 1.0),
    **dict.fromkeys((f"rank_{pair}" for pair in _PAIRS), (-1.0, 1.0)),
    "rank_chance": (0.0, 1.0),
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
    "signal_share": "Fraction of the pixels with the largest gradients that hold a signal whose place is known by design of the "
    "data; in block_digits half of all pixels do.",
    "inductive_bias": "Bits that a random network of the model with a fitted last layer lacks to do as well as the trained one: "
    "-log2 of the probability of at most its squared error, from a log-normal distribution of the loss. Far beyond the counted "
    "bits it is an extrapolation.",
    "inductive_bias_se": "Standard error of these bits that the number of random networks makes, to first order.",
    "inductive_bias_counted": "-log2 of the share of random networks that reach this loss, one more counted on each side; at "
    "most log2 of their number plus one.",
    "hypothesis_loss": "Squared error of the random networks on test samples, summed over classes; mean over networks.",
    "target_loss": "Squared error that the random networks are to reach: the Brier score of the trained network, unless given.",
    "scored_sets": "Sets of regions that the search scored for one image.",
    "error_confidence": "Highest probability of the true label while regions are put back in an order found for that label; mean "
    "over the misclassified samples.",
    "concept_error": "Squared error of the concepts' reconstruction of the features, relative to the variance of the features.",
    "concept_importance_top": "Total Sobol index of the most important concept of a class, as a share of those of all concepts.",
    "concept_deletion": "Mean probability of the predicted class while concepts are removed, the most important first: the area "
    "below the curve.",
    "concept_deletion_gain": "Area of deletion in a random order minus that in the order of importance.",
    "concept_insertion": "Mean probability of the predicted class while concepts are put back, most important first: the area "
    "below the curve.",
    "concept_insertion_gain": "Area of insertion in the order of importance minus that in a random order.",
    "concept_parts": "Share of the variance of the most important concept's coefficient that its parts in the layer before "
    "explain linearly; mean over classes.",
    "concept_map_gain": "Area below the most important concept's coefficient, relative to the whole image, while pixels are put "
    "back in the order of its map, minus that in a random order; mean over classes.",
    "concept_agreement": "Fraction of samples whose predicted class stays the same where the concepts stand for the features.",
    "concept_sparsity": "Fraction of the concepts' coefficients that are 0.",
    "concept_stability": "Cosine of concepts from even and from odd samples, matched to each other; mean over concepts.",
    "num_strategies": "Clusters of samples of one predicted class by the importances of concepts, up to a limit; one where no "
    "clusters are clear. Mean over classes.",
    "shifted_accuracy": "Accuracy under corruptions, mean over corruptions, severities and the networks probed together.",
    "mean_confidence": "Largest probability, mean over samples and over the networks probed together.",
    "rank_accuracy_shifted": "Spearman correlation over the networks probed together of accuracy and accuracy under corruptions.",
    "rank_accuracy_explained": "Spearman correlation over networks of accuracy and insertion gain.",
    "rank_shifted_explained": "Spearman correlation over networks of accuracy under corruptions and insertion gain.",
    "rank_confidence_insertion": "Spearman correlation over networks of mean confidence and insertion.",
    "rank_confidence_deletion": "Spearman correlation over networks of mean confidence and deletion.",
    "rank_chance": "Magnitude that a correlation of unrelated numbers of as many networks exceeds in 5% of cases, by Fisher's "
    "approximation.",
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
    "signal_share": "share of the signal",
    "inductive_bias": "inductive bias (bits)",
    "inductive_bias_se": "standard error of the inductive bias",
    "inductive_bias_counted": "inductive bias by counting (bits)",
    "hypothesis_loss": "loss of random networks",
    "target_loss": "target loss",
    "scored_sets": "scored sets of regions",
    "error_confidence": "confidence in the true label of errors",
    "concept_error": "concept error",
    "concept_importance_top": "importance of the top concept",
    "concept_deletion": "concept deletion",
    "concept_deletion_gain": "concept deletion gain",
    "concept_insertion": "concept insertion",
    "concept_insertion_gain": "concept insertion gain",
    "concept_parts": "top concept explained by its parts",
    "concept_map_gain": "concept map gain",
    "concept_agreement": "agreement of concepts",
    "concept_sparsity": "sparsity of concepts",
    "concept_stability": "stability of concepts",
    "num_strategies": "strategies per class",
    "shifted_accuracy": "accuracy under shift",
    "mean_confidence": "mean confidence",
    "rank_accuracy_shifted": "correlation of accuracy and accuracy under shift",
    "rank_accuracy_explained": "correlation of accuracy and insertion gain",
    "rank_shifted_explained": "correlation of accuracy under shift and insertion gain",
    "rank_confidence_insertion": "correlation of confidence and insertion",
    "rank_confidence_deletion": "correlation of confidence and deletion",
    "rank_chance": "correlation by chance",
}
