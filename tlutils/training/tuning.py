"""Finding a learning rate, and training the head before the rest.

Taught in notebook 07.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
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
from .batches import FileBatches
from .loop import Fit, Options, fit, step
from .state import State


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

    The model, its statistics and torch's random state are put back as they were.

    Parameters
    ----------
    loader : training images. steps : optimizer steps, each with a rate a constant factor higher; it ends early where
    the loss exceeds 4 times its best.

    Returns
    -------
    One row a step: learning_rate, loss (of the batch before the step, nats), smoothed (over about 10 steps), and the
    one `suggested` rate marked True: a tenth of the rate at which the smoothed loss is lowest.

    Source: the range test of Smith (Cyclical learning rates for training neural networks, WACV 2017).

    Taught in notebook 07.
    """
    machine, options = machine or devices.choose(), options or Options()
    before, rng = checkpoints.copy_of_state(model), devices.rng_state(machine.device)
    try:
        curve = _rising(
            train_mode(machine.place(model)),
            loader,
            options,
            machine,
            np.geomspace(low, high, steps),
            show,
        )
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
    source = FileBatches(
        loader, machine, *normalization(model), options.augmentation, options.views, options.seed
    )
    state = State(model, model, options, machine)
    weights = losses.class_weights(options.class_weights, loader.labels, loader.classes).to(
        machine.device
    )
    batches = (
        batch for epoch in range(len(rates)) for batch in source.batches(epoch) if len(batch[1])
    )
    rows: list[dict] = []
    for rate, (inputs, labels, _) in zip(
        rates, bar(batches, what="learning rates", total=len(rates), unit="step", show=show)
    ):
        state.set_rate_to(rate)
        loss_sum, _, seen = step(model, inputs, labels, state, weights, machine).tolist()
        rows.append({"learning_rate": rate, "loss": loss_sum / seen})
        if not math.isfinite(rows[-1]["loss"]) or rows[-1]["loss"] > 4 * min(
            row["loss"] for row in rows
        ):
            break
    curve = pd.DataFrame(rows)
    return curve[np.isfinite(curve["loss"])].reset_index(drop=True)


def head_then_rest(
    model: nn.Module,
    loaders: dict[str, Loader],
    options: Options,
    head_epochs: int,
    head_learning_rate: float = 1e-3,
    *,
    checkpoint: str | Path | None = None,
    log: Callable[[str], None] | None = print,
    **place: object,
) -> Fit:
    """Train the new head alone first, so that its random weights do not disturb the rest, then all that shall learn.

    Parameters
    ----------
    model : frozen as it shall be in the second part. options : of the second part; the first part has a
    constant `head_learning_rate` and runs `head_epochs` epochs. checkpoint : of the second part; the first one's
    lies beside it as head.pt. place : machine, store, compiled, show, as for `training.fit`.

    Returns
    -------
    Fit with both parts' history (a column `part` says which). The best epoch of either is kept.

    Taught in notebook 07.
    """
    wanted = model.tl["freeze"]
    beside = Path(checkpoint).with_name("head.pt") if checkpoint else None
    first_options = dataclasses.replace(
        options,
        epochs=head_epochs,
        learning_rate=head_learning_rate,
        layer_decay=1.0,
        schedule="constant",
        views=options.views or 1,
        patience=0,
    )
    if log:
        log(f"first the head alone, {head_epochs} epochs")
    try:
        first = fit(
            freeze(model, "all"), loaders, first_options, checkpoint=beside, log=log, **place
        )
    finally:  # also where it was stopped: the next call with this model asks it again what shall learn
        freeze(model, wanted)
    head = checkpoints.copy_of_state(model)
    if log:
        log(f"now with freeze={wanted!r}")
    second = fit(model, loaders, options, checkpoint=checkpoint, log=log, **place)
    return _better_of(first, second, head, options.monitor)


def _better_of(first: Fit, second: Fit, head: dict, monitor: str) -> Fit:
    n = len(first.history)
    best = [part.history.iloc[part.best_epoch - 1] for part in (first, second)]
    history = pd.concat(
        [
            first.history.assign(part="head"),
            second.history.assign(part="all", epoch=lambda t: t["epoch"] + n),
        ],
        ignore_index=True,
    )
    kept = second.best_epoch + n
    if monitors.beats(*best, first.monitor):
        second.model.load_state_dict(head)
        kept = first.best_epoch
    return dataclasses.replace(
        second,
        history=history,
        best_epoch=kept,
        unreadable=sorted(set(first.unreadable + second.unreadable)),
    )
