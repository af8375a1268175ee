"""How good it is: confusion, ROC and precision-recall curves, calibration, intervals, costs.

A measure is a number, or {"value", "low", "high"} as in metrics.json; None and NaN are "not known".
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator, PercentFormatter
from scipy.integrate import trapezoid

from ..core.words import many
from .style import (
    BLUE,
    DARK,
    GREY,
    PAGE_WIDTH,
    add_caption,
    class_colors,
    in_split_order,
    label,
    legend,
    name_rows,
    note_at_right,
    panels,
    percent,
    readable_on,
    require,
    short_name,
)

_MARKERS = {"recall": "o", "precision": "s", "f1": "D"}
_MEASURES = {"auc": "AUC", "f1": "F1", "macro_f1": "macro F1", "ppv": "PPV", "npv": "NPV"}
_MEASURES |= {"balanced_accuracy": "balanced accuracy"}
_NO_CLASSES = (
    "there are no classes to draw; pass metrics['test']['per_class'] or that of another split"
)


def confusion(table: pd.DataFrame, ax: Axes | None = None, caption: str = "") -> Axes:
    """Draw counts of true (rows) against predicted classes (columns), colored by share of the row.

    Parameters
    ----------
    table : DataFrame, counts, as `metrics.confusion` gives, not normalized
    ax, caption : Axes and str, see `tlutils.plots`

    Returns
    -------
    Axes

    Raises
    ------
    ValueError
        Where the table is empty or does not hold counts.

    Examples
    --------
    >>> table = pd.DataFrame([[8, 2], [1, 9]], ["CNV", "DME"], ["CNV", "DME"])
    >>> confusion(table).get_title(loc="left")
    '17 of 20 right (85 %)'
    """
    counts = table.to_numpy(float)
    if not table.size or (counts % 1 != 0).any():
        raise ValueError(
            f"found a table of {table.shape} that does not hold counts; pass what metrics.confusion"
            " gives, not normalized, as the picture shows counts and shares"
        )
    n, few = len(table), len(table) < 20  # of more classes numbers would be too small to read
    cell = min(0.9, 6.8 / n)  # inches
    (ax,) = panels(ax, 1.5 + 0.95 * cell * max(n, 2), width=2.6 + 1.05 * cell * max(n, 2))
    shares = counts / counts.sum(axis=1, keepdims=True).clip(min=1)
    words = [[f"{c:,.0f}\n{percent(s)}" for c, s in zip(*row)] for row in zip(counts, shares)]
    sns.heatmap(
        shares,
        annot=np.array(words) if few else None,
        fmt="",
        cmap="Blues",
        vmin=0,
        vmax=1,
        square=True,
        cbar=False,
        linewidths=1 if few else 0.2,
        annot_kws={"fontsize": 10 if n < 8 else 7 if n < 13 else 5},
        xticklabels=False,  # it would draw them at once, with $ as a formula
        yticklabels=False,
        ax=ax,
    )
    for text, share in zip(ax.texts, shares.ravel()):
        text.set_color(readable_on(colormaps["Blues"](share)))
    size = {} if few else {"fontsize": max(4, 330 / n)}
    names, between = [short_name(name, 24) for name in table], "\n" if n < 13 else "  "
    rows = zip(table.index, counts.sum(axis=1))
    rows = [f"{short_name(name, 24)}{between}n = {of:,.0f}" for name, of in rows]
    ax.set_yticks(np.arange(n) + 0.5, rows, rotation=0, **size)
    long = max(map(len, names)) > 12
    look = {"rotation": 90 if n > 12 else 30 if long else 0} | size
    ax.set_xticks(np.arange(n) + 0.5, names, ha="right" if long and n <= 12 else "center", **look)
    right, total = np.trace(counts), counts.sum()
    title = f"{right:,.0f} of {total:,.0f} right ({percent(right / max(total, 1))})"
    return label(ax, title, "predicted (% of the row)", "true", caption)


def roc(
    curves: pd.DataFrame | Mapping[str, pd.DataFrame],
    auc: Mapping[str, Any] | None = None,
    threshold: float | None = None,
    ax: Axes | None = None,
    caption: str = "",
) -> Axes:
    """Draw ROC curves: how many positives are found at the price of how many false alarms.

    Parameters
    ----------
    curves : DataFrame or dict, a table with fpr, tpr and threshold, or several under their names
    auc : dict, name to area, a measure; that of the curve where not given
    threshold : float, marks where the model works
    ax, caption : Axes and str, see `tlutils.plots`

    Returns
    -------
    Axes
    """
    (ax,) = panels(ax, 4.6, width=_width_for(curves))
    ax.plot([0, 1], [0, 1], ":", color=GREY)
    ax.text(0.52, 0.46, "guessing", color=GREY, fontsize=9)
    _curves(ax, curves, ("fpr", "tpr"), "AUC", _roc_area, auc or {}, threshold)
    x, y = "false positive rate (1 − specificity)", "true positive rate (sensitivity)"
    return label(ax, "Found against false alarms (ROC)", x, y, caption)


def pr(
    curves: pd.DataFrame | Mapping[str, pd.DataFrame],
    threshold: float | None = None,
    ax: Axes | None = None,
    caption: str = "",
) -> Axes:
    """Draw precision against recall.

    Parameters
    ----------
    curves : DataFrame or dict, a table with recall, precision and threshold, or several under their
        names
    threshold : float, marks where the model works
    ax, caption : Axes and str, see `tlutils.plots`

    Returns
    -------
    Axes
    """
    (ax,) = panels(ax, 4.6, width=_width_for(curves))
    _curves(ax, curves, ("recall", "precision"), "AP", _average_precision, {}, threshold)
    x, y = "recall (sensitivity)", "precision (share of the alarms that are true)"
    return label(ax, "Precision against recall", x, y, caption)


def _width_for(curves: pd.DataFrame | Mapping[str, pd.DataFrame]) -> float:
    """Inches: beside many curves stands their legend."""
    return 5.2 if isinstance(curves, pd.DataFrame) or len(curves) <= 5 else PAGE_WIDTH


def _roc_area(curve: pd.DataFrame) -> float:
    curve = curve.sort_values(["fpr", "tpr"])
    return float(trapezoid(curve["tpr"], curve["fpr"]))


def _average_precision(curve: pd.DataFrame) -> float:
    """As scikit-learn has it: each gain in recall times the precision where it is first reached."""
    curve = curve.sort_values(["recall", "precision"], ascending=[True, False])
    return float((curve["recall"].diff().fillna(curve["recall"]) * curve["precision"]).sum())


def _curves(
    ax: Axes,
    curves: pd.DataFrame | Mapping[str, pd.DataFrame],
    columns: tuple[str, str],
    word: str,
    area: Callable[[pd.DataFrame], float],
    known: Mapping[str, Any],
    threshold: float | None,
) -> None:
    curves = {"": curves} if isinstance(curves, pd.DataFrame) else curves
    if not curves:
        raise ValueError("there are no curves to draw; pass at least one")
    for (name, curve), color in zip(curves.items(), class_colors(curves).values()):
        needed = columns if threshold is None else (*columns, "threshold")
        require(curve, needed, "one row a threshold")
        words = f"{word} {_in_words(known.get(name, area(curve)))}"
        words = f"{short_name(name)}  {words}" if name != "" else words
        ax.plot(*curve[list(columns)].to_numpy().T, color=color, linewidth=2, label=words)
        if threshold is not None:
            # The rates change at scores alone: they are those at the lowest score from it on.
            at = curve["threshold"].fillna(np.inf).loc[lambda scores: scores >= threshold]
            look = {"color": color, "markersize": 9, "markeredgecolor": "white", "zorder": 3}
            ax.plot(*curve.loc[at.nsmallest(1).index, list(columns)].to_numpy().T, "o", **look)
    if threshold is not None:
        ax.plot([], [], "o", color=GREY, markersize=9, label=f"threshold {threshold:.2f}")
    ax.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), aspect="equal")
    if len(curves) > 5:
        legend(ax, loc="upper left", bbox_to_anchor=(1, 1))
    else:
        legend(ax, loc="lower right" if word == "AUC" else "lower left")


def calibration(
    table: pd.DataFrame, ax: Iterable[Axes] | None = None, caption: str = ""
) -> np.ndarray:
    """Draw how often answers are right by how sure the model was, and how many answers that were.

    Parameters
    ----------
    table : DataFrame, what `metrics.calibration_table` gives: a row a bin, with confidence (mean
        probability of the answer), accuracy, n and, where there are intervals, low and high
    ax, caption : iterable of Axes and str, see `tlutils.plots`

    Returns
    -------
    np.ndarray of 2 Axes
    """
    hint = "pass what metrics.calibration_table gives"
    require(table, ("confidence", "accuracy", "n"), hint)
    upper, lower = axes = panels(ax, 5.2, 2, 1, 5.6, sharex=True, height_ratios=(3, 1))
    table = table[table["n"] > 0]
    confidence, accuracy = table["confidence"], table["accuracy"]
    upper.plot([0, 1], [0, 1], ":", color=GREY)
    if {"low", "high"} <= set(table):
        upper.vlines(confidence, table["low"], table["high"], color=BLUE, linewidth=2, alpha=0.75)
    upper.plot(confidence, accuracy, "o-", color=BLUE)
    upper.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
    bars = lower.bar(confidence, table["n"], width=0.03, color=BLUE)
    lower.bar_label(bars, fmt="{:,.0f}", fontsize=8, padding=1)  # a bar of one is too low to see
    lower.margins(y=0.2)
    lower.yaxis.set_major_locator(MaxNLocator(3, integer=True))
    sure, right, gap = (
        np.average(values, weights=table["n"]) if len(table) else np.nan
        for values in (confidence, accuracy, (confidence - accuracy).abs())
    )
    title = f"{percent(sure)} sure, {percent(right)} right; mean gap {gap:.3f} (ECE)"
    label(upper, title, "", "accuracy of these answers")
    label(lower, "", "confidence (probability of the answer)", "images")
    add_caption(axes, caption)
    return axes


def per_class(
    per_class: Mapping[str, Mapping[str, Any]], ax: Axes | None = None, caption: str = ""
) -> Axes:
    """Draw recall, precision and F1 of each class with their intervals.

    Parameters
    ----------
    per_class : dict, class to measures: metrics["per_class"]
    ax, caption : Axes and str, see `tlutils.plots`

    Returns
    -------
    Axes

    Raises
    ------
    ValueError
        Where there is no class.
    """
    if not per_class:
        raise ValueError(_NO_CLASSES)
    (ax,) = panels(ax, 1.2 + 0.7 * len(per_class))
    for row, (name, color) in enumerate(class_colors(per_class).items()):
        for shift, (measure, marker) in zip((-0.24, 0, 0.24), _MARKERS.items()):
            _dot(ax, row + shift, per_class[name].get(measure), color, marker)
    names = [f"{short_name(name)}\nn = {of.get('n', 0):,}" for name, of in per_class.items()]
    name_rows(ax, names)
    marks = [
        Line2D([], [], color=GREY, marker=marker, linestyle="", label=_MEASURES.get(name, name))
        for name, marker in _MARKERS.items()
    ]
    ax.legend(handles=marks, loc="lower right", bbox_to_anchor=(1, 1), ncols=3, borderpad=0.2)
    return label(ax, "Each class with its intervals", "recall, precision, F1", "", caption)


def intervals(values: Mapping[str, Any], ax: Axes | None = None, caption: str = "") -> Axes:
    """Draw a dot and an interval for each measure.

    Parameters
    ----------
    values : dict, name to measure with "value", "low" and "high"; others are passed over, so the
        metrics of one split can be given as they are
    ax, caption : Axes and str, see `tlutils.plots`

    Returns
    -------
    Axes

    Raises
    ------
    ValueError
        Where no measure has a value.
    """
    kept = {name: of for name, of in values.items() if isinstance(of, Mapping) and "value" in of}
    if not kept:
        raise ValueError(
            f"found no measure with a value among {', '.join(values) or 'nothing'}; pass the "
            "metrics of one split, such as metrics['test']"
        )
    names = [short_name(_MEASURES.get(name, name)) for name in kept]
    ax = _forest(names, list(kept.values()), ax)
    return label(ax, "Each measure with its interval", "value", "", caption)


def cost_against_accuracy(
    table: pd.DataFrame, cost: str, ax: Axes | None = None, caption: str = ""
) -> Axes:
    """Draw what each model costs against its accuracy.

    Parameters
    ----------
    table : DataFrame, a row a model, with value, low and high of its accuracy and a column of costs
    cost : str, name of that column
    ax, caption : Axes and str, see `tlutils.plots`

    Returns
    -------
    Axes
    """
    hint = "give each model an accuracy with its interval and its cost"
    require(table, ("value", "low", "high", cost), hint)
    (ax,) = panels(ax, 3.4)
    for (name, row), color in zip(table.iterrows(), class_colors(table.index).values()):
        value, low, high = _ends(row.to_dict())
        ax.vlines(row[cost], low, high, color=color, linewidth=2)
        ax.plot(row[cost], value, "o", color=color, markersize=9, label=short_name(name))
    ax.margins(x=0.15)
    ax.set_xlim(left=0)
    legend(ax, loc="upper left", bbox_to_anchor=(1, 1))  # inside it would hide an interval
    return label(ax, "What does accuracy cost?", short_name(cost), "accuracy", caption)


def accuracy_by(table: pd.DataFrame, ax: Axes | None = None, caption: str = "") -> Axes:
    """Draw the accuracy of each group, of the first 30.

    Parameters
    ----------
    table : DataFrame, n, accuracy, low and high of the groups that the index names, and patients
        where they are known: see `metrics.accuracy_by`
    ax, caption : Axes and str, see `tlutils.plots`

    Returns
    -------
    Axes
    """
    require(table, ("n", "accuracy"), "pass what metrics.accuracy_by gives")
    shown = table.head(30).rename(columns={"accuracy": "value"})
    size = "n = " + shown["n"].map("{:,}".format)
    if "patients" in shown:
        size += ", " + shown["patients"].map(lambda n: many(n, "patient"))
    names = [f"{short_name(name)}  ({text})" for name, text in size.items()]
    ax = _forest(names, shown.to_dict("records"), ax)
    title = f"Accuracy by {short_name(table.index.name or 'group')}"
    title += f", the first 30 of {len(table):,}" if len(table) > 30 else ""
    return label(ax, title, "accuracy", "", caption)


def accuracy_against_count(
    per_class: Mapping[str, Mapping[str, Any]],
    train_counts: Mapping[str, int],
    ax: Axes | None = None,
    caption: str = "",
) -> Axes:
    """Draw each class's accuracy (its recall) against the number of images it was trained on.

    Classes of nearly the same number stand side by side, so that no interval hides another.

    Parameters
    ----------
    per_class : dict, class to measures: metrics["per_class"]
    train_counts : dict, class to training images
    ax, caption : Axes and str, see `tlutils.plots`

    Returns
    -------
    Axes

    Raises
    ------
    ValueError
        Where there is no class.
    """
    if not per_class:
        raise ValueError(_NO_CLASSES)
    (ax,) = panels(ax, 3.6, width=7.0)
    counts = {name: int(train_counts.get(name, 0)) for name in per_class}
    look = {"va": "center", "fontsize": 9 if len(per_class) <= 20 else 6}
    end = 1.2 * max(1, *counts.values())
    places = _apart(counts, min(0.02, 0.1 / len(counts)) * end)  # moved by a tenth at most
    for name, color in class_colors(per_class).items():
        x, (value, low, high) = places[name], _ends(per_class[name].get("recall"))
        ax.vlines(x, low, high, color=color, linewidth=2)
        ax.plot(x, value, "o", color=color, markersize=8)
        if not np.isnan(value):
            crowded = any(x < other < x + 0.05 * end for other in places.values())
            left = crowded and x > 0.3 * end  # further left, it would lie on the axis
            side = {"xytext": (-8, 0), "ha": "right"} if left else {"xytext": (8, 0)}
            name = short_name(name, 24)
            ax.annotate(name, (x, value), textcoords="offset points", **side, **look)
    ax.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    ax.xaxis.set_major_formatter("{x:,.0f}")
    ax.set_xlim(0, max(end, 1.02 * max(places.values())))
    title = "Does a class with more training images fare better?"
    return label(ax, title, "training images of the class", "accuracy (recall)", caption)


def _apart(numbers: Mapping[str, float], gap: float) -> dict[str, float]:
    """The numbers, from the smallest on, each moved up where the one below is nearer than a gap."""
    places, last = {}, -np.inf
    for name in sorted(numbers, key=numbers.get):
        places[name] = last = max(numbers[name], last + gap)
    return places


def accuracy_by_patients(
    table: pd.DataFrame,
    baseline: float | None = None,
    measure: str = "accuracy",
    ax: Axes | None = None,
    caption: str = "",
) -> Axes:
    """Draw how good each way to train is, by the number of patients that it learned from.

    Parameters
    ----------
    table : DataFrame, arm, patients, value, low and high: see `learning_curve.summarize`
    baseline : float, what the commonest answer alone gives, as a dashed line
    measure : str, what the values are
    ax, caption : Axes and str, see `tlutils.plots`

    Returns
    -------
    Axes
    """
    hint = "pass what learning_curve.summarize gives"
    require(table, ("arm", "patients", "value", "low", "high"), hint)
    (ax,) = panels(ax, 4.2)
    _lines(ax, table, "arm")
    if baseline is not None:
        always = {"color": DARK, "linestyle": "--", "linewidth": 1.2}
        ax.axhline(baseline, label=f"always the commonest: {baseline:.3f}", **always)
    legend(ax, loc="upper left", bbox_to_anchor=(1, 1))
    title = "How many patients does it take?"
    what = f"{short_name(measure)}, 95 % intervals"
    return label(ax, title, "patients to learn from", what, caption)


def threshold_by_patients(
    table: pd.DataFrame,
    unadapted: float | None = None,
    steady: int | None = None,
    ax: Axes | None = None,
    caption: str = "",
) -> Axes:
    """Draw what a threshold is worth that was chosen on few labelled patients and on more.

    Parameters
    ----------
    table : DataFrame, measure, patients, value, low and high: see `adaptation.table_of_numbers`;
        its sensitivity, specificity and balanced accuracy are drawn
    unadapted : float, balanced accuracy of the run's own threshold, as a dashed line
    steady : int, number of patients from which the choice is steady, as a dotted line
    ax, caption : Axes and str, see `tlutils.plots`

    Returns
    -------
    Axes
    """
    hint = "pass what adaptation.table_of_numbers gives"
    require(table, ("measure", "patients", "value", "low", "high"), hint)
    shown = ("sensitivity", "specificity", "balanced accuracy")
    (ax,) = panels(ax, 4.2)
    _lines(ax, table[table["measure"].isin(shown)], "measure")
    line = {"color": DARK, "linewidth": 1.2}
    if unadapted is not None:
        words = f"the run's threshold: balanced accuracy {unadapted:.3f}"
        ax.axhline(unadapted, label=words, linestyle="--", **line)
    if steady is not None:
        ax.axvline(steady, label=f"steady from {steady:,} on", linestyle=":", **line)
    legend(ax, loc="upper left", bbox_to_anchor=(1, 1))
    title, x = "A threshold chosen anew: median and 95 % of the draws", "patients to choose it on"
    return label(ax, title, x, "rate on the other patients", caption)


def _lines(ax: Axes, table: pd.DataFrame, by: str) -> None:
    """A line with intervals for each value of a column, by the number of patients, side by side."""
    arms = list(dict.fromkeys(table[by]))
    colors = class_colors(map(str, range(len(arms))))  # by order, as in the next picture of them
    for i, (arm, color) in enumerate(zip(arms, colors.values())):
        of = table[table[by] == arm].sort_values("patients")
        beside = of["patients"] * 2 ** (0.09 * (i - (len(arms) - 1) / 2))
        ax.vlines(beside, of["low"], of["high"], color=color, linewidth=1.4)
        line = {"color": color, "marker": "osD^vP*X"[i % 8], "markersize": 6, "linewidth": 1.6}
        ax.plot(beside, of["value"], **line, label=short_name(arm))
    ax.set_xscale("log", base=2)
    numbers = sorted(table["patients"].unique())
    ax.set_xticks(numbers, [f"{n:,}" for n in numbers])
    ax.minorticks_off()


def stress(table: pd.DataFrame, ax: Iterable[Axes] | None = None, caption: str = "") -> np.ndarray:
    """Draw what each change of acquisition makes of a model, beside the unchanged images.

    Parameters
    ----------
    table : DataFrame, what `runs.stress.stress` gives
    ax, caption : iterable of Axes and str, see `tlutils.plots`

    Returns
    -------
    np.ndarray of 2 Axes
        Sensitivity and specificity; of more than two classes balanced accuracy and AUC.

    Raises
    ------
    ValueError
        Where the unchanged images are not in the table.
    """
    two = ("sensitivity", "specificity")
    names = two if "sensitivity" in table else ("balanced_accuracy", "auc")
    hint = "pass what runs.stress.stress gives"
    require(table, ("change", "family", "words", *names), hint)
    plain = table["change"].fillna("") == ""  # a file makes NaN of it
    require(table[plain], (), f"the unchanged images are not in it; {hint}")
    (before, *_), rows = table[plain].to_dict("records"), _in_families(table[~plain])
    axes = panels(ax, 1.2 + 0.23 * len(rows), 2)
    for ax, name in zip(axes, names):
        value, low, high = _ends(_measure(before, name))
        ax.axvspan(low, high, facecolor=to_rgba(BLUE, 0.12), edgecolor=BLUE, linewidth=0.6)
        ax.axvline(value, color=BLUE, linestyle="--", linewidth=1.2)
        for place, (_, row) in enumerate(rows):
            if row is not None:
                _dot(ax, place, _measure(row, name), DARK)
        told = f"dashed: unchanged, {_in_words(_measure(before, name))}"
        label(ax, _MEASURES.get(name, name).replace("_", " "), told, "")
    left = min(ax.get_xlim()[0] for ax in axes)
    for ax, shown in zip(axes, (True, False)):
        ax.set_xlim(left, 1.05)  # a dot at 1 touches no number at its right
        name_rows(ax, [words if shown else "" for words, _ in rows])
    for text, (_, row) in zip(axes[0].get_yticklabels(), rows):
        text.set_weight("bold" if row is None else "normal")
    add_caption(axes, caption)
    return axes


def _in_families(changes: pd.DataFrame) -> list[tuple[str, dict | None]]:
    """A line of the picture for each family's name and, below it, for each of its changes."""
    lines: list[tuple[str, dict | None]] = []
    for family, part in changes.groupby("family", sort=False):
        lines.append((str(family), None))
        lines += [(short_name(row["words"], 48), row) for row in part.to_dict("records")]
    return lines


