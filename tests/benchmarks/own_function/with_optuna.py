"""Sweeps a training function over 3 learning rates x 3 seeds; resumes after a kill; makes a page. Run: python FILE FOLDER"""

import sys
from pathlib import Path

import optuna
import torch
from sklearn.datasets import load_digits

out = Path(sys.argv[1])
out.mkdir(parents=True, exist_ok=True)


def train(trial: optuna.Trial) -> float:
    lr, seed = trial.suggest_categorical("lr", [0.01, 0.1, 1.0]), trial.suggest_categorical("seed", [0, 1, 2])
    torch.manual_seed(seed)
    images, labels = (torch.tensor(array) for array in load_digits(return_X_y=True))
    images = images.float() / 16
    network = torch.nn.Sequential(torch.nn.Linear(64, 32), torch.nn.ReLU(), torch.nn.Linear(32, 10))
    optimizer = torch.optim.SGD(network.parameters(), lr=lr)
    checkpoint, first, accuracy = out / f"lr-{lr}-seed-{seed}.pt", 0, 0.0
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        network.load_state_dict(state["network"])
        torch.set_rng_state(state["random"])
        first, accuracy = state["epoch"], state["accuracy"]
    for epoch in range(first + 1, 6):
        for rows in torch.randperm(1400).split(100):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(network(images[rows]), labels[rows]).backward()
            optimizer.step()
        accuracy = (network(images[1400:]).argmax(1) == labels[1400:]).float().mean().item()
        trial.report(accuracy, epoch)
        state = {"network": network.state_dict(), "epoch": epoch, "random": torch.get_rng_state(), "accuracy": accuracy}
        torch.save(state, checkpoint.with_suffix(".new"))
        checkpoint.with_suffix(".new").rename(checkpoint)
    return accuracy


sampler = optuna.samplers.GridSampler({"lr": [0.01, 0.1, 1.0], "seed": [0, 1, 2]}, seed=0)
storage = f"sqlite:///{out}/study.db"
study = optuna.create_study(
    study_name="sweep", storage=storage, sampler=sampler, direction="maximize", load_if_exists=True
)
for left in study.get_trials(states=(optuna.trial.TrialState.RUNNING,)):  # killed with their process
    study.tell(left.number, state=optuna.trial.TrialState.FAIL)
    study.enqueue_trial(left.params)
study.optimize(train)  # until the grid is complete
summary = study.trials_dataframe(("value", "params", "state")).query("state == 'COMPLETE'")
(out / "page.html").write_text(summary.groupby("params_lr")["value"].agg(["mean", "std", "count"]).to_html())
