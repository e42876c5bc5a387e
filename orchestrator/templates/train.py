"""Trains a small network on made-up rows; replace it by your own training."""

from typing import Any

import torch


def train(lr: float, width: int = 32, epochs: int = 8, context: Any = None) -> None:
    """Reports accuracy after each epoch. A run that was killed continues from the last checkpoint."""
    rows = torch.randn(512, 8)
    labels = (rows[:, 0] * rows[:, 1] > 0).long()
    network = torch.nn.Sequential(torch.nn.Linear(8, width), torch.nn.ReLU(), torch.nn.Linear(width, 2))
    optimizer = torch.optim.Adam(network.parameters(), lr=lr)
    first = 1
    if (state := context.restore()) is not None:
        network.load_state_dict(state["network"])
        optimizer.load_state_dict(state["optimizer"])
        for group in optimizer.param_groups:
            group["lr"] = lr  # the state has the rate of the run that saved it; a population changes it
        first = state["epoch"] + 1
    for epoch in range(first, epochs + 1):
        for batch in torch.randperm(384).split(32):
            loss = torch.nn.functional.cross_entropy(network(rows[batch]), labels[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        accuracy = (network(rows[384:]).argmax(1) == labels[384:]).float().mean()
        context.report(step=epoch, train_loss=loss, accuracy=accuracy)
        context.checkpoint({"network": network.state_dict(), "optimizer": optimizer.state_dict(), "epoch": epoch})
