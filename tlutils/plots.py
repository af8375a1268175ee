"""Pictures: a table or an array in, matplotlib Axes out.

Every function draws into `ax` (one Axes, or as many as the picture has panels) or, where it is None, makes a
figure as wide as a notebook page; none shows or saves it. One panel comes back as an Axes, several as an
array of Axes. A `caption` is a small grey line under the picture for what a reader must know: phantom data,
random weights, the split. Call `style()` once at the top of a notebook.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.font_manager import get_font_names
from matplotlib.lines import Line2D
from matplotlib.text import Text
from matplotlib.ticker import MaxNLocator, NullFormatter, PercentFormatter, StrMethodFormatter
from scipy.integrate import trapezoid
from scipy.ndimage import gaussian_filter1d

WIDTH = 9.0  # inches; at 100 dots an inch a notebook shows it unscaled
PALETTE = sns.color_palette("colorblind").as_hex()
BLUE, ORANGE, GREEN, RED, PINK, _, _, _, YELLOW, _ = PALETTE
WINE = "#882255"  # of Paul Tol's muted scheme; seaborn's pink is too near its blue for eyes without red cones
DARK, GREY, LIGHT = "#444444", "#949494", "#dddddd"
RIGHT, WRONG = BLUE, RED
VERDICTS = {"leak": RED, "warning": YELLOW, "ok": GREEN}
# Fixed, so that the colour of a class does not depend on which others a picture happens to show.
KNOWN = {"CNV": BLUE, "DME": ORANGE, "DRUSEN": WINE, "NORMAL": GREEN,
         "PNEUMONIA": RED, "BACTERIA": RED, "VIRUS": PINK}
SPLITS = ("train", "val", "test", "no split")
MEASURES = {"recall": "o", "precision": "s", "f1": "D"}
SHORT = {"auc": "AUC", "f1": "F1", "macro_f1": "macro F1", "balanced_accuracy": "balanced accuracy", "ppv": "PPV",
         "npv": "NPV"}
# For class names that are not Latin: those of them that are installed step in where the first font has no such letter.
FONTS = ("Noto Sans CJK JP", "Noto Sans CJK SC", "Microsoft YaHei", "Hiragino Sans", "PingFang SC", "WenQuanYi Micro Hei",
         "Noto Sans Arabic", "Noto Sans Devanagari", "Noto Emoji", "Segoe UI Emoji", "Arial Unicode MS")
PATIENT_BINS = (1, 2, 3, 4, 5, 10, 20, 50, 100, 200, 500, 1000)

Panels = np.ndarray  # of Axes
Pictures = Iterable[Any]  # uint8 tensors, arrays or PIL images: (H, W), (1 or 3, H, W), (H, W, 3)
Ax = Axes | None
Several = Sequence[Axes] | np.ndarray | None
Curves = pd.DataFrame | Mapping[str, pd.DataFrame]


def style() -> None:
    """Set the look of all pictures that follow: white, thin grid lines, letters of 9 to 11 points.

    Taught in notebook 01.
    """
    installed = set(get_font_names())
    sns.set_theme(style="whitegrid", palette="colorblind", rc={
        "font.family": ["sans-serif", *(font for font in FONTS if font in installed)],
        "figure.dpi": 100, "figure.figsize": (WIDTH, 4.0), "figure.constrained_layout.use": True,
        "font.size": 10, "axes.titlesize": 11, "axes.labelsize": 10, "legend.fontsize": 9,
        "xtick.labelsize": 9, "ytick.labelsize": 9, "axes.titlelocation": "left", "axes.edgecolor": GREY,
        "axes.spines.top": False, "axes.spines.right": False, "grid.color": "#e8e8e8", "grid.linewidth": 0.8,
        "legend.edgecolor": "none", "legend.framealpha": 0.85})


def class_colours(classes: Iterable[str]) -> dict[str, str]:
    """A colour for each class, in the given order, that people with colour blindness can tell apart.

    The classes of the Kermany sets always have the same colours, in either case of letters; other names get
    those that are left, by the alphabet, so one set of classes looks the same in every picture. Beyond ten
    they repeat. Taught in notebook 01.
    """
    names = list(dict.fromkeys(map(str, classes)))
    fixed = {name: KNOWN[name.upper()] for name in names if name.upper() in KNOWN}
    left = [colour for colour in PALETTE if colour not in fixed.values()]
    others = sorted(set(names) - set(fixed))
    return {name: fixed.get(name) or left[others.index(name) % len(left)] for name in names}


# What the data are


def counts(records: pd.DataFrame, ax: Ax = None, caption: str = "") -> Axes:
    """Bars with numbers: the images of each class in each split. Taught in notebook 01."""
    ax = _axes(ax, 3.6)
    table = _crosstab(records)
    width = 0.8 / len(table.columns)
    for place, (label, colour) in enumerate(class_colours(table).items()):
        places = np.arange(len(table)) - 0.4 + (place + 0.5) * width
        bars = ax.bar(places, table[label], width, color=colour, label=_name(label))
        if table.size <= 60:  # more numbers would lie on each other
            ax.bar_label(bars, fmt="{:,.0f}", fontsize=8, padding=1)
    ax.grid(False, axis="x")
    ax.margins(y=0.1)
    ax.yaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    _legend(ax, loc="upper left", bbox_to_anchor=(1, 1))
    ax.set_xticks(range(len(table)), [f"{name}\n{_many(n)}" for name, n in table.sum(axis=1).items()])
    total = table.sum().sort_values()
    few, many = (f"{total.iloc[i]:,} {_name(total.index[i], 24)}" for i in (0, -1))
    found = f"from {few} to {many}" if len(total) > 1 else f"all {_name(total.index[0])}"
    return _label(ax, f"{_many(total.sum())}: {found}", "", "images", caption)


def sizes(records: pd.DataFrame, ax: Several = None, caption: str = "") -> Panels:
    """Two panels: every size that occurs (area of a dot: share of the images), and the density of both sides.

    `records` as after `records.inspect`; images without a size take no part. Taught in notebook 01.
    """
    _need(records, ("width", "height"), "pass records after records.inspect, which adds them")
    sides = records[["width", "height"]].dropna().astype(int)
    if sides.empty:
        raise ValueError(f"none of the {len(records)} records has a width and a height; no file was readable")
    left, right = axes = _panels(2, 2, ax, 3.6)
    common = sides.value_counts(normalize=True)
    left.scatter(*zip(*common.index), s=12 + 600 * common, color=BLUE, alpha=0.6, linewidth=0)
    left.margins(0.12)
    for axis in (left.xaxis, left.yaxis):
        axis.set_major_locator(MaxNLocator(6, integer=True, min_n_ticks=1))
    (width, height), share = common.index[0], common.iloc[0]
    most = f", {_percent(share)} are {width}×{height}" if share >= 0.05 else ""
    title = f"{_many(len(sides))}, {_many(len(common), 'size')}{most}"
    _label(left, title, "width (pixels)", "height (pixels)")
    _densities(right, sides)
    _caption(axes, caption)
    return axes


def _densities(ax: Axes, sides: pd.DataFrame) -> None:
    for side, colour, dashes in (("width", BLUE, "-"), ("height", ORANGE, "--")):
        name = f"{side}, {sides[side].min():,} to {sides[side].max():,}"
        ax.plot(*_density(sides[side], sides.to_numpy()), dashes, color=colour, label=name)
    ax.set_yticks([])
    ax.set_ylim(bottom=0)
    ax.legend(loc="upper right")
    middle = sides.median()
    _label(ax, f"Median {middle['width']:,.0f}×{middle['height']:,.0f}", "pixels", "density of the images")


def _density(values: pd.Series, everything: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A smoothed histogram: unlike a kernel estimate it also stands where all values are the same."""
    room = 0.15 * np.ptp(everything) + 10
    edges = np.linspace(max(everything.min() - room, 0), everything.max() + room, 401)
    return (edges[:-1] + edges[1:]) / 2, gaussian_filter1d(np.histogram(values, edges, density=True)[0], 6)


