"""Pictures: a table or an array in, matplotlib Axes out.

Every function draws into `ax` (one Axes, or as many as the picture has panels) or, where it is None, makes a
figure as wide as a notebook page; none shows or saves it. One panel comes back as an Axes, several as an
array of Axes. A `caption` is a small grey line under the picture for what a reader must know: phantom data,
random weights, the split. Call `style()` once at the top of a notebook.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import (
    MaxNLocator,
    PercentFormatter,
    StrMethodFormatter,
)
from scipy.integrate import trapezoid

from .style import (
    BLUE,
    DARK,
    GREY,
    SHORT,
    WIDTH,
    Ax,
    Panels,
    Several,
    _at_right,
    _axes,
    _caption,
    _interval,
    _label,
    _legend,
    _many,
    _name,
    _need,
    _ordered,
    _panels,
    _percent,
    _rows,
    _value,
    class_colors,
)

MEASURES = {"recall": "o", "precision": "s", "f1": "D"}
Curves = pd.DataFrame | Mapping[str, pd.DataFrame]


# How good it is


def confusion(table: pd.DataFrame, ax: Ax = None, caption: str = "") -> Axes:
    """Counts of true (rows) against predicted classes (columns), colored by the share of the row.

    Taught in notebook 04.
    """
    if not table.size or (table.to_numpy(float) % 1 != 0).any():
        raise ValueError(
            f"found a table of {table.shape} that does not hold counts; pass what evaluation.confusion gives, "
            "not normalized, as the picture shows counts and shares"
        )
    n, total = len(table), table.to_numpy().sum()
    cell = min(
        0.9, 6.8 / max(n, 1)
    )  # inches; from 20 classes on numbers would be too small to read
    ax = _axes(ax, 1.5 + 0.95 * cell * max(n, 2), 2.6 + 1.05 * cell * max(n, 2))
    shares = table.div(table.sum(axis=1).clip(lower=1), axis=0)
    words = [
        [f"{count:,.0f}\n{_percent(share)}" for count, share in zip(*row)]
        for row in zip(table.to_numpy(), shares.to_numpy())
    ]
    names, size = (
        [_name(name, 24) for name in table],
        {} if n < 20 else {"fontsize": max(4, 330 / n)},
    )
    shown = [
        _name(name, 24) + ("\n" if n < 13 else "  ") + f"n = {found:,.0f}"
        for name, found in table.sum(axis=1).items()
    ]
    sns.heatmap(
        shares,
        annot=np.array(words) if n < 20 else None,
        fmt="",
        cmap="Blues",
        vmin=0,
        vmax=1,
        square=True,
        cbar=False,
        linewidths=1 if n < 20 else 0.2,
        annot_kws={"fontsize": 10 if n < 8 else 7 if n < 13 else 5},
        xticklabels=False,
        yticklabels=False,
        ax=ax,
    )  # it would draw them at once, with $ as a formula
    ax.set_yticks(np.arange(n) + 0.5, shown, rotation=0, **size)
    long = max(map(len, names)) > 12
    ax.set_xticks(
        np.arange(n) + 0.5,
        names,
        rotation=90 if n > 12 else 30 if long else 0,
        ha="right" if long and n <= 12 else "center",
        **size,
    )
    right = np.trace(table.to_numpy())
    return _label(
        ax,
        f"{right:,.0f} of {total:,.0f} right ({_percent(right / max(total, 1))})",
        "predicted (% of the row)",
        "true",
        caption,
    )


def roc(
    curves: Curves,
    auc: Mapping[str, Any] | None = None,
    threshold: float | None = None,
    ax: Ax = None,
    caption: str = "",
) -> Axes:
    """ROC curves: how many of the positive are found at the price of how many false alarms.

    Parameters
    ----------
    curves : a table with columns fpr and tpr (and threshold), or several under their names.
    auc : name -> area, a number or {"value", "low", "high"}; computed from the curve where not given.
    threshold : marks where the model works; needs the column threshold.

    Taught in notebook 04.
    """
    ax = _axes(ax, 4.6, _room_for(curves))
    ax.plot([0, 1], [0, 1], ":", color=GREY)
    ax.text(0.52, 0.46, "guessing", color=GREY, fontsize=9)
    _curves(ax, curves, ("fpr", "tpr"), "AUC", _roc_area, auc, threshold)
    return _label(
        ax,
        "Found against false alarms (ROC)",
        "false positive rate (1 − specificity)",
        "true positive rate (sensitivity)",
        caption,
    )


def pr(
    curves: Curves,
    average_precision: Mapping[str, Any] | None = None,
    share: float | None = None,
    threshold: float | None = None,
    ax: Ax = None,
    caption: str = "",
) -> Axes:
    """Precision against recall; `share` of the positive draws the line of a model that always says positive.

    `curves` are tables with columns recall and precision (and threshold); the rest as for `roc`.
    Taught in notebook 04.
    """
    ax = _axes(ax, 4.6, _room_for(curves))
    if share is not None:
        ax.axhline(share, linestyle=":", color=GREY)
        ax.text(0.01, share - 0.05, f"always positive: {share:.2f}", color=GREY, fontsize=9)
    _curves(
        ax, curves, ("recall", "precision"), "AP", _average_precision, average_precision, threshold
    )
    return _label(
        ax,
        "Precision against recall",
        "recall (sensitivity)",
        "precision (share of the alarms that are true)",
        caption,
    )


def _room_for(curves: Curves) -> float:
    """Inches wide: beside many curves stands their legend."""
    return 5.2 if isinstance(curves, pd.DataFrame) or len(curves) <= 5 else WIDTH


def _roc_area(curve: pd.DataFrame) -> float:
    curve = curve.sort_values(["fpr", "tpr"])
    return float(trapezoid(curve["tpr"], curve["fpr"]))


def _average_precision(curve: pd.DataFrame) -> float:
    """As scikit-learn defines it: each gain in recall times the precision where it is first reached."""
    curve = curve.sort_values(["recall", "precision"], ascending=[True, False])
    return float((curve["recall"].diff().fillna(curve["recall"]) * curve["precision"]).sum())


def _curves(
    ax: Axes,
    curves: Curves,
    columns: tuple[str, str],
    word: str,
    area: Callable[[pd.DataFrame], float],
    known: Mapping[str, Any] | None,
    threshold: float | None,
) -> None:
    curves = {"": curves} if isinstance(curves, pd.DataFrame) else curves
    if not curves:
        raise ValueError("there are no curves to draw; pass at least one")
    for (name, curve), color in zip(curves.items(), class_colors(curves).values()):
        _need(
            curve,
            columns + (("threshold",) if threshold is not None else ()),
            "one row a threshold",
        )
        label = f"{word} {_value((known or {}).get(name, area(curve)))}"
        label = f"{_name(name)}  {label}" if name != "" else label
        ax.plot(*curve[list(columns)].to_numpy().T, color=color, linewidth=2, label=label)
        if threshold is not None:
            at = curve.loc[
                (curve["threshold"] - threshold).abs().fillna(np.inf).idxmin(), list(columns)
            ]
            ax.plot(*at, "o", color=color, markersize=9, markeredgecolor="white", zorder=3)
    if threshold is not None:
        ax.plot([], [], "o", color=GREY, markersize=9, label=f"threshold {threshold:.2f}")
    ax.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), aspect="equal")
    beside = {"loc": "upper left", "bbox_to_anchor": (1, 1)}
    _legend(
        ax,
        **(
            beside if len(curves) > 5 else {"loc": "lower right" if word == "AUC" else "lower left"}
        ),
    )


def calibration(table: pd.DataFrame, ax: Several = None, caption: str = "") -> Panels:
    """Two panels: how often the answers were right by how sure the model was, and how many answers that were.

    `table` has one row a bin: confidence (mean probability of the answer), accuracy, n and, where there are
    intervals, low and high. Taught in notebook 04.
    """
    _need(table, ("confidence", "accuracy", "n"), "pass what evaluation.calibration_table gives")
    upper, lower = axes = _panels(2, 1, ax, 5.2, 5.6, sharex=True, height_ratios=(3, 1))
    table = table[table["n"] > 0]
    sure, right, error = (
        np.average(values, weights=table["n"]) if len(table) else np.nan
        for values in (
            table["confidence"],
            table["accuracy"],
            (table["confidence"] - table["accuracy"]).abs(),
        )
    )
    upper.plot([0, 1], [0, 1], ":", color=GREY)
    if {"low", "high"} <= set(table):
        upper.vlines(
            table["confidence"], table["low"], table["high"], color=BLUE, linewidth=2, alpha=0.5
        )
    upper.plot(table["confidence"], table["accuracy"], "o-", color=BLUE)
    upper.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
    lower.bar(table["confidence"], table["n"], width=0.03, color=BLUE)
    lower.yaxis.set_major_locator(MaxNLocator(3, integer=True))
    _label(
        upper,
        f"{_percent(sure)} sure, {_percent(right)} right; mean gap {error:.3f} (ECE)",
        "",
        "accuracy of these answers",
    )
    _label(lower, "", "confidence (probability of the answer)", "images")
    _caption(axes, caption)
    return axes


def per_class(per_class: Mapping[str, Mapping[str, Any]], ax: Ax = None, caption: str = "") -> Axes:
    """Recall, precision and F1 of each class with their intervals: metrics["per_class"].

    Taught in notebook 04.
    """
    if not per_class:
        raise ValueError(
            "there are no classes to draw; pass metrics['test']['per_class'] or that of another split"
        )
    ax = _axes(ax, 1.2 + 0.7 * len(per_class))
    for row, (name, color) in enumerate(class_colors(per_class).items()):
        for shift, (measure, marker) in zip((-0.24, 0, 0.24), MEASURES.items()):
            _dot(ax, row + shift, per_class[name].get(measure), color, marker)
    _rows(ax, [f"{_name(name)}\nn = {found.get('n', 0):,}" for name, found in per_class.items()])
    marks = [
        Line2D([], [], color=GREY, marker=marker, linestyle="", label=SHORT.get(name, name))
        for name, marker in MEASURES.items()
    ]
    ax.legend(handles=marks, loc="lower right", bbox_to_anchor=(1, 1), ncols=3, borderpad=0.2)
    return _label(ax, "Each class with its intervals", "recall, precision, F1", "", caption)


def intervals(values: Mapping[str, Any], ax: Ax = None, caption: str = "") -> Axes:
    """A dot and an interval for each measure: name -> {"value", "low", "high"}; others are passed over.

    So the metrics of one split can be passed as they are. Taught in notebook 04.
    """
    kept = {
        name: value
        for name, value in values.items()
        if isinstance(value, Mapping) and "value" in value
    }
    if not kept:
        raise ValueError(
            f"found no measure with a value among {', '.join(values) or 'nothing'}; pass the "
            "metrics of one split, such as metrics['test']"
        )
    ax = _forest(
        [_name(SHORT.get(name, name)) for name in kept], list(kept.values()), [BLUE] * len(kept), ax
    )
    return _label(ax, "Each measure with its interval", "value", "", caption)


def cost_against_accuracy(table: pd.DataFrame, cost: str, ax: Ax = None, caption: str = "") -> Axes:
    """What each model costs against its accuracy: a row a model with `value`, `low`, `high` and a cost column.

    Taught in notebook 06.
    """
    _need(
        table,
        ("value", "low", "high", cost),
        "give each model an accuracy with its interval and its cost",
    )
    ax = _axes(ax, 3.4)
    for (name, row), color in zip(table.iterrows(), class_colors(table.index).values()):
        at = _interval(row.to_dict())
        ax.vlines(row[cost], at["low"], at["high"], color=color, linewidth=2)
        ax.plot(row[cost], at["value"], "o", color=color, markersize=9, label=_name(name))
    ax.margins(x=0.15)
    ax.set_xlim(left=0)
    _legend(
        ax, loc="upper left", bbox_to_anchor=(1, 1)
    )  # beside the picture: inside it would hide an interval
    return _label(ax, "What does accuracy cost?", _name(cost), "accuracy", caption)


def compare(
    table: pd.DataFrame, measure: str = "accuracy", ax: Ax = None, caption: str = ""
) -> Axes:
    """Several runs under each other: a table with name, value, low, high. Taught in notebook 06."""
    _need(table, ("name", "value", "low", "high"), "one row a run")
    colors = class_colors(table["name"])
    ax = _forest(table["name"].map(_name), table.to_dict("records"), table["name"].map(colors), ax)
    best = table.iloc[table["value"].astype(float).fillna(-np.inf).argmax()]
    return _label(
        ax, f"Highest {measure}: {_name(best['name'])}, {_value(dict(best))}", measure, "", caption
    )


def accuracy_by(table: pd.DataFrame, ax: Ax = None, caption: str = "") -> Axes:
    """Accuracy of each group, named by the index: a table with n, accuracy, low, high; its first 30 rows.

    Taught in notebook 05.
    """
    _need(table, ("n", "accuracy"), "pass what evaluation.accuracy_by gives")
    shown = table.head(30).rename(columns={"accuracy": "value"})
    names = [f"{_name(name)}  (n = {n:,})" for name, n in shown["n"].items()]
    ax = _forest(names, shown.to_dict("records"), [BLUE] * len(shown), ax)
    title = f"Accuracy by {_name(table.index.name or 'group')}"
    title += f", the first 30 of {len(table):,}" if len(table) > 30 else ""
    return _label(ax, title, "accuracy", "", caption)


def accuracy_against_count(
    per_class: Mapping[str, Mapping[str, Any]] | pd.DataFrame,
    train_counts: Mapping[str, int],
    ax: Ax = None,
    caption: str = "",
) -> Axes:
    """Accuracy of each class (its recall) against the number of images it was trained on: class -> images.

    `per_class` is metrics["per_class"], which has intervals, or what `evaluation.per_class_table` gives,
    which has none. Taught in notebook 05.
    """
    ax = _axes(ax, 3.6, 7.0)
    if isinstance(per_class, pd.DataFrame):
        column = next(
            (name for name in per_class if "recall" in name or name == "accuracy"), "recall"
        )
        _need(per_class, (column,), "pass what evaluation.per_class_table gives")
        per_class = per_class.rename(columns={column: "recall"}).to_dict("index")
    if not per_class:
        raise ValueError(
            "there are no classes to draw; pass metrics['test']['per_class'] or that of another split"
        )
    for name, color in class_colors(per_class).items():
        at, n = _interval(per_class[name].get("recall")), int(train_counts.get(name, 0))
        ax.vlines(n, at["low"], at["high"], color=color, linewidth=2)
        ax.plot(n, at["value"], "o", color=color, markersize=8)
        if not np.isnan(at["value"]):
            ax.annotate(
                _name(name, 24),
                (n, at["value"]),
                (8, 0),
                textcoords="offset points",
                va="center",
                fontsize=9 if len(per_class) <= 20 else 6,
            )
    ax.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    ax.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    ax.set_xlim(0, 1.2 * max([1, *(int(train_counts.get(name, 0)) for name in per_class)]))
    return _label(
        ax,
        "Does a class with more training images fare better?",
        "training images of the class",
        "accuracy (recall)",
        caption,
    )


def score_distribution(
    predictions: pd.DataFrame,
    positive: str,
    threshold: float | None = None,
    ax: Several = None,
    caption: str = "",
) -> Panels:
    """A panel for each split: which probability of `positive` the images of each true class got.

    In shares of the class, so that a rare class is as visible as a common one. Images without a label or a
    probability take no part. Taught in notebook 04.
    """
    hint = "pass predictions of labelled images and a class that they know"
    _need(predictions, ("split", "label", f"p_{positive}"), hint)
    predictions = predictions[
        predictions["label"].replace("", None).notna() & predictions[f"p_{positive}"].notna()
    ]
    _need(predictions, (), hint)
    parts = dict(list(predictions.groupby(predictions["split"].replace("", "no split"))))
    axes = _panels(len(parts), len(parts), ax, 3.2, sharey=True)
    colors = class_colors(sorted(predictions["label"].unique()))
    for ax, split in zip(axes, _ordered(parts)):
        for name, scores in parts[split].groupby("label")[f"p_{positive}"]:
            ax.hist(
                scores,
                np.linspace(0, 1, 21),
                weights=np.full(len(scores), 1 / len(scores)),
                alpha=0.4,
                histtype="stepfilled",
                color=colors[name],
                edgecolor=colors[name],
                linewidth=1.5,
                label=f"{_name(name)} (n = {len(scores):,})",
            )
        if threshold is not None:
            ax.axvline(
                threshold, ymax=0.7, color=DARK, linestyle="--", label=f"threshold {threshold:.2f}"
            )
        ax.set_xlim(0, 1)
        ax.margins(y=0.4)  # room for the legend above the highest bar
        ax.yaxis.set_major_formatter(PercentFormatter(1, decimals=0, symbol=" %"))
        _legend(ax, 6, loc="upper center")
        _label(
            ax,
            f"{split}: {_many(len(parts[split]))}",
            f"probability of {_name(positive)}",
            "share of the class",
        )
        ax.label_outer()
    _caption(axes, caption)
    return axes


def _forest(names: Iterable[str], values: Sequence[Any], colors: Iterable[str], ax: Ax) -> Axes:
    """Dots with intervals, one below the other, and the numbers at the right."""
    ax = _axes(ax, 1.1 + 0.34 * len(values))
    for row, (value, color) in enumerate(zip(values, colors)):
        _dot(ax, row, value, color)
    _rows(ax, list(names))
    return ax


def _dot(ax: Axes, row: float, value: Any, color: str, marker: str = "o") -> None:
    at = _interval(value)
    ax.hlines(row, at["low"], at["high"], color=color, linewidth=2)
    ax.plot(at["value"], row, marker, color=color, markersize=7)
    _at_right(ax, row, _value(at))
