"""What the data are: how many images, of what size, of whom, how split, and what is wrong."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.ticker import MaxNLocator, PercentFormatter
from scipy.ndimage import gaussian_filter1d

from ..core.words import many
from .style import (
    BLUE,
    DARK,
    GREY,
    ORANGE,
    VERDICTS,
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

_PATIENT_BINS = (1, 2, 3, 4, 5, 10, 20, 50, 100, 200, 500, 1000)  # images of one patient, from


def counts(records: pd.DataFrame, ax: Axes | None = None, caption: str = "") -> Axes:
    """Draw bars with numbers: the images of each class in each split.

    Parameters
    ----------
    records : table with split and label
    ax, caption : Axes and str, see `tlutils.plots`

    Returns
    -------
    Axes

    Examples
    --------
    >>> records = pd.DataFrame({"split": ["train"] * 3, "label": ["CNV", "CNV", "DME"]})
    >>> counts(records).get_title(loc="left")
    '3 images: from 1 DME to 2 CNV'
    """
    (ax,) = panels(ax, 3.6)
    table = _crosstab(records)
    width = 0.8 / len(table.columns)
    for i, (name, color) in enumerate(class_colors(table).items()):
        middle = np.arange(len(table)) - 0.4 + (i + 0.5) * width
        bars = ax.bar(middle, table[name], width, color=color, label=short_name(name))
        if table.size <= 60:  # more numbers would lie on each other
            ax.bar_label(bars, fmt="{:,.0f}", fontsize=8, padding=1)
    ax.grid(False, axis="x")
    ax.margins(y=0.1)
    ax.yaxis.set_major_formatter("{x:,.0f}")
    legend(ax, loc="upper left", bbox_to_anchor=(1, 1))
    splits = [f"{name}\n{many(n)}" for name, n in table.sum(axis=1).items()]
    ax.set_xticks(range(len(table)), splits)
    total = table.sum().sort_values()
    few, most = (f"{total.iloc[i]:,} {short_name(total.index[i], 24)}" for i in (0, -1))
    found = f"from {few} to {most}" if len(total) > 1 else f"all {short_name(total.index[0])}"
    return label(ax, f"{many(total.sum())}: {found}", "", "images", caption)


def sizes(records: pd.DataFrame, ax: Iterable[Axes] | None = None, caption: str = "") -> np.ndarray:
    """Draw every size that occurs (a dot's area: share of the images), and both sides' density.

    Parameters
    ----------
    records : table with width and height, as after `records.inspect`; images without take no part
    ax, caption : iterable of Axes and str, see `tlutils.plots`

    Returns
    -------
    np.ndarray of 2 Axes

    Raises
    ------
    ValueError
        Where no image has a size.
    """
    require(records, ("width", "height"), "pass records after records.inspect, which adds them")
    sides = records[["width", "height"]].dropna().astype(int)
    if sides.empty:
        raise ValueError(
            f"none of the {len(records)} records has a width and a height; no file was readable"
        )
    left, right = axes = panels(ax, 3.6, 2)
    shares = sides.value_counts(normalize=True)
    look = {"facecolor": to_rgba(BLUE, 0.6), "edgecolor": BLUE}
    left.scatter(*zip(*shares.index), s=12 + 600 * shares, **look)
    left.margins(0.12)
    for axis in (left.xaxis, left.yaxis):
        axis.set_major_locator(MaxNLocator(6, integer=True, min_n_ticks=1))
    (width, height), share = shares.index[0], shares.iloc[0]
    most = f", {percent(share)} are {width}×{height}" if share >= 0.05 else ""
    title = f"{many(len(sides))}, {many(len(shares), 'size')}{most}"
    label(left, title, "width (pixels)", "height (pixels)")
    for side, color, dashes in (("width", BLUE, "-"), ("height", ORANGE, "--")):
        name = f"{side}, {sides[side].min():,} to {sides[side].max():,}"
        right.plot(*_density(sides[side], sides.to_numpy()), dashes, color=color, label=name)
    right.set_yticks([])
    right.set_ylim(bottom=0)
    right.legend(loc="upper right")
    title = "Median {width:,.0f}×{height:,.0f}".format(**sides.median())
    label(right, title, "pixels", "density of the images")
    add_caption(axes, caption)
    return axes


def _density(values: pd.Series, everything: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A smoothed histogram: unlike a kernel estimate it stands where all values are the same."""
    margin = 0.15 * np.ptp(everything) + 10
    edges = np.linspace(max(everything.min() - margin, 0), everything.max() + margin, 401)
    density = np.histogram(values, edges, density=True)[0]
    return (edges[:-1] + edges[1:]) / 2, gaussian_filter1d(density, 6)


def patients(records: pd.DataFrame, ax: Axes | None = None, caption: str = "") -> Axes:
    """Draw how many patients have how many images.

    Parameters
    ----------
    records : table with patient; images of unknown patients ("?...", "", none) take no part
    ax, caption : Axes and str, see `tlutils.plots`

    Returns
    -------
    Axes
    """
    (ax,) = panels(ax, 3.2)
    patient = records["patient"].astype(object).where(records["patient"].notna(), "").astype(str)
    known = patient[~patient.str.match(r"\?|$")]
    each = known.value_counts()
    if each.empty:
        return label(ax, f"The patient of none of {many(len(records))} is known", "", "", caption)
    starts = [start for start in _PATIENT_BINS if start <= each.max()]
    ends = [*(start - 1 for start in starts[1:]), each.max()]
    names = [f"{a}" if a == b else f"{a}–{b}" for a, b in zip(starts, ends)]
    found = np.histogram(each, [*starts, np.inf])[0]
    ax.bar_label(ax.bar(names, found, color=BLUE), fmt="{:,.0f}", fontsize=9, padding=1)
    ax.margins(y=0.1)
    ax.yaxis.set_major_locator(MaxNLocator(6, integer=True))
    ax.yaxis.set_major_formatter("{x:,.0f}")
    ax.grid(False, axis="x")
    spread = f"{each.min():,} to {each.max():,} images each, median {each.median():g}"
    title, lost = f"{many(len(each), 'patient')}, {spread}", len(records) - len(known)
    title += f"; {many(lost)} of unknown patients" if lost else ""
    return label(ax, title, "images of one patient", "patients", caption)


def audit(audit: pd.DataFrame, ax: Axes | None = None, caption: str = "") -> Axes:
    """Draw a bar for each check: the share of images concerned, in the color of its verdict.

    Parameters
    ----------
    audit : DataFrame, what `audit.audit_splits` gives
    ax, caption : Axes and str, see `tlutils.plots`

    Returns
    -------
    Axes
    """
    columns = ("check", "splits", "found", "of", "share", "verdict")
    require(audit, columns, "pass what audit.audit_splits gives")
    (ax,) = panels(ax, 1.1 + 0.26 * len(audit))
    colors = {**VERDICTS, "unknown": GREY}
    ax.barh(range(len(audit)), audit["share"], color=audit["verdict"].map(colors))
    names = []
    for y, row in enumerate(audit.itertuples()):
        fine = row.verdict in ("ok", "unknown")
        share = f"{row.found:,} of {row.of:,} ({percent(row.share)})"
        found = row.verdict if fine else f"{row.verdict}: {share}"
        weight = "bold" if row.verdict == "leak" else "normal"
        note_at_right(ax, y, found, color=GREY if fine else DARK, weight=weight)
        names.append(row.check if row.splits == "all" else f"{row.check}, {row.splits}")
    name_rows(ax, names)
    ax.set_xlim(0, max(0.05, 1.05 * audit["share"].max()))
    ax.xaxis.set_major_formatter(PercentFormatter(1, decimals=0, symbol=" %"))
    n = audit["verdict"].value_counts()
    what = " and ".join(many(n[name], name) for name in ("leak", "warning") if name in n)
    title = f"The audit found {what or 'nothing'} in {many(len(audit), 'check')}"
    return label(ax, title, "share of the images concerned", "", caption)


def split_bars(
    official: pd.DataFrame,
    by_patient: pd.DataFrame,
    ax: Iterable[Axes] | None = None,
    caption: str = "",
) -> np.ndarray:
    """Draw the share of each class in every split, for two ways to split.

    Parameters
    ----------
    official, by_patient : tables with split and label
    ax, caption : iterable of Axes and str, see `tlutils.plots`

    Returns
    -------
    np.ndarray of 2 Axes
    """
    axes = panels(ax, 2.6, 2)
    tables = [_crosstab(official), _crosstab(by_patient)]
    rows = in_split_order(tables[0].index.union(tables[1].index))
    colors = class_colors(tables[0].columns.union(tables[1].columns))
    for ax, table, title in zip(axes, tables, ("Official split", "By patient")):
        table = table.reindex(index=rows, columns=list(colors), fill_value=0)
        shares = table.div(table.sum(axis=1).clip(lower=1), axis=0)
        starts = shares.cumsum(axis=1) - shares
        for name, color in colors.items():
            look = {"color": color, "label": short_name(name)}
            bars = ax.barh(range(len(rows)), shares[name], left=starts[name], **look)
            words = [percent(share) if share >= 0.12 else "" for share in shares[name]]
            look = {"fontsize": 9, "color": readable_on(color), "weight": "bold"}
            ax.bar_label(bars, words, label_type="center", **look)
        name_rows(ax, [f"{split}\nn = {n:,}" for split, n in table.sum(axis=1).items()])
        ax.set_xlim(0, 1)
        ax.xaxis.set_major_formatter(PercentFormatter(1, symbol=" %"))
        label(ax, title, "share of the images", "")
    legend(axes[1], loc="upper left", bbox_to_anchor=(1, 1))
    add_caption(axes, caption)
    return axes


def _crosstab(records: pd.DataFrame) -> pd.DataFrame:
    table = pd.crosstab(records["split"].replace("", "no split"), records["label"])
    if table.empty:
        raise ValueError("there are no records with a label to draw; look at where they come from")
    return table.loc[in_split_order(table.index)]