def patients(records: pd.DataFrame, ax: Ax = None, caption: str = "") -> Axes:
    """How many patients have how many images; images of unknown patients ("?...", "", none) take no part.

    Taught in notebook 01.
    """
    ax = _axes(ax, 3.2)
    named = records["patient"].astype(object).where(records["patient"].notna(), "").astype(str)
    known = named[~named.str.match(r"\?|$")]
    each = known.value_counts()
    if each.empty:
        return _label(ax, f"The patient of none of {_many(len(records))} is known", "", "", caption)
    starts = [start for start in PATIENT_BINS if start <= each.max()]
    ends = [*(start - 1 for start in starts[1:]), each.max()]
    names = [f"{a}" if a == b else f"{a}–{b}" for a, b in zip(starts, ends)]
    found = np.histogram(each, [*starts, np.inf])[0]
    ax.bar_label(ax.bar(names, found, color=BLUE), fmt="{:,.0f}", fontsize=9, padding=1)
    ax.margins(y=0.1)
    ax.yaxis.set_major_locator(MaxNLocator(6, integer=True))
    ax.yaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    ax.grid(False, axis="x")
    spread = f"{each.min():,} to {each.max():,} images each, median {each.median():g}"
    title, lost = f"{_many(len(each), 'patient')}, {spread}", len(records) - len(known)
    title += f"; {_many(lost)} of unknown patients" if lost else ""
    return _label(ax, title, "images of one patient", "patients", caption)


def audit(audit: pd.DataFrame, ax: Ax = None, caption: str = "") -> Axes:
    """A bar for each check of `splits.audit`: the share of images concerned, in the colour of its verdict.

    Taught in notebook 01.
    """
    _need(audit, ("check", "splits", "found", "of", "share", "verdict"), "pass what splits.audit gives")
    ax = _axes(ax, 1.1 + 0.26 * len(audit))
    ax.barh(range(len(audit)), audit["share"], color=audit["verdict"].map(VERDICTS))
    for y, row in enumerate(audit.itertuples()):
        found = f"{row.verdict}: {row.found:,} of {row.of:,} ({_percent(row.share)})"
        _at_right(ax, y, found if row.verdict != "ok" else "ok", GREY if row.verdict == "ok" else DARK,
                  weight="bold" if row.verdict == "leak" else "normal")
    _rows(ax, [row.check + (f", {row.splits}" if row.splits != "all" else "") for row in audit.itertuples()])
    ax.set_xlim(0, max(0.05, 1.05 * audit["share"].max()))
    ax.xaxis.set_major_formatter(PercentFormatter(1, decimals=0, symbol=" %"))
    found = audit["verdict"].value_counts()
    what = [_many(found[name], name) for name in ("leak", "warning") if name in found]
    return _label(ax, f"The audit found {' and '.join(what) or 'nothing'} in {_many(len(audit), 'check')}",
                  "share of the images concerned", "", caption)


