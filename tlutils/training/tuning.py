"""Finding a learning rate, and training the head before the rest."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pandas as pd
from torch import Tensor, nn

from ..core import devices
from ..core.devices import Machine
from ..core.progress import bar
from ..data.loaders import Loader
from ..models import checkpoints
from ..models.build import freeze, normalization, train_mode
from . import losses, monitors
from .batches import Batches
from .loop import Fit, State, step
from .options import Options


def find_learning_rate(
    model: nn.Module,
    loader: Loader,
    options: Options | None = None,
    *,
    machine: Machine | None = None,
    low: float = 1e-6,
    high: float = 1.0,
    steps: int = 60,
    show: bool | None = None,
) -> pd.DataFrame:
    """Try learning rates from low to high, a step each; suggest a tenth of that of the lowest loss.

    The model, its statistics and torch's random state are put back as they were. This is the range
    test of Smith (Cyclical learning rates for training neural networks, WACV 2017).

    Parameters
    ----------
    model : nn.Module, as it is to be trained
    loader : Loader, training images
    options : Options, optional, how it is to be trained; a Recipe is one, too
    machine : Machine, optional, what to compute on; None chooses
    low, high : float, the first rate and the last
    steps : int
        Optimizer steps, each with a rate a constant factor higher; it ends early where the loss
        exceeds 4 times its best.
    show : bool, optional, progress bar or not; None decides

    Returns
    -------
    DataFrame
        One row a step: learning_rate, loss (of the batch before the step, nats), smoothed (over
        about 10 steps; NaN for the first steps, whose mean would be of too few batches), and the
        one `suggested` rate marked True: a tenth of the rate at which the smoothed loss is lowest.
    """
    machine, options = machine or devices.choose(), options or Options()
    before, rng = checkpoints.copy_of_state(model), devices.rng_state(machine.device)
    try:
        curve = _rising(model, loader, options, machine, np.geomspace(low, high, steps), show)
    finally:
        model.load_state_dict(before)
        devices.restore_rng_state(rng, machine.device)
    smoothed = curve["loss"].ewm(span=10).mean()
    curve["smoothed"] = smoothed.where(curve.index >= min(10, len(curve) // 3))
    lowest = curve.loc[curve["smoothed"].idxmin(), "learning_rate"]
    nearest = (np.log(curve["learning_rate"]) - math.log(lowest / 10)).abs().idxmin()
    return curve.assign(suggested=curve.index == nearest)


def _rising(
    model: nn.Module,
    loader: Loader,
    options: Options,
    machine: Machine,
    rates: np.ndarray,
    show: bool | None,
) -> pd.DataFrame:
    """The loss before each step, up to where it runs away."""
    train_mode(machine.place(model))
    views = {name: getattr(options, name) for name in ("augmentation", "views", "seed")}
    source = Batches(loader, machine, *normalization(model), **views)
    weights = losses.class_weights(options.class_weights, loader.labels, loader.classes)
    state = State(model, model, options, machine, weights)
    batches = (batch for epoch in range(len(rates)) for batch in source.batches(epoch))
    batches = (batch for batch in batches if len(batch[1]))
    shown = bar(batches, what="learning rates", total=len(rates), unit="step", show=show)
    found: list[float] = []
    for rate, (inputs, labels, _) in zip(rates, shown):
        state.set_rate(rate)
        loss_sum, _, seen = step(state, inputs, labels).tolist()
        found.append(loss_sum / seen)
        if not (math.isfinite(found[-1]) and found[-1] <= 4 * min(found)):
            break
    curve = pd.DataFrame({"learning_rate": rates[: len(found)], "loss": found})
    return curve[np.isfinite(curve["loss"])].reset_index(drop=True)


@contextmanager
def head_alone(model: nn.Module) -> Iterator[None]:
    """Freeze all but the head for the time of a block, then as much as before, also if it fails.

    Training the new head first keeps its random weights from disturbing the rest.

    Parameters
    ----------
    model : nn.Module, as `build` makes it

    Yields
    ------
    None
    """
    wanted = model.tl.get("freeze")
    freeze(model, "all")
    try:
        yield
    finally:  # the next training asks this model what shall learn
        freeze(model, wanted)


def head_options(options: Options, epochs: int, learning_rate: float) -> Options:
    """Options for the head alone: one constant learning rate, no early stopping.

    Parameters
    ----------
    options : Options, of the training that follows
    epochs : int
    learning_rate : float

    Returns
    -------
    Options
    """
    of = {"epochs": epochs, "learning_rate": learning_rate, "views": options.views or 1}
    return dataclasses.replace(options, **of, layer_decay=1.0, schedule="constant", patience=0)


def better_of(head: Fit, rest: Fit, state: dict[str, Tensor]) -> Fit:
    """Join the training of the head and that of the rest, and keep the best epoch of either.

    Parameters
    ----------
    head, rest : Fit, of the same model, one after the other
    state : dict of Tensor
        The model's after the first; loaded again where no epoch of the second was better.

    Returns
    -------
    Fit, with the history of both; its column `part` says which
    """
    n, kept = len(head.history), rest.best_epoch + len(head.history)
    best = [part.history.iloc[part.best_epoch - 1] for part in (head, rest)]
    if monitors.beats(*best, head.monitor):
        rest.model.load_state_dict(state)
        kept = head.best_epoch
    second = rest.history.assign(part="all", epoch=rest.history["epoch"] + n)
    history = pd.concat([head.history.assign(part="head"), second], ignore_index=True)
    unreadable = sorted(set(head.unreadable + rest.unreadable))
    return dataclasses.replace(rest, history=history, best_epoch=kept, unreadable=unreadable)
