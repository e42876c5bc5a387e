"""The present names of spec keys that were renamed, for display and for runs that were recorded before.

Identities, and with them the columns of settings, keep the first name of a key, so that old and new runs are compared.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

_SOURCE = {"of": "base", "select": "selector", "share": "fraction", "rare": "imbalance_ratio"}
_SOURCES = ("data", "base", "ood", "near", "far", "choose_on")  # the keys at which a data source can stand

RENAMED: Mapping[str, Mapping[str, str]] = {
    "": {"unknowns": "ood", "passes": "dropout_passes", "samples": "swag_samples"},
    **dict.fromkeys(_SOURCES, _SOURCE),
    "data": {**_SOURCE, "rare_share": "minority_fraction"},
    "selector": {"first": "init"},
    "optimizer": {"decay_vectors": "decay_bias_and_norm"},
    "objective": {
        "warm_epochs": "warmup_epochs",
        "largest": "gamma_max",
        "smallest": "gamma_min",
        "switch": "switch_point",
    },
    "loss": {"warm_epochs": "warmup_epochs"},
    "average": {"deviations": "swag_rank"},
    "weight_dropout": {"spare_last": "exclude_last"},
    "robust": {"max_rows": "max_samples", "reach": "total_step_size"},
    "schedule": {"changes": "milestones"},
    "method": {
        "random_drop": "weight_dropout",
        "spare_last": "exclude_last",
        "changes": "phase_boundaries",
        "at": "prune_at",
        "group": "m",
        "rows_per_class": "samples_per_class",
        "first": "init",
        "path_seed": "trajectory_seed",
        "share_mb": "cache_mb",
        "starts": "max_start_epoch",
        "smallest_crop": "min_scale",
        "stretch": "max_aspect_ratio",
        "outer": "outer_loop",
        "inner": "inner_loop",
        "fewest": "min_samples",
    },
    "network": {"on": "train_on", "rows": "num_images"},
    "mask": {"site": "unit"},
    "perturbation": {"least": "min_magnitude", "most": "max_magnitude"},
    "network_pool": {"lifetime": "max_online_updates"},
    "evaluation": {"separate": "dd_ranking"},
    "sets": {"share": "tuning_fraction"},
    "scores": {"share": "train_fraction"},
}
"""By the key of the table that holds it (empty for a job): the first name of a key and its present name."""

RENAMED_BY_NAME: Mapping[tuple[str, str], Mapping[str, str]] = {
    ("method", "nm"): {"keep": "n"},
    ("method", "topkast"): {"strength": "penalty"},
}
"""The same for keys that another plug-in uses with its own meaning, by the key of the table and the name of the plug-in."""

_NO_SPEC: Mapping[str, Any] = MappingProxyType({})


def present_key(key: str, spec: Mapping[str, Any] = _NO_SPEC) -> str:
    """Returns a dotted key with its renamed parts under their present names.

    spec: the values of the spec by dotted keys, for `RENAMED_BY_NAME`.
    """
    found: list[str] = []
    place = prefix = ""
    for part in key.split("."):
        own = {**RENAMED.get(place, {}), **RENAMED_BY_NAME.get((place, str(spec.get(f"{prefix}name"))), {})}
        place = own.get(part, part)
        found.append(place)
        prefix += f"{part}."
        if part == "runs":  # describes an earlier job, whose keys follow
            place = ""
    return ".".join(found)
