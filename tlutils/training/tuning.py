"""Finding a learning rate, and training the head before the rest."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd
from torch import nn

from ..core import devices
from ..core.devices import Machine
from ..core.progress import bar
from ..data.loaders import Loader
from ..evaluation.predict import normalization
from ..models import checkpoints
from ..models.build import freeze, train_mode
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
    """Try learning rates from low to high, a step each, and say at which the loss falls fastest.

    The model, its statistics and torch's random state are put back as they were. This is the range
    test of Smith (Cyclical learning rates for training neural networks, WACV 2017).

    Parameters
    ----------
    model : nn.Module
        As it is to be trained.
    loader : Loader
        Training images.
    options : Options, optional
        How it is to be trained; a Recipe is one, too.
    machine : Machine, optional
        What to compute on; None chooses.
    low, high : float
        The first rate and the last.
    steps : int
        Optimizer steps, each with a rate a constant factor higher; it ends early where the loss
        exceeds 4 times its best.
    show : bool, optional
        Progress bar or not; None decides.

    Returns
    -------
    DataFrame
        One row a step: learning_rate, loss (of the batch before the step, nats), smoothed (over
        about 10 steps), and the one `suggested` rate marked True: a tenth of the rate at which the
        smoothed loss is lowest.
    """
    machine, options = machine or devices.choose(), options or Options()
    before, rng = checkpoints.copy_of_state(model), devices.rng_state(machine.device)
    try:
        curve = _rising(model, loader, options, machine, np.geomspace(low, high, steps), show)
    finally:
        model.load_state_dict(before)
        devices.restore_rng_state(rng, machine.device)
    curve["smoothed"] = curve["loss"].ewm(span=10).mean()
    settled = curve.iloc[min(10, len(curve) // 3) :]  # before, the mean is of too few batches
    lowest = curve.loc[settled["smoothed"].idxmin(), "learning_rate"]
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
        if not found[-1] <= 4 * min(found):  # NaN, too
            break
    curve = pd.DataFrame({"learning_rate": rates[: len(found)], "loss": found})
    return curve[np.isfinite(curve["loss"])].reset_index(drop=True)


def head_then_rest(
    model: nn.Module,
    options: Options,
    head_epochs: int,
    head_learning_rate: float = 1e-3,
    *,
    fits: list[Fit],
    checkpoint: str | Path | None = None,
    log: Callable[[str], None] | None = print,
) -> Iterator[tuple[Options, Path | None]]:
    """Train the new head alone first, so that its random weights do not disturb the rest.

    The caller trains, part by part::

        fits = []
        for part, file in head_then_rest(model, options, 2, fits=fits, checkpoint="last.pt"):
            fits.append(loop.fit(model, loaders, part, checkpoint=file))
        done = fits[-1]

    Parameters
    ----------
    model : nn.Module
        Frozen as it shall be in the second part. In the first one all but its head is; where the
        loop over the parts is left, however, it is frozen as before.
    options : Options
        Of the second part; the first one has a constant `head_learning_rate` and no early stopping.
    head_epochs : int
        Of the first part; without any there is only the second.
    head_learning_rate : float
        Of the first part.
    fits : list of Fit
        What the parts gave. At the end there is one more, with the history of both (a column `part`
        says which), and the model has the weights of the best epoch of either.
    checkpoint : str or Path, optional
        Of the second part; the first one's lies beside it as head.pt.
    log : Callable, optional
        Called with a line before each part; None for silence.

    Yields
    ------
    tuple of (Options, Path or None)
        How to train a part, and its checkpoint.
    """
    log, wanted = log or (lambda line: None), model.tl.get("freeze")
    if head_epochs:
        log(f"first the head alone, {head_epochs} epochs")
        freeze(model, "all")
        try:
            file = Path(checkpoint).with_name("head.pt") if checkpoint else None
            yield _head_options(options, head_epochs, head_learning_rate), file
        finally:  # also where it was stopped: the next call asks this model what shall learn
            freeze(model, wanted)
        head = checkpoints.copy_of_state(model)
        log(f"now with freeze={wanted!r}")
    yield options, checkpoint
    if head_epochs:
        fits.append(_better_of(*fits, head))


def _head_options(options: Options, epochs: int, learning_rate: float) -> Options:
    views = options.views or 1
    of = {"epochs": epochs, "learning_rate": learning_rate, "views": views}
    return dataclasses.replace(options, **of, layer_decay=1.0, schedule="constant", patience=0)


def _better_of(first: Fit, second: Fit, head: dict) -> Fit:
    n, kept = len(first.history), second.best_epoch + len(first.history)
    best = [part.history.iloc[part.best_epoch - 1] for part in (first, second)]
    if monitors.beats(*best, first.monitor):
        second.model.load_state_dict(head)
        kept = first.best_epoch
    rest = second.history.assign(part="all", epoch=second.history["epoch"] + n)
    history = pd.concat([first.history.assign(part="head"), rest], ignore_index=True)
    unreadable = sorted(set(first.unreadable + second.unreadable))
    return dataclasses.replace(second, history=history, best_epoch=kept, unreadable=unreadable)
