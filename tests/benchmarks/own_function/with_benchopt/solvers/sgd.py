"""The training of the sweep."""

from pathlib import Path

import torch
from benchopt import BaseSolver
from benchopt.stopping_criterion import NoCriterion


class Solver(BaseSolver):
    name = "sgd"
    parameters = {"lr": [0.01, 0.1, 1.0], "seed": [0, 1, 2]}  # noqa: RUF012
    sampling_strategy = "callback"
    stopping_criterion = NoCriterion()

    def set_objective(self, images, labels):
        self.images, self.labels = images, labels

    def run(self, callback):
        torch.manual_seed(self.seed)
        self.network = torch.nn.Sequential(torch.nn.Linear(64, 32), torch.nn.ReLU(), torch.nn.Linear(32, 10))
        optimizer = torch.optim.SGD(self.network.parameters(), lr=self.lr)
        checkpoint, first = Path(__file__).parents[1] / f"lr-{self.lr}-seed-{self.seed}.pt", 0
        if checkpoint.exists():
            state = torch.load(checkpoint, weights_only=True)
            self.network.load_state_dict(state["network"])
            torch.set_rng_state(state["random"])
            first = state["epoch"]
        for epoch in range(first + 1, 6):
            for rows in torch.randperm(1400).split(100):
                optimizer.zero_grad()
                torch.nn.functional.cross_entropy(self.network(self.images[rows]), self.labels[rows]).backward()
                optimizer.step()
            state = {"network": self.network.state_dict(), "epoch": epoch, "random": torch.get_rng_state()}
            torch.save(state, checkpoint.with_suffix(".new"))
            checkpoint.with_suffix(".new").rename(checkpoint)
            callback()

    def get_result(self):
        return {"network": self.network}
