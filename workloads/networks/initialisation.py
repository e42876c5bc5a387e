"""Initial weights of convolutional networks with batch norm."""

from torch import nn


def he_normal(network: nn.Module) -> None:
    """Initialises convolutions: normal, variance 2 / fan-out; batch norm: weight 1, bias 0; linear: PyTorch's default.

    Fan-out keeps the size of gradients from layer to layer, as the published residual recipes do. The linear
    layers' default (uniform, bound 1 / sqrt(fan-in)) is what torchvision's own networks keep.
    Reference: He, Zhang, Ren and Sun, Delving deep into rectifiers, arXiv 1502.01852.
    """
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(module, nn.BatchNorm2d):
            nn.init.ones_(module.weight)
            nn.init.zeros_(module.bias)
