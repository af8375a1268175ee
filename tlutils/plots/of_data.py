"""Pictures: a table or an array in, matplotlib Axes out.

Every function draws into `ax` (one Axes, or as many as the picture has panels) or, where it is None, makes a
figure as wide as a notebook page; none shows or saves it. One panel comes back as an Axes, several as an
array of Axes. A `caption` is a small grey line under the picture for what a reader must know: phantom data,
random weights, the split. Call `style()` once at the top of a notebook.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import (
    MaxNLocator,
    PercentFormatter,
    StrMethodFormatter,
)
from scipy.ndimage import gaussian_filter1d

from .style import (
    BLUE,
    DARK,
    GREY,
    ORANGE,
    VERDICTS,
    Ax,
    Panels,
    Several,
    _at_right,
    _axes,
    _caption,
    _label,
    _legend,
    _many,
    _name,
    _need,
    _ordered,
    _panels,
    _percent,
    _rows,
    class_colors,
)

PATIENT_BINS = (1, 2, 3, 4, 5, 10, 20, 50, 100, 200, 500, 1000)


# What the data are


def counts(records: pd.DataFrame, ax: Ax = None, caption: str = "") -> Axes:
    """Bars with numbers: the images of each class in each split. Taught in notebook 01."""
    ax = _axes(ax, 3.6)
    table = _crosstab(records)
    width = 0.8 / len(table.columns)
    for place, (label, color) in enumerate(class_colors(table).items()):
        places = np.arange(len(table)) - 0.4 + (place + 0.5) * width
        bars = ax.bar(places, table[label], width, color=color, label=_name(label))
        if table.size <= 60:  # more numbers would lie on each other
            ax.bar_label(bars, fmt="{:,.0f}", fontsize=8, padding=1)
    ax.grid(False, axis="x")
    ax.margins(y=0.1)
    ax.yaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    _legend(ax, loc="upper left", bbox_to_anchor=(1, 1))
    ax.set_xticks(
        range(len(table)), [f"{name}\n{_many(n)}" for name, n in table.sum(axis=1).items()]
    )
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
        raise ValueError(
            f"none of the {len(records)} records has a width and a height; no file was readable"
        )
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
    for side, color, dashes in (("width", BLUE, "-"), ("height", ORANGE, "--")):
        name = f"{side}, {sides[side].min():,} to {sides[side].max():,}"
        ax.plot(*_density(sides[side], sides.to_numpy()), dashes, color=color, label=name)
    ax.set_yticks([])
    ax.set_ylim(bottom=0)
    ax.legend(loc="upper right")
    middle = sides.median()
    _label(
        ax,
        f"Median {middle['width']:,.0f}×{middle['height']:,.0f}",
        "pixels",
        "density of the images",
    )


def _density(values: pd.Series, everything: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A smoothed histogram: unlike a kernel estimate it also stands where all values are the same."""
    room = 0.15 * np.ptp(everything) + 10
    edges = np.linspace(max(everything.min() - room, 0), everything.max() + room, 401)
    return (edges[:-1] + edges[1:]) / 2, gaussian_filter1d(
        np.histogram(values, edges, density=True)[0], 6
    )


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
    """A bar for each check of `audit.audit_splits`: the share of images concerned, in the color of its verdict.

    Taught in notebook 01.
    """
    _need(
        audit,
        ("check", "splits", "found", "of", "share", "verdict"),
        "pass what audit.audit_splits gives",
    )
    ax = _axes(ax, 1.1 + 0.26 * len(audit))
    ax.barh(range(len(audit)), audit["share"], color=audit["verdict"].map(VERDICTS))
    for y, row in enumerate(audit.itertuples()):
        found = f"{row.verdict}: {row.found:,} of {row.of:,} ({_percent(row.share)})"
        _at_right(
            ax,
            y,
            found if row.verdict != "ok" else "ok",
            GREY if row.verdict == "ok" else DARK,
            weight="bold" if row.verdict == "leak" else "normal",
        )
    _rows(
        ax,
        [
            row.check + (f", {row.splits}" if row.splits != "all" else "")
            for row in audit.itertuples()
        ],
    )
    ax.set_xlim(0, max(0.05, 1.05 * audit["share"].max()))
    ax.xaxis.set_major_formatter(PercentFormatter(1, decimals=0, symbol=" %"))
    found = audit["verdict"].value_counts()
    what = [_many(found[name], name) for name in ("leak", "warning") if name in found]
    return _label(
        ax,
        f"The audit found {' and '.join(what) or 'nothing'} in {_many(len(audit), 'check')}",
        "share of the images concerned",
        "",
        caption,
    )


def split_bars(
    before: pd.DataFrame,
    after: pd.DataFrame,
    names: tuple[str, str] = ("Official split", "By patient"),
    ax: Several = None,
    caption: str = "",
) -> Panels:
    """Two panels, two ways to split: the share of each class in every split. Taught in notebook 02."""
    axes = _panels(2, 2, ax, 2.6)
    tables = [_crosstab(before), _crosstab(after)]
    rows = _ordered(tables[0].index.union(tables[1].index))
    colors = class_colors(tables[0].columns.union(tables[1].columns))
    for ax, table, name in zip(axes, tables, names):
        table = table.reindex(index=rows, columns=list(colors), fill_value=0)
        shares = table.div(table.sum(axis=1).clip(lower=1), axis=0)
        for (label, color), left in zip(
            colors.items(), (shares.cumsum(axis=1) - shares).T.to_numpy()
        ):
            bars = ax.barh(
                range(len(rows)), shares[label], left=left, color=color, label=_name(label)
            )
            ax.bar_label(
                bars,
                [_percent(share) if share >= 0.12 else "" for share in shares[label]],
                label_type="center",
                fontsize=9,
                color="white",
                weight="bold",
            )
        _rows(ax, [f"{split}\nn = {n:,}" for split, n in table.sum(axis=1).items()])
        ax.set_xlim(0, 1)
        ax.xaxis.set_major_formatter(PercentFormatter(1, symbol=" %"))
        _label(ax, name, "share of the images", "")
    _legend(axes[1], loc="upper left", bbox_to_anchor=(1, 1))
    _caption(axes, caption)
    return axes


def _crosstab(records: pd.DataFrame) -> pd.DataFrame:
    table = pd.crosstab(records["split"].replace("", "no split"), records["label"])
    if table.empty:
        raise ValueError("there are no records with a label to draw; look at where they come from")
    return table.loc[_ordered(table.index)]
