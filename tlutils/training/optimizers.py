"""Optimizer and learning rates: how fast, when, and in which layers.

Taught in notebooks 03 and 07.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from typing import TYPE_CHECKING

import torch
from torch import nn

from ..models.checkpoints import unwrapped

if TYPE_CHECKING:
    from .loop import Options

OPTIMIZERS = ("adam", "adamw", "sgd")
LISTS = (
    "features",
    "classifier",
    "layers",
    "blocks",
    "trunk_output",
    "encoder",
)  # parts that hold blocks in turn
STAGES = (
    6  # a network's blocks in so many groups from pixels to answer, about as many as a ResNet has
)


def schedule_factor(schedule: str, epoch: float, epochs: int) -> float:
    """What the learning rate is multiplied by at a moment of training; a function of that moment alone.

    "constant"; "step:7:0.1" (a tenth every 7 epochs); "cosine" (to 0 at the end); "one-cycle" (up from a tenth
    over the first 30 %, then cosine to 0; after Smith 2018).
    """
    kind, *numbers = schedule.split(":")
    step = re.fullmatch(r"step:0*([1-9]\d{0,8}):(\d*\.?\d+(?:e-\d\d?)?)", schedule, re.ASCII)
    share = min(epoch / epochs, 1.0)
    if kind == "constant" and not numbers:
        return 1.0
    if step and float(step[2]) <= 1:
        return float(step[2]) ** (int(epoch) // int(step[1]))
    if kind == "cosine" and not numbers:
        return 0.5 * (1 + math.cos(math.pi * share))
    if kind == "one-cycle" and not numbers:
        return (
            0.1 + 0.9 * share / 0.3
            if share < 0.3
            else 0.5 * (1 + math.cos(math.pi * (share - 0.3) / 0.7))
        )
    raise ValueError(
        f"schedule is {schedule!r}; it is constant, step:EPOCHS:FACTOR, cosine or one-cycle"
    )


def make_optimizer(
    net: nn.Module, options: Options, device: torch.device, model: nn.Module | None = None
) -> torch.optim.Optimizer:
    """The optimizer of the trainable parameters; frozen ones are absent from it.

    Each group of its parameters has a `scale`, which the learning rate is multiplied by: 1 for the last stage, and
    `options.layer_decay` times as much for each stage nearer to the pixels. model : all of the network where `net`
    is what follows its frozen part; the stages are those of the whole.
    """
    net = unwrapped(net)
    trainable = {name: p for name, p in net.named_parameters() if p.requires_grad}
    if not trainable:
        raise ValueError(
            "no parameter of the model is trainable; freeze less (freeze='all' keeps the new head free)"
        )
    stage = stages(name for name, _ in (model or net).named_parameters())
    scales = {
        name: options.layer_decay ** (max(stage.values()) - stage[name]) for name in trainable
    }
    groups = [
        {"params": [trainable[name] for name in trainable if scales[name] == scale], "scale": scale}
        for scale in sorted(set(scales.values()))
    ]
    settings = {
        "lr": options.learning_rate,
        "weight_decay": options.weight_decay,
        "fused": device.type in ("cpu", "cuda"),
    }
    if options.optimizer == "sgd":
        return torch.optim.SGD(groups, momentum=options.momentum, **settings)
    return (torch.optim.Adam if options.optimizer == "adam" else torch.optim.AdamW)(
        groups, **settings
    )


def stages(names: Iterable[str]) -> dict[str, int]:
    """The stage of each parameter, 0 nearest to the pixels, by the order in which its block is defined.

    A block is a child of the network ("layer1"), or an item of one that is a list ("features.17",
    "encoder.layers.encoder_layer_3").
    """
    blocks: dict[str, int] = {}
    block_of = {}
    for name in names:
        modules = name.split(".")[:-1] or [name]  # a parameter of the network itself is a block
        depth = next(
            (i for i, module in enumerate(modules, 1) if module not in LISTS), len(modules)
        )
        block_of[name] = ".".join(modules[:depth])
        blocks.setdefault(block_of[name], len(blocks))
    n = len(blocks)
    return {
        name: blocks[block] if n <= STAGES else blocks[block] * STAGES // n
        for name, block in block_of.items()
    }
