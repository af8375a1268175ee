"""Pictures: a table or an array in, matplotlib Axes out.

Every function draws into `ax` (one Axes, or as many as the picture has panels) or, where it is None, makes a
figure as wide as a notebook page; none shows or saves it. One panel comes back as an Axes, several as an
array of Axes. A `caption` is a small grey line under the picture for what a reader must know: phantom data,
random weights, the split. Call `style()` once at the top of a notebook.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterable, Mapping, Sequence
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

WIDTH = 9.0  # inches; at 100 dots an inch a notebook shows it unscaled
PALETTE = sns.color_palette("colorblind").as_hex()
BLUE, ORANGE, GREEN, RED, PINK, _, _, _, YELLOW, _ = PALETTE
WINE = "#882255"  # of Paul Tol's muted scheme; seaborn's pink is too near its blue for eyes without red cones
DARK, GREY, LIGHT = "#444444", "#949494", "#dddddd"
RIGHT, WRONG = BLUE, RED
VERDICTS = {"leak": RED, "warning": YELLOW, "ok": GREEN}
# Fixed, so that the color of a class does not depend on which others a picture happens to show.
KNOWN = {
    "CNV": BLUE,
    "DME": ORANGE,
    "DRUSEN": WINE,
    "NORMAL": GREEN,
    "PNEUMONIA": RED,
    "BACTERIA": RED,
    "VIRUS": PINK,
}
SPLITS = ("train", "val", "test", "no split")
SHORT = {
    "auc": "AUC",
    "f1": "F1",
    "macro_f1": "macro F1",
    "balanced_accuracy": "balanced accuracy",
    "ppv": "PPV",
    "npv": "NPV",
}
# For class names that are not Latin: those of them that are installed step in where the first font has no such letter.
FONTS = (
    "Noto Sans CJK JP",
    "Noto Sans CJK SC",
    "Microsoft YaHei",
    "Hiragino Sans",
    "PingFang SC",
    "WenQuanYi Micro Hei",
    "Noto Sans Arabic",
    "Noto Sans Devanagari",
    "Noto Emoji",
    "Segoe UI Emoji",
    "Arial Unicode MS",
)

Panels = np.ndarray  # of Axes
Ax = Axes | None
Several = Sequence[Axes] | np.ndarray | None


def style() -> None:
    """Set the look of all pictures that follow: white, thin grid lines, letters of 9 to 11 points.

    Taught in notebook 01.
    """
    installed = set(get_font_names())
    sns.set_theme(
        style="whitegrid",
        palette="colorblind",
        rc={
            "font.family": ["sans-serif", *(font for font in FONTS if font in installed)],
            "figure.dpi": 100,
            "figure.figsize": (WIDTH, 4.0),
            "figure.constrained_layout.use": True,
            "font.size": 10,
            "axes.titlesize": 11,
            "axes.labelsize": 10,
            "legend.fontsize": 9,
            "xtick.labelsize": 9,
            "ytick.labelsize": 9,
            "axes.titlelocation": "left",
            "axes.edgecolor": GREY,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "grid.color": "#e8e8e8",
            "grid.linewidth": 0.8,
            "legend.edgecolor": "none",
            "legend.framealpha": 0.85,
        },
    )


def class_colors(classes: Iterable[str]) -> dict[str, str]:
    """A color for each class, in the given order, that people with color blindness can tell apart.

    The classes of the Kermany sets always have the same colors, in either case of letters; other names get
    those that are left, by the alphabet, so one set of classes looks the same in every picture. Beyond ten
    they repeat. Taught in notebook 01.
    """
    names = list(dict.fromkeys(map(str, classes)))
    fixed = {name: KNOWN[name.upper()] for name in names if name.upper() in KNOWN}
    left = [color for color in PALETTE if color not in fixed.values()]
    others = sorted(set(names) - set(fixed))
    return {name: fixed.get(name) or left[others.index(name) % len(left)] for name in names}


# Scans


def read_gray(path: str | Path) -> np.ndarray:
    """The pixels of an image file, upright and in grey: uint8 (H, W). Taught in notebook 01."""
    from ..core.images import (
        read,  # here, so that a copy of this file draws all else without the library
    )

    return np.asarray(read(path))


# What they share


def _axes(ax: Ax, height: float, width: float = WIDTH) -> Axes:
    return _panels(1, 1, None, height, width)[0] if ax is None else ax


def _panels(
    n: int, columns: int, ax: Several, height: float, width: float = WIDTH, **options: Any
) -> Panels:
    """n Axes in rows: those of a new figure of this size, or the first n of those given."""
    if ax is not None:
        axes = np.asarray(ax, dtype=object).ravel()
        if len(axes) < n:
            raise ValueError(
                f"found {len(axes)} Axes; this picture needs {n}, so pass {n} or leave ax out"
            )
        return axes[:n]
    figure, axes = plt.subplots(
        -(-n // columns),
        columns,
        figsize=(width, height),
        layout="constrained",
        squeeze=False,
        **options,
    )
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
        axes[0].annotate(
            caption,
            (0, 0),
            xycoords=("axes fraction", axes[0].xaxis.label),
            xytext=(0, -4),
            textcoords="offset points",
            va="top",
            color=GREY,
            fontsize=8,
            annotation_clip=False,
        )


def _array(values: Any) -> np.ndarray:
    """A tensor of any device, or anything that numpy understands, as an array."""
    return np.asarray(values.detach().cpu() if hasattr(values, "detach") else values)


def _ordered(splits: Iterable[str]) -> list[str]:
    return sorted(
        splits, key=lambda name: (SPLITS.index(name) if name in SPLITS else len(SPLITS), name)
    )


def _need(table: pd.DataFrame, columns: tuple[str, ...], hint: str) -> None:
    if absent := [name for name in columns if name not in table]:
        raise ValueError(
            f"the table lacks {', '.join(absent)} (it has {', '.join(map(str, table))}); {hint}"
        )
    if table.empty:
        raise ValueError(f"the table is empty, so there is nothing to draw; {hint}")


def _name(name: object, longest: int = 36) -> str:
    """A class's or run's name in one line, its middle left out where it is long, as fits beside a picture."""
    text = re.sub(r"[\x00-\x1f\x7f]+", " ", str(name))
    text = (
        " " + text if text.startswith("_") else text
    )  # matplotlib leaves labels that begin so out of legends
    half = longest // 2
    return text if len(text) <= longest else f"{text[:half]}…{text[-half + 1 :]}"


def _legend(ax: Axes, most: int = 12, **place: Any) -> None:
    """The legend of at most so many entries: there are but ten colors, and more would leave no room."""
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


def _at_right(ax: Axes, row: float, text: str, color: str = DARK, weight: str = "normal") -> None:
    ax.text(
        1.01,
        row,
        text,
        transform=ax.get_yaxis_transform(),
        va="center",
        fontsize=9,
        color=color,
        weight=weight,
    )


def _interval(value: Any) -> dict[str, float]:
    """value, low and high as floats; NaN where there is none (JSON says null)."""
    value = value if isinstance(value, Mapping) else {"value": value}
    found = ((name, value.get(name)) for name in ("value", "low", "high"))
    return {name: np.nan if number is None else float(number) for name, number in found}


def _value(value: Any) -> str:
    at = _interval(value)
    if np.isnan(at["value"]):
        return "not known"
    return f"{at['value']:.3f}" + (
        "" if np.isnan(at["low"]) else f" ({at['low']:.3f}–{at['high']:.3f})"
    )


def _percent(share: float) -> str:
    if np.isnan(share):
        return "not known"
    if 0 < share < 0.01 or 0.99 < share < 1:
        return "<1 %" if share < 0.5 else ">99 %"
    return f"{100 * share:.0f} %"


def _many(n: int, what: str = "image") -> str:
    return f"{n:,} {what}{'' if n == 1 else 's'}"


def _wrapped(text: str, width: int) -> str:
    return "\n".join(
        textwrap.fill(line, width, break_on_hyphens=False) for line in str(text).split("\n")
    )