def split_bars(before: pd.DataFrame, after: pd.DataFrame,
               names: tuple[str, str] = ("Official split", "By patient"), ax: Several = None,
               caption: str = "") -> Panels:
    """Two panels, two ways to split: the share of each class in every split. Taught in notebook 02."""
    axes = _panels(2, 2, ax, 2.6)
    tables = [_crosstab(before), _crosstab(after)]
    rows = _ordered(tables[0].index.union(tables[1].index))
    colours = class_colours(tables[0].columns.union(tables[1].columns))
    for ax, table, name in zip(axes, tables, names):
        table = table.reindex(index=rows, columns=list(colours), fill_value=0)
        shares = table.div(table.sum(axis=1).clip(lower=1), axis=0)
        for (label, colour), left in zip(colours.items(), (shares.cumsum(axis=1) - shares).T.to_numpy()):
            bars = ax.barh(range(len(rows)), shares[label], left=left, color=colour, label=_name(label))
            ax.bar_label(bars, [_percent(share) if share >= 0.12 else "" for share in shares[label]],
                         label_type="center", fontsize=9, color="white", weight="bold")
        _rows(ax, [f"{split}\nn = {n:,}" for split, n in table.sum(axis=1).items()])
        ax.set_xlim(0, 1)
        ax.xaxis.set_major_formatter(PercentFormatter(1, symbol=" %"))
        _label(ax, name, "share of the images", "")
    _legend(axes[1], loc="upper left", bbox_to_anchor=(1, 1))
    _caption(axes, caption)
    return axes


# Scans


def read_grey(path: str | Path) -> np.ndarray:
    """The pixels of an image file, upright and in grey: uint8 (H, W). Taught in notebook 01."""
    from .image_files import read  # here, so that a copy of this file draws all else without the library

    return np.asarray(read(path))


