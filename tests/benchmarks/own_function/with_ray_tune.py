"""Sweeps a training function over 3 learning rates x 3 seeds; resumes after a kill; makes a page. Run: python FILE FOLDER"""

import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from ray import tune
from sklearn.datasets import load_digits


def train(config: dict[str, Any]) -> None:
    torch.manual_seed(config["seed"])
    images, labels = (torch.tensor(array) for array in load_digits(return_X_y=True))
    images = images.float() / 16
    network = torch.nn.Sequential(torch.nn.Linear(64, 32), torch.nn.ReLU(), torch.nn.Linear(32, 10))
    optimizer = torch.optim.SGD(network.parameters(), lr=config["lr"])
    first = 0
    if (checkpoint := tune.get_checkpoint()) is not None:
        with checkpoint.as_directory() as folder:
            state = torch.load(Path(folder) / "state.pt", weights_only=True)
        network.load_state_dict(state["network"])
        torch.set_rng_state(state["random"])
        first = state["epoch"]
    for epoch in range(first + 1, 6):
        for rows in torch.randperm(1400).split(100):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(network(images[rows]), labels[rows]).backward()
            optimizer.step()
        accuracy = (network(images[1400:]).argmax(1) == labels[1400:]).float().mean().item()
        with tempfile.TemporaryDirectory() as folder:
            state = {"network": network.state_dict(), "epoch": epoch, "random": torch.get_rng_state()}
            torch.save(state, Path(folder) / "state.pt")
            tune.report({"accuracy": accuracy, "epoch": epoch}, checkpoint=tune.Checkpoint.from_directory(folder))


out = Path(sys.argv[1]).resolve()
trainable = tune.with_resources(train, {"cpu": 1})
space = {"lr": tune.grid_search([0.01, 0.1, 1.0]), "seed": tune.grid_search([0, 1, 2])}
if tune.Tuner.can_restore(str(out / "sweep")):
    tuner = tune.Tuner.restore(str(out / "sweep"), trainable, resume_unfinished=True, restart_errored=True)
else:
    tuner = tune.Tuner(trainable, param_space=space, run_config=tune.RunConfig(storage_path=str(out), name="sweep"))
frame = tuner.fit().get_dataframe()
summary = frame.groupby("config/lr")["accuracy"].agg(["mean", "std", "count"])
(out / "page.html").write_text(summary.to_html())
