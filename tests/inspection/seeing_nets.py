"""A small network that looks for bright pixels, images for it, and a machine without a package."""

from __future__ import annotations

import sys

import torch
from torch import nn

CLASSES = ["dark", "bright"]


def bright_square(row, column, size=32, side=8):
    """uint8 (1, size, size): dim noise with one bright square."""
    image = torch.randint(0, 60, (1, size, size), generator=torch.Generator().manual_seed(1)).to(
        torch.uint8
    )
    image[:, row : row + side, column : column + side] = 240
    return image


def net(outputs=2, inplace=True, softmax=False):
    """A frozen network, made by hand, that says "bright" where it sees bright pixels.

    Its second convolution has two maps, brightness and noise; only the first counts for the answer.
    """
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1),
        nn.ReLU(inplace),
        nn.Conv2d(4, 2, 3, padding=1),
        nn.ReLU(inplace),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Dropout(0.5),
        nn.Linear(2, outputs),
        *([nn.LogSoftmax(1)] if softmax else []),
    )
    with torch.no_grad():
        model[0].weight[0], model[0].bias[0] = 1 / 27, 0.0
        model[2].weight[0], model[2].bias[0] = 0.0, 0.0
        model[2].weight[0, 0] = 1 / 9
        model[7].weight.copy_(
            torch.tensor([[5.0, 0.0]] if outputs == 1 else [[-5.0, 0.0], [5.0, 0.0]])
        )
        model[7].bias.copy_(torch.tensor([-0.2] if outputs == 1 else [0.2, -0.2]))
    return model.requires_grad_(False)


def without(monkeypatch, package):
    """As on a machine without a package."""
    for name in [name for name in sys.modules if name.startswith(f"{package}.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
