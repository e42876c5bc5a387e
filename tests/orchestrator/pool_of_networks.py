"""The table of a stage that distils along the networks of an earlier one; its iterations are as few as can be."""

from typing import Any

CONVNET = {"name": "convnet", "width": 4, "depth": 2}


def distil_along(stage: str) -> dict[str, Any]:
    """Returns the table of Acc-DD with the networks of `stage`, which must be of `CONVNET`."""
    return {
        "kind": "distill",
        "model": CONVNET,
        "method": {
            "name": "acc_dd",
            "ipc": 1,
            "iterations": 1,
            "steps": 2,
            "real_batch": 6,
            "network": {"num_images": 16},
            "networks": {"from": stage, "over": "all"},
        },
        "evaluation": {"networks": 1, "epochs": 1, "augment": ""},
    }
