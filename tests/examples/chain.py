"""Trains sparse networks, calibrates them, and follows a calibrated run back to the training that it rests on.

Run it in an empty folder: python chain.py
"""

import pruneyard

CHAIN = {
    "name": "chain",
    "stages": {
        "train": {
            "kind": "sparse",
            "data": {"name": "digits"},
            "model": {"name": "mlp", "width": 32},
            "optimizer": {"name": "sgd", "lr": 0.1, "momentum": 0.9},
            "budget": {"epochs": 3, "batch_size": 64},
            "seeds": 2,
            "grid": {"method": [{"name": "dense"}, {"name": "rigl", "density": 0.2, "schedule": {"every": 10}}]},
        },
        "calibrate": {"kind": "calibrate", "input": {"from": "train"}, "grid": {"method": ["none", "temperature"]}},
    },
}

if __name__ == "__main__":
    results = pruneyard.run(CHAIN, out="out/chain", local=True)
    print(results.compare("temperature", "none", metric=["test/ece", "test/nll"]).to_string(index=False))
    calibrated = results.final().query("stage == 'calibrate'")
    print(results.lineage(calibrated["run_key"].iloc[0]).to_string(index=False))