def grid(images: Pictures, titles: Iterable[str] | None = None, colours: Iterable[str] | None = None,
         columns: int = 4, ax: Several = None, caption: str = "") -> Panels:
    """Pictures in rows, each in its own shape, with a title and its colour.

    Parameters
    ----------
    images : uint8 (N, C, H, W), or any number of uint8 tensors or arrays (H, W), (1 or 3, H, W) or (H, W, 3).
    titles, colours : one for each picture.

    Raises ValueError for pictures that are no uint8: show them before `augment.normalise`.
    Taught in notebook 01.
    """
    images = [_pixels(image) for image in images]
    if not images:
        raise ValueError("there are no pictures to show; pass at least one")
    columns = min(columns, len(images))
    titles = [_wrapped(title, 104 // columns) for title in ([""] * len(images) if titles is None else titles)]
    colours = [DARK] * len(images) if colours is None else colours
    wide = np.array([image.shape[1] / image.shape[0] for image in images])
    one_row = {"width_ratios": wide} if len(images) == columns else {}
    tall = min(WIDTH / wide.sum() if one_row else WIDTH / columns / np.median(wide), 4)
    lines = max(title.count("\n") + 1 if title else 0 for title in titles)
    tall = (tall + 0.17 * lines + 0.05) * -(-len(images) // columns) + 0.25 * bool(caption)
    axes = _panels(len(images), columns, ax, tall, **one_row)
    for ax, image, title, colour in zip(axes, images, titles, colours, strict=True):
        _show(ax, image, title, colour)
    _caption(axes, caption)
    return axes


def class_grid(records: pd.DataFrame, root: str | Path, per_class: int = 4, seed: int = 0, ax: Several = None,
               caption: str = "") -> Panels:
    """A row of scans for each class, drawn by the seed, of as many different patients as there are.

    Unreadable files are left out; a class with too few others has empty places. The array of Axes has the
    shape (classes, per_class). Taught in notebook 01.
    """
    colours = class_colours(sorted(records["label"].dropna().unique()))
    if not colours:
        raise ValueError(f"none of the {len(records)} records has a label; look at where they come from")
    rows = [_some_of(records[records["label"] == name], Path(root), per_class, seed) for name in colours]
    shape = np.median([image.shape[0] / image.shape[1] for row in rows for image in row] or [1])
    tall = (shape * WIDTH / per_class + 0.05) * len(rows) + 0.25 * bool(caption)
    axes = _panels(len(rows) * per_class, per_class, ax, tall).reshape(len(rows), per_class)
    for line, row, (name, colour) in zip(axes, rows, colours.items()):
        for ax, image in zip(line, row):
            _show(ax, image)
        for ax in line[len(row):]:
            ax.axis("off")
        line[0].text(-0.03, 0.5, _name(name, 18), transform=line[0].transAxes, rotation=90, ha="right", va="center",
                     weight="bold", color=colour)
    _caption(axes.ravel(), caption)
    return axes


def _some_of(records: pd.DataFrame, root: Path, n: int, seed: int) -> list[np.ndarray]:
    """Up to n pictures, of as many patients as there are; files that cannot be read are passed over."""
    mixed = records.sample(frac=1, random_state=seed)
    found = []
    for path in mixed.assign(again=mixed.duplicated("patient")).sort_values("again", kind="stable")["path"]:
        if len(found) == n:
            break
        try:
            found.append(read_grey(root / path))
        except ValueError:  # image_files.UnreadableImage
            continue
    return found


def views(images: Pictures, titles: Iterable[str] | None = None, columns: int = 4, ax: Several = None,
          caption: str = "") -> Panels:
    """An image (the first, framed) and its views, as the network gets them. Taught in notebook 02."""
    images = list(images)
    if titles is None:
        titles = ["the image itself", *(f"view {number}" for number in range(len(images) - 1))]
    axes = grid(images, titles, [BLUE] + [DARK] * (len(images) - 1), columns, ax, caption)
    axes[0].spines[:].set(visible=True, color=BLUE, linewidth=2)
    return axes


def fits(images: Mapping[str, Any], ax: Several = None, caption: str = "") -> Panels:
    """One scan made ready in several ways, side by side, with their sizes: {"squash": pixels, "pad": pixels}.

    Taught in notebook 02.
    """
    shown = {name: _pixels(image) for name, image in images.items()}
    titles = [f"{_name(name)}\n{image.shape[1]}×{image.shape[0]} pixels" for name, image in shown.items()]
    return grid(shown.values(), titles, columns=len(shown), ax=ax, caption=caption)


# Training


def history(history: pd.DataFrame, best: int | None = None, ax: Several = None, caption: str = "") -> Panels:
    """Loss and accuracy by epoch, training and validation, with the best epoch marked.

    `best` is its number; without it, the epoch of the lowest validation loss (training loss where there is no
    validation). A third panel shows the learning rate where it changes, if `ax` has room for it.
    Taught in notebook 03.
    """
    _need(history, ("epoch", "train_loss", "train_accuracy", "val_loss", "val_accuracy"), "pass a history")
    side, word = ("train", "Training") if history["val_loss"].isna().all() else ("val", "Validation")
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
        _label(axes[2], f"Learning rate {rates.iloc[0]:.2g} to {rates.iloc[-1]:.2g}", "epoch", "rate")
    for ax in axes:
        ax.set_xlim(history["epoch"].min() - 0.5, history["epoch"].max() + 0.5)
        ax.xaxis.set_major_locator(MaxNLocator(8, integer=True, min_n_ticks=1))
    _caption(axes, caption)
    return axes


def learning_rates(curve: pd.DataFrame, used: float | None = None, ax: Ax = None, caption: str = "") -> Axes:
    """Loss against the learning rate, as `tuning.find_learning_rate` found it, with its suggestion marked.

    `used` : a rate to mark beside it, such as the recipe's. Taught in notebook 07.
    """
    _need(curve, ("learning_rate", "loss", "smoothed", "suggested"), "pass what tuning.find_learning_rate gives")
    ax = _axes(ax, 3.4, 7.0)
    ax.plot(curve["learning_rate"], curve["loss"], color=DARK, alpha=0.25, linewidth=1)
    ax.plot(curve["learning_rate"], curve["smoothed"], color=DARK, linewidth=2)
    for best in curve.loc[curve["suggested"].astype(bool), "learning_rate"].head(1):
        ax.axvline(best, color=sns.color_palette("colorblind")[0], linewidth=1.5, label=f"suggested {best:.1g}")
    if used is not None:
        ax.axvline(used, color=sns.color_palette("colorblind")[1], linestyle="--", linewidth=1.5, label=f"used {used:.1g}")
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
    for side, word, colour, look in (("train", "training", DARK, "o-"), ("val", "validation", BLUE, "s-")):
        values = history[f"{side}_{name}"]
        if values.notna().any():
            ax.plot(history["epoch"], values, look, color=colour, markersize=4, label=word)
    ax.axvline(best, color=GREY, linestyle=":", label=f"best epoch: {best}")
    ax.legend()


# How good it is


def confusion(table: pd.DataFrame, ax: Ax = None, caption: str = "") -> Axes:
    """Counts of true (rows) against predicted classes (columns), coloured by the share of the row.

    Taught in notebook 04.
    """
    if not table.size or (table.to_numpy(float) % 1 != 0).any():
        raise ValueError(f"found a table of {table.shape} that does not hold counts; pass what evaluation.confusion gives, "
                         "not normalised, as the picture shows counts and shares")
    n, total = len(table), table.to_numpy().sum()
    cell = min(0.9, 6.8 / max(n, 1))  # inches; from 20 classes on numbers would be too small to read
    ax = _axes(ax, 1.5 + 0.95 * cell * max(n, 2), 2.6 + 1.05 * cell * max(n, 2))
    shares = table.div(table.sum(axis=1).clip(lower=1), axis=0)
    words = [[f"{count:,.0f}\n{_percent(share)}" for count, share in zip(*row)]
             for row in zip(table.to_numpy(), shares.to_numpy())]
    names, size = [_name(name, 24) for name in table], {} if n < 20 else {"fontsize": max(4, 330 / n)}
    shown = [_name(name, 24) + ("\n" if n < 13 else "  ") + f"n = {found:,.0f}" for name, found in table.sum(axis=1).items()]
    sns.heatmap(shares, annot=np.array(words) if n < 20 else None, fmt="", cmap="Blues", vmin=0, vmax=1, square=True,
                cbar=False, linewidths=1 if n < 20 else 0.2, annot_kws={"fontsize": 10 if n < 8 else 7 if n < 13 else 5},
                xticklabels=False, yticklabels=False, ax=ax)  # it would draw them at once, with $ as a formula
    ax.set_yticks(np.arange(n) + 0.5, shown, rotation=0, **size)
    long = max(map(len, names)) > 12
    ax.set_xticks(np.arange(n) + 0.5, names, rotation=90 if n > 12 else 30 if long else 0,
                  ha="right" if long and n <= 12 else "center", **size)
    right = np.trace(table.to_numpy())
    return _label(ax, f"{right:,.0f} of {total:,.0f} right ({_percent(right / max(total, 1))})",
                  "predicted (% of the row)", "true", caption)


def roc(curves: Curves, auc: Mapping[str, Any] | None = None, threshold: float | None = None,
        ax: Ax = None, caption: str = "") -> Axes:
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
    return _label(ax, "Found against false alarms (ROC)", "false positive rate (1 − specificity)",
                  "true positive rate (sensitivity)", caption)


def pr(curves: Curves, average_precision: Mapping[str, Any] | None = None, share: float | None = None,
       threshold: float | None = None, ax: Ax = None, caption: str = "") -> Axes:
    """Precision against recall; `share` of the positive draws the line of a model that always says positive.

    `curves` are tables with columns recall and precision (and threshold); the rest as for `roc`.
    Taught in notebook 04.
    """
    ax = _axes(ax, 4.6, _room_for(curves))
    if share is not None:
        ax.axhline(share, linestyle=":", color=GREY)
        ax.text(0.01, share - 0.05, f"always positive: {share:.2f}", color=GREY, fontsize=9)
    _curves(ax, curves, ("recall", "precision"), "AP", _average_precision, average_precision, threshold)
    return _label(ax, "Precision against recall", "recall (sensitivity)",
                  "precision (share of the alarms that are true)", caption)


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


def _curves(ax: Axes, curves: Curves, columns: tuple[str, str], word: str,
            area: Callable[[pd.DataFrame], float], known: Mapping[str, Any] | None,
            threshold: float | None) -> None:
    curves = {"": curves} if isinstance(curves, pd.DataFrame) else curves
    if not curves:
        raise ValueError("there are no curves to draw; pass at least one")
    for (name, curve), colour in zip(curves.items(), class_colours(curves).values()):
        _need(curve, columns + (("threshold",) if threshold is not None else ()), "one row a threshold")
        label = f"{word} {_value((known or {}).get(name, area(curve)))}"
        label = f"{_name(name)}  {label}" if name != "" else label
        ax.plot(*curve[list(columns)].to_numpy().T, color=colour, linewidth=2, label=label)
        if threshold is not None:
            at = curve.loc[(curve["threshold"] - threshold).abs().fillna(np.inf).idxmin(), list(columns)]
            ax.plot(*at, "o", color=colour, markersize=9, markeredgecolor="white", zorder=3)
    if threshold is not None:
        ax.plot([], [], "o", color=GREY, markersize=9, label=f"threshold {threshold:.2f}")
    ax.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), aspect="equal")
    beside = {"loc": "upper left", "bbox_to_anchor": (1, 1)}
    _legend(ax, **(beside if len(curves) > 5 else {"loc": "lower right" if word == "AUC" else "lower left"}))


def calibration(table: pd.DataFrame, ax: Several = None, caption: str = "") -> Panels:
    """Two panels: how often the answers were right by how sure the model was, and how many answers that were.

    `table` has one row a bin: confidence (mean probability of the answer), accuracy, n and, where there are
    intervals, low and high. Taught in notebook 04.
    """
    _need(table, ("confidence", "accuracy", "n"), "pass what evaluation.calibration_table gives")
    upper, lower = axes = _panels(2, 1, ax, 5.2, 5.6, sharex=True, height_ratios=(3, 1))
    table = table[table["n"] > 0]
    sure, right, error = (np.average(values, weights=table["n"]) if len(table) else np.nan for values in (
        table["confidence"], table["accuracy"], (table["confidence"] - table["accuracy"]).abs()))
    upper.plot([0, 1], [0, 1], ":", color=GREY)
    if {"low", "high"} <= set(table):
        upper.vlines(table["confidence"], table["low"], table["high"], color=BLUE, linewidth=2, alpha=0.5)
    upper.plot(table["confidence"], table["accuracy"], "o-", color=BLUE)
    upper.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
    lower.bar(table["confidence"], table["n"], width=0.03, color=BLUE)
    lower.yaxis.set_major_locator(MaxNLocator(3, integer=True))
    _label(upper, f"{_percent(sure)} sure, {_percent(right)} right; mean gap {error:.3f} (ECE)", "",
           "accuracy of these answers")
    _label(lower, "", "confidence (probability of the answer)", "images")
    _caption(axes, caption)
    return axes


def per_class(per_class: Mapping[str, Mapping[str, Any]], ax: Ax = None, caption: str = "") -> Axes:
    """Recall, precision and F1 of each class with their intervals: metrics["per_class"].

    Taught in notebook 04.
    """
    if not per_class:
        raise ValueError("there are no classes to draw; pass metrics['test']['per_class'] or that of another split")
    ax = _axes(ax, 1.2 + 0.7 * len(per_class))
    for row, (name, colour) in enumerate(class_colours(per_class).items()):
        for shift, (measure, marker) in zip((-0.24, 0, 0.24), MEASURES.items()):
            _dot(ax, row + shift, per_class[name].get(measure), colour, marker)
    _rows(ax, [f"{_name(name)}\nn = {found.get('n', 0):,}" for name, found in per_class.items()])
    marks = [Line2D([], [], color=GREY, marker=marker, linestyle="", label=SHORT.get(name, name))
             for name, marker in MEASURES.items()]
    ax.legend(handles=marks, loc="lower right", bbox_to_anchor=(1, 1), ncols=3, borderpad=0.2)
    return _label(ax, "Each class with its intervals", "recall, precision, F1", "", caption)


def intervals(values: Mapping[str, Any], ax: Ax = None, caption: str = "") -> Axes:
    """A dot and an interval for each measure: name -> {"value", "low", "high"}; others are passed over.

    So the metrics of one split can be passed as they are. Taught in notebook 04.
    """
    kept = {name: value for name, value in values.items() if isinstance(value, Mapping) and "value" in value}
    if not kept:
        raise ValueError(f"found no measure with a value among {', '.join(values) or 'nothing'}; pass the "
                         "metrics of one split, such as metrics['test']")
    ax = _forest([_name(SHORT.get(name, name)) for name in kept], list(kept.values()), [BLUE] * len(kept), ax)
    return _label(ax, "Each measure with its interval", "value", "", caption)


def cost_against_accuracy(table: pd.DataFrame, cost: str, ax: Ax = None, caption: str = "") -> Axes:
    """What each model costs against its accuracy: a row a model with `value`, `low`, `high` and a cost column.

    Taught in notebook 06.
    """
    _need(table, ("value", "low", "high", cost), "give each model an accuracy with its interval and its cost")
    ax = _axes(ax, 3.4)
    for (name, row), colour in zip(table.iterrows(), class_colours(table.index).values()):
        at = _interval(row.to_dict())
        ax.vlines(row[cost], at["low"], at["high"], color=colour, linewidth=2)
        ax.plot(row[cost], at["value"], "o", color=colour, markersize=9, label=_name(name))
    ax.margins(x=0.15)
    ax.set_xlim(left=0)
    _legend(ax, loc="upper left", bbox_to_anchor=(1, 1))  # beside the picture: inside it would hide an interval
    return _label(ax, "What does accuracy cost?", _name(cost), "accuracy", caption)


def compare(table: pd.DataFrame, measure: str = "accuracy", ax: Ax = None, caption: str = "") -> Axes:
    """Several runs under each other: a table with name, value, low, high. Taught in notebook 06."""
    _need(table, ("name", "value", "low", "high"), "one row a run")
    colours = class_colours(table["name"])
    ax = _forest(table["name"].map(_name), table.to_dict("records"), table["name"].map(colours), ax)
    best = table.iloc[table["value"].astype(float).fillna(-np.inf).argmax()]
    return _label(ax, f"Highest {measure}: {_name(best['name'])}, {_value(dict(best))}", measure, "", caption)


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


def accuracy_against_count(per_class: Mapping[str, Mapping[str, Any]] | pd.DataFrame,
                           train_counts: Mapping[str, int], ax: Ax = None, caption: str = "") -> Axes:
    """Accuracy of each class (its recall) against the number of images it was trained on: class -> images.

    `per_class` is metrics["per_class"], which has intervals, or what `evaluation.per_class_table` gives,
    which has none. Taught in notebook 05.
    """
    ax = _axes(ax, 3.6, 7.0)
    if isinstance(per_class, pd.DataFrame):
        column = next((name for name in per_class if "recall" in name or name == "accuracy"), "recall")
        _need(per_class, (column,), "pass what evaluation.per_class_table gives")
        per_class = per_class.rename(columns={column: "recall"}).to_dict("index")
    if not per_class:
        raise ValueError("there are no classes to draw; pass metrics['test']['per_class'] or that of another split")
    for name, colour in class_colours(per_class).items():
        at, n = _interval(per_class[name].get("recall")), int(train_counts.get(name, 0))
        ax.vlines(n, at["low"], at["high"], color=colour, linewidth=2)
        ax.plot(n, at["value"], "o", color=colour, markersize=8)
        if not np.isnan(at["value"]):
            ax.annotate(_name(name, 24), (n, at["value"]), (8, 0), textcoords="offset points", va="center",
                        fontsize=9 if len(per_class) <= 20 else 6)
    ax.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    ax.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    ax.set_xlim(0, 1.2 * max([1, *(int(train_counts.get(name, 0)) for name in per_class)]))
    return _label(ax, "Does a class with more training images fare better?", "training images of the class",
                  "accuracy (recall)", caption)


def score_distribution(predictions: pd.DataFrame, positive: str, threshold: float | None = None,
                       ax: Several = None, caption: str = "") -> Panels:
    """A panel for each split: which probability of `positive` the images of each true class got.

    In shares of the class, so that a rare class is as visible as a common one. Images without a label or a
    probability take no part. Taught in notebook 04.
    """
    hint = "pass predictions of labelled images and a class that they know"
    _need(predictions, ("split", "label", f"p_{positive}"), hint)
    predictions = predictions[predictions["label"].replace("", None).notna() & predictions[f"p_{positive}"].notna()]
    _need(predictions, (), hint)
    parts = dict(list(predictions.groupby(predictions["split"].replace("", "no split"))))
    axes = _panels(len(parts), len(parts), ax, 3.2, sharey=True)
    colours = class_colours(sorted(predictions["label"].unique()))
    for ax, split in zip(axes, _ordered(parts)):
        for name, scores in parts[split].groupby("label")[f"p_{positive}"]:
            ax.hist(scores, np.linspace(0, 1, 21), weights=np.full(len(scores), 1 / len(scores)), alpha=0.4,
                    histtype="stepfilled", color=colours[name], edgecolor=colours[name], linewidth=1.5,
                    label=f"{_name(name)} (n = {len(scores):,})")
        if threshold is not None:
            ax.axvline(threshold, ymax=0.7, color=DARK, linestyle="--", label=f"threshold {threshold:.2f}")
        ax.set_xlim(0, 1)
        ax.margins(y=0.4)  # room for the legend above the highest bar
        ax.yaxis.set_major_formatter(PercentFormatter(1, decimals=0, symbol=" %"))
        _legend(ax, 6, loc="upper center")
        _label(ax, f"{split}: {_many(len(parts[split]))}", f"probability of {_name(positive)}", "share of the class")
        ax.label_outer()
    _caption(axes, caption)
    return axes


# Single images


def top_k(image: Any, table: pd.DataFrame, true: str | None = None, ax: Several = None,
          caption: str = "") -> Panels:
    """A scan, and beside it what the model thinks of it: `table` has class and probability, likeliest first.

    With the true class given, the bar of the answer is blue where right and red where wrong.
    Taught in notebook 05.
    """
    _need(table, ("class", "probability"), "pass what inspection.top_k gives")
    left, right = axes = _panels(2, 2, ax, max(3.2, 1 + 0.22 * len(table)))
    answer = table["class"].iloc[table["probability"].fillna(-1).argmax()]
    verdict = "" if true is None else ", right" if answer == true else ", wrong"
    colour = WRONG if verdict == ", wrong" else RIGHT
    _show(left, _pixels(image), _wrapped(f"true: {_name(true)}", 52) if true is not None else "")
    colours = [colour if name == answer else LIGHT for name in table["class"]]
    bars = right.barh(range(len(table)), table["probability"], color=colours)
    right.bar_label(bars, [_percent(share) for share in table["probability"]], padding=4, fontsize=9)
    _rows(right, [_name(name) + " (true)" * (name == true) for name in table["class"]])
    right.set_xlim(0, 1.15)
    right.set_xticks([0, 0.5, 1], ["0 %", "50 %", "100 %"])
    _label(right, f"The model says {_name(answer)}{verdict}", "probability", "")
    _caption(axes, caption)
    return axes


def errors(images: Pictures, predictions: pd.DataFrame, columns: int = 4, ax: Several = None,
           caption: str = "") -> Panels:
    """Scans with "true → predicted" and the probability of the answer: blue where right, red where wrong.

    `predictions` has one row an image, in their order; without any, "no errors" is said in their place. Images
    without a label are neither right nor wrong. Taught in notebook 05.
    """
    images, rows = list(images), predictions.to_dict("records")
    if not images and not rows:
        return _nothing("no errors", ax, caption)
    _need(predictions, ("label", "predicted"), "pass rows of predictions")
    if len(images) != len(rows):
        raise ValueError(f"found {len(images)} images and {len(rows)} predictions; pass one row an image")
    unknown = [pd.isna(row["label"]) or row["label"] == "" for row in rows]
    truths = ["no label" if lost else _name(row["label"]) for row, lost in zip(rows, unknown)]
    titles = [f"{truth} → {_name(row['predicted'])}" for row, truth in zip(rows, truths)]
    sure = [row.get(f"p_{row['predicted']}") for row in rows]
    titles = [title if p is None else f"{title}\nprobability {_percent(p)}" for title, p in zip(titles, sure)]
    colours = [DARK if lost else RIGHT if row["label"] == row["predicted"] else WRONG for row, lost in zip(rows, unknown)]
    return grid(images, titles, colours, columns, ax, caption)


def _nothing(words: str, ax: Several, caption: str) -> Panels:
    axes = _panels(1, 1, ax, 1.2)
    axes[0].axis("off")
    axes[0].text(0.5, 0.5, words, transform=axes[0].transAxes, ha="center", va="center", color=GREY)
    _caption(axes, caption)
    return axes


def overlay(image: Any, heatmap: Any, title: str = "", ax: Several = None, caption: str = "") -> Panels:
    """Three panels: the scan, the map of what counted for the answer, and the map over the scan.

    `heatmap` is an array or tensor (h, w) or (1, h, w) of any size, stretched over the image. A map with
    negative values runs from blue (against) over white to red (for), another from dark to bright; over the
    scan it is the more opaque the more it says. Places that are no finite number stay without colour. Taught in
    notebook 05.
    """
    pixels = _pixels(image)
    values = _array(heatmap).astype(float)
    values = values[0] if values.ndim == 3 and len(values) == 1 else values
    if values.ndim != 2 or not values.size:
        raise ValueError(f"found a heatmap of shape {np.shape(heatmap)}; expected one number a place, (h, w)")
    finite = np.isfinite(values)
    lowest, highest = (values[finite].min(), values[finite].max()) if finite.any() else (0.0, 0.0)
    values, signed, top = np.where(finite, values, np.nan), lowest < 0, max(abs(lowest), abs(highest), 1e-12)
    height, width = pixels.shape[:2]
    look = {"cmap": "RdBu_r" if signed else "inferno", "vmin": -top if signed else 0, "vmax": top,
            "extent": (-0.5, width - 0.5, height - 0.5, -0.5), "interpolation": "bilinear"}
    low, high = (0 if abs(edge) < 0.001 * top else edge for edge in (lowest, highest))
    span = f"{low:.2g} to {high:.2g}" if finite.any() else "not a number anywhere"
    span += f", {_percent(1 - finite.mean())} no number" if 0 < finite.mean() < 1 else ""
    names = [_wrapped(title or "the scan", 40), f"the map, {span}", "the map over the scan"]
    axes = grid([pixels] * 3, names, columns=3, ax=ax, caption=caption)
    axes[1].imshow(values, **look)
    axes[2].imshow(values, alpha=0.7 * np.nan_to_num(np.abs(values)) / top, **look)
    return axes


# What they share


def _axes(ax: Ax, height: float, width: float = WIDTH) -> Axes:
    return _panels(1, 1, None, height, width)[0] if ax is None else ax


def _panels(n: int, columns: int, ax: Several, height: float, width: float = WIDTH, **options: Any) -> Panels:
    """n Axes in rows: those of a new figure of this size, or the first n of those given."""
    if ax is not None:
        axes = np.asarray(ax, dtype=object).ravel()
        if len(axes) < n:
            raise ValueError(f"found {len(axes)} Axes; this picture needs {n}, so pass {n} or leave ax out")
        return axes[:n]
    figure, axes = plt.subplots(-(-n // columns), columns, figsize=(width, height), layout="constrained",
                                squeeze=False, **options)
    for spare in axes.flat[n:]:
        spare.remove()
    return axes.ravel()[:n]


def _label(ax: Axes, title: str, x: str, y: str, caption: str = "") -> Axes:
    ax.set_title(title, loc="left")
    ax.set(xlabel=x, ylabel=y)
    _caption([ax], caption)
    return ax


def _caption(axes: Sequence[Axes], caption: str) -> None:
    """Under the whole figure where all of it is this picture, else under the first Axes; no $ is a formula's."""
    for text in (text for ax in axes for text in ax.findobj(Text)):
        text.set_parse_math(False)
    figure = axes[0].figure
    if caption and set(figure.axes) == set(axes) and figure.get_layout_engine() is not None:
        text = textwrap.fill(caption, int(16 * figure.get_figwidth()))
        figure.supxlabel(text, x=0.01, ha="left", color=GREY, fontsize=8)
    elif caption:
        axes[0].annotate(caption, (0, 0), xycoords=("axes fraction", axes[0].xaxis.label), xytext=(0, -4),
                         textcoords="offset points", va="top", color=GREY, fontsize=8, annotation_clip=False)


def _show(ax: Axes, pixels: np.ndarray, title: str = "", colour: str = DARK) -> None:
    ax.imshow(pixels, cmap="gray", vmin=0, vmax=255)
    ax.set(xticks=[], yticks=[], anchor="NW")
    ax.grid(False)
    ax.spines[:].set_visible(False)
    ax.set_title(title, color=colour, fontsize=9, loc="left", pad=3)


def _pixels(image: Any) -> np.ndarray:
    """uint8 (H, W) or (H, W, 3) of a tensor, an array or a PIL image."""
    pixels = _array(image)
    if pixels.ndim == 3 and pixels.shape[0] in (1, 3):
        pixels = np.moveaxis(pixels, 0, -1)
    pixels = pixels[..., 0] if pixels.ndim == 3 and pixels.shape[-1] == 1 else pixels
    if pixels.dtype != np.uint8 or pixels.ndim not in (2, 3) or not pixels.size:
        raise ValueError(f"found a picture of {pixels.dtype}, shape {np.shape(image)}; expected uint8 (H, W) "
                         "or (1 or 3, H, W), as the loader gives it, before normalise")
    return pixels


def _array(values: Any) -> np.ndarray:
    """A tensor of any device, or anything that numpy understands, as an array."""
    return np.asarray(values.detach().cpu() if hasattr(values, "detach") else values)


def _ordered(splits: Iterable[str]) -> list[str]:
    return sorted(splits, key=lambda name: (SPLITS.index(name) if name in SPLITS else len(SPLITS), name))


def _crosstab(records: pd.DataFrame) -> pd.DataFrame:
    table = pd.crosstab(records["split"].replace("", "no split"), records["label"])
    if table.empty:
        raise ValueError("there are no records with a label to draw; look at where they come from")
    return table.loc[_ordered(table.index)]


def _need(table: pd.DataFrame, columns: tuple[str, ...], hint: str) -> None:
    if absent := [name for name in columns if name not in table]:
        raise ValueError(f"the table lacks {', '.join(absent)} (it has {', '.join(map(str, table))}); {hint}")
    if table.empty:
        raise ValueError(f"the table is empty, so there is nothing to draw; {hint}")


def _name(name: object, longest: int = 36) -> str:
    """A class's or run's name in one line, its middle left out where it is long, as fits beside a picture."""
    text = re.sub(r"[\x00-\x1f\x7f]+", " ", str(name))
    text = " " + text if text.startswith("_") else text  # matplotlib leaves labels that begin so out of legends
    half = longest // 2
    return text if len(text) <= longest else f"{text[:half]}…{text[-half + 1:]}"


def _legend(ax: Axes, most: int = 12, **place: Any) -> None:
    """The legend of at most so many entries: there are but ten colours, and more would leave no room."""
    handles, labels = ax.get_legend_handles_labels()
    if len(handles) > most:
        handles = [*handles[:most], Line2D([], [], linestyle="")]
        labels = [*labels[:most], f"and {len(labels) - most} more"]
    ax.legend(handles, labels, **place)


def _rows(ax: Axes, names: Sequence[str]) -> None:
    """Name the rows of a lying chart, the first on top."""
    ax.set_yticks(range(len(names)), names)
    ax.set_ylim(len(names) - 0.4, -0.6)
    ax.grid(False, axis="y")


def _at_right(ax: Axes, row: float, text: str, colour: str = DARK, weight: str = "normal") -> None:
    ax.text(1.01, row, text, transform=ax.get_yaxis_transform(), va="center", fontsize=9, color=colour,
            weight=weight)


def _forest(names: Iterable[str], values: Sequence[Any], colours: Iterable[str], ax: Ax) -> Axes:
    """Dots with intervals, one below the other, and the numbers at the right."""
    ax = _axes(ax, 1.1 + 0.34 * len(values))
    for row, (value, colour) in enumerate(zip(values, colours)):
        _dot(ax, row, value, colour)
    _rows(ax, list(names))
    return ax


def _dot(ax: Axes, row: float, value: Any, colour: str, marker: str = "o") -> None:
    at = _interval(value)
    ax.hlines(row, at["low"], at["high"], color=colour, linewidth=2)
    ax.plot(at["value"], row, marker, color=colour, markersize=7)
    _at_right(ax, row, _value(at))


def _interval(value: Any) -> dict[str, float]:
    """value, low and high as floats; NaN where there is none (JSON says null)."""
    value = value if isinstance(value, Mapping) else {"value": value}
    found = ((name, value.get(name)) for name in ("value", "low", "high"))
    return {name: np.nan if number is None else float(number) for name, number in found}


def _value(value: Any) -> str:
    at = _interval(value)
    if np.isnan(at["value"]):
        return "not known"
    return f"{at['value']:.3f}" + ("" if np.isnan(at["low"]) else f" ({at['low']:.3f}–{at['high']:.3f})")


def _percent(share: float) -> str:
    if np.isnan(share):
        return "not known"
    if 0 < share < 0.01 or 0.99 < share < 1:
        return "<1 %" if share < 0.5 else ">99 %"
    return f"{100 * share:.0f} %"


def _many(n: int, what: str = "image") -> str:
    return f"{n:,} {what}{'' if n == 1 else 's'}"


def _wrapped(text: str, width: int) -> str:
    return "\n".join(textwrap.fill(line, width, break_on_hyphens=False) for line in str(text).split("\n"))
