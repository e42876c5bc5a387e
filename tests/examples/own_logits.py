"""Calibrates logits that were computed elsewhere: here those of a classifier whose confidences are too high.

Run it in an empty folder: python own_logits.py
"""

import numpy as np

import pruneyard


def logits_and_labels(num_rows: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns logits three times as large as those that fit the labels; put those of your own network here."""
    generator = np.random.default_rng(0)
    logits = generator.normal(size=(num_rows, 5))
    labels = (logits + generator.gumbel(size=logits.shape)).argmax(axis=1)
    return 3 * logits, labels


if __name__ == "__main__":
    logits, labels = logits_and_labels(2000)
    np.savez("outputs.npz", logits=logits, labels=labels)
    results = pruneyard.run(
        {
            "name": "own-logits",
            "kind": "calibrate",
            "input": {"path": "outputs.npz", "calib_fraction": 0.5},
            "grid": {"method": ["none", "temperature", "isotonic"]},
        },
        out="out/own-logits",
        local=True,
    )
    table = results.summary(columns=["method", "test/ece", "test/nll", "test/accuracy"])
    print(table.to_string(index=False))
    print(f"page: {results.report('own_logits.html')}")
