"""Optimizer and learning rates: how fast, when, and in which layers."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable

import torch
from torch import nn

from ..models.checkpoints import unwrapped

OPTIMIZERS = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW, "sgd": torch.optim.SGD}
# Parts that hold blocks in turn.
_LISTS = ("features", "classifier", "layers", "blocks", "trunk_output", "encoder")
# A network's blocks in so many groups from pixels to answer, about as many as a ResNet has.
_STAGES = 6


def schedule_factor(schedule: str, epoch: float, epochs: int) -> float:
    """What the learning rate is multiplied by, a function of the moment of training alone.

    Parameters
    ----------
    schedule : str
        "constant"; "step:7:0.1" (a tenth every 7 epochs); "cosine" (to 0 at the end); "one-cycle"
        (up from a tenth over the first 30 %, then cosine to 0; after Smith 2018).
    epoch : float, the moment, in epochs from the beginning
    epochs : int, how many there are in all

    Returns
    -------
    float, from 0 to 1

    Raises
    ------
    ValueError
        For a schedule that is none of these.

    Examples
    --------
    >>> [schedule_factor("step:2:0.1", epoch, 4) for epoch in range(4)]
    [1.0, 1.0, 0.1, 0.1]
    >>> schedule_factor("cosine", 5, 10)
    0.5
    """
    step = re.fullmatch(r"step:0*([1-9]\d{0,8}):(\d*\.?\d+(?:e-\d\d?)?)", schedule, re.ASCII)
    share = min(epoch / epochs, 1.0)
    if schedule == "constant":
        return 1.0
    if step and float(step[2]) <= 1:
        return float(step[2]) ** (int(epoch) // int(step[1]))
    if schedule == "one-cycle" and share < 0.3:
        return 0.1 + 0.9 * share / 0.3
    if schedule in ("cosine", "one-cycle"):
        angle = math.pi * share if schedule == "cosine" else math.pi * (share - 0.3) / 0.7
        return 0.5 * (1 + math.cos(angle))
    raise ValueError(
        f"schedule is {schedule!r}; it is constant, step:EPOCHS:FACTOR, cosine or one-cycle"
    )


def make_optimizer(
    net: nn.Module,
    device: torch.device,
    model: nn.Module | None = None,
    *,
    optimizer: str = "adam",
    learning_rate: float = 1e-3,
    momentum: float = 0.9,
    weight_decay: float = 0.0,
    layer_decay: float = 1.0,
) -> torch.optim.Optimizer:
    """The optimizer of the trainable parameters; frozen ones are absent from it.

    Each group of its parameters has a `scale`, which the learning rate is multiplied by: 1 for the
    last stage, and `layer_decay` times as much for each stage nearer to the pixels.

    Parameters
    ----------
    net : nn.Module, what is trained
    device : torch.device, where it lies
    model : nn.Module, optional
        All of the network where `net` is what follows its frozen part; the stages are those of the
        whole.
    optimizer, learning_rate, momentum, weight_decay, layer_decay
        See `options.Options`.

    Returns
    -------
    torch.optim.Optimizer

    Raises
    ------
    ValueError
        Where no parameter is trainable.
    """
    net = unwrapped(net)
    trainable = {name: p for name, p in net.named_parameters() if p.requires_grad}
    if not trainable:
        raise ValueError(
            "no parameter of the model is trainable; freeze less (freeze='all' keeps the new head "
            "free)"
        )
    stage = _stages(name for name, _ in (model or net).named_parameters())
    scales = {name: layer_decay ** (max(stage.values()) - stage[name]) for name in trainable}
    groups = [
        {"params": [trainable[name] for name in trainable if scales[name] == scale], "scale": scale}
        for scale in sorted(set(scales.values()))
    ]
    more = {"momentum": momentum} if optimizer == "sgd" else {}
    fused = device.type in ("cpu", "cuda")
    return OPTIMIZERS[optimizer](
        groups, lr=learning_rate, weight_decay=weight_decay, fused=fused, **more
    )


def _stages(names: Iterable[str]) -> dict[str, int]:
    """The stage of each parameter, 0 nearest to the pixels, by the order of the blocks.

    A block is a child of the network ("layer1"), or an item of one that is a list ("features.17",
    "encoder.layers.encoder_layer_3").
    """
    blocks: dict[str, int] = {}
    block_of = {}
    for name in names:
        modules = name.split(".")[:-1] or [name]  # a parameter of the network itself is a block
        depth = next((i for i, part in enumerate(modules, 1) if part not in _LISTS), len(modules))
        block_of[name] = ".".join(modules[:depth])
        blocks.setdefault(block_of[name], len(blocks))
    n = max(len(blocks), _STAGES)
    return {name: blocks[block] * _STAGES // n for name, block in block_of.items()}