def _measure(row: Mapping[str, Any], name: str) -> dict[str, Any]:
    return {"value": row[name], "low": row.get(f"{name}_low"), "high": row.get(f"{name}_high")}


def score_distribution(
    predictions: pd.DataFrame,
    positive: str,
    threshold: float | None = None,
    ax: Iterable[Axes] | None = None,
    caption: str = "",
) -> np.ndarray:
    """Draw for each split which probability of one class the images of each true class got.

    In shares of the class, so that a rare class is as visible as a common one.

    Parameters
    ----------
    predictions : table with split, label and p_<positive>; images without label or probability take
        no part
    positive : str, name of the class
    threshold : float, a line where it lies
    ax, caption : iterable of Axes and str, see `tlutils.plots`

    Returns
    -------
    np.ndarray of Axes, one a split
    """
    column, hint = f"p_{positive}", "pass predictions of labeled images and a class that they know"
    require(predictions, ("split", "label", column), hint)
    known = predictions["label"].replace("", None).notna() & predictions[column].notna()
    predictions = predictions[known]
    require(predictions, (), hint)
    parts = dict(list(predictions.groupby(predictions["split"].replace("", "no split"))))
    axes = panels(ax, 3.2, len(parts), sharey=True)
    colors = class_colors(sorted(predictions["label"].unique()))
    for ax, split in zip(axes, in_split_order(parts)):
        for name, scores in parts[split].groupby("label")[column]:
            ax.hist(
                scores,
                np.linspace(0, 1, 21),
                weights=np.full(len(scores), 1 / len(scores)),
                histtype="stepfilled",
                facecolor=to_rgba(colors[name], 0.4),
                edgecolor=colors[name],
                linewidth=1.5,
                label=f"{short_name(name)} (n = {len(scores):,})",
            )
        if threshold is not None:
            line = {"color": DARK, "linestyle": "--", "label": f"threshold {threshold:.2f}"}
            ax.axvline(threshold, ymax=0.7, **line)
        ax.set_xlim(0, 1)
        ax.margins(y=0.4)  # room for the legend above the highest bar
        ax.yaxis.set_major_formatter(PercentFormatter(1, decimals=0, symbol=" %"))
        legend(ax, 6, loc="upper center")
        name = "validation" if split == "val" else split
        title, x = f"{name}: {many(len(parts[split]))}", f"probability of {short_name(positive)}"
        label(ax, title, x, "share of the class")
        ax.label_outer()
    for ax in axes:  # the room above 100 % is the legend's
        ax.set_yticks([tick for tick in ax.get_yticks() if 0 <= tick <= min(1, ax.get_ylim()[1])])
    add_caption(axes, caption)
    return axes


def _forest(names: list[str], values: Sequence[Any], ax: Axes | None) -> Axes:
    """Dots with intervals, one below the other, and the numbers at the right."""
    (ax,) = panels(ax, 1.1 + 0.34 * len(values))
    for row, value in enumerate(values):
        _dot(ax, row, value, BLUE)
    name_rows(ax, names)
    return ax


def _dot(ax: Axes, row: float, measure: Any, color: str, marker: str = "o") -> None:
    value, low, high = _ends(measure)
    ax.hlines(row, low, high, color=color, linewidth=2)
    ax.plot(value, row, marker, color=color, markersize=7)
    note_at_right(ax, row, _in_words(measure))


def _ends(measure: Any) -> list[float]:
    """Value, low and high of a measure; NaN where there is none (JSON says null)."""
    measure = measure if isinstance(measure, Mapping) else {"value": measure}
    found = [measure.get(name) for name in ("value", "low", "high")]
    return [np.nan if number is None else float(number) for number in found]


def _in_words(measure: Any) -> str:
    value, low, high = _ends(measure)
    if np.isnan(value):
        return "not known"
    return f"{value:.3f}" + ("" if np.isnan(low) else f" ({low:.3f}–{high:.3f})")
