"""What training does: loss and accuracy by epoch, loss by learning rate, features as a map."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator, NullFormatter

from ..core.words import many
from .style import (
    BLUE,
    DARK,
    GREY,
    ORANGE,
    add_caption,
    class_colors,
    label,
    legend,
    panels,
    require,
    short_name,
)


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
    history : DataFrame, a row an epoch, as a run's history.csv has it
    best : int, number of the best epoch; None takes that of the lowest validation loss (training
        loss where there is no validation)
    ax, caption : iterable of Axes and str, see `tlutils.plots`

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
    """Draw the loss against the learning rate, with its lowest point and the suggested rate marked.

    Parameters
    ----------
    curve : DataFrame, what `tuning.find_learning_rate` gives
    used : float, a rate to mark beside the suggestion, such as the recipe's
    ax, caption : Axes and str, see `tlutils.plots`

    Returns
    -------
    Axes
    """
    columns = ("learning_rate", "loss", "smoothed", "suggested")
    require(curve, columns, "pass what tuning.find_learning_rate gives")
    (ax,) = panels(ax, 3.4, width=7.0)
    steps = {"color": GREY, "linewidth": 0.8, "label": "loss of each batch"}
    ax.plot(curve["learning_rate"], curve["loss"], **steps)
    ax.plot(curve["learning_rate"], curve["smoothed"], color=DARK, linewidth=2, label="smoothed")
    if (known := curve["smoothed"].dropna()).size:
        lowest = curve.loc[known.idxmin(), ["learning_rate", "smoothed"]].astype(float)
        at = {"color": DARK, "markersize": 8, "label": f"lowest, at {lowest.iloc[0]:.2g}"}
        ax.plot(*lowest, "o", **at)
    for best in curve.loc[curve["suggested"].astype(bool), "learning_rate"].head(1):
        ax.axvline(best, color=BLUE, linewidth=1.5, label=f"suggested {best:.2g}")
    if used is not None:
        look = {"color": ORANGE, "linestyle": "--", "linewidth": 1.5}
        ax.axvline(used, label=f"used {used:.2g}", **look)
    ax.set_xscale("log")
    ax.xaxis.set_major_formatter("{x:g}")
    ax.xaxis.set_minor_formatter(NullFormatter())
    top = 1.1 * min(curve["loss"].max(), 3 * curve["smoothed"].dropna().head(1).max())
    ax.set_ylim(0, top if np.isfinite(top) else None)
    legend(ax, loc="upper left", bbox_to_anchor=(1, 1))
    return label(ax, "Where does the loss fall?", "learning rate", "loss (nats an image)", caption)


def embedding(
    points: np.ndarray,
    records: pd.DataFrame,
    patients: int = 8,
    ax: Iterable[Axes] | None = None,
    caption: str = "",
    also: tuple[str, np.ndarray] | None = None,
) -> np.ndarray:
    """Draw images as points in a plane: colored by class, by patient, and by one thing more.

    Only those patients have colors who have the most images; all others are grey.

    Parameters
    ----------
    points : float array (N, 2), such as t-SNE makes of features; the axes have no meaning
    records : table with label and patient, a row for each point
    patients : int, how many have a color
    ax, caption : iterable of Axes and str, see `tlutils.plots`
    also : (str, bool array (N,)), optional
        A third picture: what it shows in its title, and the points that have it.

    Returns
    -------
    np.ndarray of 2 Axes, or 3

    Raises
    ------
    ValueError
        Where there are not as many points as rows.
    """
    require(records, ("label", "patient"), "pass the records that the points belong to")
    if np.shape(points) != (len(records), 2):
        raise ValueError(
            f"found points of shape {np.shape(points)} and {many(len(records), 'row')}; pass an x "
            "and a y for each row"
        )
    left, right, *third = axes = panels(ax, 4.6, 2 if also is None else 3)
    for name, color in class_colors(sorted(records["label"].unique())).items():
        left.scatter(*points[records["label"] == name].T, s=18, color=color, label=short_name(name))
    most = records["patient"].value_counts().index[:patients]
    others = points[~records["patient"].isin(most)]
    right.scatter(*others.T, s=12, facecolors="white", edgecolors=GREY, linewidths=0.6)
    colors = [f"C{i}" for i in range(10) if i != 7]  # the palette's grey is for all others
    for i, name in enumerate(most):
        own = points[records["patient"] == name]
        look = {"s": 28, "color": colors[i % 9], "marker": "osD^vP*X"[i % 8]}
        right.scatter(*own.T, **look, label=short_name(name, 12))
    titles = ["By class", f"By patient: the {len(most)} with the most images"]
    if also is not None:
        n = records["patient"].nunique()
        titles = ["By class", f"By patient: {len(most)} of {n}", also[0]]
        for has, color, word in ((False, "white", "no"), (True, DARK, "yes")):
            look = {"s": 18, "facecolors": color, "edgecolors": GREY if color == "white" else DARK}
            third[0].scatter(*points[also[1] == has].T, **look, linewidths=0.6, label=word)
    for ax, title in zip(axes, titles):
        ax.grid(False)
        ax.set(xticks=[], yticks=[])
        label(ax, title, "", "")
        columns = 4 if also is None else 2
        legend(ax, loc="upper center", bbox_to_anchor=(0.5, -0.01), ncols=columns)
    add_caption(axes, caption)
    return axes
