"""Sweeps a training function over 3 learning rates x 3 seeds; resumes after a kill; makes a page. Run: python FILE FOLDER"""

import sys

import torch
from sklearn.datasets import load_digits

import pruneyard


def train(lr, context, epochs=5):
    images, labels = (torch.tensor(array) for array in load_digits(return_X_y=True))
    images = images.float() / 16
    network = torch.nn.Sequential(torch.nn.Linear(64, 32), torch.nn.ReLU(), torch.nn.Linear(32, 10))
    optimizer = torch.optim.SGD(network.parameters(), lr=lr)
    first = 0
    if (state := context.restore()) is not None:
        network.load_state_dict(state["network"])
        first = state["epoch"]
    for epoch in range(first + 1, epochs + 1):
        for rows in torch.randperm(1400).split(100):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(network(images[rows]), labels[rows]).backward()
            optimizer.step()
        accuracy = (network(images[1400:]).argmax(1) == labels[1400:]).float().mean()
        context.report(step=epoch, accuracy=accuracy)
        context.checkpoint({"network": network.state_dict(), "epoch": epoch})


results = pruneyard.sweep(train, {"lr": [0.01, 0.1, 1.0]}, seeds=3, out=sys.argv[1])
results.report()
