"""Checks that a recipe can train with weights that are stored sparse, and finds the layers of a network that stay masked."""

from collections.abc import Mapping

from torch import nn

from pruneyard.workloads.execution.layers import MAX_DENSITY, Execution, candidates_of
from pruneyard.workloads.gradients.plain import Plain
from pruneyard.workloads.masks.choice import listed
from pruneyard.workloads.plugins import name_of
from pruneyard.workloads.training.mask_updater import MaskUpdater, StaysMasked
from pruneyard.workloads.training.recipe import Recipe


def check_execution(execution: Execution, recipe: Recipe, method: MaskUpdater) -> None:
    """Raises `ValueError` if a recipe, as its method completes it, needs weights that are stored dense."""
    if execution == "masked":
        return
    needs_dense = {
        "budget.compile: true": recipe.budget.compile,
        f"budget.precision: {recipe.budget.precision}": recipe.budget.precision != "float32",
        f"gradient.name: {name_of(recipe.gradient)}": type(recipe.gradient) is not Plain,
        f"average.swag_rank: {recipe.average.swag_rank}": recipe.average.swag_rank > 0,
        "weight_dropout with a method whose updates read gradients and do not replace the optimizer's step": (
            recipe.weight_dropout.drop > 0 and method.grows_by_gradient and not method.replaces_step
        ),
    }
    for setting, is_set in needs_dense.items():
        if is_set:
            raise ValueError(f"execution is {execution}, which does not work with {setting}; use execution: masked")


def staying_masked(
    execution: Execution,
    method: MaskUpdater,
    network: nn.Module,
    weights: Mapping[str, nn.Parameter],
    image_shape: tuple[int, ...],
) -> list[str]:
    """Returns a warning where weights stay masked although `execution` is another: all under a method, or the ones it names."""
    if execution == "masked":
        return []
    if isinstance(method, StaysMasked) and method.stays_masked:
        unused = "trains weights that its forward pass leaves out, and so needs them dense"
        return [f"execution: {execution} changes nothing: method {name_of(method)} {unused}"]
    if MAX_DENSITY < method.target_density < 1:
        found = f"density is {method.target_density}, but layers are stored sparse up to density {MAX_DENSITY}"
        return [f"execution: {execution} changes little or nothing: {found}"]
    candidates = candidates_of(network, weights, image_shape)
    others = [name for name in weights if name not in candidates]
    if not others:
        return []
    covered = "linear layers, 1x1 convolutions, embeddings and attention are stored sparse unless the network reads their weights"
    return [f"execution: {execution} keeps {listed(others)} masked: {covered}"]
