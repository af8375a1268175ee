"""What happened in training: loss and accuracy by epoch, loss by learning rate."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator, NullFormatter

from .style import BLUE, DARK, GREY, ORANGE, add_caption, label, legend, panels, require


def history(
    history: pd.DataFrame,
    best: int | None = None,
    ax: Iterable[Axes] | None = None,
    caption: str = "",
) -> np.ndarray:
    """Draw loss and accuracy by epoch, training and validation, with the best epoch marked.

    A third panel shows the learning rate where it changes, if `ax` has room for it.

    Parameters
    ----------
    history : a row an epoch, as a run's history.csv has it
    best : number of the best epoch; None takes that of the lowest validation loss (training loss
        where there is no validation)
    ax, caption : see `tlutils.plots`

    Returns
    -------
    np.ndarray of 2 or 3 Axes

    Raises
    ------
    ValueError
        Where the history has no such epoch.
    """
    columns = ("epoch", "train_loss", "train_accuracy", "val_loss", "val_accuracy")
    require(history, columns, "pass a history")
    alone = history["val_loss"].isna().all()
    side, word = ("train", "Training") if alone else ("val", "Validation")
    by_epoch = history.set_index("epoch")
    best = int(by_epoch[f"{side}_loss"].fillna(np.inf).idxmin()) if best is None else best
    if best not in by_epoch.index:
        raise ValueError(f"found no epoch {best} in the history; it has {list(history['epoch'])}")
    rates = history.get("learning_rate", pd.Series(dtype=float))
    n = 3 if rates.nunique() > 1 and (ax is None or np.size(ax) > 2) else 2
    axes = panels(ax, 3.3, n)
    for ax, name, unit in zip(axes, ("loss", "accuracy"), (" (nats an image)", " (share right)")):
        _curve(ax, history, name, best)
        at_best = by_epoch.loc[best, f"{side}_{name}"]
        label(ax, f"{word} {name} {at_best:.3f}", "epoch", name + unit)
    for ax in axes[2:]:
        ax.plot(history["epoch"], rates, "o-", color=DARK, markersize=4, drawstyle="steps-mid")
        ax.yaxis.set_major_formatter("{x:.2g}")
        title = f"Learning rate {rates.iloc[0]:.2g} to {rates.iloc[-1]:.2g}"
        label(ax, title, "epoch", "rate")
    for ax in axes:
        ax.set_xlim(history["epoch"].min() - 0.5, history["epoch"].max() + 0.5)
        ax.xaxis.set_major_locator(MaxNLocator(8, integer=True, min_n_ticks=1))
    add_caption(axes, caption)
    return axes


def _curve(ax: Axes, history: pd.DataFrame, name: str, best: int) -> None:
    looks = (("train", "training", DARK, "o-"), ("val", "validation", BLUE, "s-"))
    for side, word, color, look in looks:
        values = history[f"{side}_{name}"]
        if values.notna().any():
            ax.plot(history["epoch"], values, look, color=color, markersize=4, label=word)
    ax.axvline(best, color=GREY, linestyle=":", label=f"best epoch: {best}")
    ax.legend()


def learning_rates(
    curve: pd.DataFrame, used: float | None = None, ax: Axes | None = None, caption: str = ""
) -> Axes:
    """Draw the loss against the learning rate, with the suggested one marked.

    Parameters
    ----------
    curve : what `tuning.find_learning_rate` gives
    used : a rate to mark beside the suggestion, such as the recipe's
    ax, caption : see `tlutils.plots`

    Returns
    -------
    Axes
    """
    columns = ("learning_rate", "loss", "smoothed", "suggested")
    require(curve, columns, "pass what tuning.find_learning_rate gives")
    (ax,) = panels(ax, 3.4, width=7.0)
    ax.plot(curve["learning_rate"], curve["loss"], color=DARK, alpha=0.6, linewidth=0.8)
    ax.plot(curve["learning_rate"], curve["smoothed"], color=DARK, linewidth=2)
    for best in curve.loc[curve["suggested"].astype(bool), "learning_rate"].head(1):
        ax.axvline(best, color=BLUE, linewidth=1.5, label=f"suggested {best:.1g}")
    if used is not None:
        look = {"color": ORANGE, "linestyle": "--", "linewidth": 1.5}
        ax.axvline(used, label=f"used {used:.1g}", **look)
    ax.set_xscale("log")
    ax.xaxis.set_major_formatter("{x:g}")
    ax.xaxis.set_minor_formatter(NullFormatter())
    top = 1.1 * min(curve["loss"].max(), 3 * curve["smoothed"].iloc[0])
    ax.set_ylim(0, top if np.isfinite(top) else None)
    legend(ax, frameon=False)
    return label(ax, "Where does the loss fall?", "learning rate", "loss (nats an image)", caption)
