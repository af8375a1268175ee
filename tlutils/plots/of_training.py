"""Pictures: a table or an array in, matplotlib Axes out.

Every function draws into `ax` (one Axes, or as many as the picture has panels) or, where it is None, makes a
figure as wide as a notebook page; none shows or saves it. One panel comes back as an Axes, several as an
array of Axes. A `caption` is a small grey line under the picture for what a reader must know: phantom data,
random weights, the split. Call `style()` once at the top of a notebook.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.ticker import (
    MaxNLocator,
    NullFormatter,
    StrMethodFormatter,
)

from .style import (
    BLUE,
    DARK,
    GREY,
    Ax,
    Panels,
    Several,
    _axes,
    _caption,
    _label,
    _legend,
    _need,
    _panels,
)

# Training


def history(
    history: pd.DataFrame, best: int | None = None, ax: Several = None, caption: str = ""
) -> Panels:
    """Loss and accuracy by epoch, training and validation, with the best epoch marked.

    `best` is its number; without it, the epoch of the lowest validation loss (training loss where there is no
    validation). A third panel shows the learning rate where it changes, if `ax` has room for it.
    Taught in notebook 03.
    """
    _need(
        history,
        ("epoch", "train_loss", "train_accuracy", "val_loss", "val_accuracy"),
        "pass a history",
    )
    side, word = (
        ("train", "Training") if history["val_loss"].isna().all() else ("val", "Validation")
    )
    best = _best(history, side) if best is None else best
    if best not in set(history["epoch"]):
        raise ValueError(f"found no epoch {best} in the history; it has {list(history['epoch'])}")
    rates = history.get("learning_rate", pd.Series(dtype=float))
    panels = 3 if rates.nunique() > 1 and (ax is None or np.size(ax) > 2) else 2
    axes = _panels(panels, panels, ax, 3.3)
    for ax, name, unit in zip(axes, ("loss", "accuracy"), (" (nats an image)", " (share right)")):
        _curve(ax, history, name, best)
        at_best = history.set_index("epoch").loc[best, f"{side}_{name}"]
        _label(ax, f"{word} {name} {at_best:.3f}", "epoch", name + unit)
    if panels == 3:
        axes[2].plot(history["epoch"], rates, "o-", color=DARK, markersize=4, drawstyle="steps-mid")
        axes[2].yaxis.set_major_formatter(StrMethodFormatter("{x:.2g}"))
        _label(
            axes[2], f"Learning rate {rates.iloc[0]:.2g} to {rates.iloc[-1]:.2g}", "epoch", "rate"
        )
    for ax in axes:
        ax.set_xlim(history["epoch"].min() - 0.5, history["epoch"].max() + 0.5)
        ax.xaxis.set_major_locator(MaxNLocator(8, integer=True, min_n_ticks=1))
    _caption(axes, caption)
    return axes


def learning_rates(
    curve: pd.DataFrame, used: float | None = None, ax: Ax = None, caption: str = ""
) -> Axes:
    """Loss against the learning rate, as `tuning.find_learning_rate` found it, with its suggestion marked.

    `used` : a rate to mark beside it, such as the recipe's. Taught in notebook 07.
    """
    _need(
        curve,
        ("learning_rate", "loss", "smoothed", "suggested"),
        "pass what tuning.find_learning_rate gives",
    )
    ax = _axes(ax, 3.4, 7.0)
    ax.plot(curve["learning_rate"], curve["loss"], color=DARK, alpha=0.25, linewidth=1)
    ax.plot(curve["learning_rate"], curve["smoothed"], color=DARK, linewidth=2)
    for best in curve.loc[curve["suggested"].astype(bool), "learning_rate"].head(1):
        ax.axvline(
            best,
            color=sns.color_palette("colorblind")[0],
            linewidth=1.5,
            label=f"suggested {best:.1g}",
        )
    if used is not None:
        ax.axvline(
            used,
            color=sns.color_palette("colorblind")[1],
            linestyle="--",
            linewidth=1.5,
            label=f"used {used:.1g}",
        )
    ax.set_xscale("log")
    ax.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    ax.xaxis.set_minor_formatter(NullFormatter())
    top = 1.1 * min(curve["loss"].max(), 3 * curve["smoothed"].iloc[0])
    ax.set_ylim(0, top if np.isfinite(top) else None)
    _legend(ax, frameon=False)
    return _label(ax, "Where does the loss fall?", "learning rate", "loss (nats an image)", caption)


def _best(history: pd.DataFrame, side: str) -> int:
    return int(history.loc[history[f"{side}_loss"].fillna(np.inf).idxmin(), "epoch"])


def _curve(ax: Axes, history: pd.DataFrame, name: str, best: int) -> None:
    for side, word, color, look in (
        ("train", "training", DARK, "o-"),
        ("val", "validation", BLUE, "s-"),
    ):
        values = history[f"{side}_{name}"]
        if values.notna().any():
            ax.plot(history["epoch"], values, look, color=color, markersize=4, label=word)
    ax.axvline(best, color=GREY, linestyle=":", label=f"best epoch: {best}")
    ax.legend()
