"""Sweeps a training function of its own over learning rates; ASHA stops those that lag behind.

Run it in an empty folder: python own_function.py
"""

import torch

import pruneyard


def train(lr: float, context: pruneyard.FunctionContext, epochs: int = 8) -> None:
    """Trains a small network on made-up rows and reports its accuracy after each epoch."""
    rows = torch.randn(512, 8)
    labels = (rows[:, 0] * rows[:, 1] > 0).long()
    network = torch.nn.Sequential(torch.nn.Linear(8, 32), torch.nn.ReLU(), torch.nn.Linear(32, 2))
    optimizer = torch.optim.Adam(network.parameters(), lr=lr)
    for epoch in range(1, epochs + 1):
        for batch in torch.randperm(384).split(32):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(network(rows[batch]), labels[batch]).backward()
            optimizer.step()
        accuracy = (network(rows[384:]).argmax(1) == labels[384:]).float().mean()
        context.report(step=epoch, accuracy=accuracy)


if __name__ == "__main__":
    results = pruneyard.sweep(
        train,
        {"lr": [0.1, 0.03, 0.01, 0.001]},
        seeds=2,
        scheduler={"name": "asha", "metric": "accuracy"},
        out="out/train",
        local=True,
    )
    print(results.summary().to_string(index=False))
    print(f"learning rate of the best run: {results.best()['arguments.lr']}")
