"""What all pictures have in common: the look, colors that can be read, the parts they share."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterable, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.colors import to_hex, to_rgb
from matplotlib.font_manager import get_font_names
from matplotlib.lines import Line2D
from matplotlib.text import Text

PAGE_WIDTH = 9.0  # inches; at 100 dots an inch a notebook shows it unscaled
# Seaborn's "colorblind", the pale ones darkened: on white each has a contrast of 3 to 1, as WCAG
# 2.2 asks of graphics; `ink` darkens further what is read.
BLUE, ORANGE, GREEN, RED, PINK = "#0173b2", "#c98000", "#029e73", "#d55e00", "#cc78bc"
_PALETTE = [BLUE, ORANGE, GREEN, RED, PINK, "#a9745a", "#a33f8f", "#6e6e6e", "#8f8a00", "#2b8fc4"]
# Of Paul Tol's muted scheme; seaborn's pink is too near its blue for eyes without red cones.
WINE = "#882255"
DARK, GREY, LIGHT = "#444444", "#6e6e6e", "#dddddd"  # GREY is for words too: 5.1 to 1
RIGHT, WRONG = BLUE, RED
VERDICTS = {"leak": "#a01c12", "warning": ORANGE, "ok": GREEN}
# Fixed, so that the color of a class does not depend on which others a picture happens to show.
_CLASS_COLORS = {"CNV": BLUE, "DME": ORANGE, "DRUSEN": WINE, "NORMAL": GREEN}
_CLASS_COLORS |= {"PNEUMONIA": RED, "BACTERIA": RED, "VIRUS": PINK}
_SPLIT_ORDER = ("train", "val", "test", "no split")
# For names that are not Latin: those installed step in where the first font has no such letter.
_FALLBACK_FONTS = (
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


def style() -> None:
    """Set the look of all pictures that follow, and have tables shown whole.

    Pictures are white, with thin lines and letters of 9 to 11 points. Tables leave out no column
    and cut no text short; where one is wider than the page, the page scrolls it.
    """
    for option in ("max_columns", "max_colwidth"):
        pd.set_option(f"display.{option}", None)
    installed = set(get_font_names())
    sns.set_theme(
        style="whitegrid",
        palette=_PALETTE,
        rc={
            "font.family": ["sans-serif", *(f for f in _FALLBACK_FONTS if f in installed)],
            "figure.dpi": 100,
            "figure.figsize": (PAGE_WIDTH, 4.0),
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
    """Give each class a color that people with color blindness can tell from the others.

    The classes of the Kermany sets always have the same colors, in either case of letters; others
    get those that are left, by the alphabet, so a set of classes looks the same in every picture.

    Parameters
    ----------
    classes : iterable of str, names, in any order; beyond ten the colors repeat

    Returns
    -------
    dict, name to "#rrggbb", in the given order

    Examples
    --------
    >>> class_colors(["NORMAL", "tumor"])
    {'NORMAL': '#029e73', 'tumor': '#0173b2'}
    """
    names = list(dict.fromkeys(map(str, classes)))
    fixed = {name: _CLASS_COLORS[name.upper()] for name in names if name.upper() in _CLASS_COLORS}
    left = [color for color in _PALETTE if color not in fixed.values()]
    others = sorted(set(names) - set(fixed))
    return {name: fixed.get(name) or left[others.index(name) % len(left)] for name in names}


def ink(color: str) -> str:
    """Darken a color until words in it can be read on white: 4.5 to 1, as WCAG 2.2 asks.

    Parameters
    ----------
    color : any that matplotlib knows

    Returns
    -------
    str, "#rrggbb"; one that is dark enough stays as it is

    Examples
    --------
    >>> ink("#0173b2"), ink("#029e73")
    ('#0173b2', '#028762')
    """
    rgb = np.array(to_rgb(color))
    while 1.05 / (_luminance(rgb) + 0.05) < 4.5:
        rgb *= 0.99
    return to_hex(rgb)


def readable_on(color: Any) -> str:
    """Choose black or white for words on a color: the one with a contrast of at least 4.5 to 1.

    Parameters
    ----------
    color : any that matplotlib knows

    Returns
    -------
    str

    Examples
    --------
    >>> readable_on("#0173b2"), readable_on("#dddddd")
    ('white', 'black')
    """
    return "white" if _luminance(np.array(to_rgb(color))) < 0.18 else "black"


def _luminance(rgb: np.ndarray) -> float:
    """Relative luminance of a color, 0 for black to 1 for white, as WCAG 2.2 defines it."""
    linear = np.where(rgb > 0.04045, ((rgb + 0.055) / 1.055) ** 2.4, rgb / 12.92)
    return float(linear @ [0.2126, 0.7152, 0.0722])


# The parts of a picture


def panels(
    ax: Iterable[Axes] | Axes | None,
    height: float,
    n: int = 1,
    columns: int | None = None,
    width: float = PAGE_WIDTH,
    **options: Any,
) -> np.ndarray:
    """Take the first n of the given Axes, or n of a new figure, in rows.

    Parameters
    ----------
    ax : Axes to draw into; None makes a figure
    height : float, inches of that figure
    n, columns : int, how many Axes, and how many in a row; None is all
    width : float, inches of that figure
    **options : for `plt.subplots`

    Returns
    -------
    np.ndarray of n Axes

    Raises
    ------
    ValueError
        Where fewer than n are given.
    """
    if ax is not None:
        axes = np.asarray(ax, dtype=object).ravel()
        if len(axes) < n:
            raise ValueError(
                f"found {len(axes)} Axes; this picture needs {n}, so pass {n} or leave ax out"
            )
        return axes[:n]
    columns = columns or n
    options |= {"figsize": (width, height), "layout": "constrained", "squeeze": False}
    axes = plt.subplots(-(-n // columns), columns, **options)[1].ravel()
    for spare in axes[n:]:
        spare.remove()
    return axes[:n]


def label(ax: Axes, title: str, x: str, y: str, caption: str = "") -> Axes:
    """Write title, axis labels and caption.

    Parameters
    ----------
    ax : Axes of the whole picture, or of one of its panels
    title, x, y, caption : str, plain text; a $ in it is no formula

    Returns
    -------
    Axes, the given one
    """
    ax.set_title(title, loc="left")
    ax.set(xlabel=x, ylabel=y)
    add_caption([ax], caption)
    return ax


def add_caption(axes: Sequence[Axes], caption: str) -> None:
    """Write under the whole figure where all of it is this picture, else under the first Axes.

    Parameters
    ----------
    axes : list of Axes, all Axes of the picture; from here on a $ in their texts begins no formula
    caption : str, plain text; "" writes nothing
    """
    for text in (text for ax in axes for text in ax.findobj(Text)):
        text.set_parse_math(False)
    figure, look = axes[0].figure, {"color": DARK, "fontsize": 9}
    if caption and set(figure.axes) == set(axes) and figure.get_layout_engine() is not None:
        text = textwrap.fill(caption, int(14 * figure.get_figwidth()))
        figure.supxlabel(text, x=0.01, ha="left", **look)
    elif caption:
        below = {"xycoords": ("axes fraction", axes[0].xaxis.label), "textcoords": "offset points"}
        look |= {"va": "top", "annotation_clip": False}
        axes[0].annotate(caption, (0, 0), (0, -4), **below, **look)


def legend(ax: Axes, most: int = 12, **where: Any) -> None:
    """Draw a legend that leaves room for the picture.

    Parameters
    ----------
    ax : Axes
    most : int, entries shown; there are but ten colors
    **where : for `Axes.legend`
    """
    handles, labels = ax.get_legend_handles_labels()
    if len(handles) > most:
        handles = [*handles[:most], Line2D([], [], linestyle="")]
        labels = [*labels[:most], f"and {len(labels) - most} more"]
    ax.legend(handles, labels, **where)


def name_rows(ax: Axes, names: Sequence[str]) -> None:
    """Name the rows of a lying chart, the first on top.

    Parameters
    ----------
    ax : Axes
    names : list of str, one a row
    """
    ax.set_yticks(range(len(names)), names)
    ax.set_ylim(len(names) - 0.4, -0.6)
    ax.grid(False, axis="y")


def note_at_right(ax: Axes, row: float, text: str, **look: Any) -> None:
    """Write beside a row of a lying chart, right of the picture.

    Parameters
    ----------
    ax : Axes
    row : float, where the row is on the y axis
    text : str, what to write
    **look : color, weight and the like, for `Axes.text`
    """
    look = {"va": "center", "fontsize": 9, "color": DARK} | look
    ax.text(1.01, row, text, transform=ax.get_yaxis_transform(), **look)


# Words and tables


def require(table: pd.DataFrame, columns: Iterable[str], hint: str) -> None:
    """Refuse a table that lacks columns or rows.

    Parameters
    ----------
    table : DataFrame, what a picture was given
    columns : iterable of str, names it must have
    hint : str, what to pass instead, for the message

    Raises
    ------
    ValueError
        Naming what is absent, and saying what to pass.
    """
    if absent := [name for name in columns if name not in table]:
        raise ValueError(
            f"the table lacks {', '.join(absent)} (it has {', '.join(map(str, table))}); {hint}"
        )
    if table.empty:
        raise ValueError(f"the table is empty, so there is nothing to draw; {hint}")


def in_split_order(splits: Iterable[str]) -> list[str]:
    """Sort names of splits: train, val, test, those without, then others by the alphabet.

    Parameters
    ----------
    splits : iterable of str, names

    Returns
    -------
    list of str
    """
    known = {name: rank for rank, name in enumerate(_SPLIT_ORDER)}
    return sorted(splits, key=lambda name: (known.get(name, len(known)), name))


def short_name(name: object, longest: int = 36) -> str:
    """Write the name of a class or run in one line, as fits beside a picture.

    Parameters
    ----------
    name : object, also with line breaks
    longest : int, letters; the middle of a longer name is left out

    Returns
    -------
    str

    Examples
    --------
    >>> short_name("choroidal neovascularization", 14)
    'choroid…zation'
    """
    text = re.sub(r"[\x00-\x1f\x7f]+", " ", str(name))
    text = " " + text if text.startswith("_") else text  # matplotlib hides labels that begin so
    half = longest // 2
    return text if len(text) <= longest else f"{text[:half]}…{text[-half + 1 :]}"


def percent(share: float) -> str:
    """Write a share in whole percent, never as 0 or 100 where it is not.

    Parameters
    ----------
    share : float, 0 to 1, or NaN

    Returns
    -------
    str

    Examples
    --------
    >>> percent(0.448), percent(0.999)
    ('45 %', '>99 %')
    """
    if np.isnan(share):
        return "not known"
    if 0 < share < 0.01 or 0.99 < share < 1:
        return "<1 %" if share < 0.5 else ">99 %"
    return f"{100 * share:.0f} %"
